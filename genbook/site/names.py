"""Names of the library in code: what they stand for, and links to them in the cells of a page."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from genbook.site import library

CELL = re.compile(r'<div class="cell_input .*?</pre>', re.DOTALL)
# A name with what follows it between dots, as Pygments writes them; not the end of another such
# chain, and not a keyword argument.
SPAN = r'<span class="n[a-z]*">\w+</span>'
CHAIN = re.compile(
    rf'(?<!<span class="o">\.</span>){SPAN}(?:<span class="o">\.</span>{SPAN})*'
    r'(?!<span class="o">=</span>)'
)
WORD = re.compile(r">(\w+)<")


def address(chain: list[str], imported: Mapping[str, str]) -> tuple[str, int] | None:
    """Where the longest documented beginning of a chain of names stands, and its length."""
    if chain[0] not in imported:
        return None
    for length in range(len(chain), 0, -1):
        path = ".".join([imported[chain[0]], *chain[1:length]])
        if path in library.catalogue():
            return path, length
    return None


def used(node: ast.AST, imported: Mapping[str, str]) -> Iterator[str]:
    """The paths of the documented names in code, in its order; a name may come several times."""
    within = {part.value for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    for part in ast.walk(node):
        chain = [] if part in within else _chain(part)
        found = address(chain, imported) if chain else None
        if found is not None:
            yield found[0]


def _chain(node: ast.AST) -> list[str]:
    """`aevb.elbo` as ["aevb", "elbo"], nothing where there is more than names and dots."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) else []


def linked(page: str, imported: Mapping[str, str], up: str = "../") -> str:
    """The page with a link on every documented name in its code cells.

    All can be clicked; the tabulator stops at the first of its kind in a cell.
    """
    return CELL.sub(lambda cell: _linked_cell(cell[0], imported, up), page)


def _linked_cell(cell: str, imported: Mapping[str, str], up: str) -> str:
    seen: set[str] = set()

    def link(match: re.Match[str]) -> str:
        found = address(WORD.findall(match[0]), imported)
        if found is None:
            return match[0]
        path, length = found
        spans = match[0].split('<span class="o">.</span>')
        dot = '<span class="o">.</span>'
        stop = ' tabindex="-1"' if path in seen else ""
        seen.add(path)
        opening = f'<a href="{up}{library.catalogue()[path]}"{stop}>'
        rest = "".join(dot + span for span in spans[length:])
        return f"{opening}{dot.join(spans[:length])}</a>{rest}"

    return CHAIN.sub(link, cell)
