"""DDPM: the forward process, its posterior, the bound and the samplers against plain numpy, scipy
and torch.distributions, and against a model whose every marginal is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from genbook import diffusion, mixtures
from genbook.diffusion import Coding, Denoiser, GaussianDiffusion, Reverse

Array = NDArray[np.float64]

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


class Slow:
    """The tables of section 2 and of the official code, one step after the other; entry t is t."""

    def __init__(self, process: GaussianDiffusion):
        beta = process.beta.numpy()
        self.T, self.beta, self.alpha = len(beta) - 1, beta, 1.0 - beta
        self.abar, self.beta_tilde = np.ones(self.T + 1), np.zeros(self.T + 1)
        for t in range(1, self.T + 1):
            self.abar[t] = self.abar[t - 1] * self.alpha[t]
            self.beta_tilde[t] = beta[t] * (1 - self.abar[t - 1]) / (1 - self.abar[t])

    def sigma2(self, kind: str, t: int) -> float:
        if t == 1:
            return float(self.beta_tilde[2])
        return float(self.beta[t] if kind == "large" else self.beta_tilde[t])

    def mean(self, x_t: Array, t: int, eps: Array) -> Array:
        """Equation (11)."""
        scaled = self.beta[t] / math.sqrt(1 - self.abar[t]) * eps
        return (x_t - scaled) / math.sqrt(self.alpha[t])


def mass(x: Array | float, mean: Array | float, sd: Array | float) -> Array:
    """The part of N(mean, sd^2) that level x owns, by the tail in which nothing cancels."""
    low = np.where(np.asarray(x) < -0.999, -np.inf, (x - 1 / 255 - mean) / sd)
    high = np.where(np.asarray(x) > 0.999, np.inf, (x + 1 / 255 - mean) / sd)
    left, right = norm.cdf(high) - norm.cdf(low), norm.sf(low) - norm.sf(high)
    return np.where(low > 0, right, left)


def exact_net(process: GaussianDiffusion, v: float) -> Denoiser:
    """E[eps|x_t] for x_0 ~ N(0, v I)."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        abar = process.alpha_bar[t].reshape(-1, *[1] * (x.ndim - 1))
        return (1 - abar).sqrt() * x / (abar * v + 1 - abar)

    return net


def shrinks(slow: Slow, v: float) -> list[float]:
    """c_t [T + 1]: the mean of the exact net's p(x_{t-1}|x_t) is c_t x_t."""
    s = slow.abar * v + 1 - slow.abar
    return [1.0] + [(1 - slow.beta[t] / s[t]) / math.sqrt(slow.alpha[t]) for t in range(1, T + 1)]


class Curved(nn.Module):
    """A net that knows nothing, but whose answers depend on all that it is given."""

    def __init__(self, seed: int = 0, outputs: int = 1):
        super().__init__()
        self.weight = nn.Parameter(drawn(seed, outputs, 3))
        self.told: list[list[int]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.told.append(t.tolist())
        time = t.to(x).reshape(-1, *[1] * (x.ndim - 1))
        said = [a * x + b * (x + 0.1 * time).sin() + c for a, b, c in self.weight]
        return torch.cat(said, dim=1)


# The forward process


def test_linear_betas_and_their_tables_at_both_ends() -> None:
    betas = diffusion.linear_betas()
    same(betas, torch.from_numpy(np.linspace(1e-4, 0.02, 1000)))
    assert betas.dtype == torch.float64
    process, slow = full(), Slow(full())
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


def test_every_row_has_its_own_time_and_keeps_its_type() -> None:
    process, slow = full(), Slow(full())
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
def test_posterior_is_the_product_of_its_two_densities(t: int) -> None:
    """Bayes: q(x_{t-1}|x_t, x_0) ~ q(x_t|x_{t-1}) q(x_{t-1}|x_0), by precisions."""
    process, slow = full(), Slow(full())
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
def test_what_is_predicted_can_be_turned_into_x_0_and_back(t: int) -> None:
    process, slow = full(), Slow(full())
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


def test_fixed_variances_and_what_stands_in_for_0_at_the_first_step() -> None:
    for process in (full(), short()):
        slow = Slow(process)
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


# Divergences and likelihoods


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


def test_prior_kl_is_nearly_nothing_with_the_paper_schedule() -> None:
    """Section 4: "L_T ~ 1e-5 bits per dimension"."""
    process, x = full(), drawn(0, 4, 3, 5)
    slow = Slow(process)
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
def test_levels_are_a_distribution_and_match_scipy(mean: float, log_var: float) -> None:
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


def test_likelihood_sums_over_dimensions_in_float64() -> None:
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


# The reverse process


@pytest.mark.parametrize("variance", ["large", "small"])
def test_step_is_equation_11_and_the_same_from_mu(variance: diffusion.Variance) -> None:
    process, slow, net = full(), Slow(full()), Curved()
    t, x_t = torch.tensor([1, 2, 400, 1000]), drawn(1, 4, 2, 3)
    step = Reverse(net, process, variance=variance, clip=False).step(x_t, t)
    said = net(x_t, t).detach()
    assert net.told[0] == t.tolist()
    for i, s in enumerate(t.tolist()):
        expected = torch.from_numpy(slow.mean(x_t[i].numpy(), s, said[i].numpy()))
        same(step.mean[i], expected)
        same(step.log_var[i], filled(math.log(slow.sigma2(variance, s)), 2, 3))
        x_0 = (x_t[i] - math.sqrt(1 - slow.abar[s]) * said[i]) / math.sqrt(slow.abar[s])
        same(step.x_0[i], x_0)

    def converted(x: Tensor, t: Tensor) -> Tensor:
        rows = zip(x, t.tolist(), net(x, t).detach(), strict=True)
        return torch.stack(
            [torch.from_numpy(slow.mean(r.numpy(), s, e.numpy())) for r, s, e in rows]
        )

    other = Reverse(converted, process, predicts="mu", variance=variance, clip=False).step(x_t, t)
    for name in ("mean", "log_var", "x_0"):
        same(getattr(other, name), getattr(step, name))


def test_clipping_cuts_x_0_and_the_mean_that_comes_of_it() -> None:
    process, net = short(), Curved()
    t, x_t = torch.tensor([1, 2, T]), drawn(1, 3, 4, scale=2.0)
    free, cut = (Reverse(net, process, clip=c).step(x_t, t) for c in (False, True))
    outside = free.x_0.abs() > 1
    assert outside.any(dim=1).all()
    assert not outside.all()
    assert torch.equal(cut.x_0, free.x_0.clip(-1, 1))
    same(cut.mean, process.posterior_mean(free.x_0.clip(-1, 1), x_t, t))
    assert torch.equal(cut.log_var, free.log_var)
    # What is said of the mean itself stands, as in the official code.
    free, cut = (Reverse(net, process, predicts="mu", clip=c).step(x_t, t) for c in (False, True))
    assert torch.equal(cut.mean, free.mean)
    assert torch.equal(cut.mean, net(x_t, t))
    assert torch.equal(cut.x_0, free.x_0.clip(-1, 1))
    assert not torch.equal(cut.x_0, free.x_0)
    assert Reverse(net, process).clip


@pytest.mark.parametrize("predicts", ["eps", "mu"])
def test_learned_variances_are_the_second_half_of_the_channels(
    predicts: diffusion.Predicts,
) -> None:
    process, net = short(), Curved(outputs=2)
    t, x_t = torch.tensor([1, 5, T]), drawn(1, 3, 2, 4, 4)
    step = Reverse(net, process, predicts=predicts, variance="learned", clip=False).step(x_t, t)
    said = net(x_t, t)
    assert said.shape == (3, 4, 4, 4)
    assert torch.equal(step.log_var, said[:, 2:])
    alone = Reverse(lambda x, t: net(x, t)[:, :2], process, predicts=predicts, clip=False)
    assert torch.equal(step.mean, alone.step(x_t, t).mean)


def test_a_net_may_answer_in_another_type() -> None:
    half = Reverse(lambda x, t: x.bfloat16(), short()).step(
        drawn(0, 2, 3).float(), torch.tensor([1, 2])
    )
    for v in (half.mean, half.log_var, half.x_0):
        assert v.dtype == torch.float32


@pytest.mark.parametrize("variance", ["large", "small"])
def test_terms_of_the_bound_are_weighted_errors_of_eps(variance: diffusion.Variance) -> None:
    """Equations (8) and (12); the constant is 0 where p has the variance of the posterior."""
    process, slow, net = short(), Slow(short()), Curved()
    t = torch.arange(1, T + 1)
    x_0, eps = LEVELS[torch.randint(256, (T, 5), generator=random(0))], drawn(1, T, 5)
    x_t = process.q_sample(x_0, t, eps)
    reverse = Reverse(net, process, variance=variance, clip=False)
    terms, step = reverse.bound_term(x_0, x_t, t)
    assert terms.shape == (T,)
    same(step.mean, reverse.step(x_t, t).mean)
    error = (eps - net(x_t, t).detach()).square().sum(dim=1)
    for s in range(2, T + 1):
        sigma2 = slow.sigma2(variance, s)
        weight = slow.beta[s] ** 2 / (2 * sigma2 * slow.alpha[s] * (1 - slow.abar[s]))
        ratio = slow.beta_tilde[s] / sigma2
        constant = 5 * 0.5 * (ratio - 1 - math.log(ratio))
        expected = weight * error[s - 1].item() + constant
        assert terms[s - 1].item() == pytest.approx(expected, rel=1e-9)
        assert constant > 1e-5 if variance == "large" else constant == 0.0
    # t = 1: the decoder of equation (13), with beta_tilde_2 for its variance.
    mean = slow.mean(x_t[0].numpy(), 1, net(x_t, t)[0].detach().numpy())
    p = np.maximum(mass(x_0[0].numpy(), mean, math.sqrt(slow.beta_tilde[2])), 1e-12)
    assert terms[0].item() == pytest.approx(-np.log(p).sum(), rel=1e-6)  # 1 - 1e-16 in a tail


def test_terms_of_the_bound_with_learned_variances_are_divergences() -> None:
    process, slow, net = short(), Slow(short()), Curved(outputs=2)
    t = torch.arange(1, T + 1)
    x_0, eps = drawn(0, T, 2, 3, scale=0.5), drawn(1, T, 2, 3)
    x_t = process.q_sample(x_0, t, eps)
    reverse = Reverse(net, process, variance="learned", clip=False)
    terms, step = reverse.bound_term(x_0, x_t, t)
    for s in range(2, T + 1):
        mean = torch.from_numpy(slow.mean(x_t[s - 1].numpy(), s, eps[s - 1].numpy()))
        q = Normal(mean, math.sqrt(slow.beta_tilde[s]))
        p = Normal(step.mean[s - 1], (0.5 * step.log_var[s - 1]).exp())
        same(terms[s - 1], kl_divergence(q, p).sum())
    first = diffusion.discretised_log_likelihood(x_0[:1], step.mean[:1], step.log_var[:1])
    same(terms[0], -first[0])
    # Both outputs are learned from, at t = 1 too.
    for rows in (terms[:1], terms[1:]):
        (gradient,) = torch.autograd.grad(rows.sum(), net.weight, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient != 0).all()


def test_losses_are_the_error_of_what_is_predicted_and_a_term_of_the_bound() -> None:
    process, slow, net = short(), Slow(short()), Curved()
    t, x_0, eps = torch.tensor([1, 5, T]), drawn(0, 3, 2, 3, scale=0.5), drawn(1, 3, 2, 3)
    x_t = process.q_sample(x_0, t, eps)
    said = net(x_t, t).detach()
    loss = Reverse(net, process).loss(x_0, t, eps, simple=True)
    same(loss, (said - eps).square().sum(dim=(1, 2)) / 6)
    # Clipping and variances are no part of it.
    assert torch.equal(
        Reverse(net, process, variance="small", clip=False).loss(x_0, t, eps, simple=True), loss
    )
    rows = zip(x_t, t.tolist(), eps, strict=True)
    mean = torch.stack([torch.from_numpy(slow.mean(x.numpy(), s, e.numpy())) for x, s, e in rows])
    loss = Reverse(net, process, predicts="mu").loss(x_0, t, eps, simple=True)
    same(loss, (said - mean).square().sum(dim=(1, 2)) / 6)
    reverse = Reverse(net, process, clip=False)
    term, _ = reverse.bound_term(x_0, x_t, t)
    same(reverse.loss(x_0, t, eps, simple=False), term / (6 * math.log(2)))
    clipping = Reverse(net, process, clip=True)
    assert not torch.equal(clipping.bound_term(x_0, x_t, t)[0], term)
    assert torch.equal(
        clipping.loss(x_0, t, eps, simple=False), reverse.loss(x_0, t, eps, simple=False)
    )
    learned = Reverse(Curved(outputs=2), process, variance="learned", clip=False)
    with pytest.raises(ValueError, match="no gradient for a learned variance"):
        learned.loss(x_0, t, eps, simple=True)
    assert learned.loss(x_0, t, eps, simple=False).shape == (3,)


@pytest.mark.parametrize("simple", [True, False])
def test_losses_have_the_gradients_of_finite_differences(simple: bool) -> None:
    process, net = short(), Curved()
    t, x_0, eps = torch.tensor([1, 2, T]), drawn(0, 3, 2, scale=0.5), drawn(1, 3, 2)

    def loss(weight: Tensor) -> Tensor:
        def with_weight(x: Tensor, t: Tensor) -> Tensor:
            found: Tensor = torch.func.functional_call(net, {"weight": weight}, (x, t))
            return found

        return Reverse(with_weight, process, clip=False).loss(x_0, t, eps, simple=simple)

    weight = (0.1 * net.weight.detach()).requires_grad_()
    assert torch.autograd.gradcheck(loss, (weight,))


def test_the_bound_loss_averages_to_the_terms_of_progressive_coding() -> None:
    """Same noise: T times the mean over t of L_{t-1} is their sum; 32 values an image."""
    x_0 = LEVELS[torch.randint(256, (3, 2, 4, 4), generator=random(0))]
    reverse = Reverse(Curved(), short(), variance="small", clip=False)
    coding = diffusion.progressive_coding(reverse, x_0, random(1))
    noise, losses = random(1), []
    for t in range(T, 0, -1):
        eps = torch.randn(x_0.shape, generator=noise, dtype=torch.float64)
        losses.append(reverse.loss(x_0, torch.full((3,), t), eps, simple=False).detach())
    nats = 32 * math.log(2) * torch.stack(losses)
    same(T * nats.mean(dim=0), coding.bound() - coding.prior)
    same(nats, coding.terms)


@pytest.mark.parametrize("kind", [{"predicts": "mu"}, {"variance": "learned"}])
def test_what_a_single_step_knows_is_refused_for_a_longer_one(kind: dict[str, Any]) -> None:
    times = torch.tensor([2, T])
    with pytest.raises(ValueError, match="nothing about a longer one"):
        Reverse(Curved(), short().respaced(times), times=times, **kind)


def test_which_fixed_variance_is_right_for_which_data() -> None:
    """Section 3.2: sigma^2 = beta is optimal for x_0 ~ N(0, I), beta_tilde for one point."""
    process, slow = short(), Slow(short())
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


# Samplers


@pytest.mark.parametrize("variance", ["large", "small"])
def test_ancestral_samples_of_the_exact_model_have_their_variance(
    variance: diffusion.Variance,
) -> None:
    process, slow, v, n = short(), Slow(short()), 0.25, 50_000
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


def test_ancestral_order_generator_and_noiseless_last_step() -> None:
    process, net, x_T = short(), Curved(), drawn(0, 2, 3)
    reverse, noise, before = Reverse(net, process), random(1), torch.get_rng_state()
    found = list(diffusion.ancestral(reverse, x_T, noise))
    assert torch.equal(torch.get_rng_state(), before)
    assert [i for i, _, _ in found] == list(range(T - 1, -1, -1))
    assert net.told == [[t, t] for t in range(T, 0, -1)]
    last_but_one, final = found[-2][1], found[-1]
    step = reverse.step(last_but_one, torch.tensor([1, 1]))
    assert torch.equal(final[1], step.mean)
    assert torch.equal(final[2], step.x_0)
    # At t = 1 the posterior's mean is x_0.
    same(final[1], final[2])
    assert not any(v.requires_grad for _, *both in found for v in both)
    # T - 1 draws of noise, no more.
    other = random(1)
    for _ in range(T - 1):
        torch.randn(2, 3, generator=other, dtype=torch.float64)
    assert torch.equal(noise.get_state(), other.get_state())
    again = diffusion.last(diffusion.ancestral(reverse, x_T, random(1)))
    assert torch.equal(again, final[1])
    assert not torch.equal(diffusion.last(diffusion.ancestral(reverse, x_T, random(2))), again)
    free = [diffusion.last(diffusion.ancestral(reverse, x_T, None)) for _ in range(2)]
    assert not torch.equal(*free)


@pytest.mark.parametrize("start", [1, 2, 7, T])
def test_ancestral_can_start_at_any_time(start: int) -> None:
    net, x = Curved(), drawn(0, 2, 3)
    reverse = Reverse(net, short())
    found = list(diffusion.ancestral(reverse, x, random(1), start=start))
    assert net.told == [[t, t] for t in range(start, 0, -1)]
    assert [i for i, _, _ in found] == list(range(start - 1, -1, -1))
    if start == 1:
        assert torch.equal(found[0][1], reverse.step(x, torch.tensor([1, 1])).mean)
    if start == T:
        whole = list(diffusion.ancestral(reverse, x, random(1)))
        assert all(torch.equal(a, b) for (_, a, _), (_, b, _) in zip(found, whole, strict=True))


def test_samplers_take_images_in_float32() -> None:
    net = Curved().float()
    for sampler in (lambda r, x: diffusion.ancestral(r, x, random(0)), diffusion.ddim):
        for _, x, x_0 in sampler(Reverse(net, short()), drawn(1, 2, 3, 4, 4).float()):
            for v in (x, x_0):
                assert v.shape == (2, 3, 4, 4)
                assert v.dtype == torch.float32
            assert x_0.abs().max() <= 1.0


def test_ddim_of_the_exact_model_is_a_factor() -> None:
    process, slow, v, x = short(), Slow(short()), 0.25, drawn(0, 5, 2)
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


def test_ddim_goes_on_with_the_noise_that_belongs_to_a_clipped_belief() -> None:
    process, x_T = short(), drawn(0, 4, 3, scale=2.0)
    slow, net = Slow(short()), Curved()
    _, x, x_0 = next(diffusion.ddim(Reverse(net, process), x_T))
    said = net(x_T, torch.full((4,), T)).detach()
    belief = (x_T - math.sqrt(1 - slow.abar[T]) * said) / math.sqrt(slow.abar[T])
    same(x_0, belief.clip(-1, 1))
    eps = (x_T - math.sqrt(slow.abar[T]) * x_0) / math.sqrt(1 - slow.abar[T])
    same(x, math.sqrt(slow.abar[T - 1]) * x_0 + math.sqrt(1 - slow.abar[T - 1]) * eps)


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


@pytest.mark.parametrize("sampler", [lambda r, x: diffusion.ancestral(r, x, None), diffusion.ddim])
def test_a_net_is_told_the_time_of_the_whole_process(
    sampler: Callable[[Reverse, Tensor], Iterator[tuple[int, Tensor, Tensor]]],
) -> None:
    process, times, net, x = full(), torch.tensor([1, 40, 1000]), Curved(), drawn(0, 2, 3)
    reverse = Reverse(net, process.respaced(times), times=times)
    assert len(list(sampler(reverse, x))) == 3
    assert net.told == [[1000, 1000], [40, 40], [1, 1]]
    loss = reverse.loss(x, torch.tensor([2, 3]), x, simple=True)
    assert net.told[-1] == [40, 1000]
    x_t = process.q_sample(x, torch.tensor([40, 1000]), x)
    same(loss, (net(x_t, torch.tensor([40, 1000])) - x).square().mean(dim=1))


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


# The bound and what it is made of


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("v", [0.25, 1.0])
def test_the_bound_of_the_exact_model_is_above_its_log_likelihood(
    v: float, variance: diffusion.Variance
) -> None:
    """Everything is linear and normal: p(x_0) is a normal mass, and each term has a mean."""
    process, slow, n = short(), Slow(short()), 4_000
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


def coded(reverse: Reverse, x_0: Tensor, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Terms and squares, largest t first, with one draw of noise a time."""
    noise, terms, squares = random(seed), [], []
    for t in range(reverse.process.T, 0, -1):
        eps = torch.randn(x_0.shape, generator=noise, dtype=x_0.dtype)
        times = torch.full((len(x_0),), t)
        x_t = reverse.process.q_sample(x_0, times, eps)
        term, step = reverse.bound_term(x_0, x_t, times)
        terms.append(term.detach())
        squares.append(
            torch.stack([((a - b) ** 2).mean() for a, b in zip(step.x_0, x_0, strict=True)])
        )
    return terms, squares


def test_progressive_coding_rows_and_their_order() -> None:
    x_0 = LEVELS[torch.randint(256, (5, 2, 3), generator=random(0))]
    net = Curved()
    reverse, before = Reverse(net, short()), torch.get_rng_state()
    coding = diffusion.progressive_coding(reverse, x_0, random(1), block=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert net.told == [[t] * 5 for t in range(T, 0, -1)]
    terms, squares = coded(reverse, x_0, 1)
    same(coding.terms, torch.stack(terms))
    same(coding.square, torch.stack(squares).detach())
    same(coding.prior, reverse.process.prior_kl(x_0))
    assert not coding.terms.requires_grad
    again = diffusion.progressive_coding(reverse, x_0, random(1))
    assert torch.equal(again.terms, coding.terms)


@pytest.mark.parametrize("block", [1, 2, 4, 5, 500])
def test_blocks_change_no_shape(block: int) -> None:
    """They change the draws; where these do not matter, every image has its own row."""
    x_0, process = LEVELS[torch.randint(256, (5, 3), generator=random(0))].float(), short()
    silent = Reverse(lambda x, t: torch.zeros_like(x), process)
    coding = diffusion.progressive_coding(silent, x_0, random(1), block=block)
    for table in (coding.terms, coding.square):
        assert table.shape == (T, 5)
        assert table.dtype == torch.float64
        assert table.isfinite().all()
    # In float64 although the images are float32: the prior's 1e-5 would be lost in 1.
    same(coding.prior, process.prior_kl(x_0.double()))

    mu = Reverse(silent.net, process, predicts="mu", variance="small")
    first = diffusion.progressive_coding(mu, x_0, random(1), block=block).terms[-1]
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
