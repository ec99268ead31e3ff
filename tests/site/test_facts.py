"""The panel of a printed result, the filter of the ledger and the way back from its rows."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

from genbook.site import stage

PHONE = {"width": 360, "height": 740}
PANEL = "#gb-panel"


def opened(browser: Any, path: Path, state: str = "", **context: Any) -> Any:
    page = browser.new_context(**context).new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(path.as_uri() + state)
    page.wait_for_function("!window.MathJax?.startup || MathJax.startup.promise.then(() => true)")
    return page


def active(page: Any) -> str:
    return page.evaluate("document.activeElement.dataset.facts || document.activeElement.id")


def test_a_result_opens_its_facts_by_keyboard(browser: Any, toy_site: Path, at_toy: Path) -> None:
    run = stage.fresh_runs("smoke")["toy"]
    page = opened(browser, toy_site / "chapters/toy.html")
    page.locator("[data-facts='toy:draws']").focus()
    page.keyboard.press("Tab")
    assert active(page) == "toy:mean-of-draws"
    assert page.locator(f"{PANEL}:popover-open").count() == 1
    said = page.locator(PANEL).inner_text()
    for fact in (
        "1.0: Section 1", "1.012 ± 0.030 (units of x)", "1 ± 0.2", "Six standard errors",
        "within band", "smoke, fresh", run.provenance["processor"], run.provenance["command"],
    ):  # fmt: skip
        assert fact in said
    page.keyboard.press("Enter")
    assert active(page) == "gb-panel"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.hash") == "#claim-toy-mean-of-draws"
    page.keyboard.press("Escape")
    assert not page.locator(PANEL).is_visible()
    assert active(page) == "toy:mean-of-draws"
    assert page.locator(":focus").get_attribute("aria-expanded") == "false"
    page.keyboard.press("Enter")
    for _ in range(3):  # the link, the button, and out of the panel
        page.keyboard.press("Tab")
    assert active(page) == "toy:mean-of-draws"
    assert page.faults == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_panel_opens_by_touch_and_fits_a_phone(
    browser: Any, toy_site: Path, scheme: str
) -> None:
    path = toy_site / "chapters/toy.html"
    page = opened(browser, path, viewport=PHONE, has_touch=True, color_scheme=scheme)
    links = page.locator("a.gb-result:visible")
    assert links.count() > 5
    for link in links.all():
        link.scroll_into_view_if_needed()
        link.tap()
        panel = page.locator(PANEL)
        assert link.get_attribute("aria-expanded") == "true"
        box = panel.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= PHONE["height"]
        assert page.locator("[aria-expanded=true][data-facts]").count() == 1
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in {"critical", "serious", "moderate"}] == []
    page.get_by_role("button", name="Close").tap()
    assert not panel.is_visible()
    page.context.close()


def test_the_panel_opens_when_the_pointer_rests_and_closes_when_it_leaves(
    browser: Any, toy_site: Path
) -> None:
    page = opened(browser, toy_site / "chapters/toy.html")
    panel = page.locator(PANEL)
    page.locator("[data-facts='toy:mean-of-draws']").first.hover()
    panel.wait_for(state="visible")
    panel.hover()
    page.wait_for_timeout(400)
    assert panel.is_visible()
    page.mouse.move(1, 1)
    panel.wait_for(state="hidden")
    page.context.close()


def test_without_javascript_a_result_leads_to_the_same_facts(browser: Any, toy_site: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((toy_site / "chapters/toy.html").as_uri())
    page.locator("[data-facts='toy:mean-of-draws']").first.click()
    row = page.locator("tr:target")
    row.locator("summary").click()
    for fact in ("1.012 ± 0.030", "1 ± 0.2", "Six standard errors", "genbook run toy"):
        assert fact in row.inner_text()
    page.locator("[data-facts='toy:draws']").click()
    for fact in ("smoke run, seed 0", "commit", "genbook run toy --profile smoke"):
        assert fact in page.locator("p.gb-run:target").inner_text()
    page.context.close()


def test_the_ledger_is_narrowed_by_the_reader_and_by_its_address(
    browser: Any, toy_site: Path
) -> None:
    page = opened(browser, toy_site / "ledger.html", "#verdict=missed", viewport=PHONE)
    rows, status = page.locator(".gb-ledger tr[data-verdict]:visible"), page.get_by_role("status")
    assert rows.evaluate_all("rows => rows.map(r => r.id)") == ["claim-toy-missed"]
    assert status.inner_text() == "1 of 5 claims"
    verdict = page.get_by_label("Verdict")
    verdict.focus()
    page.keyboard.type("repro")
    assert status.inner_text() == "2 of 5 claims"
    assert page.evaluate("location.hash") == "#verdict=reproduced"
    page.get_by_label("Profile").select_option("smoke")
    assert (rows.count(), status.inner_text()) == (0, "0 of 5 claims")
    page.get_by_role("button", name="Show all").press("Enter")
    assert rows.count() == 5
    page.goto((toy_site / "index.html").as_uri())
    page.locator(".gb-scoreboard a[href*='chapter=toy&verdict=missed']").click()
    assert status.inner_text() == "1 of 5 claims"
    assert page.faults == []
    page.context.close()


def test_each_row_of_the_ledger_leads_back_to_what_prints_the_claim(toy_site: Path) -> None:
    ledger, chapter = (
        BeautifulSoup((toy_site / name).read_bytes(), "html.parser")
        for name in ("ledger.html", "chapters/toy.html")
    )
    places = {}
    for row in ledger.select("tr[data-verdict]"):
        page, _, name = row.select_one(".gb-said")["href"].partition("#")
        assert page == "chapters/toy.html"
        places[row["id"]] = chapter.find(id=name)
    # One claim stands in a sentence, the others only in the output of the cell that judges them.
    assert "with the mean\n1.012" in places.pop("claim-toy-mean-of-draws").parent.get_text()
    for row, place in places.items():
        assert place.name == "p"
        assert place.select_one(f"a[href='#{row}']") is not None


def test_the_chart_says_its_numbers(toy_site: Path) -> None:
    page = BeautifulSoup((toy_site / "index.html").read_bytes(), "html.parser")
    assert page.select_one(".gb-chart [role=img]")["aria-label"] == (
        "A toy: the mean of a Gaussian, 5 claims: 2 reproduced, 1 within band, 1 missed, "
        "1 not run at this scale."
    )
    widths = [float(bar["width"].rstrip("%")) for bar in page.select(".gb-chart rect")]
    assert widths == [40, 20, 20, 20]


def test_a_claim_is_followed_from_its_file_to_its_record(toy_site: Path, at_toy: Path) -> None:
    page = BeautifulSoup((toy_site / "how-to-read.html").read_bytes(), "html.parser")
    claims, code, run, record = (block.get_text() for block in page.select("article pre"))
    text = (at_toy / "chapters/toy.claims.toml").read_text()
    assert claims.strip() == text[text.index("[claims.mean") : text.index("\n\n[claims.identity")]
    last = code.strip().splitlines()[-1]
    assert last == 'claims.judge("mean-of-draws", ours=mean, spread=0.03)'
    assert "--profile long --device cpu --seed 1" in run
    assert record.count('"mean-of-draws": {"ours": ') == 2
    places = [tag.get_text() for tag in page.select(".gb-where")]
    line = (at_toy / "chapters/toy.py").read_text().splitlines().index(last) + 1
    assert places[1] == f"chapters/toy.py, line {line}"
    assert places[2:] == ["book/recorded/toy.long.json"] * 2
