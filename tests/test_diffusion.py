"""DDPM's forward process, its posterior, divergences and likelihoods against plain numpy, scipy and
torch.distributions."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from genbook import diffusion
from genbook.diffusion import GaussianDiffusion

FEW = settings(max_examples=25, deadline=None, derandomize=True)
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


def test_linear_betas_and_their_tables_at_both_ends(slow_tables: Any) -> None:
    betas = diffusion.linear_betas()
    same(betas, torch.from_numpy(np.linspace(1e-4, 0.02, 1000)))
    assert betas.dtype == torch.float64
    process, slow = full(), slow_tables(full())
    assert process.T == 1000
    for table in (process.beta, process.alpha_bar, process.beta_tilde):
        assert table.shape == (1001,)
        assert table.dtype == torch.float64
    assert [v[0].item() for v in (process.beta, process.alpha_bar, process.beta_tilde)] == [0, 1, 0]
    assert torch.equal(process.beta[1:], betas)
    same(process.alpha_bar, torch.from_numpy(slow.abar))
    same(process.beta_tilde, torch.from_numpy(slow.beta_tilde))
    assert process.alpha_bar[1].item() == pytest.approx(1 - 1e-4, rel=1e-12)
    assert process.alpha_bar[1000].item() == pytest.approx(4.036e-5, abs=5e-9)  # digits given
    assert process.beta_tilde[1] == 0.0
    assert (process.beta_tilde[2:] > 0).all()
    assert (process.beta_tilde[1:] < process.beta[1:]).all()
    # Float32 betas: their tables are computed in float64 all the same.
    assert GaussianDiffusion(betas.float()).alpha_bar.dtype == torch.float64


@pytest.mark.parametrize(
    "betas", [[0.0, 0.1], [0.1, 1.0], [-0.1], [1.5], [math.nan], [[0.1, 0.2]], 0.1]
)
def test_betas_that_are_no_probabilities_are_refused(betas: list[float]) -> None:
    with pytest.raises(ValueError, match="betas must be a list of numbers between 0 and 1"):
        GaussianDiffusion(torch.tensor(betas))


def test_q_sample_is_the_chain_of_q_steps() -> None:
    """The chain is linear: copy 0 follows x_0 = 1 without noise, copy s the noise of step s."""
    process = full()
    x, mean, var = torch.zeros(1001, 1, dtype=torch.float64), 1.0, 0.0
    x[0] = 1.0
    one = torch.ones(1, 1, dtype=torch.float64)
    same(process.q_sample(one, 0, 7 * one), one)
    for t in range(1, 1001):
        eps = torch.zeros_like(x)
        eps[t] = 1.0
        x = process.q_step(x, t, eps)
        beta = 1e-4 + (0.02 - 1e-4) * (t - 1) / 999
        mean, var = math.sqrt(1 - beta) * mean, (1 - beta) * var + beta
        assert x[0].item() == pytest.approx(mean, rel=1e-9)
        assert x[1:].square().sum().item() == pytest.approx(var, rel=1e-9)
        # Row 0 is the mean, row 1 the standard deviation.
        at_once = process.q_sample(
            1 - torch.arange(2.0).double()[:, None], t, one.new_tensor([0, 1])[:, None]
        )
        assert at_once.flatten().tolist() == pytest.approx([mean, math.sqrt(var)], rel=1e-9)


def test_every_row_has_its_own_time_and_keeps_its_type(slow_tables: Any) -> None:
    process, slow = full(), slow_tables(full())
    x_0, eps, t = drawn(0, 4, 2, 3, 3), drawn(1, 4, 2, 3, 3), torch.tensor([0, 1, 500, 1000])
    x_t, stepped = process.q_sample(x_0, t, eps), process.q_step(x_0, t, eps)
    for i, s in enumerate(t.tolist()):
        root, rest = math.sqrt(slow.abar[s]), math.sqrt(1 - slow.abar[s])
        same(x_t[i], root * x_0[i] + rest * eps[i])
        same(process.q_sample(x_0, s, eps)[i], x_t[i])
        same(stepped[i], math.sqrt(slow.alpha[s]) * x_0[i] + math.sqrt(slow.beta[s]) * eps[i])
    assert torch.equal(x_t[0], x_0[0])
    single = process.q_sample(x_0.float(), t, eps.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, x_t.float())  # at the precision of float32
    assert process.at(process.beta, t, x_0).shape == (4, 1, 1, 1)
    with pytest.raises(IndexError):
        process.q_sample(x_0, 1001, eps)


@pytest.mark.parametrize("t", [1, 2, 3, 500, 1000])
def test_posterior_is_the_product_of_its_two_densities(slow_tables: Any, t: int) -> None:
    """Bayes: q(x_{t-1}|x_t, x_0) ~ q(x_t|x_{t-1}) q(x_{t-1}|x_0), by precisions."""
    process, slow = full(), slow_tables(full())
    x_0, x_t = drawn(0, 5, 2), drawn(1, 5, 2)
    mean, var = process.posterior_mean(x_0, x_t, t), process.beta_tilde[t].item()
    if t == 1:  # x_{t-1} is x_0
        same(mean, x_0)
        assert var == 0.0
        return
    of_step, of_prior = slow.alpha[t] / slow.beta[t], 1 / (1 - slow.abar[t - 1])
    pulled = math.sqrt(slow.alpha[t]) / slow.beta[t] * x_t
    pulled = pulled + of_prior * math.sqrt(slow.abar[t - 1]) * x_0
    same(mean, pulled / (of_step + of_prior))
    assert var == pytest.approx(1 / (of_step + of_prior), rel=1e-9)


@pytest.mark.parametrize("t", range(2, T + 1))
def test_posterior_moments_on_a_grid(t: int) -> None:
    process = short()
    x_0, x_t = torch.tensor([[-0.7]]).double(), torch.tensor([[0.9]]).double()
    before = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    root, sd = process.alpha_bar[t - 1].sqrt(), (1 - process.alpha_bar[t - 1]).sqrt()
    log_p = Normal(root * x_0[0], sd).log_prob(before)
    log_p = log_p + Normal((1 - process.beta[t]).sqrt() * before, process.beta[t].sqrt()).log_prob(
        x_t[0]
    )
    p = log_p.softmax(dim=0)
    mean = (p * before).sum()
    same(process.posterior_mean(x_0, x_t, t)[0, 0], mean)
    same(process.beta_tilde[t], (p * (before - mean).square()).sum())


@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_what_is_predicted_can_be_turned_into_x_0_and_back(slow_tables: Any, t: int) -> None:
    process, slow = full(), slow_tables(full())
    x_0, eps = drawn(0, 3, 2), drawn(1, 3, 2)
    x_t = math.sqrt(slow.abar[t]) * x_0 + math.sqrt(1 - slow.abar[t]) * eps
    same(process.x_0_from_eps(x_t, t, eps), x_0)
    same(process.eps_from_x_0(x_t, t, x_0), eps)
    # The posterior mean in terms of eps, equation (10).
    mean = torch.from_numpy(slow.mean(x_t.numpy(), t, eps.numpy()))
    same(process.posterior_mean(x_0, x_t, t), mean)
    same(process.x_0_from_mean(x_t, t, mean), x_0)
    # And of any pair, not only those that belong together.
    other = drawn(2, 3, 2)
    same(process.x_0_from_eps(other, t, process.eps_from_x_0(other, t, x_0)), x_0)
    same(process.x_0_from_mean(other, t, process.posterior_mean(x_0, other, t)), x_0)


def test_formulas_are_differentiable() -> None:
    process, t = short(), torch.tensor([1, 2, T])
    a, b = drawn(0, 3, 2).requires_grad_(), drawn(1, 3, 2).requires_grad_()
    for f in (
        process.q_sample, process.q_step, process.x_0_from_eps, process.eps_from_x_0,
        process.x_0_from_mean,
    ):  # fmt: skip
        assert torch.autograd.gradcheck(lambda a, b, f=f: f(a, t, b), (a, b))
    assert torch.autograd.gradcheck(lambda a, b: process.posterior_mean(a, b, t), (a, b))
    assert torch.autograd.gradcheck(process.prior_kl, (a,))


def test_fixed_variances_and_what_stands_in_for_0_at_the_first_step(slow_tables: Any) -> None:
    for process in (full(), short()):
        slow = slow_tables(process)
        large, small = process.log_variances("large"), process.log_variances("small")
        for t in range(1, process.T + 1):
            assert large[t].item() == pytest.approx(math.log(slow.sigma2("large", t)), rel=1e-9)
            assert small[t].item() == pytest.approx(math.log(slow.sigma2("small", t)), rel=1e-9)
        assert large[1] == small[1] == process.beta_tilde[2].log()
        assert large[2] > small[2]
        assert large.shape == small.shape == (process.T + 1,)
        assert process.beta_tilde[1] == 0.0  # the tables themselves are not touched
    # A process of one step has no beta_tilde_2.
    for kind in ("large", "small"):
        only = GaussianDiffusion(torch.tensor([0.3])).log_variances(kind)
        assert only[1].item() == pytest.approx(math.log(0.3), rel=1e-6)  # a float32 0.3


def test_respaced_processes_keep_alpha_bar_at_their_times() -> None:
    process, x = full(), drawn(0, 3, 2)
    times = torch.tensor([1, 2, 100, 750, 1000])
    few = process.respaced(times)
    assert few.T == 5
    same(few.alpha_bar, process.alpha_bar[[0, 1, 2, 100, 750, 1000]])
    same(few.beta[3], 1 - process.alpha_bar[100] / process.alpha_bar[2])
    eps = drawn(1, 3, 2)
    same(few.q_sample(x, 4, eps), process.q_sample(x, 750, eps))
    every = process.respaced(torch.arange(1, 1001))
    for name in ("beta", "alpha_bar", "beta_tilde"):
        same(getattr(every, name), getattr(process, name))
    for wrong in ([500, 100, 1000], [100, 100, 1000], [0, 1000]):
        with pytest.raises(ValueError, match="betas"):
            process.respaced(torch.tensor(wrong))


def test_normal_kl_is_that_of_torch_distributions() -> None:
    mean, log_var, other, other_log_var = (drawn(s, 6, 3, scale=2.0) for s in range(4))
    p, q = Normal(mean, (0.5 * log_var).exp()), Normal(other, (0.5 * other_log_var).exp())
    kl = diffusion.normal_kl(mean, log_var, other, other_log_var)
    same(kl, kl_divergence(p, q))
    assert (kl > 0).all()
    assert (diffusion.normal_kl(mean, log_var, mean, log_var) == 0).all()
    inputs = [v.requires_grad_() for v in (mean, log_var, other, other_log_var)]
    assert torch.autograd.gradcheck(diffusion.normal_kl, inputs)


def test_sums_and_bits() -> None:
    x = drawn(0, 3, 2, 4, 5)
    expected = [sum(row.flatten().tolist()) for row in x]
    assert diffusion.sum_flat(x).tolist() == pytest.approx(expected, rel=1e-12)
    # 256 equally likely levels cost 8 bits each.
    nats = filled(2 * 4 * 5 * math.log(256), 3)
    same(diffusion.bits_per_dim(nats, x), filled(8.0, 3))


def test_prior_kl_is_nearly_nothing_with_the_paper_schedule(slow_tables: Any) -> None:
    """Section 4: "L_T ~ 1e-5 bits per dimension"."""
    process, x = full(), drawn(0, 4, 3, 5)
    slow = slow_tables(process)
    q = Normal(math.sqrt(slow.abar[1000]) * x, math.sqrt(1 - slow.abar[1000]))
    expected = kl_divergence(q, Normal(torch.zeros_like(x), 1.0)).sum(dim=(1, 2))
    # A sum of terms near 1 that nearly cancel: rounding of 1e-16 in 1e-5.
    torch.testing.assert_close(process.prior_kl(x), expected, rtol=1e-9, atol=1e-13)
    for square, bits in ((0.25, 0.728e-5), (0.5, 1.456e-5)):
        image = filled(math.sqrt(square), 1, 3, 8, 8)
        found = diffusion.bits_per_dim(process.prior_kl(image), image).item()
        assert found == pytest.approx(bits, rel=1e-3)  # abar E x^2 / (2 ln 2), digits given
    early = short(2)
    q = Normal(early.alpha_bar[2].sqrt() * x, (1 - early.alpha_bar[2]).sqrt())
    expected = kl_divergence(q, Normal(torch.zeros_like(x), 1.0)).sum(dim=(1, 2))
    same(early.prior_kl(x), expected)


@FEW
@given(st.sampled_from([-30.0, -1.0, -0.31, 0.0, 1 / 255, 0.5, 1.0, 1.7, 40.0]), st.floats(-14, 4))
def test_levels_are_a_distribution_and_match_scipy(mass: Any, mean: float, log_var: float) -> None:
    means, log_vars = filled(mean, 256, 1), filled(log_var, 256, 1)
    log_p = diffusion.discretised_log_likelihood(LEVELS[:, None], means, log_vars)
    assert log_p.shape == (256,)
    # Each of 256 may have been raised to 1e-12.
    assert log_p.exp().sum().item() == pytest.approx(1.0, abs=256e-12 + 1e-9)
    expected = np.log(np.maximum(mass(LEVELS.numpy(), mean, math.exp(0.5 * log_var)), 1e-12))
    # Differences of numbers near 1: 1e-16 of at least 1e-12, and one level may be on the floor.
    np.testing.assert_allclose(log_p.numpy(), expected, rtol=0, atol=5e-4)
    likely = expected > math.log(1e-6)
    np.testing.assert_allclose(log_p.numpy()[likely], expected[likely], rtol=0, atol=1e-9)


def test_likelihood_sums_over_dimensions_in_float64(mass: Any) -> None:
    x = LEVELS[torch.randint(256, (4, 2, 3), generator=random(0))]
    x[0, 0, 0], x[0, 0, 1] = -1.0, 1.0
    mean, log_var = x + drawn(1, 4, 2, 3, scale=0.1), drawn(2, 4, 2, 3) - 4.0
    found = diffusion.discretised_log_likelihood(x, mean, log_var)
    expected = np.log(mass(x.numpy(), mean.numpy(), np.exp(0.5 * log_var.numpy()))).sum((1, 2))
    same(found, torch.from_numpy(expected))
    # Float32 comes out of networks: its differences of probabilities would be rounded to 6e-8.
    narrow, wide = torch.full((1, 1), 0.5), torch.full((1, 1), 20.0)
    single = diffusion.discretised_log_likelihood(narrow, narrow, wide)
    assert single.dtype == torch.float64
    density = 2 / 255 * norm.pdf(0.0, scale=math.exp(10))  # 1.4e-7
    assert single.item() == pytest.approx(math.log(density), abs=1e-6)


def test_likelihood_has_finite_gradients_and_a_floor() -> None:
    mean, log_var = (
        drawn(0, 6, 2, scale=0.3).requires_grad_(),
        (drawn(1, 6, 2) - 3).requires_grad_(),
    )
    x = LEVELS[torch.tensor([[0, 255], [1, 254], [0, 128], [127, 128], [60, 200], [255, 0]])]
    assert torch.autograd.gradcheck(
        lambda m, v: diffusion.discretised_log_likelihood(x, m, v), (mean, log_var)
    )
    for level in (-1.0, 0.0, 1.0):
        for far in (-50.0, 0.5, 50.0):
            for narrow in (-40.0, 0.0, 40.0):
                said = torch.full((1, 1), far, requires_grad=True), torch.full((1, 1), narrow)
                said[1].requires_grad_()
                log_p = diffusion.discretised_log_likelihood(torch.full((1, 1), level), *said)
                assert math.log(1e-12) - 1e-9 < log_p.item() <= 0.0
                for gradient in torch.autograd.grad(log_p.sum(), said):
                    assert gradient.isfinite().all()
    far = diffusion.discretised_log_likelihood(*(torch.full((1, 3), v) for v in (0.0, 9.0, -9.0)))
    assert far.item() == pytest.approx(3 * math.log(1e-12), rel=1e-12)
