"""The figure and the table of how costs grow, from book/recorded/growth.json."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from genbook.site import pictures
from genbook.site.lookup import Results, UnknownResultError
from genbook.site.tables import Markup, Pieces, cell, end_of, head_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("What", "Sizes", "Seconds", "Grows as")


def growth(results: Results) -> Pieces:
    """A picture with a panel for each measure, then the numbers."""
    found = results.growth
    if found is None:
        raise UnknownResultError("no growth is recorded: genbook bench --growth --record")
    measures = found["measures"].values()
    yield Markup(picture(list(measures), found["machine"]["processor"]))
    yield head_of("How costs grow", "gb-growth", COLUMNS)
    for row in measures:
        sizes = ", ".join(f"{size:,}" for size in row["sizes"])
        seconds = ", ".join(f"{second:.3g}" for second in row["seconds"])
        power = f"{escape(row['quantity'])} to the power {row['exponent']:.2f}"
        yield Markup(f'<tr role="row"><th role="rowheader" scope="row">{escape(row["what"])}</th>')
        for column, text in zip(COLUMNS[1:], (sizes, seconds, power), strict=True):
            yield cell(column, text)
        yield Markup("</tr>")
    yield end_of(found)


def picture(measures: list[dict[str, Any]], processor: str) -> str:
    """The figure in both themes, as a chapter's figures stand in a page."""
    from genbook import plotting  # imports torch, which other pages need not wait for

    def draw() -> Figure:
        figure, panels = plotting.axes(1, len(measures), figsize=(7.2, 2.6))
        for ax, row in zip(panels, measures, strict=True):
            ax.loglog(row["sizes"], row["seconds"], "o-", base=2)
            ax.set(xlabel=row["quantity"], title=f"power {row['exponent']:.2f}")
            ax.set_xticks(row["sizes"][::2], [f"{size:,}" for size in row["sizes"][::2]])
            ax.yaxis.set_major_formatter("{x:.2g}")
        panels[0].set_ylabel("seconds")
        return figure

    alt = "Seconds against size on logarithmic scales: " + "; ".join(
        f"{row['what']} grows as {row['quantity']} to the power {row['exponent']:.2f}"
        for row in measures
    )
    caption = f"Medians of turns, one thread, {processor}; from left to right as in the table."
    drawn = {theme: plotting.svg(draw, theme) for theme in plotting.COLORS}
    return pictures.thinned(plotting.Shown(drawn, alt, caption)._repr_html_())
