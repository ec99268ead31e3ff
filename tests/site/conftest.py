"""A made-up chapter in a book of its own, its runs, its rendered pages, and a browser."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genbook import ledger, runs, site
from genbook.site.pdf import BROWSERS, FLAGS

REAL_ROOT = ledger.ROOT
HERE = Path(__file__).parent


def lay_out(root: Path) -> Path:
    """The book's own pages and settings, with the toy as the only chapter."""
    runs_of_chapters = shutil.ignore_patterns("*.long.json", "*.paper.json")
    shutil.copytree(REAL_ROOT / "book", root / "book", ignore=runs_of_chapters)
    shutil.copytree(HERE / "toy", root / "chapters", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REAL_ROOT / "_config.yml", root)
    for page in (root / "book").glob("*.md"):  # the toy has one claim to follow
        text = re.sub(r"\baevb:[\w-]+", "toy:mean-of-draws", page.read_text(encoding="utf-8"))
        page.write_text(text, encoding="utf-8")
    toc = (REAL_ROOT / "_toc.yml").read_text(encoding="utf-8")
    first, *others = re.findall(r"^ *- file: chapters/\w+\n", toc, re.MULTILINE)
    for other in others:
        toc = toc.replace(other, "")
    (root / "_toc.yml").write_text(toc.replace(first, first[: first.index("/")] + "/toy\n"))
    return root


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy book after `genbook record` of a long run and `genbook run` at smoke."""
    root = lay_out(tmp_path_factory.mktemp("toy") / "book-root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "ROOT", root)
        runs.execute([runs.Request("toy", "long", seed=seed) for seed in range(2)], quiet=True)
        runs.record("toy", "long")
        # A chapter may show what larger profiles have recorded, so this comes last.
        runs.execute([runs.Request("toy", "smoke")], quiet=True)
    return root


@pytest.fixture(scope="session")
def toy_site(toy_root: Path) -> Path:
    """The rendered toy book, left alone by the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "ROOT", toy_root)
        return site.build(profile="smoke").parent


@pytest.fixture
def at_toy(toy_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy book as the book at hand, for reading."""
    monkeypatch.setattr(ledger, "ROOT", toy_root)
    return toy_root


@pytest.fixture
def own_toy(toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the toy book with its runs, for a test that edits it."""
    root = tmp_path / "own"
    shutil.copytree(toy_root, root, ignore=shutil.ignore_patterns("html*"))
    monkeypatch.setattr(ledger, "ROOT", root)
    return root


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Replace a text that must be in a file."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return replace


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book itself, rendered from smoke runs, which are taken from the store where they are."""
    runs.execute([runs.Request(name, "smoke") for name in runs.chapters()], quiet=True)
    return site.build(profile="smoke", output=tmp_path_factory.mktemp("book") / "html").parent


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Headless Chromium.  Of the module, because Playwright keeps an event loop running."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        reason = f"no browser: none of {', '.join(BROWSERS)} is on the path (apt install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()
