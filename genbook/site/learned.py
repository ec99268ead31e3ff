"""What is learned has the same colour in every formula of the book.

The chapters write plain TeX, so that it reads the same in an editor and in a notebook elsewhere;
the colour comes in when a page is finished.  The page on notation explains it to readers.
"""

from __future__ import annotations

import re

FORMULA = re.compile(
    r'(<(?:span|div) class="math[^>]*>(?:(?!</div>|\\[(\[]).)*?)(\\\(.*?\\\)|\\\[.*?\\\])',
    re.DOTALL,
)
# A letter by itself; D_{KL} and Q_Z are no networks, nor is a letter of another alphabet.
LETTER = r"(?<![A-Za-z\\])(?<!\\mathcal )(?<!\\mathit )[{}](?![A-Za-z_])"
LEARNED = {
    "generative": r"\\theta(?![A-Za-z])|" + LETTER.replace("{}", "G"),  # decoder, generator
    "inference": r"\\phi(?![A-Za-z])|" + LETTER.replace("{}", "QF"),  # encoder
    "adversary": LETTER.replace("{}", "D"),  # discriminator
}
SYMBOL = re.compile("|".join(f"(?P<{name}>{rule})" for name, rule in LEARNED.items()))


def coloured(page: str) -> str:
    """A page of HTML with the learned symbols of its formulas marked for the style sheet."""
    return FORMULA.sub(lambda m: m[1] + marked(m[2]), page)


def marked(formula: str) -> str:
    """A formula with MathJax's \\class around each learned symbol, in braces of its own, so that
    it may also be a subscript."""
    return SYMBOL.sub(lambda m: rf"{{\class{{gb-{m.lastgroup}}}{{{m[0]}}}}}", formula)
