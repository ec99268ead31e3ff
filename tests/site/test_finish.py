"""Corrections of the rendered pages."""

import base64

from genbook.site.finish import with_picture_files

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
