"""Figures are the same bytes on every run, carry words, and come in both themes."""

import re

import pytest
import torch

from genbook import plotting

ALT = "A line from 0 to 1, 2 and 3, rising by one each step."


def draw():
    figure, ax = plotting.axes()
    ax.plot([0, 1, 2], [1, 2, 3], label="a line")
    ax.legend()
    return figure


def test_svg_is_the_same_twice_and_has_no_date():
    first, second = plotting.svg(draw, "light"), plotting.svg(draw, "light")
    assert first == second
    assert b"<dc:date>" not in first
    assert plotting.svg(draw, "dark") != first


def test_shown_figure_has_both_themes_alt_and_caption(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path))
    plotting.show(draw, name="line", alt=ALT, caption="Made up, n = 3 <points>.")
    assert ALT in capsys.readouterr().out  # without a notebook the words are printed
    assert (tmp_path / "figures" / "line.svg").read_bytes() == plotting.svg(draw, "light")
    html = plotting.Shown(dict.fromkeys(plotting.COLORS, b"<svg/>"), ALT, "n = 3 <p>")._repr_html_()
    assert re.findall(r'class="only-(\w+)', html) == ["light", "dark"]
    assert html.count(f'alt="{ALT}"') == 2
    assert "n = 3 &lt;p&gt;" in html


def test_a_figure_without_words_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="alternative text"):
        plotting.show(draw, name="line", alt="a plot", caption="c")


def test_tiles_lay_images_out_in_rows():
    images = torch.arange(6).float()[:, None].expand(6, 4) / 5
    sheet = plotting.tiles(images, columns=3, height=2, width=2)
    assert sheet.shape == (5, 8)
    assert sheet[0, 0] == 0.0
    assert sheet[0, 2] == 0.5  # the line between
    assert sheet[3, 6] == pytest.approx(1.0)
    assert sheet[3, 0] == pytest.approx(0.6)


def test_a_packed_sheet_is_drawn_as_the_sheet_itself():
    images = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    _figure, (left, right) = plotting.axes(1, 2)
    plotting.sheet(left, images, columns=3, height=2, width=2, title="a")
    png = plotting.packed(images, columns=3, height=2, width=2)
    plotting.packed_sheet(right, png, title="b")
    drawn = [ax.images[0].get_array() for ax in (left, right)]
    assert (drawn[0] == drawn[1]).all()
    assert [ax.get_title() for ax in (left, right)] == ["a", "b"]
    assert len(plotting.packed(torch.rand(100, 784), columns=10)) < 100_000


def contrast(a, b):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("theme", "ground"), [("light", "#ffffff"), ("dark", "#121212")])
def test_lines_and_ink_stand_out_from_the_page(theme, ground):
    # WCAG 2.1 asks 3:1 of graphics and 4.5:1 of text.
    assert min(contrast(color, ground) for color in plotting.COLORS[theme]) >= 3.0
    assert contrast(plotting.INK[theme], ground) >= 4.5
