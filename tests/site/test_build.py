"""The book is built from a clean stage, only when something changed, and never with a warning."""

import re
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
from bs4 import BeautifulSoup

from genbook import ledger, runs, site
from genbook.site import render, stage


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(path):
    return BeautifulSoup(path.read_bytes(), "html.parser")


def test_every_page_of_the_contents_is_there(toy_site, at_toy):
    for name in stage.pages(at_toy):
        assert (toy_site / f"{name}.html").is_file()


def test_page_record_and_downloaded_notebook_have_the_same_number(toy_site, at_toy):
    record = stage.fresh_runs("smoke")["toy"].record
    mean = record["claims"]["mean-of-draws"]["ours"]
    page = read(toy_site / "chapters/toy.html")
    printed = [tag for tag in page.select(".gb-result") if tag.get("data-value") == repr(mean)]
    assert printed[0].text == "1.012 ± 0.030"
    assert printed[0]["href"] == "#claim-toy-mean-of-draws"
    notebook = nbformat.read(toy_site / "_sources/chapters/toy.ipynb", as_version=4)
    prose = "".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert "1.012 ± 0.030" in prose


def test_the_ledger_shows_every_claim_with_its_verdict(toy_site):
    rows = read(toy_site / "ledger.html").select(".gb-ledger tbody tr")
    cells = {row["id"]: [cell.get_text(" ", strip=True) for cell in row("td")] for row in rows}
    assert [key.removeprefix("claim-toy-") for key in cells] == [
        "mean-of-draws", "identity", "order", "too-small", "missed",
    ]  # fmt: skip
    _, published, ours, rule, verdict, run = cells["claim-toy-mean-of-draws"]
    assert (published, rule, verdict) == ("1.0", "1 ± 0.2", "within band")
    # The recorded long run stands before the fresh one, as a mean over its two seeds.
    assert run == "long, recorded seeds 0, 1"
    assert "±" in ours
    assert cells["claim-toy-identity"][1] == "zero as quoted"
    assert cells["claim-toy-too-small"][4] == "not run at this scale"
    assert cells["claim-toy-missed"][1] == "—"
    details = read(toy_site / "ledger.html").select_one("#claim-toy-mean-of-draws details").text
    for part in (
        "Protocol",
        "Six standard errors",
        "genbook run toy --profile long --device cpu --seeds 0,1 ",
        "torch",
    ):
        assert part in details


def test_the_scoreboard_counts_the_verdicts(toy_site):
    cells = read(toy_site / "index.html").select(".gb-scoreboard tbody td")
    assert [cell.text for cell in cells] == ["5", "2", "1", "1", "1"]


def test_equations_exercises_and_citations_are_numbered_and_linked(toy_site):
    page = read(toy_site / "chapters/toy.html")
    assert page.select_one(".eqno").text.startswith("(1.1)")
    assert page.select_one('a[href="#equation-eq-mean"]') is not None
    assert "Exercise 1.1" in page.text
    assert page.select_one('a[href^="../bibliography.html#"]') is not None


def test_mathjax_is_pruned_and_local(toy_site):
    mathjax = toy_site / "_static/mathjax"
    assert {p.suffix for p in mathjax.rglob("*") if p.is_file()} == {".js", ".woff"}
    assert sum(p.stat().st_size for p in mathjax.rglob("*") if p.is_file()) < 2_000_000


def test_nothing_changed_means_no_rendering_but_all_checks(own_toy, toy_site, monkeypatch):
    html = own_toy / "_build/html"
    shutil.copytree(toy_site, html)
    shutil.copytree(toy_site.with_name("html.work"), own_toy / "_build/html.work")
    monkeypatch.setattr(render.subprocess, "run", None)
    started = time.monotonic()
    site.build(profile="smoke")
    assert time.monotonic() - started < 10


def test_a_prose_edit_renders_again_without_a_run_and_warnings_stay_errors(
    own_toy, edit, monkeypatch
):
    monkeypatch.setattr(runs, "execute", None)
    chapter = own_toy / "chapters/toy.py"
    edit(chapter, "## The estimator", "## A better heading")
    index = site.build(profile="smoke")
    before = tree(index.parent)
    assert b"A better heading" in before["chapters/toy.html"]
    edit(chapter, "`draws` draws", "`drawz` draws")
    for _ in range(2):
        with pytest.raises(site.SiteError, match=r"toy\.ipynb, cell 1.*did you mean 'draws'\?"):
            site.build(profile="smoke")
    # The last good book stays in its place.
    assert tree(index.parent) == before


def test_two_builds_in_two_places_are_the_same_bytes(own_toy, toy_site):
    built = site.build(profile="smoke").parent
    ours, theirs = tree(built), tree(toy_site)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_a_page_that_is_not_fit_to_be_seen_is_not_published(own_toy, toy_site, monkeypatch):
    monkeypatch.setattr(render, "_render", lambda *_: toy_site)
    monkeypatch.setattr(render.check, "problems", lambda *_: ["index.html: a fault"])
    with pytest.raises(site.SiteError, match=r"index\.html: a fault"):
        site.build(profile="smoke")
    assert not (own_toy / "_build/html").exists()
    assert toy_site.is_dir()


def test_a_chapter_without_a_run_says_how_to_make_it(own_toy, edit):
    edit(own_toy / "chapters/toy.py", "range(4000)", "range(4001)")
    with pytest.raises(site.SiteError, match="genbook run toy --profile smoke"):
        site.build(profile="smoke")


def test_contents_and_pages_must_agree(own_toy, edit):
    (own_toy / "book/orphan.md").write_text("# Nobody lists me\n")
    with pytest.raises(site.SiteError, match="does not list: orphan"):
        site.build(profile="smoke")
    (own_toy / "book/orphan.md").unlink()
    edit(own_toy / "_toc.yml", "file: notation", "file: notations")
    with pytest.raises(site.SiteError, match="did you mean 'notation'"):
        site.build(profile="smoke")


def test_a_false_verdict_in_a_record_is_refused(at_toy):
    from genbook.site.results import collect

    fresh = stage.fresh_runs("smoke")
    fresh["toy"].record["claims"]["missed"]["verdict"] = "reproduced"
    with pytest.raises(site.SiteError, match="calls 'missed' 'reproduced', its rule says 'missed'"):
        collect("smoke", fresh)


def test_a_run_that_was_changed_afterwards_is_refused(own_toy):
    run = stage.fresh_runs("smoke")["toy"]
    notebook = run.notebook.read_text()
    run.notebook.write_text(re.sub(r"mean 1\.0", "mean 9.0", notebook))
    with pytest.raises(runs.DamagedRunError, match=r"notebook\.ipynb was changed"):
        site.build(profile="smoke")


def test_the_site_is_read_without_jupyter_or_sphinx_until_it_is_built():
    code = "import genbook.cli, sys; print('sphinx' in sys.modules, 'nbformat' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_profiles_come_from_the_environment(own_toy, monkeypatch):
    monkeypatch.setenv("GENBOOK_PROFILE", "paper")
    with pytest.raises(site.SiteError, match="no paper run"):
        site.build()
    assert ledger.PROFILES[-1] == "paper"
