"""The book on paper."""

import re

import pytest
from bs4 import BeautifulSoup

from genbook import site
from genbook.site import pdf, stage


def test_without_a_browser_the_message_says_what_is_needed(monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda _: None)
    with pytest.raises(site.SiteError, match="apt-get install chromium"):
        pdf.browser()


def test_all_pages_stand_in_one_document_whose_links_lead_inside(toy_site, at_toy):
    names = stage.pages(at_toy)
    whole = BeautifulSoup(str(pdf.join(toy_site, names)), "html.parser")
    assert [tag["id"] for tag in whole.select(".gb-page")] == [f"page-{name}" for name in names]
    ids = [str(tag["id"]) for tag in whole.select("article [id]")]
    assert len(ids) == len(set(ids))
    inside = [str(tag["href"])[1:] for tag in whole.select('article a[href^="#"]')]
    assert len(inside) > 50
    assert set(inside) <= set(ids)
    for picture in whole.select("article img"):
        assert (toy_site / str(picture["src"]).partition("#")[0]).is_file()


def test_the_toy_book_is_printed(browser, toy_site, at_toy, tmp_path):
    before = sorted(toy_site.iterdir())
    names = ["index", "chapters/toy", "about"]
    context = browser.new_context(color_scheme="light")
    target = pdf.printed(context.new_page(), toy_site, names, tmp_path / "toy.pdf")
    context.close()
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type /Page\b", content)) <= 15
    assert sorted(toy_site.iterdir()) == before


def test_paper_is_light_and_has_no_side_bars(browser, toy_site):
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto((toy_site / "chapters/toy.html").as_uri())
    page.wait_for_function("document.documentElement.dataset.theme == 'dark'")
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "light"
    assert page.locator("article h1").is_visible()
    assert page.locator(".gb-figure .only-light").is_visible()
    for gone in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article"):
        assert not page.locator(gone).first.is_visible()
    border = "getComputedStyle(document.querySelector('.gb-result')).borderBottomStyle"
    assert page.evaluate(border) == "none"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(theme) == "dark"
    page.context.close()
