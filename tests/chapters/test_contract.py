"""Every chapter keeps the contract of chapters, as far as its source shows it."""

from __future__ import annotations

import ast
import re

import pytest

from genbook import data, ledger
from genbook.runs.chapter import chapter_path, chapters, code_cells, sources, split
from genbook.runs.identity import import_closure


def test_every_chapter_is_in_the_book() -> None:
    assert sorted(chapters()) == sources()


@pytest.mark.parametrize("name", chapters())
def test_a_chapter_keeps_the_contract(name: str) -> None:
    text = chapter_path(name).read_text(encoding="utf-8")
    cells, _ = code_cells(name, text)
    assert "name: python3" in text.partition("# %%")[0]
    assert split(text)[0].source.startswith("# ")
    assert import_closure(name, [cell.source for cell in cells])
    for cell in cells:
        last = cell.source.rstrip().splitlines()[-1]
        assert not last.endswith(";"), f"line {cell.line}: a trailing ';' hides a value"
        assert not re.search(r"\btqdm\b", cell.source), f"line {cell.line}: tqdm prints noise"
        ast.parse(cell.source)


@pytest.mark.parametrize("name", chapters())
def test_a_claims_file_is_whole(name: str) -> None:
    book = ledger.read_claims(name)
    assert book.claims
    assert {*book.data, *book.optional_data} <= {*data.names()}
    cells, _ = code_cells(name, chapter_path(name).read_text(encoding="utf-8"))
    code = "\n".join(cell.source for cell in cells)
    assert f'Ledger("{name}"' in code
    assert "claims.close()" in cells[-1].source
