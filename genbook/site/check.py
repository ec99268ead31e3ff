"""What a built book must hold before anybody sees it."""

from __future__ import annotations

import gzip
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from html import unescape
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from bs4 import BeautifulSoup, Tag

from genbook import ledger
from genbook.site import frame, labs, stage

SITE_BYTES = 15_000_000  # without the weights of labs, which load when a reader starts a lab
WEIGHTS_BYTES = 8_000_000
PAGE_BYTES_ON_THE_WIRE = 1_500_000
# Pages that the builder adds by itself.
EXTRA_PAGES = {"search"}
# Elements whose address the browser fetches by itself, as it does not for a plain link.
LOADED = {
    "audio": "src", "embed": "src", "iframe": "src", "image": "href", "img": "src",
    "input": "src", "link": "href", "object": "data", "script": "src", "source": "src",
    "track": "src", "use": "href", "video": "src",
}  # fmt: skip
# Relations of <link> that load nothing.
NAMES_ONLY = {"canonical", "index", "next", "prev", "search", "author", "license"}
FILE_NAME = re.compile(r"\S*[0-9a-f]{32,}\S*|\S+\.(svg|png|jpe?g|gif|webp)", re.IGNORECASE)
CSS_ADDRESS = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")
ID = re.compile(r'\sid="([^"]+)"')
TEXT_FILES = {".css", ".html", ".ipynb", ".js", ".json", ".md", ".svg", ".txt"}


def problems(html: Path, source: Path) -> list[str]:
    """Everything that is wrong with the site in `html`, built from the stage `source`."""
    found: list[str] = []
    _weight.cache_clear()
    _ids.cache_clear()
    wanted = set(stage.pages(source))
    there = {p.relative_to(html).with_suffix("").as_posix() for p in _pages(html)}
    found += [f"the page {name} was not built" for name in sorted(wanted - there)]
    extra = EXTRA_PAGES | set(frame.moved(source))
    found += [f"nobody asked for the page {name}" for name in sorted(there - wanted - extra)]
    for path in _pages(html):
        where = path.relative_to(html).as_posix()
        page = BeautifulSoup(path.read_bytes(), "html.parser")
        name = path.relative_to(html).with_suffix("").as_posix()
        found += [f"{where}: {text}" for text in of_page(page, path)]
        if name.startswith("chapters/") and name in wanted:
            notebook = source / f"{name}.ipynb"
            found += [f"{where}: {text}" for text in of_chapter(page, notebook, path)]
    found += of_files(html)
    return found


def _pages(html: Path) -> list[Path]:
    return sorted(p for p in html.rglob("*.html") if "_static" not in p.relative_to(html).parts)


def of_page(page: BeautifulSoup, path: Path) -> Iterator[str]:
    """What is wrong with one page: what it loads, weighs, links to and shows."""
    weight = len(gzip.compress(path.read_bytes(), mtime=0))
    # Of a picture in two variants a reader loads one; fonts are measured in the browser's test.
    other_theme = {str(tag["src"]) for tag in page.select("img.only-dark[src]")}
    for address in _loaded(page):
        if is_outside(address):
            yield f"the browser would load {address} from another host"
            continue
        target = _local(address, path)
        if target is None:
            continue
        if not target.is_file():
            yield f"loads {address}, which does not exist"
        elif address not in other_theme:
            weight += _weight(target)
    if weight > PAGE_BYTES_ON_THE_WIRE:
        yield f"{weight:,} bytes over the wire, more than {PAGE_BYTES_ON_THE_WIRE:,}"
    yield from _links(page, path)
    yield from _pictures(page)
    yield from _headings(page)
    for broken in page.select(".system-message, .problematic"):
        yield f"a builder's message in the page: {broken.get_text(' ', strip=True)[:200]}"
    ids = Counter(str(tag["id"]) for tag in page.select("article [id]"))
    yield from (f"the id '{name}' occurs {n} times" for name, n in ids.items() if n > 1)


def _loaded(page: BeautifulSoup) -> Iterator[str]:
    for name, attribute in LOADED.items():
        for tag in page.find_all(name):
            relations = set(tag.get("rel") or [])
            if name == "link" and relations and relations <= NAMES_ONLY:
                continue
            if tag.get(attribute):
                yield str(tag[attribute])
            for part in str(tag.get("srcset") or "").split(","):
                if part.strip():
                    yield part.split()[0]
    for style in page.find_all("style"):
        yield from css_addresses(style.get_text())
    for tag in page.find_all(style=True):
        yield from css_addresses(str(tag["style"]))


def css_addresses(text: str) -> list[str]:
    """The addresses that a style sheet makes the browser load."""
    return [one or two for one, two in CSS_ADDRESS.findall(text)]


def is_outside(address: str) -> bool:
    """Whether the address names a host."""
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ws", "wss", "ftp")


def _local(address: str, path: Path) -> Path | None:
    """The file that a relative address names, or None for data and for the page itself."""
    parts = urlsplit(address.strip())
    if parts.scheme or not parts.path:
        return None
    return (path.parent / unquote(parts.path)).resolve()


@cache
def _weight(path: Path) -> int:
    return len(gzip.compress(path.read_bytes(), mtime=0))


@cache
def _ids(path: Path) -> frozenset[str]:
    """The ids of a page, for the links of others."""
    return frozenset(map(unescape, ID.findall(path.read_text(encoding="utf-8"))))


def _links(page: BeautifulSoup, path: Path) -> Iterator[str]:
    """Links inside the book lead somewhere."""
    for link in page.select("article a[href]"):
        address = str(link["href"])
        target = _local(address, path)
        fragment = urlsplit(address).fragment
        if target is None and (urlsplit(address).scheme or not fragment):
            continue
        target = target or path
        # A fragment like chapter=aevb is a choice of rows, which a script of the page reads.
        inside = bool(fragment) and "=" not in fragment and target.suffix == ".html"
        if not target.is_file() or (inside and unquote(fragment) not in _ids(target)):
            yield f"the link {address} leads nowhere"


def _headings(page: BeautifulSoup) -> Iterator[str]:
    """One title, and below it no level left out.  What only a printer sees does not count."""
    headings = [
        tag
        for tag in page.select("h1, h2, h3, h4, h5, h6")
        if not tag.find_parent(class_="onlyprint")
    ]
    levels = [int(tag.name[1]) for tag in headings]
    if levels.count(1) != 1:
        yield f"{levels.count(1)} headings of the first level"
    for before, tag in pairwise(headings):
        if int(tag.name[1]) > int(before.name[1]) + 1:
            yield f"the heading '{tag.get_text(strip=True)[:60]}' leaves out a level"


def _pictures(page: BeautifulSoup) -> Iterator[str]:
    """Every picture says in words what it shows."""
    for picture in page.select("article img, article svg"):
        if picture.find_parent("svg") is not None:
            continue
        if not described(picture):
            yield f"a picture without alternative text: {str(picture)[:120]}"


def described(picture: Tag) -> bool:
    """Whether a picture has alternative text, or is marked as decoration."""
    if picture.get("aria-hidden") == "true" or picture.get("role") == "presentation":
        return True
    if picture.name == "img":
        # myst-nb falls back on the name of the image file, which is a hash.
        text = str(picture.get("alt") or "").strip()
        file = Path(unquote(urlsplit(str(picture.get("src"))).path))
        return text not in ("", file.name, file.stem) and not FILE_NAME.fullmatch(text)
    title = picture.find("title", recursive=False)
    named = str(picture.get("aria-label") or "").strip() or (title and title.get_text(strip=True))
    return picture.get("role") == "img" and bool(named)


def of_chapter(page: BeautifulSoup, notebook: Path, path: Path) -> Iterator[str]:
    """What a chapter's page lacks: the output of a cell, the notebook to download."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    hidden = {"remove-cell", "remove-output", "remove_cell", "remove_output"}
    wanted = sum(bool(c.outputs) and not hidden & set(c.metadata.get("tags", [])) for c in code)
    # the second is where the tag hide-output puts it
    shown = len(page.select("div.cell > div.cell_output, div.cell > details > div.cell_output"))
    if shown != wanted:
        yield f"{wanted} cells have outputs, the page shows {shown}"
    downloads = [_local(str(a["href"]), path) for a in page.select("a[download]")]
    if not any(d is not None and d.suffix == ".ipynb" and d.is_file() for d in downloads):
        yield "the executed notebook cannot be downloaded"


def of_files(html: Path) -> Iterator[str]:
    """The size of the whole, style sheets that call out, and paths of this machine."""
    files = [path for path in html.rglob("*") if path.is_file()]
    weights = [path for path in files if path.parent == html / labs.SCRIPTS / "weights"]
    total, loaded = (sum(path.stat().st_size for path in some) for some in (files, weights))
    if total - loaded > SITE_BYTES:
        yield f"the site has {total - loaded:,} bytes, more than {SITE_BYTES:,}"
    if loaded > WEIGHTS_BYTES:
        yield f"the labs' weights have {loaded:,} bytes, more than {WEIGHTS_BYTES:,}"
    private = [str(ledger.ROOT), sys.prefix]
    for path in files:
        where = path.relative_to(html).as_posix()
        if path.suffix not in TEXT_FILES:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from (f"{where} contains the local path {name}" for name in private if name in text)
        if path.suffix == ".css":
            outside = [a for a in css_addresses(text) if is_outside(a)]
            yield from (f"{where} loads {address} from another host" for address in outside)
