"""Pictures made smaller: nothing that is seen may change."""

from __future__ import annotations

import base64
import io
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from genbook import plotting
from genbook.site import pictures

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def drawn(draw: Any) -> str:
    def figure() -> Figure:
        made, ax = plotting.axes(figsize=(3.0, 2.0))
        draw(ax)
        return made

    return plotting.svg(figure, "light").decode()


def dots(ax: Any) -> None:
    g = np.random.default_rng(0)
    ax.plot(*g.normal(size=(2, 300)), ".", markersize=3)
    ax.plot(*g.normal(size=(2, 5)), "s", color="C1")
    ax.set(xlabel="α, nats", title="$x_t$")


def curve(ax: Any) -> None:
    x = np.linspace(0, 10, 400)
    ax.plot(x, np.sin(x))
    ax.fill_between(x, np.sin(x) - 0.1, np.sin(x) + 0.1, alpha=0.2)


def digits(ax: Any) -> None:
    g = np.random.default_rng(1)
    ax.imshow(np.round(31 * g.random((20, 30))) / 31, vmin=0, vmax=1, interpolation="none")


def places(svg: str, name: str) -> list[list[float]]:
    return [[float(n) for n in NUMBER.findall(v)] for v in re.findall(rf'\s{name}="([^"]*)"', svg)]


@pytest.mark.parametrize("draw", [dots, curve, digits])
def test_every_place_stays_where_it_was_to_a_hundredth_of_a_point(draw: Any) -> None:
    svg = drawn(draw)
    body = pictures.PREAMBLE.sub("", svg)
    thin = pictures.thin(svg)
    assert len(thin) < len(svg)
    for name in ("d", "x", "y", "transform"):
        before, after = places(body, name), places(thin, name)
        assert [len(p) for p in before] == [len(p) for p in after], name
        for old, new in zip(before, after, strict=True):
            assert np.allclose(old, new, rtol=0.0, atol=0.0051), name


def test_the_scale_of_letters_keeps_its_digits() -> None:
    thin = pictures.thin(drawn(dots))
    assert "scale(0.015625)" in thin  # matplotlib's glyphs are 64 to a point
    assert thin.count("scale(") == drawn(dots).count("scale(")


def test_equal_marks_keep_their_number_and_their_style() -> None:
    """305 dots in two styles, each said once; ticks and letters are no such marks."""
    svg, thin = drawn(dots), pictures.thin(drawn(dots))
    assert thin.count("<use ") == svg.count("<use ")
    groups = re.findall(r'<g style="([^"]*)">((?:<use [^>]*/>\s*)+)</g>', thin)
    assert [marks.count("<use ") for _, marks in groups if marks.count("<use ") > 3][-2:] == [
        300,
        5,
    ]
    for style, marks in groups:
        assert "style" not in marks
        (mark,) = set(re.findall(r'<use href="#([^"]*)"', marks))
        (shape,) = re.findall(rf'<path id="{mark}" d="([^"]*)"', thin)
        (name,) = re.findall(rf'<path id="([^"]*)" d="{re.escape(shape)}"', rounded(svg))
        assert re.search(rf'<use xlink:href="#{name}"[^>]*style="{style}"', svg)


def rounded(svg: str) -> str:
    """With the places and the line breaks that `thin` leaves, and matplotlib's names."""
    svg = pictures.PLACED.sub(lambda m: f'{m[1]}="{pictures._rounded(m[1], m[2])}"', svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


@pytest.mark.parametrize("draw", [dots, curve, digits])
def test_every_reference_leads_to_the_same_shape_by_a_short_name(draw: Any) -> None:
    def shapes(svg: str) -> list[str]:
        """What each reference stands for, in order."""
        tree = ElementTree.fromstring(svg)
        by_name = {e.get("id"): e for e in tree.iter() if e.get("id")}
        names = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
        return [
            " ".join(str(v) for e in by_name[n].iter() for v in e.attrib.values()) for n in names
        ]

    def nameless(svg: str) -> list[str]:
        return [
            re.sub(r"(?<!\S)(n\d+|[\w-]*-[0-9a-f]+|[pm][0-9a-f]{10})(?!\S)", "", s).split()
            for s in shapes(svg)
        ]

    svg, thin = rounded(drawn(draw)), pictures.thin(drawn(draw))
    assert nameless(thin) == nameless(svg)
    assert "xlink" not in thin
    assert "<!--" not in thin
    assert max(len(n) for n in re.findall(r'\sid="([^"]+)"', thin)) <= 4
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', thin))
    assert set(re.findall(r'\sid="([^"]+)"', thin)) == used


def bitmap(svg: str) -> Image.Image:
    (coded,) = re.findall(r'data:image/png;base64,([A-Za-z0-9+/=\s]+)"', svg)
    return Image.open(io.BytesIO(base64.b64decode(coded)))


def test_a_bitmap_has_the_same_pixels_and_fewer_bytes() -> None:
    svg, thin = drawn(digits), pictures.thin(drawn(digits))
    before, after = bitmap(svg), bitmap(thin)
    assert after.mode == "P"
    assert np.array_equal(np.asarray(before.convert("RGBA")), np.asarray(after.convert("RGBA")))
    assert len(thin) < 0.9 * len(svg)


def coded(pixels: np.ndarray) -> tuple[str, bytes]:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode(), out.getvalue()


@pytest.mark.parametrize("kind", ["transparent", "many colours"])
def test_a_bitmap_that_a_palette_would_change_stays(kind: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 4), dtype=np.uint8)
    if kind == "transparent":
        pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    text, png = coded(pixels)
    svg = f'<svg><image xlink:href="data:image/png;base64,{text}"/></svg>'
    assert base64.b64encode(png).decode() in pictures.thin(svg)


def test_only_embedded_vector_pictures_of_an_output_are_touched() -> None:
    svg = drawn(dots)
    inside = base64.b64encode(svg.encode()).decode()
    html = f'<p>1.23456 <img alt="a" src="data:image/svg+xml;base64,{inside}"> x="1.23456"</p>'
    thin = pictures.thinned(html)
    assert thin.startswith('<p>1.23456 <img alt="a" src="data:image/svg+xml;base64,')
    assert thin.endswith('"> x="1.23456"</p>')
    (found,) = re.findall(r"base64,([^\"]+)", thin)
    assert base64.b64decode(found).decode() == pictures.thin(svg)
    assert pictures.thinned("<p>nothing</p>") == "<p>nothing</p>"


def test_a_picture_is_the_same_bytes_every_time() -> None:
    assert pictures.thin(drawn(digits)) == pictures.thin(drawn(digits))


def test_an_embedded_picture_becomes_its_description() -> None:
    html = '<p>a</p><img class="b" alt="x &gt; y, &amp; z" src="data:image/svg+xml,"> <b>c</b>'
    other = '<img alt="kept" src="a.png">'
    assert pictures.described(html + other) == (
        "<p>a</p><p>[Picture: x &gt; y, &amp; z]</p> <b>c</b>" + other
    )
