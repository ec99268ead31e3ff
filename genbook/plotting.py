"""One style for every figure of the book: vector, light and dark, with words for who cannot see it.

A chapter gives a function that draws one figure and says what it shows:

    plotting.show(draw, name="figure-2", alt="…in numbers…", caption="…data, profile, seeds, n…")

The function is called once a theme; the page carries both pictures and shows the one that fits.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image
from torch import Tensor

from genbook.training import run_folder

# Okabe & Ito's palette, which colour-blind readers can tell apart, without its yellow and black;
# the same hues, lighter, on dark ground.
COLORS = {
    "light": ["#0072B2", "#D55E00", "#007A5A", "#AA4488", "#8A6A00", "#2A7FA8"],
    "dark": ["#56B4E9", "#FF9F4D", "#2FC79B", "#E79CC5", "#E6C84F", "#9AD5F5"],
}
INK = {"light": "#24292f", "dark": "#d7dde3"}
GRID = {"light": "#d0d7de", "dark": "#444c56"}


def style(theme: str) -> Any:
    """matplotlib settings of a theme; the SVG has no date and a fixed hash salt."""
    ink = INK[theme]
    return {
        "figure.figsize": (6.4, 3.6), "figure.facecolor": "none", "axes.facecolor": "none",
        "savefig.facecolor": "none", "savefig.dpi": 120, "font.size": 11, "axes.titlesize": 11,
        "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink, "xtick.color": ink,
        "ytick.color": ink, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.color": GRID[theme], "grid.linewidth": 0.6,
        "axes.prop_cycle": cycler(color=COLORS[theme]), "lines.linewidth": 1.8,
        "legend.frameon": False, "legend.fontsize": 10, "figure.constrained_layout.use": True,
        "svg.hashsalt": "genbook", "svg.fonttype": "path", "image.cmap": "gray",
    }  # fmt: skip


def svg(draw: Callable[[], Figure], theme: str) -> bytes:
    """The figure that `draw` makes, in a theme, as SVG bytes that are the same on every run."""
    with mpl.rc_context(style(theme)):
        figure = draw()
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


class Shown:
    """A figure as a notebook shows it: HTML with both themes, or its alternative text."""

    def __init__(self, pictures: dict[str, bytes], alt: str, caption: str):
        self.pictures, self.alt, self.caption = pictures, alt, caption

    def __repr__(self) -> str:
        return f"[figure: {self.alt}]"

    def _repr_html_(self) -> str:
        images = "".join(
            f'<img class="only-{theme} gb-picture" alt="{html.escape(self.alt)}" '
            f'src="data:image/svg+xml;base64,{base64.b64encode(data).decode()}">'
            for theme, data in self.pictures.items()
        )
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>"
        return f'<figure class="gb-figure">{images}{caption}</figure>'


def show(draw: Callable[[], Figure], *, name: str, alt: str, caption: str) -> None:
    """Show a figure in both themes and keep the light one as `figures/NAME.svg` with the run.

    `alt` says what is seen, in numbers; `caption` states data, profile, seeds and n.
    """
    if len(alt) < 20 or not caption:
        raise ValueError(f"figure '{name}' needs alternative text that says what is seen")
    shown = Shown({theme: svg(draw, theme) for theme in COLORS}, alt, caption)
    folder: Path = run_folder() / "figures"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.svg").write_bytes(shown.pictures["light"])
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        print(shown)
        return
    if get_ipython() is None:
        print(shown)
    else:
        from IPython.display import display

        display(shown)


def axes(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure with its axes, made without pyplot so that nothing is shown twice."""
    figure = Figure(**options)
    return figure, figure.subplots(rows, columns)


def tiles(images: Tensor, *, columns: int, height: int = 28, width: int = 28) -> np.ndarray:
    """Images [n, height * width] in [0, 1] side by side, with a pixel between, as one array."""
    n = len(images)
    rows = -(-n // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), 0.5, dtype=np.float32)
    for i, image in enumerate(images.detach().float().cpu().reshape(n, height, width).numpy()):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def sheet(ax: Axes, images: Tensor, *, columns: int, title: str = "", **size: int) -> None:
    """Draw images as a sheet without axes: 0 black, 1 white, 32 grey levels (half the file)."""
    _draw_levels(ax, _levels(tiles(images, columns=columns, **size)), title)


def packed(images: Tensor, *, columns: int, **size: int) -> str:
    """The sheet of `sheet` as a PNG in base64: small enough to keep with a record."""
    out = io.BytesIO()
    grey = (255.0 / 31.0 * _levels(tiles(images, columns=columns, **size))).round()
    Image.fromarray(grey.astype(np.uint8)).save(out, format="PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def packed_sheet(ax: Axes, png: str, *, title: str = "") -> None:
    """Draw what `packed` made."""
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))), dtype=np.float32)
    _draw_levels(ax, np.round(31.0 / 255.0 * grey), title)


def _levels(sheet: np.ndarray) -> np.ndarray:
    """Grey in [0, 1] -> whole numbers from 0 to 31."""
    levels: np.ndarray = np.round(31.0 * sheet)
    return levels


def _draw_levels(ax: Axes, levels: np.ndarray, title: str) -> None:
    ax.imshow(levels / 31.0, vmin=0.0, vmax=1.0, interpolation="none")
    ax.set_axis_off()
    ax.set_title(title)


def names(items: Sequence[object]) -> str:
    """'3, 20 and 200': a list in words, for captions."""
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def circle(radius: float) -> Circle:
    """An unfilled circle around the origin, in the ink of the theme."""
    return Circle((0.0, 0.0), radius, fill=False, color=mpl.rcParams["text.color"], linewidth=1.2)
