"""The whole book as one PDF: all its pages in one document, printed by Chromium.

Links from page to page become links inside the document.  The style is that of paper,
`book/_static/print.css`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

from genbook import ledger
from genbook.site import stage
from genbook.site.errors import SiteError

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SECONDS = 300
READY = """async () => {
    await MathJax.startup.promise;
    await document.fonts.ready;
    const shown = [...document.images].filter(image => image.getClientRects().length);
    await Promise.all(shown.map(image => { image.loading = "eager"; return image.decode(); }));
}"""


def browser() -> str:
    """The Chromium of this machine."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SiteError(
            f"a PDF needs a browser, and none of {', '.join(BROWSERS)} is on the path; "
            "on Debian and Ubuntu: apt-get install chromium"
        )
    return found


def print_book(html: Path) -> Path:
    """Print all pages of the built book, in the order of its contents, to a file beside it."""
    return write(html, stage.pages(ledger.ROOT), html.with_name("genbook.pdf"))


def write(html: Path, names: list[str], target: Path) -> Path:
    """Print these pages of the built book in `html`, in this order."""
    executable = browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        printed(chromium.new_page(color_scheme="light"), html, names, target)
        chromium.close()
    return target


def printed(page: Page, html: Path, names: list[str], target: Path) -> Path:
    """Print with a page of a browser that runs."""
    # Beside the pages, whose pictures and style it uses.
    with tempfile.NamedTemporaryFile("w", dir=html, suffix=".html", encoding="utf-8") as joined:
        joined.write(str(join(html, names)))
        joined.flush()
        page.set_default_timeout(1000 * SECONDS)
        page.goto(Path(joined.name).as_uri())
        page.emulate_media(media="print")
        page.evaluate(READY)
        page.pdf(path=target, prefer_css_page_size=True, outline=True, tagged=True)
    return target


def join(html: Path, names: list[str]) -> BeautifulSoup:
    """One document with the text of all pages, in the frame of the first."""
    whole = _read(html, names[0])
    room = whole.select_one("article")
    assert isinstance(room, Tag)
    room.clear()
    for name in names:
        page = _read(html, name)
        text = page.select_one("article")
        assert isinstance(text, Tag)
        _set_for_paper(text)
        _point_inside(text, name, set(names))
        text.name = "section"
        text["class"] = "gb-page"
        text["id"] = _mark(name)
        room.append(text)
    # The scripts that show labs, and those that a reader of paper has no use for.
    for script in whole.select("script[src]"):
        if "mathjax" not in str(script["src"]):
            script.decompose()
    return whole


def _read(html: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((html / f"{name}.html").read_bytes(), "html.parser")


def _mark(name: str, fragment: str = "") -> str:
    """The id in the whole document of a page, or of a place on it."""
    return f"page-{name}" + (f":{fragment}" if fragment else "")


def _set_for_paper(text: Tag) -> None:
    """Labs show their picture, folded outputs are open, nothing waits for a script."""
    for tag in text.select("script, .gb-lab-room"):
        tag.decompose()
    for still in text.select("noscript"):
        still.unwrap()
    for folded in text.select("details.hide"):
        folded["open"] = ""


def _point_inside(text: Tag, name: str, names: set[str]) -> None:
    """Ids that are unique in the whole document, and addresses that are right in it."""
    folder = Path(name).parent
    for tag in text.select("[id]"):
        tag["id"] = _mark(name, str(tag["id"]))
    for tag in text.select("[src], [href]"):
        attribute = "src" if tag.has_attr("src") else "href"
        parts = urlsplit(str(tag[attribute]))
        if parts.scheme or parts.netloc:
            continue
        path = os.path.normpath(folder / unquote(parts.path)) if parts.path else f"{name}.html"
        target = path.removesuffix(".html")
        if attribute == "href" and target in names:
            # A choice of rows, chapter=aevb, is no place.
            tag["href"] = "#" + _mark(target, "" if "=" in parts.fragment else parts.fragment)
        elif parts.path:
            tag[attribute] = path + (f"#{parts.fragment}" if parts.fragment else "")
