"""Sphinx extension: the directives `{generated}` and `{entry}`, which put what the book makes of
itself on a page: tables of equations, docstrings and source of the library.

Both take it from `generated.json` in the source folder.  An entry is a section, whose anchor is the
name's path as it is written; a heading in MyST could not have it, since its anchor is in small
letters, and `Score` and `score` would be the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Unsearched(nodes.Element):  # type: ignore[misc]  # docutils ships no types
    """HTML that the search does not read."""


def visit(translator: Any, node: Unsearched) -> None:
    translator.body.append(node["html"])
    raise nodes.SkipNode


class GeneratedDirective(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        words, code = self.config.genbook_generated[self.arguments[0]]
        return [nodes.raw("", words, format="html"), Unsearched(html=code)]


class EntryDirective(GeneratedDirective):
    def run(self) -> list[nodes.Node]:
        (path,) = self.arguments
        name = path.rpartition(".")[2]
        return [nodes.section("", nodes.title(name, name), *super().run(), ids=[path])]


def read_generated(app: Sphinx) -> None:
    text = (Path(app.srcdir) / "generated.json").read_text(encoding="utf-8")
    app.config.genbook_generated = json.loads(text)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(Unsearched, html=(visit, None))
    app.add_directive("generated", GeneratedDirective)
    app.add_directive("entry", EntryDirective)
    app.connect("builder-inited", read_generated)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
