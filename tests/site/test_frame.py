"""What stands around the pages: nothing without a setting, everything with it."""

import re
import shutil

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from PIL import Image

from genbook import ledger, site

SOURCE = "https://github.com/someone/a-book"
BASE = "https://someone.example/a-book"


@pytest.fixture(scope="module")
def public(toy_root, tmp_path_factory):
    """The toy book of somebody who publishes it, and who has moved a page."""
    root = tmp_path_factory.mktemp("public") / "root"
    shutil.copytree(toy_root, root, ignore=shutil.ignore_patterns("html*"))
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    settings["repository"] = {"url": SOURCE, "branch": "main"}
    settings["html"]["baseurl"] = BASE
    settings["sphinx"]["config"]["genbook_moved"] = {"old/words": "notation"}
    (root / "_config.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "ROOT", root)
        return site.build(profile="smoke").parent


def read(path):
    return BeautifulSoup(path.read_bytes(), "html.parser")


def test_without_settings_no_page_names_a_public_place(toy_site):
    for path in toy_site.rglob("*.html"):
        page = read(path)
        assert not page.select('meta[property^="og:"], link[rel=canonical]')
        assert not page.select('a[href*="colab"]')
    assert not (toy_site / "_static/preview.png").exists()


def test_a_chapter_links_to_its_source_and_to_its_notebook(public):
    page = read(public / "chapters/toy.html")
    links = {a.get_text(): a["href"] for a in page.select("article a.external")}
    assert links["Source of this chapter"] == f"{SOURCE}/blob/main/chapters/toy.py"
    colab = "https://colab.research.google.com/github/someone/a-book/blob/notebooks/toy.ipynb"
    assert links["open it in Colab"] == colab
    notebook = nbformat.read(public / "_sources/chapters/toy.ipynb", as_version=4)
    assert f"git clone --quiet --depth 1 {SOURCE}" in notebook.cells[1].source
    nbformat.validate(notebook)


def test_a_shared_page_has_a_preview(public):
    page = read(public / "chapters/toy.html")
    tags = {tag["property"]: tag["content"] for tag in page.select('meta[property^="og:"]')}
    assert tags["og:url"] == f"{BASE}/chapters/toy.html"
    assert tags["og:title"] == "A toy: the mean of a Gaussian"
    assert tags["og:image"] == f"{BASE}/_static/preview.png"
    assert 20 < len(tags["og:description"]) <= 200
    assert not re.search(r"[\\$]", tags["og:description"])
    assert Image.open(public / "_static/preview.png").size == (1200, 630)


def test_the_old_address_leads_to_the_page_that_moved(public):
    page = read(public / "old/words.html")
    assert page.select_one('meta[http-equiv="refresh"]')["content"] == "0; url=../notation.html"
    assert page.select_one("a")["href"] == "../notation.html"


def test_a_move_to_nowhere_is_an_error(own_toy, edit):
    edit(own_toy / "_config.yml", "genbook_moved: {}", "genbook_moved: {words: notations}")
    with pytest.raises(site.SiteError, match="notations one"):
        site.build(profile="smoke")
