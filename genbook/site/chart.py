"""The scoreboard as bars: one a chapter, a part a verdict, as long as there are claims.

Each bar is an SVG without a view box, so that it follows the width of the page and its numbers keep
their size; its colours are those of the verdicts in the style sheet, for both themes.
"""

from __future__ import annotations

from collections import Counter
from html import escape

from genbook.ledger import VERDICTS
from genbook.site.lookup import Results
from genbook.site.tables import Markup, Pieces, badge, counts, slug

HEIGHT = 24  # pixels
NARROW = 5.0  # percent of the width, below which a part has no room for its number


def bars(results: Results, names: list[str]) -> Pieces:
    """The figure, with all its numbers as alternative text and a caption that names the colours."""
    found = {results.chapter(name)["title"]: c for name, c in counts(results, names).items()}
    most = max(count.total() for count in found.values())
    rows = "".join(
        f"<div>{escape(title)}</div>{_bar(count, most)}" for title, count in found.items()
    )
    yield Markup(
        '<figure class="gb-figure gb-chart">'
        f'<div role="img" aria-label="{escape(said(found))}">{rows}</div><figcaption>'
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


def _bar(count: Counter[str], most: int) -> str:
    parts, x = "", 0.0
    for verdict in VERDICTS:
        width, kind = 100 * count[verdict] / most, f'class="gb-bar-{slug(verdict)}"'
        if width:
            parts += f'<rect {kind} x="{x:.3f}%" width="{width:.3f}%" height="{HEIGHT}"/>'
        if width >= NARROW:
            parts += f'<text {kind} x="{x + width / 2:.3f}%" y="17">{count[verdict]}</text>'
        x += width
    return f'<svg aria-hidden="true" width="100%" height="{HEIGHT}">{parts}</svg>'
