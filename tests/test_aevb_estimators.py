"""The estimators of AEVB against the models in which the exact answer is known.

Two of them: `LinearVAE`, whose decoder is `aevb.LinearGaussian` (closed forms), and a true VAE
with one latent dimension, where Gauss-Hermite quadrature in numpy gives bound and likelihood.
Monte Carlo is judged at 5 standard errors: one false alarm in a million, with a fixed seed none.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from genbook import aevb


class LinearVAE(nn.Module):
    """A VAE by its surface only: a free q(z|x) for each row of x, and a linear-Gaussian p(x|z)."""

    def __init__(self, toy: aevb.LinearGaussian, mu: Tensor, log_var: Tensor):
        super().__init__()
        self.toy, self.decoder = toy, self
        self.mu, self.log_var = nn.Parameter(mu), nn.Parameter(log_var)

    def encoder(self, x: Tensor) -> aevb.Gaussian:
        return aevb.Gaussian(self.mu, self.log_var)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        return self.toy.log_joint(x, z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return self.toy.log_joint(x, z) - aevb.log_standard_normal(z)

    def exact_bound(self, x: Tensor) -> Tensor:
        expected = self.toy.expected_log_likelihood(x, self.encoder(x))
        return expected - aevb.gaussian_kl(self.mu, self.log_var)


def linear_vae(points: int = 3) -> tuple[LinearVAE, Tensor]:
    torch.manual_seed(0)
    W, b = torch.randn(5, 2).double(), torch.randn(5).double()
    toy = aevb.LinearGaussian(W, b, 0.8)
    x = torch.randn(points, 5).double()
    mean, cov = toy.posterior(x)
    # A q beside the posterior and a little wider, so that importance weights stay bounded.
    mu = mean + 0.5 * cov.diagonal().sqrt()
    return LinearVAE(toy, mu, (cov.diagonal().log() + 0.4).repeat(points, 1)), x


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def within_errors(draws: Tensor, exact: Tensor, errors: float = 5.0) -> bool:
    """Whether the mean over the first dimension of `draws` is `exact` within standard errors."""
    error = draws.std(dim=0) / math.sqrt(len(draws))
    return bool(((draws.mean(dim=0) - exact).abs() <= errors * error).all())


def test_linear_gaussian_agrees_with_bayes_rule():
    vae, x = linear_vae()
    toy = vae.toy
    mean, cov = toy.posterior(x)
    z = torch.randn(4, 3, 2).double()
    # log p(x) + log p(z|x) = log p(x, z) at every z.
    bayes = toy.log_marginal(x) + MultivariateNormal(mean, cov).log_prob(z)
    torch.testing.assert_close(toy.log_joint(x, z), bayes, rtol=1e-10, atol=1e-10)


def test_expected_log_likelihood_of_the_toy_by_quadrature():
    vae, x = linear_vae()
    node, weight = np.polynomial.hermite.hermgauss(5)  # exact for the quadratic integrand
    nodes = torch.from_numpy(np.stack(np.meshgrid(node, node), -1).reshape(-1, 1, 2))
    weights = torch.from_numpy(np.outer(weight, weight).ravel()) / math.pi
    z = vae.mu + (2.0 * vae.log_var.exp()).sqrt() * nodes
    scale = vae.toy.s * torch.eye(5).double()
    likelihood = MultivariateNormal(z @ vae.toy.W.T + vae.toy.b, scale_tril=scale).log_prob(x)
    ours = vae.toy.expected_log_likelihood(x, vae.encoder(x))
    torch.testing.assert_close(ours, weights @ likelihood, rtol=1e-10, atol=1e-10)


def test_the_bound_misses_log_p_by_the_divergence_from_the_posterior():
    vae, x = linear_vae()
    mean, cov = vae.toy.posterior(x)
    q = MultivariateNormal(vae.mu, torch.diag_embed(vae.log_var.exp()))
    gap = kl_divergence(q, MultivariateNormal(mean, cov))
    bound = vae.exact_bound(x)
    torch.testing.assert_close(bound + gap, vae.toy.log_marginal(x), rtol=1e-10, atol=1e-10)
    assert (bound < vae.toy.log_marginal(x)).all()


def repeated(vae: LinearVAE, n: int) -> LinearVAE:
    """Every data point's q n times over, so that one call gives n independent estimates."""
    return LinearVAE(vae.toy, vae.mu.detach().repeat(n, 1), vae.log_var.detach().repeat(n, 1))


@pytest.mark.parametrize("samples", [1, 4])
def test_estimators_a_and_b_have_the_bound_as_their_mean(samples):
    vae, x = linear_vae()
    n, g = 20_000, generator(1)
    exact = vae.exact_bound(x)
    many, data = repeated(vae, n), x.repeat(n, 1)
    with torch.no_grad():
        a = aevb.elbo_a(many, data, generator=g, samples=samples).view(n, 3)
        b = aevb.elbo(many, data, generator=g, samples=samples).view(n, 3)
        one = aevb.elbo(many, data, generator=g).view(n, 3)
    assert within_errors(a, exact)
    assert within_errors(b, exact)
    # The variance of a mean of L draws falls as 1 / L; a variance is known to about
    # sqrt(4 / n) = 1.4 % here (the integrand is a quadratic of normals), a ratio of two to 2 %.
    assert ((one.var(0) / b.var(0) / samples - 1).abs() < 0.1).all()


def test_estimator_a_is_without_noise_where_q_is_the_posterior():
    """With q = p(z|x) the integrand log p(x, z) - log q(z|x) is log p(x) at every z."""
    toy = aevb.LinearGaussian(torch.tensor([[1.0], [-2.0]]).double(), torch.zeros(2).double(), 0.5)
    x = torch.tensor([[0.3, 1.0], [2.0, -1.0]]).double()
    mean, cov = toy.posterior(x)
    vae = LinearVAE(toy, mean, cov.log().expand(2, 1).clone())
    ours = aevb.elbo_a(vae, x, generator=generator())
    torch.testing.assert_close(ours, toy.log_marginal(x), rtol=1e-10, atol=1e-10)


def gradients(vae: LinearVAE, x: Tensor, estimator, n: int) -> Tensor:
    """n draws [n, 2, M, J] of an estimator's gradient in (mu, log_var): every data point is
    repeated n times with its own copy of q, so that one backward pass gives all of them."""
    many = repeated(vae, n)
    value = estimator(many, x.repeat(n, 1), generator=generator(2)).sum()
    each = torch.autograd.grad(value, [many.mu, many.log_var])
    return torch.stack([g.unflatten(0, (n, len(x))) for g in each], dim=1)


def test_gradients_of_all_estimators_agree_with_the_closed_form():
    vae, x = linear_vae()
    exact = torch.stack(torch.autograd.grad(vae.exact_bound(x).sum(), [vae.mu, vae.log_var]))
    b = gradients(vae, x, aevb.elbo, 50_000)
    a = gradients(vae, x, aevb.elbo_a, 50_000)
    naive = gradients(vae, x, aevb.score_function_surrogate, 200_000)
    for drawn in (a, b, naive):
        assert within_errors(drawn, exact)
        # Sharp enough that a wrong sign, a factor 2 or a lost term would show.
        error = drawn.std(0) / math.sqrt(len(drawn))
        assert (error < 0.1 * exact.abs()).all()
    # Section 2.2: the naive gradient "exhibits very high variance".
    assert naive.var(0).mean() > 10 * b.var(0).mean()


def test_the_score_function_leaves_the_decoder_alone():
    vae = small_vae()
    x = torch.rand(4, 3, generator=generator(1)).double()
    aevb.score_function_surrogate(vae, x, generator=generator()).sum().backward()
    assert all(p.grad is None for p in vae.decoder.parameters())
    assert all(p.grad.abs().sum() > 0 for p in vae.encoder.parameters())


def small_vae(latents: int = 1, decoder: str = "bernoulli") -> aevb.VAE:
    vae = aevb.VAE(pixels=3, hidden=4, latents=latents, decoder=decoder).double()
    aevb.init_normal(vae, std=0.8, generator=generator(5))
    return vae


def test_the_gradient_of_the_bound_is_its_finite_difference():
    for decoder in ("bernoulli", "gaussian"):
        vae = small_vae(2, decoder)
        x = torch.rand(4, 3, generator=generator(1)).double()
        parameters = list(vae.parameters())
        direction = [torch.randn(p.shape, generator=generator(3)).double() for p in parameters]

        def value(vae=vae, x=x) -> Tensor:
            return aevb.elbo(vae, x, generator=generator(4), samples=3).sum()

        gradient = torch.autograd.grad(value(), parameters)
        slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)).item()
        ends = []
        for h in (1e-5, -2e-5):  # to +h, then on to -h
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(h * d)
            ends.append(value().item())
        # Central differences: error h^2 times a third derivative, and 1e-16 / h of rounding.
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-6), decoder


def quadrature(vae: aevb.VAE, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Bound and log p(x) of a VAE with one latent dimension, by quadrature in numpy."""
    p = {name: value.detach().numpy() for name, value in vae.named_parameters()}

    def net(part: str, v: np.ndarray) -> np.ndarray:
        hidden = np.tanh(v @ p[f"{part}.hidden.weight"].T + p[f"{part}.hidden.bias"])
        return hidden @ p[f"{part}.out.weight"].T + p[f"{part}.out.bias"]

    def log_likelihood(pixels: np.ndarray, z: np.ndarray) -> np.ndarray:
        y = 1 / (1 + np.exp(-net("decoder", z[:, None])))
        return (pixels * np.log(y) + (1 - pixels) * np.log(1 - y)).sum(-1)

    node, weight = np.polynomial.hermite.hermgauss(80)
    weight = weight / math.sqrt(math.pi)
    bounds, marginals = [], []
    for pixels in x.numpy():
        mu, log_var = net("encoder", pixels)
        expected = weight @ log_likelihood(pixels, mu + np.sqrt(2 * np.exp(log_var)) * node)
        kl = 0.5 * (mu**2 + np.exp(log_var) - 1 - log_var)
        bounds.append(expected - kl)
        marginals.append(np.log(weight @ np.exp(log_likelihood(pixels, math.sqrt(2) * node))))
    return np.array(bounds), np.array(marginals)


def test_bound_and_likelihood_of_a_true_vae_by_quadrature():
    vae = small_vae()
    x = torch.tensor([[0.0, 1.0, 1.0], [0.2, 0.9, 0.4]]).double()
    bound, marginal = (torch.from_numpy(v) for v in quadrature(vae, x))
    assert (bound < marginal).all()
    n = 20_000
    with torch.no_grad():
        draws = aevb.elbo(vae, x.repeat(n, 1), generator=generator(1)).view(n, 2)
    assert within_errors(draws, bound)
    ours = aevb.importance_weighted_bound(vae, x, k=50_000, generator=generator(1), chunk=50_000)
    # Relative weights of this model spread by about 1: standard error 1 / sqrt(50 000) = 0.0045.
    torch.testing.assert_close(ours, marginal, rtol=0, atol=0.02)


def test_rate_and_distortion_are_the_parts_of_the_bound():
    vae = small_vae(2)
    x = torch.rand(4, 3, generator=generator(1)).double()
    rate, distortion = aevb.coding_cost(vae, x, generator=generator(3))
    bound = aevb.elbo(vae, x, generator=generator(3))
    torch.testing.assert_close(rate + distortion, -bound, rtol=1e-12, atol=0)
    q = vae.encoder(x)
    torch.testing.assert_close(rate, aevb.gaussian_kl(q.mu, q.log_var), rtol=0, atol=0)
    assert (rate > 0).all()


def test_the_importance_weighted_bound_grows_with_k_to_log_p():
    vae, x = linear_vae()
    log_p = vae.toy.log_marginal(x)
    n = 4000
    means, errors = [], []
    for k in (1, 5, 50):
        draws = aevb.importance_weighted_bound(
            repeated(vae, n), x.repeat(n, 1), k=k, generator=generator(k)
        ).view(n, 3)
        means.append(draws.mean(0))
        errors.append(draws.std(0) / math.sqrt(n))
    assert ((means[0] - vae.exact_bound(x)).abs() < 5 * errors[0]).all()  # k = 1 is the bound
    assert (means[1] - means[0] > 5 * errors[0]).all()
    assert (means[2] - means[1] > 5 * errors[1]).all()
    assert (means[2] < log_p + 5 * errors[2]).all()
    many = aevb.importance_weighted_bound(vae, x, k=200_000, generator=generator(9), chunk=10_000)
    # The weights have a finite variance here (about 1): standard error about 0.003.
    torch.testing.assert_close(many, log_p, rtol=0, atol=0.02)


def test_the_importance_weighted_bound_joins_its_chunks(monkeypatch):
    vae, x = linear_vae()
    seen = []
    draw = aevb.Gaussian.rsample

    def rsample(self, *args):
        seen.append(draw(self, *args))
        return seen[-1]

    monkeypatch.setattr(aevb.Gaussian, "rsample", rsample)
    ours = aevb.importance_weighted_bound(vae, x, k=70, generator=generator(3), chunk=32)
    assert [len(z) for z in seen] == [32, 32, 6]
    z = torch.cat(seen).detach()
    q = MultivariateNormal(vae.mu.detach(), torch.diag_embed(vae.log_var.detach().exp()))
    reference = (vae.log_joint(x, z) - q.log_prob(z)).exp().mean(dim=0).log()
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)
    assert ours.dtype == torch.float64
    assert not ours.requires_grad


def test_mean_bound_weights_a_short_last_chunk_by_its_images():
    vae = small_vae(2)
    x = torch.rand(7, 3, generator=generator(1)).double()
    with torch.no_grad():
        g = generator(4)
        parts = [aevb.elbo(vae, part, generator=g) for part in (x[:3], x[3:6], x[6:])]
    ours = aevb.mean_bound(vae, x, generator=generator(4), chunk=3)
    assert ours == pytest.approx(torch.cat(parts).mean().item(), rel=1e-12)


def test_wake_teaches_only_the_decoder_and_sleep_only_the_encoder():
    vae = small_vae(2)
    x = torch.rand(4, 3, generator=generator(1)).double()
    for part, other, name in (
        (vae.decoder, vae.encoder, "wake"),
        (vae.encoder, vae.decoder, "sleep"),
    ):
        vae.zero_grad(set_to_none=True)
        step = aevb.wake_sleep(vae, x, generator=generator(2))
        getattr(step, name).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters()), name
        assert all(p.grad is None for p in other.parameters()), name
        assert step.wake.shape == step.sleep.shape == (4,)


def test_wake_is_the_reconstruction_of_a_draw_from_the_encoder():
    vae = small_vae(2)
    x = torch.rand(4, 3, generator=generator(1)).double()
    z = vae.encoder(x).rsample(generator(2))
    expected = vae.decoder.log_likelihood(x, z)
    torch.testing.assert_close(aevb.wake_sleep(vae, x, generator=generator(2)).wake, expected)


def test_sleep_dreams_and_never_looks_at_the_data():
    vae = small_vae(2)
    x = torch.rand(4, 3, generator=generator(1)).double()
    one, other = (aevb.wake_sleep(vae, data, generator=generator(2)) for data in (x, 1 - x))
    assert torch.equal(one.sleep, other.sleep)
    assert not torch.equal(one.wake, other.wake)


def test_sleep_recognises_dreams_by_bayes_rule():
    """The expected sleep gradient vanishes where q(z|x) is the true posterior: fit one to it.

    With a decoder that ignores z the posterior is the prior, so q = N(0, I) is the optimum."""
    vae = small_vae(2)
    with torch.no_grad():
        vae.decoder.out.weight.zero_()
        vae.encoder.out.weight.zero_()
        vae.encoder.out.bias.zero_()
    x = torch.rand(20_000, 3, generator=generator(1)).double()
    aevb.wake_sleep(vae, x, generator=generator(2)).sleep.mean().backward()
    # d/d mu log q = z and d/d log_var log q = (z^2 - 1) / 2: mean 0, error at most 1 / sqrt(n).
    assert vae.encoder.out.bias.grad.abs().max() < 5 / math.sqrt(20_000)


def test_the_prior_sample_is_standard_normal_in_the_model_s_precision():
    vae = small_vae(3)
    z = vae.prior_sample(100_000, generator(1))
    assert z.shape == (100_000, 3)
    assert z.dtype == torch.float64
    assert z.mean(0).abs().max() < 5 / math.sqrt(1e5)
    assert (z.T.cov() - torch.eye(3)).abs().max() < 5 * math.sqrt(2 / 1e5)
