"""The Frechet distance against closed forms and an independent matrix square root."""

import numpy as np
import pytest
import scipy.linalg
import torch

from genbook.metrics import frechet


def draws(n, d, *, seed, scale=1.0, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return scale * torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + shift


def test_against_scipy_matrix_square_root():
    a, b = draws(400, 6, seed=1), draws(300, 6, seed=2, shift=0.5)
    ca, cb = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = scipy.linalg.sqrtm(ca @ cb).real
    gap = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    expected = gap + np.trace(ca + cb - 2 * root)
    # Two float64 algorithms for one number of order 10.
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, abs=1e-8)


def test_zero_for_equal_sets_and_symmetric():
    a, b = draws(200, 5, seed=3), draws(250, 5, seed=4)
    assert frechet.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-8)
    assert frechet.frechet_distance(a, b) == pytest.approx(frechet.frechet_distance(b, a), abs=1e-8)


def test_a_shift_costs_its_square():
    a = draws(200, 3, seed=5)
    assert frechet.frechet_distance(a, a + 2.0) == pytest.approx(3 * 4.0, abs=1e-8)


def test_scaling_one_dimension_is_the_difference_of_standard_deviations():
    a = draws(500, 1, seed=6)
    a = a - a.mean()
    assert frechet.frechet_distance(a, 3 * a) == pytest.approx((2 * a.std().item()) ** 2, rel=1e-9)


def test_refuses_fewer_points_than_dimensions():
    with pytest.raises(ValueError, match="first set has 4 points in 5 dimensions"):
        frechet.frechet_distance(draws(4, 5, seed=7), draws(50, 5, seed=8))


def test_principal_components_against_svd():
    x = draws(300, 8, seed=9)
    mean, directions = frechet.principal_components(x, components=3)
    _, _, vt = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    # Directions are known up to their sign.
    assert torch.allclose((vt[:3] @ directions).abs(), torch.eye(3, dtype=x.dtype), atol=1e-8)
    assert torch.equal(mean, x.mean(dim=0))
