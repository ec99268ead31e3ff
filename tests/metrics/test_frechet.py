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


@pytest.mark.parametrize("n", [11, 12, 13, 300])
def test_moments_do_not_depend_on_the_blocks(n, monkeypatch):
    x = draws(n, 4, seed=10, shift=1e3).float()
    monkeypatch.setattr(frechet, "NUMBERS", 4 * 6)  # blocks of six points
    found = frechet.moments(x)
    whole = x.double().numpy()
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), rtol=1e-14)
    # The mean is taken away before squares are: a shift of 1000 costs no digits.
    np.testing.assert_allclose(found.cov, np.tril(np.cov(whole.T)), rtol=1e-12, atol=1e-12)


def test_a_collapsed_set_has_a_distance():
    """One picture again and again: no covariance, and the trace of the other's is what it costs."""
    a = draws(200, 4, seed=11)
    collapsed = a[:1].repeat(100, 1)
    expected = (a.mean(0) - a[0]).square().sum().item() + np.trace(np.cov(a.numpy().T))
    for pair in ((a, collapsed), (collapsed, a)):
        assert frechet.frechet_distance(*pair) == pytest.approx(expected, abs=1e-6)


def test_a_set_in_a_plane_has_the_distance_of_the_matrix_square_root():
    a, b = draws(200, 4, seed=12), draws(200, 4, seed=13)
    b[:, 3] = b[:, 0] - b[:, 1]
    ca, cb = np.cov(a.numpy().T), np.cov(b.numpy().T)
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(values)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cb @ root).clip(min=0.0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb) - 2 * cross
    for pair in ((a, b), (b, a)):
        assert frechet.frechet_distance(*pair) == pytest.approx(expected, abs=1e-6)


def test_single_precision_is_taken_as_it_is():
    a = draws(300, 5, seed=14).float()
    assert frechet.frechet_distance(a, a.clone()) == pytest.approx(0.0, abs=1e-8)
