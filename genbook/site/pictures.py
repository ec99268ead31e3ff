"""The vector pictures of a run, made smaller for the page without a visible change."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

EMBEDDED = re.compile(r'(src="data:image/svg\+xml;base64,)([A-Za-z0-9+/=]+)(")')
PICTURE = re.compile(r'<img\b(?=[^>]*\ssrc="data:)[^>]*?\salt="([^"]*)"[^>]*>')
PREAMBLE = re.compile(
    r"<\?xml[^>]*\?>\s*|<!DOCTYPE[^>]*>\s*|\s*<metadata>.*?</metadata>", re.DOTALL
)
PLACED = re.compile(r'(?<=\s)(d|x|y|transform)="([^"]*)"')
BITMAP = re.compile(r"(data:image/png;base64,)([A-Za-z0-9+/=\s]+)")
NUMBER = re.compile(r"-?\d+\.\d{3,}")
MARKS = re.compile(  # matplotlib's dots of one line, each with the same mark and style
    r'(?:\s*<use xlink:href="(#[^"]+)" x="[^"]*" y="[^"]*" style="([^"]*)"/>)'
    r'(?:\s*<use xlink:href="\1" x="[^"]*" y="[^"]*" style="\2"/>)+'
)
MARK = re.compile(r'\s*(<use xlink:href="[^"]+" x="[^"]*" y="[^"]*") style="[^"]*"/>')
PLAIN = r"\1/>"
COMMENT = re.compile(
    r"\s*<!--.*?-->", re.DOTALL
)  # matplotlib's, which repeats the words of a label
COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
NAME = re.compile(r'\sid="([^"]+)"')
REFERENCE = re.compile(r'(href="#|url\(#)([^")]+)')


def thinned(html: str) -> str:
    """The pictures embedded in an output, each with `thin` applied."""

    def one(match: re.Match[str]) -> str:
        svg = thin(base64.b64decode(match[2]).decode())
        return f"{match[1]}{base64.b64encode(svg.encode()).decode()}{match[3]}"

    return EMBEDDED.sub(one, html)


def described(html: str) -> str:
    """The pictures embedded in an output, each replaced by its alternative text."""
    return PICTURE.sub(r"<p>[Picture: \1]</p>", html)


def thin(svg: str) -> str:
    """An SVG as matplotlib writes it, with places to a hundredth of a point, the style of equal
    marks said once, short names, bitmaps with a palette, and nothing that a browser passes over."""
    svg = PREAMBLE.sub("", svg)
    svg = BITMAP.sub(lambda m: m[1] + base64.b64encode(_palette(m[2])).decode(), svg)
    svg = PLACED.sub(lambda m: f'{m[1]}="{_rounded(m[1], m[2])}"', svg)
    svg = MARKS.sub(lambda m: f'\n<g style="{m[2]}">{MARK.sub(PLAIN, m[0])}</g>', svg)
    return re.sub(r"\s*\n\s*", "\n", _briefly_named(COMMENT.sub("", svg)))


def for_both_themes(light: str, dark: str) -> str | None:
    """One SVG in place of two that differ in colours alone: in the light ones by itself, in the
    dark ones when its address ends in `#dark`.  None if they differ in more."""
    if COLOUR.split(light) != COLOUR.split(dark):
        return None
    pairs = list(zip(COLOUR.findall(light), COLOUR.findall(dark), strict=True))
    names = {pair: f"--c{i}" for i, pair in enumerate(dict.fromkeys(pairs)) if pair[0] != pair[1]}
    used = iter(pairs)

    def named(match: re.Match[str]) -> str:
        pair = next(used)
        return f"var({names[pair]})" if pair in names else match[0]

    rules = ("".join(f"{name}:{pair[i]};" for pair, name in names.items()) for i in range(2))
    style = "<style>svg{{{}}}svg:target{{{}}}</style>".format(*rules)
    head, opening, body = COLOUR.sub(named, light).partition("<svg ")
    attributes, end, inside = body.partition(">")
    return f'{head}{opening}id="dark" {attributes}{end}{style}{inside}'


def _briefly_named(svg: str) -> str:
    """Names that something refers to made short, the others left out; references as SVG 2 has
    them."""
    names = dict.fromkeys(m[2] for m in REFERENCE.finditer(svg))
    brief = {name: f"n{number}" for number, name in enumerate(names)}
    svg = NAME.sub(lambda m: f' id="{brief[m[1]]}"' if m[1] in brief else "", svg)
    svg = REFERENCE.sub(lambda m: m[1] + brief[m[2]], svg)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    return svg.replace("xlink:href", "href")


def _rounded(name: str, text: str) -> str:
    if name == "transform" and "translate" not in text:
        return text  # a scale of glyphs: its digits count
    head, scale, rest = text.partition("scale")
    return NUMBER.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), head) + scale + rest


def _palette(coded: str) -> bytes:
    """A PNG with a palette, if the bitmap is opaque, has at most 256 colours and gets smaller."""
    png = base64.b64decode(coded)
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    colours, index = np.unique(np.asarray(image).reshape(-1, 4), axis=0, return_inverse=True)
    if len(colours) > 256 or (colours[:, 3] < 255).any():
        return png
    small = Image.fromarray(index.reshape(image.height, image.width).astype(np.uint8), mode="P")
    small.putpalette(colours[:, :3].tobytes())
    out = io.BytesIO()
    small.save(out, format="PNG", optimize=True)
    return min(out.getvalue(), png, key=len)
