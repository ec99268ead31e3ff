"""The checks find what they are there for."""

from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from genbook.site import check
from genbook.site.mathjax import FONTS, SCRIPT, fonts_for, package_folder

HASH = "c0ffee" * 8


@pytest.fixture
def faults(tmp_path):
    """What is found in a page with this body."""

    def find(body: str) -> list[str]:
        path = tmp_path / "a.html"
        path.write_text(f"<html><body><article><h1>a</h1>{body}</article></body></html>")
        return list(check.of_page(BeautifulSoup(path.read_bytes(), "html.parser"), path))

    return find


@pytest.mark.parametrize(
    "body",
    [
        '<img src="https://example.org/a.png" alt="a">',
        '<img src="//example.org/a.png" alt="a">',
        '<img srcset="a.png 1x, https://example.org/a.png 2x" alt="a">',
        '<script src="http://example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<link rel="preload" href="https://example.org/a.woff2">',
        '<iframe src="https://example.org"></iframe>',
        '<object data="https://example.org/a.svg"></object>',
        '<svg role="img" aria-label="a"><use href="https://example.org/a.svg#b"></use></svg>',
        '<p style="background: url(https://example.org/a.png)">a</p>',
        '<style>@import "https://example.org/a.css";</style>',
    ],
)
def test_anything_loaded_from_another_host_is_found(body, faults):
    assert any("another host" in text for text in faults(body))


@pytest.mark.parametrize(
    "body",
    [
        '<a href="https://example.org">a link that nobody has to follow</a>',
        '<link rel="canonical" href="https://example.org/">',
        '<img src="data:image/svg+xml;base64,AAAA" alt="two curves">',
    ],
)
def test_links_and_data_are_fine(body, faults):
    assert faults(body) == []


def test_links_to_places_on_other_pages_and_headings_in_order_are_fine(faults, tmp_path):
    (tmp_path / "b.html").write_text('<p id="some–where"></p>')
    printed = '<div class="onlyprint"><h1>a</h1><h4>b</h4></div>'
    link = '<a href="b.html#some%E2%80%93where">a</a>'
    assert faults(f"{printed}<h2>b</h2><h3>c</h3><h2>d</h2>{link}") == []


@pytest.mark.parametrize(
    ("body", "described"),
    [
        ('<img src="data:," alt="two curves that cross at 3">', True),
        ('<img src="data:,">', False),
        ('<img src="data:," alt=" ">', False),
        (f'<img src="data:," alt="../_images/{HASH}.png">', False),
        ('<img src="_images/curves.svg" alt="curves">', False),
        ('<img src="data:," alt="Figure-2.SVG">', False),
        ('<img src="data:," alt="" role="presentation">', True),
        ('<svg role="img" aria-label="two curves"></svg>', True),
        ('<svg role="img"><title>two curves</title></svg>', True),
        ('<svg aria-label="two curves"></svg>', False),
        ("<svg></svg>", False),
        ('<svg aria-hidden="true"></svg>', True),
    ],
)
def test_every_picture_needs_words(body, described, faults):
    assert any("alternative text" in text for text in faults(body)) is not described


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="nowhere.html">a</a>', "leads nowhere"),
        ('<a href="#nowhere">a</a>', "leads nowhere"),
        ('<img src="nowhere.png" alt="a">', "does not exist"),
        ('<a href="b.html#nowhere">a</a>', "leads nowhere"),
        ("<h1>again</h1>", "2 headings of the first level"),
        ("<h2>a</h2><h4>deep</h4>", "'deep' leaves out a level"),
        ('<p id="a"></p><p id="a"></p>', "occurs 2 times"),
        ('<p class="system-message">broken</p>', "broken"),
    ],
)
def test_broken_pages_are_found(body, fault, faults, tmp_path):
    (tmp_path / "b.html").write_text('<p id="somewhere"></p>')
    assert any(fault in text for text in faults(body))


def test_a_link_to_a_place_that_another_page_lacks_is_found(faults, tmp_path):
    (tmp_path / "other.html").write_text('<p id="there.is">')
    assert faults('<a href="other.html#there.is">a</a>') == []
    assert any("leads nowhere" in text for text in faults('<a href="other.html#not">a</a>'))


def test_a_heavy_page_is_found(faults, monkeypatch):
    monkeypatch.setattr(check, "PAGE_BYTES_ON_THE_WIRE", 100)
    assert any("over the wire" in text for text in faults("".join(map(str, range(1000)))))


def test_a_heavy_site_style_sheets_and_local_paths_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "SITE_BYTES", 100)
    monkeypatch.setattr(check.ledger, "ROOT", Path("/a/private/place"))
    (tmp_path / "a.css").write_text("a { background: url('//example.org/a.png') }" + " " * 100)
    (tmp_path / "a.html").write_text("<p>/a/private/place/book</p>")
    found = "\n".join(check.of_files(tmp_path))
    assert "the site has" in found
    assert "a.css loads //example.org/a.png" in found
    assert "a.html contains the local path" in found


def test_only_the_fonts_that_formulas_need_are_copied():
    plain, script = fonts_for(r"\mathcal L = \frac12"), fonts_for(r"\mathscr X")
    assert "MathJax_Calligraphic-Regular.woff" in plain
    assert "MathJax_Script-Regular.woff" not in plain
    assert "MathJax_Script-Regular.woff" in script


def test_the_package_has_the_script_and_every_font():
    folder = package_folder()
    assert (folder / SCRIPT).is_file()
    everything = r"\mathcal \mathfrak \mathscr \mathsf \mathtt \boldsymbol"
    assert all((folder / FONTS / name).is_file() for name in fonts_for(everything))


def test_a_lost_output_and_a_lost_notebook_are_found(tmp_path):
    """An output may stand in the cell, be folded away by hide-output, or be removed on purpose."""
    tags = [[], ["hide-output"], ["remove-output"]]
    printed = nbformat.v4.new_output("stream", text="1")
    cells = [nbformat.v4.new_code_cell("1", outputs=[printed], metadata={"tags": t}) for t in tags]
    notebook = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)

    def faults(plain: str, folded: str, download: str) -> list[str]:
        body = (
            f'<a download href="{download}">source</a>'
            f'<div class="cell"><div class="cell_input"></div>{plain}</div>'
            f'<div class="cell"><details>{folded}</details></div><div class="cell"></div>'
        )
        page = BeautifulSoup(body, "html.parser")
        return list(check.of_chapter(page, notebook, tmp_path / "a.html"))

    output = '<div class="cell_output">1</div>'
    assert faults(output, output, "a.ipynb") == []
    lost = ["2 cells have outputs, the page shows 1"]
    assert faults("", output, "a.ipynb") == faults(output, "", "a.ipynb") == lost
    assert faults(output, output, "b.ipynb") == ["the executed notebook cannot be downloaded"]
