"""The built pages in a real browser, from disk: quiet, offline, readable, accessible."""

import gzip
import io
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from genbook import ledger, plotting
from genbook.plotting import COLORS
from genbook.site import check, pictures, stage
from genbook.site.finish import with_picture_files

PAGES = [*stage.pages(ledger.ROOT), *sorted(check.EXTRA_PAGES)]
# The insides of code and formulas: thousands of elements of a real chapter that differ from those
# of the toy, which is looked at as a whole, only in their letters; with them axe takes a minute.
ALIKE = (".highlight", "mjx-math")
COMPRESSED = {".css", ".html", ".js", ".svg"}
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 360, "height": 740}
BAD = {"critical", "serious", "moderate"}


def open_page(browser: Any, path: Path, viewport: dict[str, int], scheme: str) -> tuple[Any, list]:
    """The page once its formulas are set, and everything it did that it should not."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    page, faults = context.new_page(), []
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url[:200]}"))
    local = ("file:", "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(local) else faults.append(r.url))
    page.goto(path.as_uri())
    page.wait_for_function(
        "!window.MathJax || (MathJax.startup && MathJax.startup.promise && "
        "MathJax.startup.promise.then(() => true))"
    )
    page.evaluate("document.fonts.ready")
    return page, faults


def formulas(page: Any) -> dict[str, int]:
    """How many formulas the page has, how many are set, and how many failed."""
    return page.evaluate(
        """() => ({
            written: document.querySelectorAll('.math').length,
            set: document.querySelectorAll('.math mjx-container').length,
            failed: document.querySelectorAll('mjx-merror, [data-mjx-error]').length,
            raw: (document.querySelector('article') ?? document.body).innerText.includes('\\\\('),
        })"""
    )


def accessibility(page: Any, beside: tuple[str, ...]) -> list[str]:
    """What axe finds that matters, `beside` these elements."""
    context = {"exclude": [[selector] for selector in beside]} if beside else None
    found = Axe().run(page, context=context).response["violations"]
    return [
        f"{v['impact']} {v['id']}: {v['nodes'][0]['html'][:160]}"
        for v in found
        if v["impact"] in BAD
    ]


def overflow(page: Any) -> int:
    """By how many pixels the page is wider than the window."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def check_page(browser: Any, path: Path, *, beside: tuple[str, ...] = ()) -> None:
    page, faults = open_page(browser, path, WIDE, "light")
    # Before axe, which tries to read the style sheets by requests of its own.
    assert faults == [], path.name
    for viewport, scheme in ((WIDE, "light"), (PHONE, "light"), (PHONE, "dark")):
        how = f"{path.name} at {viewport['width']} px, {scheme}"
        page.set_viewport_size(viewport)
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'")
        # The theme notices a moment later which blocks of code have become scrollable.
        page.wait_for_function(
            "[...document.querySelectorAll('pre')]"
            ".every(p => p.scrollWidth <= p.clientWidth || p.tabIndex >= 0)"
        )
        math = formulas(page)
        assert math["failed"] == 0, how
        assert not math["raw"], how
        assert math["written"] == math["set"], how
        if (viewport, scheme) != (PHONE, "light"):
            assert accessibility(page, beside) == [], how
        assert overflow(page) <= 0, how
    page.context.close()


def test_the_toy_is_quiet_offline_readable_and_accessible(browser: Any, toy_site: Path) -> None:
    check_page(browser, toy_site / "chapters/toy.html")


def test_each_theme_shows_its_own_variant_of_a_figure(browser: Any, toy_site: Path) -> None:
    for scheme, other in (("light", "dark"), ("dark", "light")):
        page, _ = open_page(browser, toy_site / "chapters/toy.html", WIDE, scheme)
        assert page.locator(f".gb-figure .only-{scheme}").is_visible()
        assert not page.locator(f".gb-figure .only-{other}").is_visible()
        assert page.locator(".gb-figure figcaption").is_visible()
        page.context.close()


def test_one_file_of_a_figure_is_drawn_in_the_colours_of_either_theme(
    browser: Any, tmp_path: Path
) -> None:
    def draw() -> Figure:
        figure, ax = plotting.axes(figsize=(1.0, 1.0))
        ax.set_axis_off()
        ax.fill([0, 1, 1, 0], [0, 0, 1, 1])
        return figure

    shown = plotting.Shown({theme: plotting.svg(draw, theme) for theme in COLORS}, "Ink", "Ink")
    path = tmp_path / "index.html"
    text = with_picture_files(pictures.thinned(shown._repr_html_()), path, tmp_path)
    path.write_text(f'<html lang="en"><title>x</title>{text}')
    page, _ = open_page(browser, path, WIDE, "light")
    for theme, (first, *_) in COLORS.items():
        image = Image.open(io.BytesIO(page.locator(f".only-{theme}").screenshot())).convert("RGB")
        assert image.getpixel((image.width // 2, image.height // 2)) == ImageColor.getrgb(first)
    assert len([*(tmp_path / "_images").iterdir()]) == 1
    page.context.close()


def test_the_browser_hears_when_a_page_calls_out(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text('<html lang="en"><title>x</title><img src="https://example.invalid/a.png">')
    _, faults = open_page(browser, path, WIDE, "light")
    assert any("example.invalid" in fault for fault in faults)


def weight(browser: Any, path: Path) -> int:
    """The bytes that a browser loads for a page, fonts included, as a server sends them."""
    page = browser.new_context(viewport=WIDE, color_scheme="light").new_page()
    files: set[Path] = set()
    page.on("request", lambda r: files.add(Path(unquote(urlsplit(r.url).path))))
    page.goto(path.as_uri())
    page.evaluate(
        """() => Promise.all([...document.images].filter(image => image.offsetParent).map(image => {
            image.loading = 'eager';
            return image.decode();
        }))"""
    )
    page.wait_for_load_state("networkidle")
    page.context.close()
    return sum(
        len(gzip.compress(f.read_bytes())) if f.suffix in COMPRESSED else f.stat().st_size
        for f in files
        if f.is_file()
    )


def check_page_of_the_book(browser: Any, path: Path) -> None:
    check_page(browser, path, beside=ALIKE)
    assert weight(browser, path) <= check.PAGE_BYTES_ON_THE_WIRE, path.name


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_book_holds_in_a_browser(browser: Any, book: Path, name: str) -> None:
    check_page_of_the_book(browser, book / f"{name}.html")


def test_so_do_pages_that_a_build_adds(browser: Any, book: Path) -> None:
    looked_at = {book / f"{name}.html" for name in PAGES}
    for path in sorted({p for p in book.rglob("*.html") if "_static" not in p.parts} - looked_at):
        check_page_of_the_book(browser, path)


def test_the_search_works_from_disk(browser: Any, book: Path) -> None:
    page, faults = open_page(browser, book / "search.html", WIDE, "light")
    page.goto(f"{(book / 'search.html').as_uri()}?q=wake-sleep")
    page.wait_for_function("document.body.innerText.includes('Search finished')")
    found = page.locator("#search-results li a").all_inner_texts()
    assert "1. Auto-Encoding Variational Bayes" in found
    page.wait_for_timeout(300)
    assert faults == []
    page.context.close()
