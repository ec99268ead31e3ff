"""Corrections of the rendered pages."""

import base64

from genbook.site.finish import with_picture_files
from genbook.site.pictures import for_both_themes

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="460.8pt" height="259.2pt"></svg>'


def test_pictures_move_into_files_that_load_when_they_are_seen(tmp_path):
    page = tmp_path / "chapters" / "a.html"
    coded = base64.b64encode(SVG).decode()
    text = f'<img alt="two curves" src="data:image/svg+xml;base64,{coded}"><img src="b.png">'
    moved = with_picture_files(text * 2, page, tmp_path)
    (file,) = (tmp_path / "_images").iterdir()
    assert file.read_bytes() == SVG
    picture = f'<img alt="two curves" src="../_images/{file.name}" loading="lazy" decoding="async"'
    assert moved.count(picture + ' width="614" height="346">') == 2
    assert moved.count('<img src="b.png">') == 2


def test_two_themes_of_a_figure_share_a_file(tmp_path):
    light = SVG.replace(b"></svg>", b'><path style="fill: #0072b2"/><path fill="#ffffff"/></svg>')
    variants = {"light": light, "dark": light.replace(b"#0072b2", b"#56b4e9")}
    text = "".join(
        f'<img class="only-{theme} gb-picture" alt="a" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(svg).decode()}">'
        for theme, svg in variants.items()
    )
    alone = text[: text.index(">") + 1]
    moved = with_picture_files(text + alone, tmp_path / "a.html", tmp_path)
    (file,) = (tmp_path / "_images").iterdir()
    assert moved.count(f'src="_images/{file.name}"') == 2
    assert moved.count(f'src="_images/{file.name}#dark"') == 1
    assert b'<path fill="#ffffff"/>' in file.read_bytes()


def test_figures_that_differ_in_more_than_colours_stay_two_files(tmp_path):
    assert for_both_themes('<svg ><path fill="#000000"/></svg>', "<svg ></svg>") is None
