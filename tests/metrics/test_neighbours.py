"""Precision, recall, density and coverage against loops over all pairs, and by their meaning."""

import numpy as np
import pytest
import torch

from genbook.metrics.neighbours import Neighbours, neighbours, radius


def cloud(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) + shift


def by_loops(real: np.ndarray, made: np.ndarray, k: int) -> Neighbours:
    def radii(points: np.ndarray) -> list[float]:
        return [sorted(np.linalg.norm(points - p, axis=1))[k] for p in points]

    r, m = radii(real), radii(made)
    pairs = [[float(np.linalg.norm(a - b)) for b in made] for a in real]
    inside = np.array([[d < r[i] for d in row] for i, row in enumerate(pairs)])
    recalled = [any(d < m[j] for j, d in enumerate(row)) for row in pairs]
    return Neighbours(
        precision=inside.any(axis=0).mean(),
        recall=float(np.mean(recalled)),
        density=inside.sum(axis=0).mean() / k,
        coverage=inside.any(axis=1).mean(),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_against_loops(k: int) -> None:
    real, made = cloud(40, 0).double(), cloud(30, 1, 0.5).double()
    ours = neighbours(real, made, k=k, block=7)
    reference = by_loops(real.numpy(), made.numpy(), k)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(ours, name) == pytest.approx(getattr(reference, name), abs=1e-12)


def test_radius_skips_the_point_itself() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    assert radius(points, k=1).tolist() == [1.0, 1.0, 2.0]


def test_equal_sets_cover_each_other() -> None:
    found = neighbours(cloud(50, 2), cloud(50, 2))
    assert found.precision == found.recall == found.coverage == 1.0


def test_far_sets_share_nothing() -> None:
    assert neighbours(cloud(50, 2), cloud(50, 3, 100.0)) == Neighbours(0.0, 0.0, 0.0, 0.0)


def test_a_collapsed_set_is_precise_and_covers_little() -> None:
    real = cloud(200, 4)
    made = real[:1] + 1e-3 * cloud(200, 5)
    found = neighbours(real, made)
    assert found.precision == 1.0
    assert found.recall < 0.05
    assert found.coverage < 0.1


def test_an_independent_sample_has_density_near_one() -> None:
    """Naeem et al. 2020, lemma 1: the expected density of two samples of one law is 1."""
    found = [neighbours(cloud(300, s), cloud(300, 100 + s)).density for s in range(5)]
    assert np.mean(found) == pytest.approx(1.0, abs=0.05)  # s.e. of the mean of five is 0.02


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="neighbour"):
        neighbours(cloud(5, 0), cloud(50, 1), k=5)
    with pytest.raises(ValueError, match="do not fit"):
        neighbours(cloud(9, 0), cloud(9, 1)[:, :2])
