"""Sphinx extension: the directive `{entry}`, a name of the library as a section of its page.

Its anchor is the name's path as it is written, which a heading in MyST could not have: that would
be in small letters, and `Score` and `score` the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from genbook.site import library


class EntryDirective(SphinxDirective):
    """What library.json has under a path: of a module the words, of a name in it a section."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (path,) = self.arguments
        body = nodes.raw("", self.config.genbook_library[path], format="html")
        if path in library.modules():
            return [body]
        name = path.rpartition(".")[2]
        return [nodes.section("", nodes.title(name, name), body, ids=[path])]


def read_library(app: Sphinx) -> None:
    text = (Path(app.srcdir) / "library.json").read_text(encoding="utf-8")
    app.config.genbook_library = json.loads(text)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("entry", EntryDirective)
    app.connect("builder-inited", read_library)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
