"""What tests of a part of a chapter stand on: statements of its source, run by themselves, and
made-up pictures.

A module of such tests names its chapter: CHAPTER = "cgan".
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from genbook import data
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


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, with that for checkpoints, which a chapter's first training makes."""
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def smooth_pictures(n: int, seed: int, side: int = 28) -> Tensor:
    """Smooth grey pictures, uint8 [n, side, side]."""
    noise = torch.rand(n, side, side, generator=torch.Generator().manual_seed(seed)).numpy()
    smooth = ndimage.gaussian_filter(noise, (0, 1, 1))
    smooth -= smooth.min(axis=(1, 2), keepdims=True)
    smooth *= 255.0 / smooth.max(axis=(1, 2), keepdims=True)
    return torch.from_numpy(smooth.round().astype(np.uint8))


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Tensor]:
    """pictures(n, seed, side): smooth and grey, uint8 [n, side, side]."""
    return smooth_pictures


def statements_on_digits(chapter: str, *names: str) -> dict[str, Any]:
    """Statements that stand on MNIST, of which there are 40 images here, and made up."""
    labels = torch.arange(40) % 10
    few = data.ImageData("mnist", smooth_pictures(40, 0), labels, smooth_pictures(40, 1), labels)
    with mock.patch.object(data, "load", return_value=few):
        return statements(chapter, *names)


@pytest.fixture(scope="module")
def on_digits(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """on_digits("f", "g"): like taken, for names that stand on MNIST: 40 made-up images."""
    return functools.partial(statements_on_digits, request.module.CHAPTER)
