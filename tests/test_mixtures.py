"""Mixtures of normals against torch.distributions, autograd and integrals over x_0."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from genbook.mixtures import GaussianMixture

FEW = settings(max_examples=25, deadline=None, derandomize=True)
same = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)  # float64 against float64


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=random(seed), dtype=torch.float64)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def mixture(seed: int, k: int, dim: int, std: float = 0.4) -> GaussianMixture:
    return GaussianMixture(drawn(seed, k, dim), drawn(seed + 1, k).softmax(dim=0), std)


def torch_mixture(p: GaussianMixture, abar: Tensor) -> MixtureSameFamily:
    """q(x_t) for one abar each: a batch [M] over D dimensions."""
    sd = (abar * p.std**2 + 1 - abar).sqrt()[:, :, None].expand(-1, *p.means.shape)
    parts = Independent(Normal(abar.sqrt()[:, :, None] * p.means, sd), 1)
    return MixtureSameFamily(Categorical(p.weights.expand(len(abar), -1)), parts)


@FEW
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 10**6), st.sampled_from([0.01, 0.4, 3]))
def test_log_prob_and_score_are_those_of_torch_and_autograd(
    k: int, dim: int, seed: int, std: float
) -> None:
    p, abar = mixture(seed, k, dim, std), double(1.0, 0.999, 0.5, 4e-5, 0.0)[:, None]
    x = drawn(seed + 2, 5, dim).requires_grad_()
    log_p = p.log_prob(x, abar)
    assert log_p.shape == (5,)
    # At a std of 0.01 the logarithms reach 1e5.
    same(log_p, torch_mixture(p, abar).log_prob(x))
    (gradient,) = torch.autograd.grad(log_p.sum(), x)
    score = p.score(x, abar)
    same(score, gradient)
    same(p.eps(x, abar), -(1 - abar).sqrt() * gradient)


def test_density_adds_up_to_one() -> None:
    p, x = mixture(0, 3, 1), torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    for abar in (0.0, 0.3, 1.0):
        density = p.log_prob(x, double(abar).expand(4001, 1)).exp()
        assert density.sum().item() * 24 / 4000 == pytest.approx(1.0, abs=1e-9)


def test_gradients_of_density_and_score() -> None:
    p, abar, x = mixture(0, 3, 2), double(0.9, 0.2)[:, None], drawn(5, 2, 2)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: p.log_prob(x, abar), (x,))
    assert torch.autograd.gradcheck(lambda x: p.score(x, abar), (x,))


@pytest.mark.parametrize("abar", [0.999, 0.7, 0.05, 4e-5])
def test_eps_is_the_mean_of_the_noise_given_x_t_by_an_integral(abar: float) -> None:
    p, x_t = mixture(0, 3, 1), np.linspace(-3, 3, 13)
    x_0 = np.linspace(-9, 9, 20_001)
    parts = [
        w * np.exp(-0.5 * ((x_0 - m) / p.std) ** 2)
        for w, m in zip(p.weights.tolist(), p.means[:, 0].tolist(), strict=True)
    ]
    eps = (x_t[:, None] - math.sqrt(abar) * x_0) / math.sqrt(1 - abar)
    log_joint = np.log(sum(parts) + 1e-300) - 0.5 * eps**2
    joint = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    expected = (joint * eps).sum(axis=1) / joint.sum(axis=1)
    found = p.eps(torch.from_numpy(x_t)[:, None], double(abar).expand(13, 1))
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("abar", [0.95, 0.3])
def test_eps_leaves_an_error_that_x_t_says_nothing_about(abar: float) -> None:
    """A conditional mean is the one function with E[(eps - mean) g(x_t)] = 0 for every g."""
    p, n = mixture(3, 4, 2, std=0.2), 200_000
    x_0, eps = p.sample(n, random(0)), drawn(1, n, 2)
    x_t = math.sqrt(abar) * x_0 + math.sqrt(1 - abar) * eps
    error = eps - p.eps(x_t, double(abar).expand(n, 1))
    for g in (torch.ones_like(x_t), x_t, x_t.flip(1), (3 * x_t).sin(), x_t.abs()):
        product = error * g
        assert (product.mean(dim=0).abs() < 5 * product.std(dim=0) / math.sqrt(n)).all()


def test_eps_at_both_ends() -> None:
    """The data has no noise; where nothing of it is left, x_t is the noise."""
    p, x = mixture(0, 3, 2), drawn(5, 4, 2)
    assert (p.eps(x, torch.ones(4, 1, dtype=torch.float64)) == 0).all()
    same(p.eps(x, torch.zeros(4, 1, dtype=torch.float64)), x)


def test_far_from_all_means_the_nearest_one_decides() -> None:
    p = GaussianMixture(double(-1.0, 1.0)[:, None], double(0.5, 0.5), 1e-3)
    x, abar = double(-100.0, 100.0)[:, None], torch.ones(2, 1, dtype=torch.float64)
    same(p.score(x, abar), double(99e6, -99e6)[:, None])
    log_p = math.log(0.5) - 0.5 * 99e3**2 - math.log(1e-3) - 0.5 * math.log(2 * math.pi)
    same(p.log_prob(x, abar), double(log_p, log_p))


def test_samples_have_their_moments_and_use_the_generator() -> None:
    n, std = 200_000, 0.1
    means, weights = double(-3.0, 1.0, 0.0, 5.0, 9.0, 9.0).reshape(3, 2), double(0.2, 0.8, 0.0)
    p = GaussianMixture(means, weights, std)
    before = torch.get_rng_state()
    x = p.sample(n, random(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert x.shape == (n, 2)
    assert x.dtype == torch.float64
    nearest = torch.cdist(x, means).argmin(dim=1)  # they are 50 standard deviations apart
    for k, weight in enumerate(weights.tolist()):
        chosen = x[nearest == k]
        error = 5 * math.sqrt(weight * (1 - weight) / n)
        assert len(chosen) / n == pytest.approx(weight, abs=error)
        if weight:
            gaps = (chosen - means[k]) / std
            assert gaps.mean(dim=0).abs().max() < 5 / math.sqrt(len(chosen))
            found, unit = gaps.T @ gaps / len(chosen), torch.eye(2, dtype=torch.float64)
            assert (found - unit).abs().max() < 5 * math.sqrt(2 / len(chosen))
    # No weight is no sample, and no trouble in the density.
    assert p.log_prob(x[:5], torch.ones(5, 1, dtype=torch.float64)).isfinite().all()
    assert torch.equal(p.sample(n, random(0)), x)
    assert not torch.equal(p.sample(n, random(1)), x)
    assert not torch.equal(p.sample(10, None), p.sample(10, None))
    single = GaussianMixture(means.float(), weights.float(), std).sample(3, random(0))
    assert single.dtype == torch.float32
