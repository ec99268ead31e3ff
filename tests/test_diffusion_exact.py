"""DDPM with nets whose answers are known: samples, the bound and progressive coding against a model
whose every marginal is known, and by hand."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from genbook import diffusion, mixtures
from genbook.diffusion import Coding, Denoiser, GaussianDiffusion, Reverse

# float64 against float64; abar_1000 = 4e-5 and 1 - abar_1 = 1e-4 cost some 5 digits.
same = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1.0
T = 12


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=random(seed), dtype=torch.float64)


def filled(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def full() -> GaussianDiffusion:
    """The process of section 4."""
    return GaussianDiffusion(diffusion.linear_betas())


def short(T: int = T) -> GaussianDiffusion:
    """Few steps that still end in noise: abar_12 = 0.004."""
    return GaussianDiffusion(diffusion.linear_betas(T, first=0.01, last=0.7))


def exact_net(process: GaussianDiffusion, v: float) -> Denoiser:
    """E[eps|x_t] for x_0 ~ N(0, v I)."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        abar = process.alpha_bar[t].reshape(-1, *[1] * (x.ndim - 1))
        return (1 - abar).sqrt() * x / (abar * v + 1 - abar)

    return net


def shrinks(slow: Any, v: float) -> list[float]:
    """c_t [T + 1]: the mean of the exact net's p(x_{t-1}|x_t) is c_t x_t."""
    s = slow.abar * v + 1 - slow.abar
    return [1.0] + [(1 - slow.beta[t] / s[t]) / math.sqrt(slow.alpha[t]) for t in range(1, T + 1)]


def test_which_fixed_variance_is_right_for_which_data(slow_tables: Any, mass: Any) -> None:
    """Section 3.2: sigma^2 = beta is optimal for x_0 ~ N(0, I), beta_tilde for one point."""
    process, slow = short(), slow_tables(short())
    assert shrinks(slow, 1.0)[1:] == pytest.approx(np.sqrt(slow.alpha[1:]).tolist(), rel=1e-9)
    var = 1.0
    for t in range(T, 1, -1):
        var = shrinks(slow, 1.0)[t] ** 2 * var + process.log_variances("large")[t].exp().item()
        assert var == pytest.approx(1.0, rel=1e-9)
    point = filled(-1 / 255, T, 3)
    t = torch.arange(1, T + 1)
    x_t = process.q_sample(point, t, drawn(0, T, 3))
    reverse = Reverse(
        lambda x, t: process.eps_from_x_0(x, t, torch.full_like(x, -1 / 255)), process,
        variance="small", clip=False,
    )  # fmt: skip
    terms, step = reverse.bound_term(point, x_t, t)
    same(step.x_0, point)
    same(terms[1:], torch.zeros(T - 1).double())
    expected = -3 * math.log(mass(0.0, 0.0, math.sqrt(slow.beta_tilde[2])))
    assert terms[0].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("variance", ["large", "small"])
def test_ancestral_samples_of_the_exact_model_have_their_variance(
    slow_tables: Any,
    variance: diffusion.Variance,
) -> None:
    process, slow, v, n = short(), slow_tables(short()), 0.25, 50_000
    reverse = Reverse(exact_net(process, v), process, variance=variance, clip=False)
    x_T, chain, var, factor = drawn(1, n, 2), random(0), 1.0, shrinks(slow, v)
    samples, before = diffusion.ancestral(reverse, x_T, random(0)), x_T.numpy()
    for t, (i, x, x_0) in zip(range(T, 0, -1), samples, strict=True):
        assert i == t - 1
        var = factor[t] ** 2 * var
        expected = factor[t] * before
        if t > 1:
            sigma2 = slow.sigma2(variance, t)
            z = torch.randn(n, 2, generator=chain, dtype=torch.float64).numpy()
            var, expected = var + sigma2, expected + math.sqrt(sigma2) * z
        np.testing.assert_allclose(x.numpy(), expected, rtol=1e-9, atol=1e-9)
        # The belief E[x_0|x_t] before the step.
        belief = math.sqrt(slow.abar[t]) * v / (slow.abar[t] * v + 1 - slow.abar[t])
        np.testing.assert_allclose(x_0.numpy(), belief * before, rtol=1e-9, atol=1e-9)
        # 1e5 squares of normals: a s.e. of sqrt(2 / 1e5).
        assert x.square().mean().item() == pytest.approx(var, rel=5 * math.sqrt(2e-5))
        before = x.numpy()
    # Beta_t is too much noise and beta_tilde_t too little, in so few steps.
    assert var > 1.02 * v if variance == "large" else var < 0.98 * v


def test_ddim_of_the_exact_model_is_a_factor(slow_tables: Any) -> None:
    process, slow, v, x = short(), slow_tables(short()), 0.25, drawn(0, 5, 2)
    reverse = Reverse(exact_net(process, v), process, clip=False)
    before, factor = torch.get_rng_state(), 1.0
    s = slow.abar * v + 1 - slow.abar
    for t, (i, found, x_0) in zip(range(T, 0, -1), diffusion.ddim(reverse, x), strict=True):
        assert i == t - 1
        same(x_0, math.sqrt(slow.abar[t]) * v / s[t] * factor * x)
        kept = math.sqrt(slow.abar[t - 1] * slow.abar[t]) * v
        kept += math.sqrt((1 - slow.abar[t - 1]) * (1 - slow.abar[t]))
        factor *= kept / s[t]
        same(found, factor * x)
    same(found, x_0)
    assert torch.equal(torch.get_rng_state(), before)
    # Many steps: the flow from N(0, s_T) to N(0, v), up to half the sum of squared turns, 0.3 %.
    process = full()
    reverse = Reverse(exact_net(process, v), process, clip=False)
    s_T = process.alpha_bar[1000] * v + 1 - process.alpha_bar[1000]
    flow = diffusion.last(diffusion.ddim(reverse, x))
    torch.testing.assert_close(flow, (v / s_T).sqrt() * x, rtol=0.01, atol=0.0)


def test_ddim_in_one_dimension_keeps_ranks() -> None:
    """The flow of the exact score carries the quantiles of N(0, 1) to those of the data."""
    mixture = mixtures.GaussianMixture(
        torch.tensor([[-0.8], [0.6]]).double(), torch.tensor([0.3, 0.7]).double(), 0.25
    )
    process, ranks = full(), np.array([0.05, 0.2, 0.4, 0.5, 0.7, 0.9, 0.99])
    reverse = Reverse(
        lambda x, t: mixture.eps(x, process.alpha_bar[t][:, None]), process, clip=False
    )
    x = diffusion.last(diffusion.ddim(reverse, torch.from_numpy(norm.ppf(ranks))[:, None]))
    found = 0.3 * norm.cdf(x.numpy(), -0.8, 0.25) + 0.7 * norm.cdf(x.numpy(), 0.6, 0.25)
    np.testing.assert_allclose(found[:, 0], ranks, rtol=0, atol=0.01)  # 1000 steps of order 1


def test_one_step_from_noise_is_the_belief() -> None:
    process, times, v, x = full(), torch.tensor([1000]), 0.25, drawn(0, 3, 2)
    reverse = Reverse(exact_net(process, v), process.respaced(times), times=times, clip=False)
    abar = process.alpha_bar[1000]
    expected = abar.sqrt() * v / (abar * v + 1 - abar) * x
    for sampler in (diffusion.ddim(reverse, x), diffusion.ancestral(reverse, x, None)):
        ((i, found, x_0),) = sampler
        assert i == 0
        same(found, expected)
        same(x_0, expected)


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("v", [0.25, 1.0])
def test_the_bound_of_the_exact_model_is_above_its_log_likelihood(
    slow_tables: Any, mass: Any, v: float, variance: diffusion.Variance
) -> None:
    """Everything is linear and normal: p(x_0) is a normal mass, and each term has a mean."""
    process, slow, n = short(), slow_tables(short()), 4_000
    factor, grid = shrinks(slow, v), np.linspace(-9, 9, 4_001)
    var = 1.0
    for t in range(T, 1, -1):
        var = factor[t] ** 2 * var + slow.sigma2(variance, t)
    sd = math.sqrt(slow.sigma2(variance, 1))
    reverse = Reverse(exact_net(process, v), process, variance=variance, clip=False)
    for level in (0, 30, 128, 255):
        x = LEVELS[level].item()
        log_p = math.log(mass(x, 0.0, math.sqrt(factor[1] ** 2 * var + sd**2)))
        kl = -0.5 * math.log(1 - slow.abar[T]) + 0.5 * slow.abar[T] * (x**2 - 1)
        bound = kl
        for t in range(2, T + 1):
            sigma2, abar = slow.sigma2(variance, t), slow.abar[t]
            k = math.sqrt(1 - abar) / (abar * v + 1 - abar)
            error = (k * math.sqrt(abar) * x) ** 2 + (k * math.sqrt(1 - abar) - 1) ** 2
            ratio = slow.beta_tilde[t] / sigma2
            bound += slow.beta[t] ** 2 / (2 * sigma2 * slow.alpha[t] * (1 - abar)) * error
            bound += 0.5 * (ratio - 1 - math.log(ratio))
        x_1 = math.sqrt(slow.abar[1]) * x + math.sqrt(1 - slow.abar[1]) * grid
        decoded = -np.log(np.maximum(mass(x, factor[1] * x_1, sd), 1e-12))
        bound += float((decoded * norm.pdf(grid)).sum() * (grid[1] - grid[0]))
        assert bound > -log_p
        # Section 3.2: the right variance for v = 1, tight but for the first step and for the
        # outermost levels, which own far more than the point that is diffused.
        if v == 1.0 and variance == "large" and level not in (0, 255):
            assert bound < -log_p + 0.03
        coding = diffusion.progressive_coding(reverse, LEVELS[[level]].expand(n, 1), random(level))
        found, error_of_mean = coding.bound().mean().item(), coding.bound().std().item() / n**0.5
        assert found == pytest.approx(bound, abs=5 * error_of_mean)
        assert error_of_mean < 0.1
        same(coding.prior, filled(kl, n))


def test_every_image_has_its_own_row(mass: Any) -> None:
    x_0, process = LEVELS[torch.randint(256, (5, 3), generator=random(0))].float(), short()
    silent = Reverse(lambda x, t: torch.zeros_like(x), process)
    coding = diffusion.progressive_coding(silent, x_0, random(1))
    for table in (coding.terms, coding.square):
        assert table.shape == (T, 5)
        assert table.dtype == torch.float64
        assert table.isfinite().all()
    # In float64 although the images are float32: the prior's 1e-5 would be lost in 1.
    same(coding.prior, process.prior_kl(x_0.double()))

    mu = Reverse(silent.net, process, predicts="mu", variance="small")
    first = diffusion.progressive_coding(mu, x_0, random(1)).terms[-1]
    expected = mass(x_0.double().numpy(), 0.0, math.sqrt(process.beta_tilde[2].item()))
    expected = -np.log(np.maximum(expected, 1e-12)).sum(axis=1)
    np.testing.assert_allclose(first.numpy(), expected, rtol=1e-5)  # levels in float32


def test_rate_distortion_and_error_are_as_defined() -> None:
    terms, prior = (
        torch.tensor([[3.0, 5.0], [10.0, 20.0], [100.0, 300.0]]),
        torch.tensor([1.0, 2.0]),
    )
    square = torch.tensor([[0.5, 1.5], [0.01, 0.07], [0.0, 0.0]])
    coding = Coding(terms, square, prior)
    assert coding.distortion().tolist() == [100.0, 300.0]
    assert coding.rate().tolist() == [14.0, 27.0]
    assert coding.bound().tolist() == [114.0, 327.0]
    assert torch.equal(coding.rate() + coding.distortion(), coding.bound())
    # Means over images: 1.5 before x_T is known, then 4 and 15 more.
    assert coding.spent().tolist() == [1.5, 5.5, 20.5]
    assert coding.spent()[-1] == coding.rate().mean()
    # On 0 ... 255 a unit of [-1, 1] is 127.5; the mean over images comes before the root.
    assert coding.rmse().tolist() == pytest.approx([127.5, 127.5 * 0.2, 0.0], rel=1e-6)


def test_a_net_that_believes_in_grey_has_the_error_of_the_data() -> None:
    """Whatever t, the belief is 0, and the root of the mean square of x_0 is its error."""
    x_0 = LEVELS[torch.randint(256, (400, 10), generator=random(0))]
    point = Reverse(lambda x, t: short().eps_from_x_0(x, t, torch.zeros_like(x)), short())
    coding = diffusion.progressive_coding(point, x_0, random(1))
    grey = 127.5 * math.sqrt(x_0.square().mean().item())
    same(coding.rmse(), filled(grey, T))
    # Every step still costs, as its mean is wrong.
    assert (coding.spent().diff() > 0).all()
