"""The inception score against numpy and known cases; what is asked of torch-fidelity."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genbook.metrics import inception

FEW = settings(max_examples=25, deadline=None, derandomize=True)
TINY = 1e-9  # float64 against float64


def drawn(seed: int, n: int, classes: int, scale: float = 2.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, classes, generator=random, dtype=torch.float64)


def slow(logits: Tensor, splits: int = 1) -> float:
    """By probabilities, not logarithms of them."""
    scores = []
    for part in np.array_split(logits.double().numpy(), splits):
        p = np.exp(part - part.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        mean = p.mean(axis=0)
        scores.append(np.exp(np.mean([np.sum(row * np.log(row / mean)) for row in p])))
    return float(np.mean(scores))


@FEW
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 10**6), st.floats(0.01, 8))
def test_score_is_that_of_numpy_and_between_1_and_the_classes(
    n: int, classes: int, seed: int, scale: float
) -> None:
    logits = drawn(seed, n, classes, scale)
    score = inception.inception_score(logits)
    assert isinstance(score, float)
    assert score == pytest.approx(slow(logits), rel=TINY)
    assert 1 - TINY < score < classes + TINY
    # What no softmax sees, and what no mean sees.
    assert inception.inception_score(logits + drawn(seed + 1, n, 1)) == pytest.approx(score)
    assert inception.inception_score(logits.flip(0)) == pytest.approx(score, rel=TINY)
    assert inception.inception_score(logits.flip(1)) == pytest.approx(score, rel=TINY)
    for twice in (torch.cat([logits, logits]), logits.repeat_interleave(2, dim=0)):
        assert inception.inception_score(twice) == pytest.approx(score, rel=TINY)


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_confident_and_even_is_the_number_of_classes(classes: int) -> None:
    sure = 1e4 * torch.eye(classes).repeat(3, 1)
    assert inception.inception_score(sure) == pytest.approx(classes, rel=TINY)
    # Two of them twice as often as the rest: exp of the entropy.
    if classes == 10:
        p = np.array([2, 2] + [1] * 8) / 12
        more = torch.cat([sure[:10], sure[:2]])
        expected = np.exp(-(p * np.log(p)).sum())
        assert inception.inception_score(more) == pytest.approx(expected, rel=TINY)


def test_the_same_answer_for_all_is_1() -> None:
    assert inception.inception_score(drawn(0, 1, 10).expand(7, 10)) == pytest.approx(1.0, rel=TINY)
    assert inception.inception_score(torch.zeros(5, 10)) == pytest.approx(1.0, rel=TINY)
    assert inception.inception_score(1e4 * torch.eye(10)[:1].expand(7, 10)) == 1.0


def test_variety_within_a_class_is_not_seen() -> None:
    centres, some = 20 * torch.eye(3).double(), drawn(0, 300, 3, scale=0.01)
    varied = centres.repeat(100, 1) + some
    dull = centres.repeat(100, 1)
    expected = inception.inception_score(dull)
    assert inception.inception_score(varied) == pytest.approx(expected, rel=1e-6)  # exp(-20)


@pytest.mark.parametrize("splits", [1, 2, 5, 10])
@pytest.mark.parametrize("n", [10, 20, 23])
def test_splits_are_parts_in_the_order_given(n: int, splits: int) -> None:
    logits = drawn(n, n, 4)
    found = inception.inception_score(logits, splits=splits)
    assert found == pytest.approx(slow(logits, splits), rel=TINY)
    if splits == n:
        assert found == pytest.approx(1.0, rel=TINY)


def test_order_matters_to_splits_alone() -> None:
    classes = 1e4 * torch.eye(2)
    sorted_, mixed = classes.repeat_interleave(4, dim=0), classes.repeat(4, 1)
    assert inception.inception_score(sorted_, splits=2) == pytest.approx(1.0, rel=TINY)
    assert inception.inception_score(mixed, splits=2) == pytest.approx(2.0, rel=TINY)
    assert inception.inception_score(sorted_) == pytest.approx(2.0, rel=TINY)


def test_score_is_computed_in_float64() -> None:
    logits = drawn(0, 2000, 10, scale=1e-3).float()
    assert inception.inception_score(logits) == pytest.approx(slow(logits), rel=1e-12)
    assert inception.inception_score(logits) > 1.0
    half = drawn(0, 50, 10).bfloat16()
    assert inception.inception_score(half) == pytest.approx(slow(half), rel=TINY)


def test_fewer_images_than_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="9 images cannot make 10 parts"):
        inception.inception_score(drawn(0, 9, 3), splits=10)
    with pytest.raises(ValueError, match="0 images cannot make 1 parts"):
        inception.inception_score(torch.empty(0, 10))


def images(seed: int, n: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, 4, 6), generator=random, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights named and no torch-fidelity, whatever the machine has."""
    monkeypatch.delenv(inception.WEIGHTS, raising=False)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What torch-fidelity is asked: a stand-in answers."""
    calls: list[dict[str, Any]] = []

    def calculate_metrics(**how: Any) -> dict[str, float]:
        calls.append(how)
        return {"frechet_inception_distance": 3.17, "inception_score_mean": 9.46}

    module = ModuleType("torch_fidelity")
    monkeypatch.setattr(module, "calculate_metrics", calculate_metrics, raising=False)
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    return calls


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("named", [None, ""])
def test_without_weights_the_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]], named: str | None
) -> None:
    assert inception.WEIGHTS == "GENBOOK_INCEPTION"
    if named is not None:
        monkeypatch.setenv("GENBOOK_INCEPTION", named)
    with pytest.raises(inception.InceptionError) as found:
        inception.published(images(0, 2), images(1, 3))
    said = str(found.value)
    assert "GENBOOK_INCEPTION is not set" in said
    assert "set GENBOOK_INCEPTION to its path" in said
    assert "pt_inception-2015-12-05-6726825d.pth" in said
    assert not asked


@pytest.mark.parametrize("by_variable", [True, False])
def test_a_path_without_a_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: list[dict[str, Any]], by_variable: bool
) -> None:
    for gone in (tmp_path / "gone.pth", tmp_path):  # a folder is no file either
        if by_variable:
            monkeypatch.setenv("GENBOOK_INCEPTION", str(gone))
        with pytest.raises(inception.InceptionError) as found:
            inception.published(images(0, 2), images(1, 3), weights=None if by_variable else gone)
        assert f"{gone} is no file" in str(found.value)
        assert "set GENBOOK_INCEPTION to its path" in str(found.value)
    assert not asked


def test_without_torch_fidelity_the_error_says_how_to_install_it(weights: Path) -> None:
    with pytest.raises(inception.InceptionError, match="pip install torch-fidelity") as found:
        inception.published(images(0, 2), images(1, 3), weights=weights)
    assert "torch-fidelity does not load" in str(found.value)
    assert isinstance(found.value.__cause__, ImportError)
    assert str(found.value.__cause__) in str(found.value)


def test_a_broken_torch_fidelity_is_reported_as_well(
    monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    with pytest.raises(inception.InceptionError, match="cannot import name 'calculate_metrics'"):
        inception.published(images(0, 2), images(1, 3), weights=weights)


@pytest.mark.parametrize("by_variable", [True, False])
def test_torch_fidelity_gets_the_images_in_their_order_and_the_weights(
    monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]], weights: Path, by_variable: bool
) -> None:
    made, real = images(0, 2), images(1, 3)
    if by_variable:
        monkeypatch.setenv("GENBOOK_INCEPTION", str(weights))
    else:  # the argument goes before the variable
        monkeypatch.setenv("GENBOOK_INCEPTION", str(weights.parent / "other.pth"))
    found = inception.published(made, real, weights=None if by_variable else weights)
    assert found == {"frechet_inception_distance": 3.17, "inception_score_mean": 9.46}
    (how,) = asked
    assert how["fid"] is True
    assert how["isc"] is True
    assert how["cuda"] is False
    assert how["verbose"] is False
    assert how["feature_extractor_weights_path"] == str(weights)
    # The score is of the first input: what was made.
    for data, expected in ((how["input1"], made), (how["input2"], real)):
        assert isinstance(data, torch.utils.data.Dataset)
        assert len(data) == len(expected)
        for i in range(len(expected)):
            assert data[i].dtype == torch.uint8
            assert data[i].shape == (3, 4, 6)
            assert torch.equal(data[i], expected[i])
    inception.published(made, real, weights=weights, cuda=True)
    assert asked[1]["cuda"] is True


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(2, 3, 4, 4),
        torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(2, 3, 4, 4, dtype=torch.int64),
    ],
)
def test_other_tensors_are_refused(
    asked: list[dict[str, Any]], weights: Path, wrong: Tensor
) -> None:
    for made, real in ((wrong, images(0, 2)), (images(0, 2), wrong)):
        with pytest.raises(ValueError, match=r"uint8 \[N, 3, H, W\] is wanted, not") as found:
            inception.published(made, real, weights=weights)
        assert str(wrong.dtype) in str(found.value)
    assert not asked
