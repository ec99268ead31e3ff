"""What is learned is marked in formulas, and nothing else is."""

import re

import pytest
from bs4 import BeautifulSoup

from genbook.site.learned import coloured, marked


def names(formula: str) -> list[tuple[str, str]]:
    return re.findall(r"\{\\class\{gb-(\w+)\}\{(.*?)\}\}", marked(formula))


@pytest.mark.parametrize(
    ("formula", "found"),
    [
        (r"p_\theta(x)", [("generative", r"\theta")]),
        (r"\boldsymbol\theta_1", [("generative", r"\theta")]),
        (r"q_\phi(z \mid x)", [("inference", r"\phi")]),
        (r"D(G(z))", [("adversary", "D"), ("generative", "G")]),
        (r"W_c(P_X, P_G)", [("generative", "G")]),
        (r"\min_{Q, G}", [("inference", "Q"), ("generative", "G")]),
        (r"D_{KL}(q \Vert p), Q_Z, \mathcal D, \mathit D, \varphi, \Gamma, \text{FID}", []),
    ],
)  # fmt: skip
def test_learned_symbols_are_found(formula, found):
    assert names(formula) == found


def test_only_formulas_are_changed():
    page = (
        r'<p>\theta and D</p><span class="math notranslate">\(\theta\)</span>'
        r'<div class="math" id="D"><span class="eqno">(1)<a href="#D">G</a></span>\[D^*\]</div>'
    )
    changed = coloured(page)
    assert changed.count(r"\class") == 2
    assert changed.startswith(r'<p>\theta and D</p><span class="math notranslate">\({\class')
    assert r'<a href="#D">G</a></span>\[{\class{gb-adversary}{D}}^*\]' in changed


def test_a_page_of_the_book_has_them_and_the_notebook_does_not(toy_site):
    page = BeautifulSoup((toy_site / "chapters/toy.html").read_bytes(), "html.parser")
    assert r"\boldsymbol{\class{gb-generative}{\theta}}" in page.select_one("div.math").text
    assert "class{" not in (toy_site / "_sources/chapters/toy.ipynb").read_text()
