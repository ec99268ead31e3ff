"""Sphinx extension: the role `{result}`, the directives `{ledger}`, `{scoreboard}`, `{chart}`,
`{run}`, `{bench}`, `{growth}`, `{build}`, `{excerpt}` and `{lab}`.

    {result}`nz20-bound`            the fresh run of this chapter
    {result}`aevb:nz20-bound`       of another chapter
    {result}`nz20-bound@long`       mean over the seeds of the recorded long run
    {result}`nz20-bound.published`  what the paper says; also .spread and .verdict

Every number comes from `results.json` in the source folder.  A name that no run has is a
warning, and the book is built with warnings as errors.
"""

from __future__ import annotations

import html
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, cast

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from genbook.site import chart, excerpts, facts, labs, tables
from genbook.site.growth import growth
from genbook.site.lookup import Results, UnknownResultError, mention

logger = logging.getLogger(__name__)


def results_of(app: Sphinx) -> Results:
    """The results of this build, read once."""
    return cast(Results, app.config.genbook_results)


def chapter_of(docname: str) -> str | None:
    """`aevb` for the page chapters/aevb, nothing for other pages."""
    folder, _, name = docname.rpartition("/")
    return name if folder == "chapters" else None


def raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


class ResultRole(SphinxRole):
    """Print one number of a run, as a link that opens the facts behind it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        here = chapter_of(self.env.docname)
        try:
            printed = results_of(self.env.app).look_up(self.text, here)
        except UnknownResultError as error:
            logger.warning("{result}`%s`: %s", self.text, error, location=self.get_location())
            return [nodes.literal(self.text, self.text)], []
        chapter = printed.facts.partition(":")[0]
        page = "" if chapter == here else f"{self.up()}chapters/{chapter}.html"
        attributes = f' data-value="{html.escape(printed.number)}"'
        if chapter == here and printed.claim is not None:
            attributes += self.named(mention(printed.claim))
        address = f"{page}#{printed.place}"
        return [raw(facts.link(printed.text, printed.facts, address, attributes))], []

    def up(self) -> str:
        """The way from this page to the root of the site."""
        return "../" * self.env.docname.count("/")

    def named(self, name: str) -> str:
        """The id of the first place on the page that prints a claim, to which the ledger leads."""
        seen: set[str] = self.env.temp_data.setdefault("genbook_mentions", set())
        first = name not in seen
        seen.add(name)
        return f' id="{html.escape(name)}"' if first else ""


class TableDirective(SphinxDirective, ABC):
    """A table of the results; the option `chapter` narrows it to one chapter."""

    option_spec: ClassVar[dict[str, Any]] = {"chapter": directives.unchanged_required}

    def chapter_asked(self) -> str | None:
        return self.options.get("chapter") or chapter_of(self.env.docname)

    def names(self, results: Results) -> list[str]:
        asked = self.chapter_asked()
        if asked is not None:
            results.chapter(asked)
        return [asked] if asked is not None else list(results.chapters)

    def inline(self, text: str) -> list[nodes.Node]:
        """A phrase of a claims file, which may contain mathematics between dollars."""
        parsed, messages = self.state.inline_text(text, self.lineno)
        return [*parsed, *messages]

    def run(self) -> list[nodes.Node]:
        results = results_of(self.env.app)
        try:
            pieces = self.pieces(results, self.names(results))
        except UnknownResultError as error:
            logger.warning("{%s}: %s", self.name, error, location=self.get_location())
            return []
        out: list[nodes.Node] = []
        for piece in pieces:
            out += [raw(piece.html)] if isinstance(piece, tables.Markup) else self.inline(piece)
        return out

    @abstractmethod
    def pieces(self, results: Results, names: list[str]) -> tables.Pieces:
        """The markup of the table, and in between the phrases that may hold mathematics."""


class LedgerDirective(TableDirective):
    def pieces(self, results: Results, names: list[str]) -> tables.Pieces:
        return tables.ledger(results, names, "" if chapter_of(self.env.docname) else "chapters/")


class ScoreboardDirective(TableDirective):
    def pieces(self, results: Results, names: list[str]) -> tables.Pieces:
        return tables.scoreboard(results, names)


class ChartDirective(TableDirective):
    """The scoreboard as bars."""

    def pieces(self, results: Results, names: list[str]) -> tables.Pieces:
        return chart.bars(results, names)


class RunDirective(TableDirective):
    """One line: which run this page shows, and the executed notebook to download."""

    def pieces(self, results: Results, names: list[str]) -> tables.Pieces:
        return tables.run_line(results, names)


class BenchDirective(TableDirective):
    """The recorded comparisons of speed."""

    def pieces(self, results: Results, names: list[str]) -> tables.Pieces:
        return tables.bench(results)


class GrowthDirective(TableDirective):
    """How costs grow with the work."""

    def pieces(self, results: Results, names: list[str]) -> tables.Pieces:
        return growth(results)


class BuildDirective(TableDirective):
    """How long the book takes to build."""

    def pieces(self, results: Results, names: list[str]) -> tables.Pieces:
        return tables.build(results)


class ExcerptDirective(SphinxDirective):
    """Lines of a source of a claim, as they stand there; see `excerpts`."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        kind, asked = self.arguments
        folder = Path(self.env.app.srcdir) / excerpts.SOURCES
        try:
            found = results_of(self.env.app).find(asked, chapter_of(self.env.docname))
            where, text, language = excerpts.excerpt(kind, folder, found)
        except UnknownResultError as error:
            logger.warning("{excerpt} %s: %s", asked, error, location=self.get_location())
            return []
        block = nodes.literal_block(text, text, language=language)
        return [raw(f'<p class="gb-where"><code>{html.escape(where)}</code></p>'), block]


class LabDirective(SphinxDirective):
    """A lab with its words; see `labs`."""

    has_content = True
    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"still": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        about = self.env.app.config.genbook_labs.get(chapter_of(self.env.docname), {})
        still = about.get("stills", {}).get(self.options.get("still"))
        source = Path(self.env.app.srcdir)
        script = source / labs.SCRIPTS / f"{name}.js"
        for wrong, text in (
            (not script.is_file(), f"there is no {labs.SCRIPTS / name}.js"),
            (still is None, f"the run has no figure '{self.options.get('still')}'"),
        ):
            if wrong:
                logger.warning("{lab} %s: %s", name, text, location=self.get_location())
                return []
        up = "../" * self.env.docname.count("/")
        scripts = labs.scripts(name, source)
        opening, closing = labs.markup(name, up, about, str(still), scripts)
        words = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, words)
        return [raw(opening), *words.children, raw(closing)]


def read_results(app: Sphinx) -> None:
    app.config.genbook_results = Results.read(Path(app.srcdir) / "results.json")
    labs_file = Path(app.srcdir) / "labs.json"
    app.config.genbook_labs = json.loads(labs_file.read_text(encoding="utf-8"))


def add_facts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Put the facts of the printed results at the end of the page."""
    if "body" in context:
        context["body"] += facts.of_page(results_of(app), context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("result", ResultRole())
    app.add_directive("ledger", LedgerDirective)
    app.add_directive("scoreboard", ScoreboardDirective)
    app.add_directive("chart", ChartDirective)
    app.add_directive("run", RunDirective)
    app.add_directive("bench", BenchDirective)
    app.add_directive("growth", GrowthDirective)
    app.add_directive("build", BuildDirective)
    app.add_directive("excerpt", ExcerptDirective)
    app.add_directive("lab", LabDirective)
    app.connect("builder-inited", read_results)
    app.connect("html-page-context", add_facts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
