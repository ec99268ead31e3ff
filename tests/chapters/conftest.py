"""What tests of a part of a chapter stand on: statements of its source, run by themselves.

A module of such tests names its chapter: CHAPTER = "cgan".
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from typing import Any

import pytest

from genbook.runs.chapter import chapter_path, code_cells


def bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of the chapter's top level defines or assigns."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if not isinstance(statement, ast.Assign):
        return set()
    return {n.id for target in statement.targets for n in ast.walk(target) if hasattr(n, "id")}


def execute(body: list[ast.stmt], namespace: dict[str, Any]) -> None:
    code = compile(ast.Module(body, []), namespace["__name__"], "exec", dont_inherit=True)
    exec(code, namespace)


def statements(chapter: str, *names: str) -> dict[str, Any]:
    """A namespace with the chapter's imports and these of its names, each bound once in it."""
    body = ast.parse(chapter_path(chapter).read_text(encoding="utf-8")).body
    for name in names:
        times = sum(name in bound(statement) for statement in body)
        assert times == 1, f"chapters/{chapter}.py binds {name} {times} times, not once"
    namespace: dict[str, Any] = {"__name__": f"{chapter}_in_parts"}
    wanted = [
        statement
        for statement in body
        if isinstance(statement, ast.Import | ast.ImportFrom) or bound(statement) & {*names}
    ]
    execute(wanted, namespace)
    return namespace


@pytest.fixture(scope="module")
def taken(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """taken("f", "g"): a namespace with the chapter's imports and these of its names."""
    return functools.partial(statements, request.module.CHAPTER)


@pytest.fixture(scope="module")
def run_cell(request: pytest.FixtureRequest) -> Callable[[str, dict[str, Any]], Any]:
    """run_cell("f", namespace): run the cell that defines f; what the page shows of it."""
    chapter = request.module.CHAPTER
    text = chapter_path(chapter).read_text(encoding="utf-8")

    def run(name: str, namespace: dict[str, Any]) -> Any:
        trees = [ast.parse(cell.source) for cell in code_cells(chapter, text)[0]]
        (cell,) = (t for t in trees if any(name in bound(s) for s in t.body))
        *before, last = cell.body
        assert isinstance(last, ast.Expr)
        execute(before, namespace)
        return eval(compile(ast.Expression(last.value), chapter, "eval"), namespace)

    return run
