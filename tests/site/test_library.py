"""The pages of the library, read from its source, and the links of code cells to them."""

import ast
from pathlib import Path

from bs4 import BeautifulSoup

from genbook import ledger, runs
from genbook.site import library, names

SOURCE = '''
from genbook.data.files import DataError

LIMIT = 3  # why three


class Pair:
    """Two numbers; a < b."""

    def total(self, *, twice: bool = False) -> int:
        """a + b, equation (4)."""
        return self.a + self.b

    def _hidden(self):
        """Not for readers."""


class Fault(Exception):
    """It went wrong."""


def score(x, /, k: int = 2) -> float:
    """x^k

        log x_1 + log x_2

    and `k` more.
    """
    return x**k  # a comment


def _own():
    pass
'''


def entries():
    tree = ast.parse(SOURCE)
    found = [entry for node in tree.body for entry in library._entries(node, SOURCE, "room")]
    return {entry.path: entry for entry in found}


def read(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_bytes(), "html.parser")


def address_of(link) -> tuple[str, str]:
    page, _, anchor = link["href"].partition("#")
    return page.removeprefix("../"), anchor


def test_entries_are_the_public_names_with_their_methods():
    found = entries()
    assert list(found) == ["room.LIMIT", "room.Pair", "room.Fault", "room.score"]
    assert found["room.LIMIT"].source == "LIMIT = 3  # why three"
    assert found["room.score"].signature == "score(x, /, k: int=2) -> float"
    (method,) = found["room.Pair"].methods
    assert method.path == "room.Pair.total"
    assert method.signature == "total(*, twice: bool=False) -> int"


def test_the_source_leaves_out_the_docstrings_that_stand_above_it_and_no_more():
    found = entries()
    assert found["room.score"].source.splitlines()[1:] == ["    return x**k  # a comment"]
    assert "a + b, equation" not in found["room.Pair"].source
    assert "Not for readers." in found["room.Pair"].source
    # Without it there would be no class.
    assert found["room.Fault"].source.endswith('"""It went wrong."""')


def test_a_docstring_is_no_markup_and_keeps_the_lines_that_are_set_in():
    html = library.paragraphs("sum_i x_i * y_i < 1, `k` [M]\nand on\n\n    a_1  b_1\n    a_2  b_2")
    assert html == (
        "<p>sum_i x_i * y_i &lt; 1, <code>k</code> [M] and on</p>"
        '<pre class="gb-doc" tabindex="0">a_1  b_1\na_2  b_2</pre>'
    )


def test_every_module_that_a_chapter_imports_has_its_place():
    for name in runs.chapters():
        text = (ledger.ROOT / "chapters" / f"{name}.py").read_text(encoding="utf-8")
        for path in library.imports(ast.parse(text)).values():
            assert library.module_of(path), f"{name} imports {path}"


def test_every_documented_name_has_an_anchor_of_its_own(toy_site):
    anchors = list(library.catalogue().values())
    for page in {address.partition("#")[0] for address in anchors}:
        there = {tag["id"] for tag in read(toy_site / page).select("article [id]")}
        assert {a.partition("#")[2] for a in anchors if a.startswith(f"{page}#")} <= there
    assert "library/metrics.html#metrics.parzen.Score" in anchors
    assert "library/metrics.html#metrics.parzen.score" in anchors


def test_an_entry_shows_signature_docstring_and_folded_source(toy_site):
    entry = read(toy_site / "library/aevb.html").find(id="aevb.elbo")
    assert entry.find("h3").text.startswith("elbo")
    assert entry.select_one(".gb-signature").text.startswith("elbo(vae: VAE, x: Tensor, *")
    assert "Equation (10), estimator B: -KL(q(z|x) || p(z))" in entry.find("p", class_=None).text
    source = entry.select_one("details.gb-folded:not([open]) pre").text
    assert source.startswith("def elbo(")
    assert '"""' not in source


def test_the_library_knows_which_chapters_use_it(toy_site):
    page = read(toy_site / "library/ledger.html")
    (link,) = page.find(id="genbook-ledger").select('a[href^="../chapters/"]')
    assert link.text == "A toy: the mean of a Gaussian"
    assert not page.find(id="genbook-plotting").select('a[href^="../chapters/"]')


def test_the_names_in_the_cells_of_a_chapter_lead_to_their_entries(toy_site):
    cells = read(toy_site / "chapters/toy.html").select(".cell_input")
    links = [link for cell in cells for link in cell("a")]
    # The class is imported, then called in the same cell: the tabulator stops once.
    assert [(link.text, link.get("tabindex")) for link in links] == [
        ("Ledger", None), ("Ledger", "-1"),
    ]  # fmt: skip
    for link in links:
        page, anchor = address_of(link)
        assert read(toy_site / page).find(id=anchor).find("h3").text.startswith(link.text)


def cell(code: str) -> str:
    from sphinx.highlighting import PygmentsBridge

    body = PygmentsBridge("html").highlight_block(code, "python")
    return f'<div class="cell_input docutils container">\n{body}</div>'


def test_only_the_library_s_names_are_links_and_the_code_stays_as_it_is():
    code = (
        "from genbook import aevb, nn as nets\nfrom genbook.reading import show\n"
        "show(aevb.elbo.__doc__)\nnets.mlp(3)\nvae.elbo\nother(show=1, a=torch.nn.init)\n"
    )
    page = cell(code) + "<pre>" + cell(code).split("<pre>")[1]
    linked = names.linked(page, library.imports(ast.parse(code)))
    soup = BeautifulSoup(linked, "html.parser")
    assert [(a.text, address_of(a)[1]) for a in soup("a")] == [
        ("aevb", "genbook-aevb"), ("nets", "genbook-nn"), ("show", "reading.show"),
        ("show", "reading.show"), ("aevb.elbo", "aevb.elbo"), ("nets.mlp", "nn.mlp"),
    ]  # fmt: skip
    assert soup.get_text() == BeautifulSoup(page, "html.parser").get_text()
    # What a cell puts out is left alone.
    assert linked.endswith("<pre>" + cell(code).split("<pre>")[1])
