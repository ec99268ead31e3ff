"""What tests of a part of a chapter stand on: statements of its source, run by themselves."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import pytest

from genbook.runs.chapter import chapter_path, code_cells

PATH = chapter_path("cgan")
TEXT = PATH.read_text(encoding="utf-8")


def bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of the chapter's top level defines or assigns."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if not isinstance(statement, ast.Assign):
        return set()
    return {n.id for target in statement.targets for n in ast.walk(target) if hasattr(n, "id")}


def execute(body: list[ast.stmt], namespace: dict[str, Any]) -> None:
    code = compile(ast.Module(body, []), str(PATH), "exec", dont_inherit=True)
    exec(code, namespace)


def statements(*names: str) -> dict[str, Any]:
    """A namespace with the chapter's imports and these of its names, each bound once in it."""
    body = ast.parse(TEXT).body
    for name in names:
        times = sum(name in bound(statement) for statement in body)
        assert times == 1, f"chapters/cgan.py binds {name} {times} times, not once"
    namespace: dict[str, Any] = {"__name__": "cgan_in_parts"}
    wanted = [
        statement
        for statement in body
        if isinstance(statement, ast.Import | ast.ImportFrom) or bound(statement) & {*names}
    ]
    execute(wanted, namespace)
    return namespace


@pytest.fixture(scope="session")
def taken() -> Callable[..., dict[str, Any]]:
    """taken("f", "g"): a namespace with the chapter's imports and these of its names."""
    return statements


@pytest.fixture(scope="session")
def run_cell() -> Callable[[str, dict[str, Any]], Any]:
    """run_cell("f", namespace): run the cell that defines f; what the page shows of it."""

    def run(name: str, namespace: dict[str, Any]) -> Any:
        trees = [ast.parse(cell.source) for cell in code_cells("cgan", TEXT)[0]]
        (cell,) = (t for t in trees if any(name in bound(s) for s in t.body))
        *before, last = cell.body
        assert isinstance(last, ast.Expr)
        execute(before, namespace)
        return eval(compile(ast.Expression(last.value), str(PATH), "eval"), namespace)

    return run
