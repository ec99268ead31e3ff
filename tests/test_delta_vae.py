"""delta-VAEs: priors, rates and committed rates against references that share no code with them."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from genbook import delta_vae

FEW = settings(max_examples=25, deadline=None, derandomize=True)
# float64 against float64; a covariance with correlations of 0.99^lag costs some 4 digits.
same = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
ALPHAS = [-0.9, 0.0, 0.3, 0.8, 0.99]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=random(seed), dtype=torch.float64)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def slow(alpha: Tensor, n: int) -> MultivariateNormal:
    """The stationary AR(1) process by its covariance alpha^|s - t|: a batch [K] over n times."""
    lag = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    return MultivariateNormal(alpha.new_zeros(n), alpha[:, None, None] ** lag)


def over_time(z: Tensor) -> Tensor:
    return z.transpose(-1, -2)


def factored(mu: Tensor, log_var: Tensor) -> MultivariateNormal:
    return MultivariateNormal(mu, scale_tril=torch.diag_embed((0.5 * log_var).exp()))


def test_draw_has_its_mean_and_variance_and_uses_the_generator() -> None:
    draws, mu, log_var = 100_000, drawn(0, 2, 3, scale=5.0), drawn(1, 2, 3, scale=2.0)
    many = [v.expand(draws, 2, 3).clone().requires_grad_() for v in (mu, log_var)]
    before = torch.get_rng_state()
    z = delta_vae.draw(*many, random(0))
    assert z.shape == (draws, 2, 3)
    assert z.dtype == mu.dtype
    of_mu, of_log_var = torch.autograd.grad(z.sum(), many)
    assert (of_mu == 1).all()
    same(of_log_var, 0.5 * (z - mu))
    eps = ((z.detach() - mu) / (0.5 * log_var).exp()).flatten(1)
    found, expected = eps.T @ eps / draws, torch.eye(6, dtype=torch.float64)
    # Standard errors: sqrt((1 + r^2) / N) for products of correlation r, sqrt(96 / N) for eps^4.
    assert ((found - expected).abs() / ((1 + expected) / draws).sqrt()).max() < 5
    assert eps.mean(dim=0).abs().max() < 5 / math.sqrt(draws)
    assert ((eps**4).mean(dim=0) - 3).abs().max() < 5 * math.sqrt(96 / draws)
    assert torch.equal(delta_vae.draw(*many, random(0)), z)
    assert not torch.equal(delta_vae.draw(*many, random(1)), z)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(delta_vae.draw(*many, None), delta_vae.draw(*many, None))


@FEW
@given(st.integers(1, 9), st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 3.0]))
def test_log_densities_and_rates_are_those_of_torch_distributions(
    n: int, seed: int, scale: float
) -> None:
    alpha = double(*ALPHAS)
    mu, log_var, z = (drawn(seed + i, 4, n, len(alpha), scale=scale) for i in range(3))
    prior, q = slow(alpha, n), factored(over_time(mu), over_time(log_var))
    same(delta_vae.ar1_log_prob(z, alpha), prior.log_prob(over_time(z)).sum(-1))
    same(delta_vae.log_q(z, mu, log_var), q.log_prob(over_time(z)).sum(-1))
    same(delta_vae.ar1_kl(mu, log_var, alpha), kl_divergence(q, prior).sum(-1))


def test_ar1_sample_is_stationary_with_correlation_alpha_to_the_lag() -> None:
    alpha, draws, n = double(-0.8, 0.0, 0.5, 0.99), 100_000, 6
    z = delta_vae.ar1_sample(alpha, examples=draws, n=n, random=random(0))
    assert z.shape == (draws, n, len(alpha))
    assert z.dtype == alpha.dtype
    found = torch.einsum("msk,mtk->kst", z, z) / draws
    expected = slow(alpha, n).covariance_matrix
    # For normals with correlation r the mean product of N draws has a s.e. of sqrt((1 + r^2) / N).
    assert ((found - expected).abs() / ((1 + expected**2) / draws).sqrt()).max() < 5
    assert z.mean(dim=0).abs().max() < 5 / math.sqrt(draws)
    # Dimensions are independent: s.e. of the mean product 1 / sqrt N.
    assert (z[:, 3, 0] * z[:, 3, 3]).mean().abs() < 5 / math.sqrt(draws)
    assert torch.equal(delta_vae.ar1_sample(alpha, examples=draws, n=n, random=random(0)), z)


def smallest_kl(alpha: float, n: int) -> float:
    """min KL(q || slow prior) over n means and n log-variances, by L-BFGS on torch's divergence."""
    prior = slow(double(alpha), n)

    def value_and_gradient(v: np.ndarray) -> tuple[float, np.ndarray]:
        p = torch.from_numpy(v).requires_grad_()
        kl = kl_divergence(factored(p[None, :n], p[None, n:]), prior).sum()
        return kl.item(), torch.autograd.grad(kl, p)[0].numpy()

    # The value is flat to second order: a gradient of 1e-6 leaves 1e-12 / curvature (>= 0.005).
    options = {"maxiter": 5_000, "maxfun": 5_000, "ftol": 0.0, "gtol": 1e-6}
    start = drawn(n, 2 * n).numpy()
    return float(
        minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options).fun
    )


@pytest.mark.parametrize("n", [2, 3, 8, 16, 32])
def test_committed_rate_is_the_minimum_over_all_means_and_variances(n: int) -> None:
    for a in ALPHAS:
        ours = delta_vae.committed_rate(double(a), n).item()
        assert ours == pytest.approx(smallest_kl(a, n), abs=1e-9), a
        assert ours == delta_vae.committed_rate(double(-a), n).item()
    together = delta_vae.committed_rate(double(*ALPHAS), n)
    torch.testing.assert_close(
        together, sum(delta_vae.committed_rate(double(a), n) for a in ALPHAS)
    )


@pytest.mark.parametrize("n", [2, 3, 8, 32])
def test_closest_variances_attain_the_committed_rate(n: int) -> None:
    alpha = double(*ALPHAS)
    var = delta_vae.closest_variances(alpha, n)
    assert var.shape == (n, len(alpha))
    precision = slow(alpha, n).precision_matrix.diagonal(dim1=-2, dim2=-1)  # [K, n]
    same(var, 1 / over_time(precision))
    zero, log_var = torch.zeros_like(var)[None], var.log()[None]
    committed = delta_vae.committed_rate(alpha, n)
    same(delta_vae.ar1_kl(zero, log_var, alpha)[0], committed)
    # A step away costs at least a second-order term: 1e-4 squared times a curvature of 0.005.
    for step in (drawn(0, 1, n, len(alpha), scale=1e-2), drawn(1, 1, n, len(alpha), scale=1e-2)):
        assert delta_vae.ar1_kl(zero + step, log_var, alpha) > committed + 1e-6
        assert delta_vae.ar1_kl(zero, log_var + step, alpha) > committed + 1e-6


@pytest.mark.parametrize("n", [2, 5, 28])
@pytest.mark.parametrize("values", [[-0.9], [-0.4], [0.0], [0.8], [0.99], ALPHAS])
def test_a_slow_encoder_that_says_0_pays_exactly_the_committed_rate(
    n: int, values: list[float]
) -> None:
    """It is at the minimum, and what it says counts from there."""
    alpha, shape = double(*values), (3, n, len(values))
    family, prior = delta_vae.SlowFeatures(alpha), slow(alpha, n)
    said = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    mu, log_var = family.posterior(*said)
    rate = family.rate(mu, log_var)
    committed = torch.full_like(rate, family.committed(n=n, latents=len(values)))
    same(rate, committed)
    same(rate, kl_divergence(factored(over_time(mu), over_time(log_var)), prior).sum(-1))
    for slope in torch.autograd.grad(rate.sum(), said):
        assert slope.abs().max() < 1e-12  # rounding of terms up to 1 / (1 - 0.99^2) = 50

    m, factor = drawn(0, *shape), drawn(1, *shape)
    mu, log_var = family.posterior(m, factor)
    assert torch.equal(mu, m)
    precision = prior.precision_matrix.diagonal(dim1=-2, dim2=-1)  # [K, n]
    same(log_var.exp(), factor.exp() / over_time(precision))

    small = family.posterior(*(v.detach().float() for v in said))
    assert all(v.dtype == torch.float32 for v in small)
    # float32, and up to 140 terms.
    torch.testing.assert_close(family.rate(*small), committed.float(), rtol=1e-5, atol=1e-5)


def test_the_committed_rates_of_the_paper() -> None:
    """Table 6 and figure 2; 1.17 in the figure is 1.1640."""
    for latents, end, bits, per_dim in ((8, 0.95, 79.447, 0.0259), (64, 0.99, 666.63, 0.2170)):
        alpha = torch.linspace(0.5, end, latents, dtype=torch.float64)
        nats = delta_vae.committed_rate(alpha, 32).item()
        assert nats / math.log(2) == pytest.approx(bits, abs=0.005 if bits > 100 else 0.0005)
        assert delta_vae.bits_per_dim(nats, 32 * 32 * 3) == pytest.approx(per_dim, abs=0.00005)
        assert delta_vae.SlowFeatures(alpha).committed(n=32, latents=latents) == nats
    for a, nats in ((0.5, 0.1438), (0.8, 0.5108), (0.95, 1.1640)):  # all printed digits
        assert delta_vae.committed_rate(double(a), 2).item() == pytest.approx(nats, abs=5e-5)


def test_one_position_is_refused_because_there_the_minimum_is_zero() -> None:
    assert smallest_kl(0.8, 1) == pytest.approx(0.0, abs=1e-9)
    assert delta_vae.ar1_kl(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.tensor([0.8])) == 0
    for n in (1, 0):
        with pytest.raises(ValueError, match=f"n = {n}"):
            delta_vae.committed_rate(double(0.8), n)
        with pytest.raises(ValueError, match=f"n = {n}"):
            delta_vae.closest_variances(double(0.8), n)
    for a in (1.0, -1.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            delta_vae.committed_rate(double(0.5, a), 4)
    with pytest.raises(ValueError, match="3 latents, but 2 values"):
        delta_vae.SlowFeatures(double(0.5, 0.6)).committed(n=4, latents=3)


def test_the_bound_needs_the_factored_posterior() -> None:
    """q has the prior's precision, off the diagonal times a share: 0 is factored, 1 the prior."""
    alpha, n, draws = double(0.8), 5, 50_000
    prior = slow(alpha, n)
    diagonal = torch.diag_embed(prior.precision_matrix.diagonal(dim1=-2, dim2=-1))
    committed = delta_vae.committed_rate(alpha, n).item()
    rates = []
    for share in (0.0, 0.5, 1.0):
        precision = diagonal + share * (prior.precision_matrix - diagonal)
        q = MultivariateNormal(double(*[0.0] * n), precision_matrix=precision)
        eps = drawn(0, draws, n)
        z = eps @ over_time(q.scale_tril[0])
        ratio = q.log_prob(z) - delta_vae.ar1_log_prob(z[..., None], alpha)
        rates.append(kl_divergence(q, prior).item())
        # 5 standard errors, and rounding where the ratio is constant.
        assert abs(ratio.mean().item() - rates[-1]) < 5 * ratio.std() / math.sqrt(draws) + 1e-9
    assert rates == pytest.approx([committed, rates[1], 0.0], abs=1e-9)
    assert rates[0] > rates[1] + 0.1
    assert rates[1] > rates[2] + 0.1


def families(latents: int) -> list[delta_vae.Families]:
    alpha = torch.linspace(-0.5, 0.97, latents, dtype=torch.float64)
    return [
        delta_vae.StandardNormal(),
        delta_vae.SlowFeatures(alpha),
        delta_vae.FarMeans(0.1),
        delta_vae.FarMeans(2.0),
    ]


def closest(family: delta_vae.Families) -> float:
    """What an encoder says as its means, with log-variances of 0, to pay the committed rate."""
    return -40.0 if isinstance(family, delta_vae.FarMeans) else 0.0  # softplus(-42) = 6e-19


@FEW
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 10**6), st.sampled_from([0.01, 1, 4]))
def test_no_posterior_has_less_than_the_committed_rate(
    n: int, latents: int, seed: int, scale: float
) -> None:
    mu, log_var = (drawn(seed + i, 50, n, latents, scale=scale) for i in range(2))
    zero = torch.zeros_like(mu)
    for family in families(latents):
        committed, near = family.committed(n=n, latents=latents), zero + closest(family)
        for said in ((mu, log_var), (zero, log_var), (near, log_var), (near, 0.1 * log_var)):
            rate = family.rate(*family.posterior(*said))
            assert rate.shape == (50,)
            assert (rate >= committed - 1e-12 * (1 + rate)).all(), family  # rounding
        attained = family.rate(*family.posterior(near, zero))
        # FarMeans adds 1e-12 to the square of each of at most 24 means.
        torch.testing.assert_close(attained, zero[:, 0, 0] + committed, rtol=0, atol=2e-11)


def test_rate_is_the_mean_log_ratio_of_posterior_and_prior() -> None:
    draws, n, latents = 20_000, 4, 3
    for family in families(latents):
        mu, log_var = family.posterior(drawn(0, 1, n, latents), drawn(1, 1, n, latents))
        z = mu + (0.5 * log_var).exp() * drawn(2, draws, n, latents)
        ratio = delta_vae.log_q(z, mu, log_var) - family.log_prior(z)
        error = (ratio.mean() - family.rate(mu, log_var)) / (ratio.std() / math.sqrt(draws))
        assert abs(error.item()) < 5, family  # standard errors


def test_far_means_keep_to_the_allowed_region() -> None:
    """The appendix: with delta = 0.1 a mean of 0 needs sigma <= 0.702 or >= 1.331."""
    standard = Normal(double(0.0), double(1.0))

    def excess(sigma: float) -> float:
        return kl_divergence(Normal(double(0.0), double(sigma)), standard).item() - 0.1

    ends = brentq(excess, 0.1, 1.0), brentq(excess, 1.0, 3.0)
    assert ends == pytest.approx((0.702, 1.331), abs=5e-4)  # the printed digits
    sigma = torch.cat([torch.linspace(0.1, 3.0, 291).double(), double(*ends)])
    floor = delta_vae.smallest_square(2 * sigma.log(), 0.1).sqrt()
    outside = (sigma < ends[0] - 1e-9) | (sigma > ends[1] + 1e-9)
    assert (floor[outside] == 0).all()
    inside = (sigma > ends[0] + 1e-9) & (sigma < ends[1] - 1e-9)
    rate = kl_divergence(Normal(floor, sigma), standard)
    same(rate[inside], torch.full_like(rate[inside], 0.1))
    for delta in (0.1, 1.0, 3.0):  # sigma = 1
        assert delta_vae.smallest_square(double(0.0), delta).sqrt().item() == pytest.approx(
            math.sqrt(2 * delta), rel=1e-12
        )


@pytest.mark.parametrize("delta", [0.0, 0.1, 2.0])
def test_far_means_are_positive_grow_with_m_and_fill_the_region(delta: float) -> None:
    sigma, m = torch.linspace(0.1, 3.0, 59).double(), torch.linspace(-50, 50, 401).double()
    m, log_var = (v[..., None] for v in torch.meshgrid(m, 2 * sigma.log(), indexing="ij"))
    family, standard = delta_vae.FarMeans(delta), Normal(double(0.0), double(1.0))
    mu, said = family.posterior(m, log_var)
    assert torch.equal(said, log_var)
    sigma = sigma[:, None]
    rate = kl_divergence(Normal(mu, sigma), standard)
    assert (rate > delta - 1e-12).all()  # rounding
    same(rate[..., 0], family.rate(mu[..., None], log_var[..., None]))
    # By the divergence of a mean of 0; from m = -50 the softplus is 3e-23.
    square = 2 * (delta - kl_divergence(Normal(double(0.0), sigma), standard))
    floor = (square.clamp(min=0.0) + 1e-12).sqrt()
    same(mu, floor + (m - 2).exp().log1p())
    same(rate[0][square > 0], torch.full_like(rate[0][square > 0], delta))
    assert (mu[0][square <= 0] <= 1.001e-6).all()  # the root of 1e-12
    assert (mu.diff(dim=0) >= 0).all()
    assert (mu[m[:, 0, 0] > -20].diff(dim=0) > 0).all()  # below, the softplus is under 3e-10
    for mean in (mu, family.posterior(m.float(), log_var.float())[0]):
        assert (mean > 0).all()


def test_far_means_have_finite_gradients() -> None:
    """Over a floor, where the floor is 0, and at the ends of m."""
    family = delta_vae.FarMeans(0.1)
    m = double(0.0, 0.0, 0.0, 0.5, -0.5, 1e-3, -100.0, -100.0, 100.0)[:, None, None]
    log_var = double(0.0, -4.0, 3.0, -4.0, 0.1, -0.3, 0.0, -4.0, 0.2)[:, None, None]
    said = m.requires_grad_(), log_var.requires_grad_()
    for gradient in torch.autograd.grad(family.rate(*family.posterior(*said)).sum(), said):
        assert gradient.isfinite().all()
    assert torch.autograd.gradcheck(family.posterior, said)


def test_far_means_have_finite_gradients_on_the_border() -> None:
    """2 rate + 1 + ln var - var is exactly 0 for 2 to 5 in 2e7 float32 draws of N(0, 0.7^2)."""
    log_var = torch.zeros(1, 1, 1, requires_grad=True)
    mu, _ = delta_vae.FarMeans(0.0).posterior(torch.full((1, 1, 1), 0.5), log_var)
    assert torch.autograd.grad(mu.sum(), log_var)[0].isfinite().all()

    family = delta_vae.FarMeans(0.1)
    for ends in ((-4.0, 0.0), (0.0, 3.0)):
        border = brentq(lambda v: 1.2 + v - math.exp(v), *ends)
        log_var = (border + torch.arange(-50, 51).double() * 2.0**-24).float()  # its neighbours
        log_var = log_var[:, None, None]
        square = 1.2 + log_var - log_var.exp()
        assert square.min() < 0 < square.max()
        assert square.abs().min() < 2e-7  # a rounding of numbers up to 2
        said = torch.zeros(101, 1, 1, requires_grad=True), log_var.clone().requires_grad_()
        mu, _ = family.posterior(*said)
        of_m, of_log_var = torch.autograd.grad(mu.sum(), said, retain_graph=True)
        torch.testing.assert_close(of_m, torch.sigmoid(said[0] - 2))
        # The root of 1e-12 is at its steepest where nothing is added, and flat beyond; float32.
        steepest = (1 - log_var.exp()).abs() / 2e-6
        assert (of_log_var.abs() <= 1.0001 * steepest).all()
        assert (of_log_var[square < 0] == 0).all()
        for gradient in torch.autograd.grad(family.rate(mu, said[1]).sum(), said):
            assert gradient.isfinite().all()


def test_gradients_of_the_formulas() -> None:
    check = torch.autograd.gradcheck
    mu, log_var, z = (drawn(s, 2, 3, 2).requires_grad_() for s in range(3))
    alpha = double(-0.4, 0.9).requires_grad_()
    assert check(delta_vae.ar1_log_prob, (z, alpha))
    assert check(delta_vae.ar1_kl, (mu, log_var, alpha))
    assert check(delta_vae.log_q, (z, mu, log_var))
    assert check(lambda a: delta_vae.committed_rate(a, 5), (alpha,))


def test_beta_and_free_bits_losses() -> None:
    distortion, rate = drawn(0, 4).requires_grad_(), double(1.0, 2.0, 6.0, 7.0).requires_grad_()
    bound, ones = delta_vae.Bound(distortion, rate), [1.0] * 4
    assert torch.equal(bound.value(), -distortion - rate)

    def gradients(loss: Tensor) -> tuple[list[float], list[float]]:
        of_distortion, of_rate = torch.autograd.grad(loss.sum(), (distortion, rate))
        return of_distortion.tolist(), of_rate.tolist()

    loss = delta_vae.beta_loss(bound, 0.5)
    assert torch.equal(loss, distortion + 0.5 * rate)
    assert gradients(loss) == (ones, [0.5] * 4)
    # The mean rate is 4 nats.  Below the free bits the encoder hears nothing of it; above them, all
    # of it, of points whose own rate is below too.
    loss = delta_vae.free_bits_loss(bound, 5.0)
    assert torch.equal(loss, distortion + 5.0)
    assert gradients(loss) == (ones, [0.0] * 4)
    loss = delta_vae.free_bits_loss(bound, 3.5)
    assert torch.equal(loss, distortion + 4.0)
    assert gradients(loss) == (ones, ones)


def test_what_no_prior_can_be_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha"):
        delta_vae.SlowFeatures(double(0.5, -1.0))
    with pytest.raises(ValueError, match="below 0"):
        delta_vae.FarMeans(-0.1)
    for fails in (delta_vae.ar1_log_prob, lambda z, alpha: delta_vae.ar1_kl(z, z, alpha)):
        with pytest.raises(AssertionError):
            fails(torch.zeros(1, 2, 3), double(0.5))
