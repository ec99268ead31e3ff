"""A chapter's source: a jupytext py:percent file, read without jupytext.

The split is needed where there is no Jupyter (the script engine, the name of a run), so it knows
only what chapters use: `# %%` lines, an optional cell type in brackets, and tags.  The papermill
engine reads the same file with jupytext and refuses a chapter on which the two disagree.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from genbook import ledger

MARKER = re.compile(r"^# %%(?P<rest>(\s.*)?)$")
CELL_TYPE = re.compile(r"\[(markdown|md|raw)\]")
TAGS = re.compile(r"tags=(\[[^\]]*\])")
PARAMETERS = ("profile", "device", "seed")


class ChapterError(Exception):
    """A chapter is unknown, or its source breaks the contract of chapters."""


@dataclass(frozen=True)
class Cell:
    """One cell: its kind (`code`, `markdown`, `raw`), text, first line in the file, and tags."""

    kind: str
    source: str
    line: int
    tags: tuple[str, ...]


def chapters(root: Path | None = None) -> list[str]:
    """The chapters of the book in the order of `_toc.yml`; without one, all of them."""
    root = root or ledger.ROOT
    names = sources(root)
    toc = root / "_toc.yml"
    listed = re.findall(r"chapters/(\w+)", toc.read_text(encoding="utf-8")) if toc.exists() else []
    return [name for name in listed if name in names] or names


def sources(root: Path | None = None) -> list[str]:
    """The names of all files in chapters/, in the book or not yet."""
    return sorted(p.stem for p in ((root or ledger.ROOT) / "chapters").glob("*.py"))


def chapter_path(name: str, root: Path | None = None) -> Path:
    """The source of a chapter; an unknown name is refused with the nearest right one."""
    root = root or ledger.ROOT
    path = root / "chapters" / f"{name}.py"
    if not name.isidentifier() or not path.is_file():
        known = sources(root)
        hint = ledger.nearest(name, known) if known else f"no chapter in {root / 'chapters'}"
        raise ChapterError(f"unknown chapter '{name}': {hint}")
    return path


def data_of(names: Iterable[str]) -> list[str]:
    """The data sets that these chapters cannot do without, each once."""
    return list(dict.fromkeys(n for name in names for n in ledger.read_claims(name).data))


def split(text: str) -> list[Cell]:
    """The cells of a py:percent file, markdown without its comment marks."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if MARKER.match(line)]
    cells = []
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
        marker = MARKER.match(lines[start])
        assert marker is not None
        rest = marker["rest"]
        kind = CELL_TYPE.search(rest)
        body = lines[start + 1 : stop]
        name = {"md": "markdown"}.get(kind[1], kind[1]) if kind else "code"
        if name != "code":
            body = [re.sub(r"^# ?", "", line) for line in body]
        while body and not body[-1].strip():
            body.pop()
        tags = TAGS.search(rest)
        named = tuple(ast.literal_eval(tags[1])) if tags else ()
        cells.append(Cell(name, "\n".join(body), start + 2, named))
    return cells


def code_cells(name: str, text: str) -> tuple[list[Cell], int]:
    """The code cells of a chapter and the index of its `parameters` cell, both checked."""
    cells = [cell for cell in split(text) if cell.kind == "code"]
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.tags]
    if len(tagged) != 1:
        raise ChapterError(
            f"chapters/{name}.py: {len(tagged)} cells are tagged 'parameters', one is needed: "
            '# %% tags=["parameters"]'
        )
    _check_parameters(name, cells[tagged[0]])
    return cells, tagged[0]


def _check_parameters(name: str, cell: Cell) -> None:
    """The parameters cell assigns exactly profile, device and seed: a misspelt one would be
    injected in vain, and the run would silently use the default."""
    found = []
    for node in ast.parse(cell.source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if not isinstance(target, ast.Name):
            raise ChapterError(
                f"chapters/{name}.py, line {cell.line + node.lineno - 1}: the parameters cell "
                "may only assign profile, device and seed"
            )
        found.append(target.id)
    for parameter in found:
        if parameter not in PARAMETERS:
            hint = ledger.nearest(parameter, PARAMETERS)
            raise ChapterError(f"chapters/{name}.py: unknown parameter '{parameter}'; {hint}")
    missing = [parameter for parameter in PARAMETERS if parameter not in found]
    if missing:
        raise ChapterError(f"chapters/{name}.py: the parameters cell lacks {', '.join(missing)}")


def injected(profile: str, device: str, seed: int) -> str:
    """The cell that sets the parameters, in papermill's form."""
    return f'# Parameters\nprofile = "{profile}"\ndevice = "{device}"\nseed = {seed}\n'
