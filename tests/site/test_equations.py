"""The index from equations to functions, tests and sections."""

import textwrap

import nbformat
import pytest
from bs4 import BeautifulSoup

from genbook import ledger
from genbook.site import equations, library, places

PAPERS = equations.papers(ledger.ROOT / "book" / "equations.toml")


@pytest.fixture(scope="module")
def chapters(tmp_path_factory):
    """The chapters of the book as the stage has them, without outputs."""
    import jupytext

    folder = tmp_path_factory.mktemp("chapters")
    for path in (ledger.ROOT / "chapters").glob("*.py"):
        page = jupytext.read(path, fmt="py:percent")
        nbformat.write(page, folder / f"{path.stem}.ipynb")
    return folder


@pytest.fixture(scope="module")
def index(chapters):
    return equations.index(PAPERS, places.sections(chapters))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Equation (10), estimator B", ["equation 10"]),
        ("equations (1) to (3): within", ["equation 1", "equation 2", "equation 3"]),
        ("Unrolled, equations (7) and (9)).", ["equation 7", "equation 9"]),
        ("(equation 7, and 10 for Gaussians)", ["equation 7", "equation 10"]),
        ("appendix C.1, y = 2", ["appendix C.1"]),
        ("section 5.1. And appendix C; the", ["section 5.1", "appendix C"]),
        ("Algorithms 3 and 4 without", ["algorithm 3", "algorithm 4"]),
        ("Equation {eq}`gap`, Table 1, the appendix has, section title", []),
    ],
)
def test_equations_are_found_as_a_reader_finds_them(text, named):
    assert [what for what, _ in equations.named(text)] == named


def test_an_equation_belongs_to_the_paper_named_last_before_it():
    text = "Ho et al.\n  2020, equation (4), and WGAN-GP,\n equation (3)."
    assert list(equations.attributed(text, "kingma2013auto", PAPERS)) == [
        ("ho2020denoising", "equation 4"), ("gulrajani2017improved", "equation 3"),
    ]  # fmt: skip
    assert list(equations.attributed("equation 4", None, PAPERS)) == []


def test_a_docstring_that_names_an_equation_is_in_the_index(index):
    assert index["kingma2013auto"]["equation 10"].functions == ["aevb.elbo"]
    sampled = index["ho2020denoising"]["equation 4"].functions
    assert sampled == ["diffusion.GaussianDiffusion.q_sample", "mixtures.GaussianMixture"]
    assert "coverage.gradient_penalty" in index["gulrajani2017improved"]["equation 3"].functions
    titles = [s.title for s in index["kingma2013auto"]["equation 10"].sections]
    assert titles == ["The gradient that is hard"]


def test_what_has_no_function_says_why_and_what_has_one_does_not(index):
    for paper in PAPERS:
        bare = {what for what, row in index[paper.key].items() if not row.functions}
        assert bare == set(paper.without), paper.key


def test_the_papers_and_the_functions_of_the_list_are_there(index):
    references = (ledger.ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    for paper in PAPERS:
        assert f"{{{paper.key}," in references
        assert index[paper.key], f"nothing is known of {paper.title}"
        assert {name for names in paper.also.values() for name in names} <= set(library.catalogue())
        assert set(paper.modules) <= set(library.modules())


def test_numbers_that_nobody_names_are_told():
    assert equations.missing(["equation 2", "equation 5", "appendix B"]) == [1, 3, 4]
    assert equations.missing(["section 3"]) == []


def test_a_test_counts_where_it_calls_a_function_itself_or_by_a_helper():
    text = textwrap.dedent("""
        from genbook import aevb, diffusion
        from genbook.metrics.parzen import score as parzen_score

        def helper():
            return aevb.elbo(1)

        def process():
            return diffusion.GaussianDiffusion(2)

        def test_direct():
            assert aevb.gaussian_kl(0, 0) == 0

        def test_by_helper(process):
            assert helper() < process.q_sample(1)

        def test_other():
            assert parzen_score(1) == "aevb.elbo"
    """)
    found = places.tests_of(text)
    assert found["test_direct"] == ({"aevb.gaussian_kl"}, {"aevb.gaussian_kl"})
    own, by_helpers = found["test_by_helper"]
    assert own == {"diffusion.GaussianDiffusion.q_sample"}
    assert by_helpers - own == {"aevb.elbo", "diffusion.GaussianDiffusion"}
    assert found["test_other"][0] == {"metrics.parzen.score"}


def test_a_function_without_a_test_is_listed_as_such(index):
    (paper,) = [one for one in PAPERS if one.key == "kingma2013auto"]
    tests = {"aevb.elbo": [places.Test("tests/test_aevb.py", f"test_{i}") for i in range(5)]}
    table = BeautifulSoup(equations._table(paper, index[paper.key], [], tests), "html.parser")
    rows = {row.th.text: row("td") for row in table("tr")[1:]}
    function, tested, place = rows["Equation 10"]
    assert function.a["href"] == "library/aevb.html#aevb.elbo"
    assert tested.text == "tests/test_aevb.pytest_0test_1test_2and 2 more"
    assert place.a["href"] == "chapters/aevb.html#the-gradient-that-is-hard"
    assert rows["Equation 6"][1].text == "no test calls it by name"
    assert rows["Appendix F"][0].text.startswith("no function: Full variational Bayes")


def test_the_page_has_a_table_for_each_paper(toy_site):
    page = BeautifulSoup((toy_site / "equations.html").read_bytes(), "html.parser")
    assert len(page.select("table.gb-equations")) == len(PAPERS)
    assert "Neither library nor chapter names equations 1, 3, 8, 9, 10." in page.text
    row = page.find(id="kingma2013auto-equation-10")
    assert "test_" in row("td")[1].text
