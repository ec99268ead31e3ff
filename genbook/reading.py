"""What a chapter says to its reader beside prose: source of the library, checks, and tables."""

from __future__ import annotations

import html
import inspect
import math
from collections.abc import Sequence
from typing import Any


class Source:
    """The source of a function or class, as the page shows it."""

    def __init__(self, thing: Any):
        self.text = inspect.getsource(thing).rstrip()
        self.name = f"{thing.__module__}.{thing.__qualname__}"

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return f"`{self.name}`\n\n```python\n{self.text}\n```"


def show(thing: Any) -> Source:
    """The source of a library function, to end a cell with: `show(aevb.elbo)`."""
    return Source(thing)


def check(
    what: str, ours: float, reference: float, *, rtol: float = 0.0, atol: float = 0.0
) -> None:
    """Print two numbers that must agree and fail if they do not."""
    ours, reference = float(ours), float(reference)
    error = abs(ours - reference)
    print(f"{what}: {ours:.6g} against {reference:.6g}, difference {error:.1e}")
    if not math.isfinite(error) or error > atol + rtol * abs(reference):
        raise AssertionError(f"{what}: differs by more than {atol:g} + {rtol:g} relative")


class Table:
    """Rows under headings, as an HTML table on the page and as aligned text elsewhere."""

    def __init__(self, headings: Sequence[str], rows: Sequence[Sequence[object]]):
        self.headings = list(headings)
        self.rows = [[str(cell) for cell in row] for row in rows]
        if any(len(row) != len(self.headings) for row in self.rows):
            raise ValueError("every row needs one cell under each heading")

    def __repr__(self) -> str:
        lines = [self.headings, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.headings))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        def cells(tag: str, row: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>"

        head, body = cells("th", self.headings), "".join(cells("td", row) for row in self.rows)
        return (
            '<div class="gb-table" tabindex="0"><table class="table"><thead>'
            f"{head}</thead><tbody>{body}</tbody></table></div>"
        )
