"""Checks fail when they should, tables stay whole, and source is the library's own."""

import math

import pytest

from genbook import aevb
from genbook.reading import Table, check, show


def test_check_prints_both_numbers(capsys):
    check("pi", math.pi, 3.1416, atol=1e-4)
    assert capsys.readouterr().out.startswith("pi: 3.14159 against 3.1416, difference 7.3e-06")


@pytest.mark.parametrize("ours", [1.2, math.nan, math.inf])
def test_check_fails(ours):
    with pytest.raises(AssertionError, match="mean: differs by more than"):
        check("mean", ours, 1.0, rtol=0.1)


def test_show_is_the_source():
    source = show(aevb.gaussian_kl)
    assert "appendix B" in repr(source).lower() or "Appendix B" in repr(source)
    assert source._repr_markdown_().startswith("`genbook.aevb.gaussian_kl`")
    assert "return 0.5 *" in repr(source)


def test_table_escapes_and_aligns():
    table = Table(["name", "value"], [["a<b", 1], ["c", 22]])
    assert "<td>a&lt;b</td>" in table._repr_html_()
    assert repr(table).splitlines() == ["name  value", "a<b   1", "c     22"]
    with pytest.raises(ValueError, match="one cell under each heading"):
        Table(["a", "b"], [["only one"]])
