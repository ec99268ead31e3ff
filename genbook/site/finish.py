"""What is done to the rendered pages before they are checked.

The page builder and its theme leave a few things that are wrong for a reader: roles that mislead
screen readers, the same id several times, half a megabyte of script for a dozen icons that the
style sheet draws as well, and pictures inside the page that both themes would load.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
from pathlib import Path

import nbformat

from genbook.site import frame, labs, learned, names, notebook, pictures, places
from genbook.site.lookup import Results

# What no reader's browser loads: sources for a debugger, translations of the theme, and fonts that
# have a smaller twin.
UNUSED = (
    "*.map",
    "webpack-macros.html",
    "fa-*.ttf",
    "fontawesome.js*",
    ".buildinfo",
    "*.mo",
    "*.po",
)
CORRECTIONS = (
    (r'<div id="pst-primary-sidebar" ', '<div id="pst-primary-sidebar" role="navigation" '),
    (r'role="doc-biblioentry"', 'role="listitem"'),
    (r'<section id="(exercise|solution)-content">', r'<section class="\1-content">'),
    (r"<script [^>]*scripts/fontawesome\.js[^>]*></script>\s*", ""),
)
PICTURE = re.compile(r'src="data:image/(svg\+xml|png|jpeg);base64,([A-Za-z0-9+/=\s]+)"')
PAIR = re.compile(
    r'(<img class="only-light [^>]*?)src="data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)"([^>]*>\s*)'
    r'(<img class="only-dark [^>]*?)src="data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)"'
)


def finish(pages: Path, source: Path) -> None:
    """Correct the pages, and put the labs and the downloadable notebooks in their place."""
    if (source / labs.SCRIPTS).is_dir():
        shutil.copytree(source / labs.SCRIPTS, pages / labs.SCRIPTS)
    for pattern in UNUSED:
        for path in pages.rglob(pattern):
            path.unlink()
    for path in pages.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for wrong, right in CORRECTIONS:
            text = re.sub(wrong, right, text)
        text = learned.coloured(with_picture_files(text, path, pages))
        path.write_text(text, encoding="utf-8")
    results = Results.read(source / "results.json")
    for name in results.chapters:
        path, code = pages / "chapters" / f"{name}.html", source / "chapters" / f"{name}.ipynb"
        linked = names.linked(path.read_text(encoding="utf-8"), places.chapter_imports(code))
        path.write_text(linked, encoding="utf-8")
        page = nbformat.read(source / "chapters" / f"{name}.ipynb", as_version=4)
        elsewhere = notebook.for_download(page, name, results)
        frame.bring_the_library(elsewhere, source)
        nbformat.write(elsewhere, pages / "_sources" / "chapters" / f"{name}.ipynb")


def with_picture_files(text: str, path: Path, pages: Path) -> str:
    """Move the pictures of a page into files named by their content.

    They are loaded when they are first seen.  Two variants of a figure that differ in colours alone
    share a file, also with the light variant where it stands by itself.
    """
    shared: dict[bytes, bytes] = {}  # light variant: what stands for both

    def source(content: bytes, ending: str, fragment: str = "") -> str:
        folder = pages / "_images"
        folder.mkdir(exist_ok=True)
        file = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.{ending}"
        file.write_bytes(content)
        address = Path(os.path.relpath(file, path.parent)).as_posix() + fragment
        return f'src="{address}" loading="lazy" decoding="async"{_size(content)}'

    def move_pair(match: re.Match[str]) -> str:
        light, dark = (base64.b64decode(match[i]) for i in (2, 5))
        both = pictures.for_both_themes(light.decode(), dark.decode())
        if both is None:
            return match[0]
        shared[light] = both.encode()
        return (
            f"{match[1]}{source(shared[light], 'svg')}{match[3]}"
            f"{match[4]}{source(shared[light], 'svg', '#dark')}"
        )

    def move(match: re.Match[str]) -> str:
        content = base64.b64decode(match[2])
        ending = {"svg+xml": "svg", "jpeg": "jpg"}.get(match[1], match[1])
        return source(shared.get(content, content), ending)

    return PICTURE.sub(move, PAIR.sub(move_pair, text))


def _size(svg: bytes) -> str:
    """The size of an SVG in pixels, so that the text does not jump when it arrives."""
    found = re.search(rb'<svg[^>]*?\swidth="([\d.]+)pt"', svg[:2000])
    other = re.search(rb'<svg[^>]*?\sheight="([\d.]+)pt"', svg[:2000])
    if found is None or other is None:
        return ""
    width, height = (round(float(m[1]) * 4 / 3) for m in (found, other))
    return f' width="{width}" height="{height}"'
