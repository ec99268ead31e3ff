"""Numbers, times and machines in the words that the pages print."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}"
EXPONENT = re.compile(r"(\d+(?:\.\d+)?)e([+-]?\d+)")
DOLLARS = re.compile(r"\$([^$\s](?:[^$]*[^$\s])?)\$")
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Ours = float | int | Sequence[float] | None


def formatted(value: float, spec: str) -> str:
    """`value` by a Python format, with a true minus sign and a power of ten for an exponent."""
    text = f"{value:{spec}}"
    mantissa, exponent, power = text.partition("e")
    if exponent:
        text = f"{mantissa}{TIMES}10{str(int(power)).translate(SUPERSCRIPTS)}"
    return text.replace("-", MINUS)


def _plain(value: float) -> bool:
    """Whether a number is read best without a power of ten."""
    return value == 0 or 1e-3 <= abs(value) < 1e6


def number(value: float, spread: float | None = None) -> str:
    """A number that has no format of its own: as many digits as its spread supports, else four."""
    if not math.isfinite(value) or not _plain(value):
        return formatted(value, ".1e")
    if spread and math.isfinite(spread) and _plain(spread):
        return formatted(value, f",.{_decimals(spread)}f")
    return formatted(value, ".4g" if abs(value) < 1e4 else ",.0f")


def spread(value: float) -> str:
    """A spread to two digits."""
    if not math.isfinite(value) or not _plain(value):
        return formatted(value, ".1e")
    return formatted(value, f",.{_decimals(value)}f") if value else "0"


def _decimals(spread: float) -> int:
    """How many decimals show two digits of a spread."""
    return max(0, 1 - math.floor(math.log10(abs(spread))))


def ours(value: Ours, deviation: float | None = None) -> str:
    """Our side of a claim: a number, several for an ordering, or a dash where nothing was run."""
    if value is None:
        return "—"
    several = isinstance(value, Sequence)
    numbers = value if isinstance(value, Sequence) else [value]
    text = ", ".join(number(x, None if several else deviation) for x in numbers)
    return text if deviation is None else f"{text} ± {spread(deviation)}"


def value(row: Mapping[str, Any]) -> str:
    """A recorded value by its own format; a setting, the same for every seed, has no spread."""
    text = formatted(row["value"], row["format"])
    return f"{text} ± {spread(row['spread'])}" if row["spread"] else text


def published(value: float | str) -> str:
    """The paper's side of a claim: its words, or its number with the digits it has."""
    return value if isinstance(value, str) else f"{value:,}".replace("-", MINUS)


def rule(text: str) -> str:
    """A rule as the claims file words it, with its numbers set like all others."""

    def power(match: re.Match[str]) -> str:
        ten = f"10{str(int(match[2])).translate(SUPERSCRIPTS)}"
        return ten if match[1] == "1" else f"{match[1]}{TIMES}{ten}"

    return EXPONENT.sub(power, text).replace("-", MINUS)


def mathematics(text: str) -> str:
    """A phrase of a claims file with its mathematics between the marks that MathJax looks for."""
    return DOLLARS.sub(r"\\(\1\\)", text)


def duration(seconds: float) -> str:
    """`7 min 12 s`; under ten seconds with one decimal."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def seeds(numbers: Sequence[int]) -> str:
    """`seed 0`, `seeds 0, 1, 2`."""
    return ("seed " if len(numbers) == 1 else "seeds ") + ", ".join(map(str, numbers))
