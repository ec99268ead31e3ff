"""The index of equations: what of a paper is which function, tested where, met where in the book.

Nothing of it is written by hand but book/equations.toml: which papers, by which names docstrings
call them, and why something has no function.  Docstrings and prose name an equation as a reader
does: "equation (3)", "Algorithms 3 and 4", "appendix C.1".  It belongs to the paper that the same
text named last before it, else to the paper of the module or of the chapter.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from docutils.nodes import make_id

from genbook.site import library
from genbook.site.places import Section, Test, sections, tests

KINDS = ("equation", "algorithm", "theorem", "appendix", "section")
NUMBER = r"(?:\(\d+\)|\d+(?:\.\d+)*|[A-Z](?:\.\d+)*)(?![\w.]*\w)"
NAMED = re.compile(
    rf"\b({'|'.join(KINDS)})s?\s+({NUMBER}(?:(?:,| to|,? and)\s+{NUMBER})*)",
    re.IGNORECASE,
)
RANGE = re.compile(r"(\d+)\)? to \(?(\d+)")
COLUMNS = ("In the paper", "In the library", "Tests", "In the book")
TESTS_SHOWN = 3


@dataclass(frozen=True)
class Paper:
    """An entry of book/equations.toml."""

    key: str  # in references.bib
    title: str
    modules: tuple[str, ...] = ()
    chapter: str = ""
    called: tuple[str, ...] = ()
    also: Mapping[str, list[str]] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Row:
    """An equation of a paper: the functions whose docstrings name it, the sections that do."""

    functions: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


Index = dict[str, dict[str, Row]]  # paper, equation


def papers(file: Path) -> list[Paper]:
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return [Paper(key=key, **entry) for key, entry in content.items()]


def named(text: str) -> Iterator[tuple[str, int]]:
    """What a text names, such as "equation 10", and where."""
    for match in NAMED.finditer(text):
        numbers = RANGE.sub(
            lambda m: ", ".join(map(str, range(int(m[1]), int(m[2]) + 1))), match[2]
        )
        for number in re.findall(NUMBER, numbers):
            yield f"{match[1].lower()} {number.strip('()')}", match.start()


def attributed(text: str, default: str | None, known: list[Paper]) -> Iterator[tuple[str, str]]:
    """What a text names, with the key of the paper that it is of."""
    text = " ".join(text.split())
    calls = sorted((m.start(), paper.key) for paper in known for name in paper.called
                   for m in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text))  # fmt: skip
    for what, where in named(text):
        of = next((key for start, key in reversed(calls) if start < where), default)
        if of is not None:
            yield of, what


def index(known: list[Paper], in_book: list[Section]) -> Index:
    """Every equation that a docstring, the prose of a chapter or equations.toml names."""
    found: Index = {
        paper.key: {
            what: Row(list(paper.also.get(what, ()))) for what in (*paper.also, *paper.without)
        }
        for paper in known
    }
    home = {module: paper.key for paper in known for module in paper.modules}
    for path, module, doc in _docstrings():
        for key, what in attributed(doc, home.get(module), known):
            functions = found[key].setdefault(what, Row()).functions
            functions += [path] if path not in functions else []
    chapters = {paper.chapter: paper.key for paper in reversed(known) if paper.chapter}
    for section in in_book:
        for key, what in attributed(section.prose, chapters.get(section.chapter), known):
            places = found[key].setdefault(what, Row()).sections
            places += [section] if section not in places else []
    return {key: dict(sorted(filter(_wanted, rows.items()), key=_order))
            for key, rows in found.items()}  # fmt: skip


def _wanted(row: tuple[str, Row]) -> bool:
    """A section of a paper counts where a function is it, not where prose refers to it."""
    return bool(row[1].functions) or not row[0].startswith("section ")


def _order(row: tuple[str, Row]) -> tuple[Any, ...]:
    kind, _, number = row[0].partition(" ")
    if kind not in KINDS:
        return (len(KINDS),)  # as they stand in equations.toml
    return KINDS.index(kind), *((not p.isdigit(), p.zfill(3)) for p in number.split("."))


def missing(rows: Iterable[str]) -> list[int]:
    """The numbers of equations below the last one that nothing names."""
    numbers = {int(row.split(" ")[1]) for row in rows if row.startswith("equation ")}
    return sorted(set(range(1, max(numbers, default=0))) - numbers)


def _docstrings() -> Iterator[tuple[str, str, str]]:
    """The path, the module and the docstring of everything documented."""
    for module in library.modules().values():
        yield module.path, module.path, module.doc
        for entry in module.entries:
            for one in (entry, *entry.methods):
                yield one.path, module.path, one.doc


def stage(folder: Path, tests_folder: Path) -> dict[str, library.Piece]:
    """Put a section for each paper in the place of `{equations}`; return the tables in them."""
    page, listed = folder / "equations.md", folder / "equations.toml"
    known, in_book = papers(listed), sections(folder / "chapters")
    found, called = index(known, in_book), tests(tests_folder)
    parts = "\n\n".join(_section(paper, found[paper.key]) for paper in known)
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("```{equations}\n```", parts), encoding="utf-8")
    listed.unlink()
    return {
        f"equations.{paper.key}": library.Piece(
            "", _table(paper, found[paper.key], in_book, called)
        )
        for paper in known
    }


def _section(paper: Paper, rows: Iterable[str]) -> str:
    parts = [f"## {paper.title}", f"{{cite:t}}`{paper.key}`"]
    parts += [f"```{{generated}} equations.{paper.key}\n```"]
    absent = missing(rows)
    if absent:
        plural = "s" if len(absent) > 1 else ""
        parts += [
            f"Neither library nor chapter names equation{plural} {', '.join(map(str, absent))}."
        ]
    return "\n\n".join(parts)


def _table(
    paper: Paper, rows: Mapping[str, Row], book: list[Section], called: Mapping[str, list[Test]]
) -> str:
    head = "".join(f'<th role="columnheader" scope="col">{name}</th>' for name in COLUMNS)
    body = "".join(
        _row(paper, what, function, row, book, called)
        for what, row in rows.items()
        for function in row.functions or [""]
    )
    return (
        f'<div class="gb-scroll" role="region" aria-label="Equations of {escape(paper.title)}">'
        f'<table class="gb-cards gb-equations" role="table"><thead role="rowgroup">'
        f'<tr role="row">{head}</tr></thead><tbody role="rowgroup">{body}</tbody></table></div>'
    )


def _row(
    paper: Paper,
    what: str,
    function: str,
    row: Row,
    book: list[Section],
    called: Mapping[str, list[Test]],
) -> str:
    """One function of an equation, or the reason why there is none."""
    places = row.sections + [s for s in book if function in s.shown and s not in row.sections]
    why = f'<span class="gb-none">no function:</span> {escape(paper.without.get(what, ""))}'
    whole = function in library.modules()
    cells = (
        _link(function) if function else why,
        _tests(called.get(function, [])) if function and not whole else "—",
        "<br>".join(_place(place, paper) for place in places) or "—",
    )
    texts = "".join(
        f'<td role="cell" data-label="{label}"><div>{text}</div></td>'
        for label, text in zip(COLUMNS[1:], cells, strict=True)
    )
    anchor = make_id(f"{paper.key}-{what}")
    mark = f' id="{anchor}"' if function in ("", *row.functions[:1]) else ""
    first = f'<th role="rowheader" scope="row">{escape(what[0].upper() + what[1:])}</th>'
    return f'<tr role="row"{mark}>{first}{texts}</tr>'


def _link(path: str) -> str:
    return f'<a href="{library.catalogue()[path]}"><code>{path}</code></a>'


def _place(section: Section, paper: Paper) -> str:
    chapter = "" if section.chapter == paper.chapter else f" ({section.chapter})"
    return f'<a href="{section.address}">{escape(section.title)}</a>{chapter}'


def _tests(found: list[Test]) -> str:
    """The names of the first few tests by file, and how many others there are."""
    if not found:
        return '<span class="gb-none">no test calls it by name</span>'
    lines = []
    for file, group in itertools.groupby(found[:TESTS_SHOWN], key=lambda test: test.file):
        lines += [f"<small>{escape(file)}</small>", *(_breakable(test.name) for test in group)]
    more = len(found) - TESTS_SHOWN
    return "<br>".join(lines + [f"and {more} more"] * (more > 0))


def _breakable(name: str) -> str:
    return escape(name).replace("_", "_<wbr>")
