"""Every pair of text and ground that the book's own style sets can be read, in both themes."""

import importlib.util
import re
from itertools import product
from pathlib import Path

import pytest

from genbook import ledger, plotting

TEXT, GRAPHICS = 4.5, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11
THEMES = ("light", "dark")
STATIC = ledger.ROOT / "book" / "_static"
LEARNED = ("generative", "inference", "adversary")
VERDICTS = ("reproduced", "within-band", "missed", "not-run")
LINES = ("first", "second", "third", "fourth", "fifth", "sixth", "line")


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def variables(sheet: Path, theme: str) -> dict[str, str]:
    """The colours of a style sheet in a theme: what is set for all, then for the theme."""
    text = re.sub(r"/\*.*?\*/|\s", "", sheet.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: dict[str, str] = {}
    for selector, body in re.findall(r"([^{};]*)\{([^{}]*)\}", text):
        if selector.replace('"', "") in ("html", f"html[data-theme={theme}]"):
            found |= dict(re.findall(r"(--[\w-]+):(#[0-9a-fA-F]{3,6})\b", body))
    return found


def grounds(theme: str) -> list[str]:
    """The page behind the text, as the two packages of the theme set it."""
    found = set()
    for package in ("pydata_sphinx_theme", "sphinx_book_theme"):
        folder = Path(importlib.util.find_spec(package).origin).parent
        for sheet in sorted(folder.glob("theme/*/static/styles/*.css")):
            colours = variables(sheet, theme)
            found |= {c for n, c in colours.items() if n == "--pst-color-background"}
    assert found
    return sorted(found)


def test_the_measure_is_that_of_wcag():
    assert contrast("#000000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
def test_text_of_the_book_can_be_read(theme):
    ours = variables(STATIC / "genbook.css", theme)
    pairs = [(ours[f"--gb-{name}"], ours[f"--gb-{name}-ground"]) for name in VERDICTS]
    pairs += product([ours[f"--gb-{name}"] for name in LEARNED], grounds(theme))
    pairs += product([plotting.INK[theme]], grounds(theme))
    assert [pair for pair in pairs if contrast(*pair) < TEXT] == []


@pytest.mark.parametrize("theme", THEMES)
def test_lines_of_figures_and_labs_can_be_seen(theme):
    pairs = list(product(plotting.COLORS[theme], grounds(theme)))
    labs = variables(STATIC / "labs.css", theme)
    pairs += [(labs[f"--gb-lab-{name}"], labs["--gb-lab-ground"]) for name in LINES]
    assert [pair for pair in pairs if contrast(*pair) < GRAPHICS] == []
    assert contrast(labs["--gb-lab-ink"], labs["--gb-lab-ground"]) >= TEXT
