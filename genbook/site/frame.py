"""Sphinx extension: what stands around the text of a page.  All of it is set in `_config.yml`.

    repository: {url: ...}   where the source is public: each chapter links to its own
    html: {baseurl: ...}     where the book is public: pages have a preview for who shares them
    genbook_moved            pages that moved, {old: new}: the old address leads to the new one

Without a setting there is no link and no preview.  Nothing here makes a page load anything.
"""

from __future__ import annotations

import html
import os
import textwrap
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from docutils import nodes
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com/github/"
NOTEBOOKS = "notebooks"  # the branch with the executed notebooks, see .github/workflows/book.yml
PREVIEW = "_static/preview.png"
MOVED_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>This page has moved</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="0; url={address}"></head>
<body><main><article><h1>This page has moved</h1>
<p>It is now at <a href="{address}">{address}</a>.</p></article></main></body></html>
"""
BRING_THE_LIBRARY = """\
# On a machine without the book, such as Colab: bring its library.
import importlib.util

if importlib.util.find_spec("genbook") is None:
    !git clone --quiet --depth 1 {url} genbook-source
    %cd genbook-source"""


def settings(folder: Path) -> dict[str, Any]:
    """`_config.yml` of a folder."""
    found: dict[str, Any] = yaml.safe_load((folder / "_config.yml").read_text(encoding="utf-8"))
    return found


def moved(folder: Path) -> dict[str, str]:
    """The pages that moved, old name to new name."""
    return settings(folder)["sphinx"]["config"].get("genbook_moved") or {}


def link_to_source(page: NotebookNode, chapter: str, folder: Path) -> None:
    """Under the title of a chapter: where its source is, and where its notebook can be run."""
    repository = settings(folder).get("repository") or {}
    url = repository.get("url", "").rstrip("/")
    if not url:
        return
    branch = repository.get("branch", "main")
    links = [f"[Source of this chapter]({url}/blob/{branch}/chapters/{chapter}.py)"]
    if url.startswith(GITHUB):
        name = f"{url.removeprefix(GITHUB)}/blob/{NOTEBOOKS}/{chapter}.ipynb"
        links.append(f"[open it in Colab]({COLAB}{name})")
    title, newline, rest = page.cells[0].source.partition("\n")
    page.cells[0].source = f"{title}{newline}\n{', '.join(links)}\n{rest}"


def bring_the_library(notebook: NotebookNode, folder: Path) -> None:
    """Let the downloaded notebook fetch the library where it is not installed."""
    url = (settings(folder).get("repository") or {}).get("url")
    if url:
        cell = new_code_cell(BRING_THE_LIBRARY.format(url=url), id="the-library")
        notebook.cells.insert(1, cell)


def preview_tags(
    app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """What a site shows of a page that somebody shares there."""
    base = app.config.html_baseurl.rstrip("/")
    if not base or doctree is None:
        return
    title = next(iter(doctree.findall(nodes.title)), nodes.title()).astext()
    tags = {
        "og:type": "article",
        "og:site_name": app.config.project,
        "og:title": title,
        "og:description": _first_words(doctree),
        "og:url": f"{base}/{name}.html",
        "og:image": f"{base}/{PREVIEW}",
        "og:image:alt": "A density with one mode, and the name of the book.",
    }
    context["metatags"] += "".join(
        f'\n<meta property="{key}" content="{html.escape(value)}">' for key, value in tags.items()
    )
    context["metatags"] += '\n<meta name="twitter:card" content="summary_large_image">'


def _first_words(doctree: nodes.document) -> str:
    """The start of the first paragraph without a formula."""
    for paragraph in doctree.findall(nodes.paragraph):
        if not list(paragraph.findall(nodes.math)):
            return textwrap.shorten(paragraph.astext(), 200, placeholder=" …")
    return ""


def draw_preview(path: Path) -> None:
    """The picture of the preview: the book's sign and its name, 1200 by 630."""
    import matplotlib as mpl
    import numpy as np
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(12, 6.3), dpi=100, facecolor="#1f4e79")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set(xlim=(0, 12), ylim=(0, 6.3))
        axes.axis("off")
        x = np.linspace(6.6, 11.4, 400)
        axes.plot(x, 1.6 + 3.2 * np.exp(-((x - 9) ** 2) / 0.8), color="white", linewidth=14)
        axes.text(0.8, 3.5, "genbook", color="white", fontsize=72, weight="bold")
        axes.text(0.85, 2.3, "Papers on generative models,\nrun again", color="white", fontsize=26)
        figure.savefig(path, metadata={"Software": None})


def write_files(app: Sphinx, error: Exception | None) -> None:
    """Once the pages are there: the picture of the preview, and pages at the old addresses."""
    if error is not None:
        return
    out = Path(app.outdir)
    if app.config.html_baseurl:
        draw_preview(out / PREVIEW)
    for old, new in app.config.genbook_moved.items():
        if old in app.env.found_docs or new not in app.env.found_docs:
            logger.warning("genbook_moved: %s must be no page any more, and %s one", old, new)
            continue
        path = out / f"{old}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        address = PurePosixPath(os.path.relpath(out / f"{new}.html", path.parent)).as_posix()
        path.write_text(MOVED_PAGE.format(address=address), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("genbook_moved", {}, "env", types=(dict,))
    app.connect("html-page-context", preview_tags)
    app.connect("build-finished", write_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
