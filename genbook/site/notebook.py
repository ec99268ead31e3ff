"""The page of a chapter: today's prose and the run's outputs in one notebook.

The prose is read from `chapters/NAME.py`, the outputs from the executed notebook, and cells are
matched by their code.  So an edit of prose needs no run, and an output can never stand under code
that did not make it.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from genbook import ledger
from genbook.site import facts, lookup, pictures, wording
from genbook.site.errors import SiteError
from genbook.site.lookup import Results, UnknownResultError

# What shows something when it is called, and the values that show themselves at a cell's end.
SHOWING = {"display", "judge", "print", "show"}
SHOWN = (
    ast.Attribute, ast.BinOp, ast.Compare, ast.Dict, ast.JoinedStr, ast.List, ast.Name,
    ast.Subscript, ast.Tuple,
)  # fmt: skip
RUN_LINE = "```{run}\n```"
TITLE = re.compile(r"\A(# [^\n]+\n?)")
RESULT = re.compile(r"\{result\}`([^`]+)`")
JUDGED = re.compile(r'<p class="gb-judged">([^:]+)(?=: )')
OPENING = re.compile(r'<a class="gb-result"[^>]*>([^<]*)</a>')
DIRECTIVE = re.compile(r"```\{(run|ledger|scoreboard|lab)\}[^`]*```")

ELSEWHERE = {
    "run": "",
    "ledger": "*This table stands on the chapter's page in the book.*",
    "scoreboard": "*This table stands on the chapter's page in the book.*",
    "lab": "*On the chapter's page in the book a lab stands here.*",
}
ONLY_DARK = re.compile(r'<img class="only-dark[^>]*>|<svg class="only-dark.*?</svg>', re.DOTALL)


def page(chapter: str, source: Path, executed: Path) -> NotebookNode:
    """Merge the chapter's source with the outputs of its run, and check the outputs."""
    current = jupytext.read(source, fmt="py:percent")
    made = nbformat.read(executed, as_version=4)
    outputs = iter([cell for cell in made.cells if cell.cell_type == "code"])
    cells: list[NotebookNode] = []
    printed = _printed(chapter, current)
    for cell in current.cells:
        if cell.cell_type == "code":
            cells += _executed(chapter, cell, outputs, printed)
        else:
            # A link that is right in the repository, where pages lie in book/.
            cell.source = cell.source.replace("](../book/", "](../")
            cells.append(cell)
    left = next(outputs, None)
    if left is not None:
        raise SiteError(f"{chapter}: the run has a cell that the chapter lacks:\n{left.source}")
    _head(chapter, cells)
    _name_cells(cells)
    merged = nbformat.v4.new_notebook(cells=cells, metadata=dict(made.metadata))
    merged.nbformat_minor = 5
    check_outputs(chapter, merged)
    return merged


def _printed(chapter: str, current: NotebookNode) -> set[str]:
    """The chapter's own results that its prose prints."""
    prose = "\n".join(cell.source for cell in current.cells if cell.cell_type == "markdown")
    asked = [lookup.ASKED.fullmatch(text.strip()) for text in RESULT.findall(prose)]
    return {match["name"] for match in asked if match and match["chapter"] in (None, chapter)}


def _executed(
    chapter: str, cell: NotebookNode, outputs: Iterator[NotebookNode], printed: set[str]
) -> list[NotebookNode]:
    """The run's cell with this code, followed by the injected parameters where they belong."""
    tags = cell.metadata.get("tags", [])
    made = next(outputs, None)
    found: list[NotebookNode] = []
    if made is not None and made.source.strip() == cell.source.strip():
        found.append(made)
    if found and "parameters" in tags:
        found += [next(outputs)]
        if "injected-parameters" not in found[-1].metadata.get("tags", []):
            raise SiteError(f"{chapter}: the run has no injected parameters")
    if not found:
        raise SiteError(
            f"{chapter}: no output in the run for this cell; run the chapter again "
            f"(genbook run {chapter} --force):\n{cell.source}"
        )
    for one in found:
        one.metadata = NotebookNode({**cell.metadata, **one.metadata})
        one.outputs = [output for output in one.outputs if not _is_named_value(output)]
        for output in one.outputs:
            _prepare(chapter, output, printed)
    return found


def _is_named_value(output: NotebookNode) -> bool:
    """A number that only prose prints: the reader meets it there, with its origin."""
    bundle = output.get("data", {}).get(ledger.BUNDLE_MIME)
    return bundle is not None and "verdict" not in bundle


def _prepare(chapter: str, output: NotebookNode, printed: set[str]) -> None:
    """Turn the bundle of a judged claim, which is for programs, into a link to its facts, set its
    mathematics, and make pictures smaller."""
    data = output.get("data", {})
    if "text/html" in data:
        data["text/html"] = pictures.thinned(data["text/html"])
    bundle = data.pop(ledger.BUNDLE_MIME, None)
    if bundle is not None and "text/html" in data:
        text = wording.DOLLARS.sub(r'<span class="math">\\(\1\\)</span>', data["text/html"])
        data["text/html"] = JUDGED.sub(
            lambda m: _judged(chapter, bundle["id"], m[1], printed), text
        )


def _judged(chapter: str, claim: str, verdict: str, printed: set[str]) -> str:
    """The verdict of a judged claim, which opens its facts.  Where no sentence prints the claim,
    the ledger leads here."""
    name = "" if claim in printed else f' id="{lookup.mention(claim)}"'
    opening = facts.link(verdict, f"{chapter}:{claim}", f"#{lookup.place(chapter, claim)}")
    return f'<p class="gb-judged"{name}>{opening}'


def _head(chapter: str, cells: list[NotebookNode]) -> None:
    """Put the line about the run under the title."""
    if not cells or not TITLE.match(cells[0].source):
        raise SiteError(f"chapters/{chapter}.py: the first cell must start with '# ' and the title")
    cells[0].source = TITLE.sub(lambda m: f"{m[1].rstrip()}\n\n{RUN_LINE}\n", cells[0].source)


def _name_cells(cells: list[NotebookNode]) -> None:
    """Cell ids from content, so that two stagings of the same chapter are the same bytes."""
    seen: Counter[str] = Counter()
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        cell["id"] = f"{digest}-{seen[digest]}"
        seen[digest] += 1


def check_outputs(chapter: str, page: NotebookNode) -> None:
    """Refuse errors, anything on stderr, and a cell that lost its output."""
    for cell in page.cells:
        if cell.cell_type != "code":
            continue
        if not cell.outputs and expects_output(cell.source):
            raise SiteError(
                f"{chapter}: this cell should show something, yet shows nothing:\n{cell.source}"
            )
        for output in cell.outputs:
            if output.output_type == "error":
                raise SiteError(f"{chapter}: a cell failed:\n{cell.source}\n{output.evalue}")
            if output.output_type == "stream" and output.name == "stderr":
                raise SiteError(f"{chapter}: a cell wrote to stderr:\n{cell.source}\n{output.text}")


def expects_output(source: str) -> bool:
    """Whether a cell must show something: it ends in a value, or it prints, shows or judges.

    A call at the end of a cell may return nothing, so it counts only by its name; what stands in
    a loop, a branch or a function may never be reached, so it does not count.
    """
    body = ast.parse(source).body
    if body and isinstance(body[-1], ast.Expr) and isinstance(body[-1].value, SHOWN):
        return True
    certain = [s for s in body if isinstance(s, ast.Expr | ast.Assign | ast.With)]
    return any(_is_showing(node) for statement in certain for node in ast.walk(statement))


def _is_showing(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in SHOWING


def for_download(page: NotebookNode, chapter: str, results: Results) -> NotebookNode:
    """The notebook as a reader opens it elsewhere: numbers in the prose, no directives of the
    page, and of each picture its description, since running the notebook draws it."""
    copy = nbformat.from_dict(page)

    def printed(match: re.Match[str]) -> str:
        try:
            return results.look_up(match[1], chapter).text
        except UnknownResultError as error:
            raise SiteError(f"{chapter}: {error}") from error

    for cell in copy.cells:
        if cell.cell_type == "markdown":
            text = DIRECTIVE.sub(lambda m: ELSEWHERE[m[1]], cell.source)
            cell.source = RESULT.sub(printed, text).strip()
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                text = OPENING.sub(r"\1", ONLY_DARK.sub("", data["text/html"]))
                data["text/html"] = pictures.described(text)
    copy.cells = [cell for cell in copy.cells if cell.source]
    return copy
