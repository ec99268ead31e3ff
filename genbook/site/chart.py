"""The scoreboard as bars: one a chapter, a part a verdict, as long as there are claims.

One SVG without a view box, so that bars follow the width of the page and letters keep their size;
its colours are those of the verdicts in the style sheet, for both themes.
"""

from __future__ import annotations

from collections import Counter
from html import escape

from genbook.ledger import VERDICTS
from genbook.site.lookup import Results
from genbook.site.tables import Markup, Pieces, badge, counts, slug

ROW, BAR = 54, 24  # pixels: a chapter with its name, the bar alone
NARROW = 5.0  # percent of the width, below which a part has no room for its number


def bars(results: Results, names: list[str]) -> Pieces:
    """The figure, with all its numbers as alternative text and a caption that names the colours."""
    found = {results.chapter(name)["title"]: c for name, c in counts(results, names).items()}
    most = max(count.total() for count in found.values())
    rows = "".join(
        _row(i * ROW, title, count, most) for i, (title, count) in enumerate(found.items())
    )
    yield Markup(
        f'<figure class="gb-figure gb-chart"><svg role="img" aria-label="{escape(said(found))}" '
        f'width="100%" height="{ROW * len(found)}">{rows}</svg><figcaption>'
        + " ".join(badge(verdict) for verdict in VERDICTS)
        + " Claims by chapter and verdict, counted from the records.</figcaption></figure>"
    )


def said(found: dict[str, Counter[str]]) -> str:
    """`Wasserstein Auto-Encoders, 33 claims: 20 reproduced, 3 missed. ...`"""
    return " ".join(
        f"{title}, {count.total()} claims: "
        + ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict])
        + "."
        for title, count in found.items()
    )


def _row(top: int, title: str, count: Counter[str], most: int) -> str:
    parts, x = f'<text x="0" y="{top + 16}">{escape(title)}</text>', 0.0
    for verdict in VERDICTS:
        width = 100 * count[verdict] / most
        if width:
            parts += (
                f'<rect class="gb-bar-{slug(verdict)}" x="{x:.3f}%" y="{top + 22}" '
                f'width="{width:.3f}%" height="{BAR}"/>'
            )
        if width >= NARROW:
            parts += (
                f'<text class="gb-bar-{slug(verdict)}" x="{x + width / 2:.3f}%" y="{top + 39}">'
                f"{count[verdict]}</text>"
            )
        x += width
    return parts
