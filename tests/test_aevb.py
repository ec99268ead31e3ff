"""The formulas and networks of AEVB against references that share no code with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from genbook import aevb

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 7))
# float64 against float64: only the order of the sums differs.
ROUNDING = {"rtol": 1e-11, "atol": 1e-11}


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=g, dtype=torch.float64)


def normal(mu: Tensor, log_var: Tensor) -> Independent:
    return Independent(Normal(mu, (0.5 * log_var).exp()), 1)


@FEW
@given(SHAPES, st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 3.0]))
def test_gaussian_kl_is_the_divergence_and_never_negative(shape, seed, scale):
    mu, log_var = drawn(seed, *shape, scale=scale), drawn(seed + 1, *shape, scale=scale)
    ours = aevb.gaussian_kl(mu, log_var)
    prior = normal(torch.zeros_like(mu), torch.zeros_like(mu))
    torch.testing.assert_close(ours, kl_divergence(normal(mu, log_var), prior), **ROUNDING)
    assert ours.shape == shape[:1]
    assert (ours >= -1e-12).all()


def test_gaussian_kl_is_zero_only_at_the_prior():
    zero = torch.zeros(3, 4, dtype=torch.float64)
    assert (aevb.gaussian_kl(zero, zero) == 0).all()
    assert (aevb.gaussian_kl(zero + 1e-3, zero) > 0).all()
    assert (aevb.gaussian_kl(zero, zero - 1e-3) > 0).all()


def test_gaussian_kl_is_the_integral_of_its_definition():
    mu, log_var = 0.7, -1.1
    node, weight = np.polynomial.hermite.hermgauss(20)
    z = mu + math.sqrt(2.0 * math.exp(log_var)) * node
    log_q = -0.5 * (np.log(2 * np.pi) + log_var + (z - mu) ** 2 / np.exp(log_var))
    log_p = -0.5 * (np.log(2 * np.pi) + z**2)
    integral = float(weight @ (log_q - log_p)) / math.sqrt(math.pi)
    ours = aevb.gaussian_kl(torch.tensor([mu]).double(), torch.tensor([log_var]).double())
    # The integrand is a quadratic, which the rule integrates exactly; mu was a float32 above.
    assert ours.item() == pytest.approx(integral, abs=1e-6)


def test_gaussian_kl_refuses_shapes_that_would_broadcast():
    with pytest.raises(AssertionError):
        aevb.gaussian_kl(torch.zeros(3, 2), torch.zeros(2))


@FEW
@given(SHAPES, st.integers(0, 10**6), st.booleans())
def test_log_normal_is_the_density(shape, seed, with_draws):
    mu, log_var = drawn(seed, *shape), drawn(seed + 1, *shape, scale=2.0)
    z = drawn(seed + 2, *((5,) if with_draws else ()), *shape, scale=3.0)
    ours = aevb.log_normal(z, mu, log_var)
    torch.testing.assert_close(ours, normal(mu, log_var).log_prob(z), **ROUNDING)
    torch.testing.assert_close(ours, aevb.Gaussian(mu, log_var).log_prob(z), rtol=0, atol=0)
    standard = MultivariateNormal(torch.zeros(shape[1]).double(), torch.eye(shape[1]).double())
    torch.testing.assert_close(aevb.log_standard_normal(z), standard.log_prob(z), **ROUNDING)


def test_a_density_sums_to_one_and_peaks_at_its_mean():
    mu, log_var = torch.tensor([0.3]).double(), torch.tensor([-0.8]).double()
    grid = torch.linspace(-8, 8, 4001).double()[:, None]
    density = aevb.log_normal(grid, mu, log_var).exp()
    # The trapezium rule on an analytic function that is 0 at both ends is exact to rounding.
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-9)
    assert abs(grid[density.argmax()].item() - mu.item()) <= 0.004  # the spacing of the grid


@FEW
@given(SHAPES, st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 8.0]))
def test_bernoulli_log_likelihood_of_bits_is_the_distribution(shape, seed, scale):
    logits = drawn(seed, 2, *shape, scale=scale)
    bits = (drawn(seed + 1, *shape) > 0).double()
    reference = Independent(Bernoulli(logits=logits), 1).log_prob(bits.expand_as(logits))
    ours = aevb.bernoulli_log_likelihood(bits, logits)
    torch.testing.assert_close(ours, reference, **ROUNDING)
    assert ours.shape == (2, shape[0])
    assert (ours <= 0).all()


def test_bernoulli_log_likelihood_of_grey_levels_is_the_cross_entropy():
    x, logits = torch.sigmoid(drawn(0, 6, 5)), drawn(1, 6, 5, scale=2.0)
    y = 1 / (1 + np.exp(-logits.numpy()))
    reference = (x.numpy() * np.log(y) + (1 - x.numpy()) * np.log(1 - y)).sum(-1)
    ours = aevb.bernoulli_log_likelihood(x, logits)
    torch.testing.assert_close(ours, torch.from_numpy(reference), **ROUNDING)
    # A cross-entropy is smallest where y = x, and there it is the entropy of x, not zero.
    best = aevb.bernoulli_log_likelihood(x, torch.logit(x))
    entropy = Independent(Bernoulli(probs=x), 1).entropy()
    torch.testing.assert_close(best, -entropy, **ROUNDING)
    assert (ours <= best).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_log_likelihood_survives_extreme_logits(dtype):
    logits = torch.tensor([[-1e4, 1e4, -1e4, 1e4]], dtype=dtype, requires_grad=True)
    x = torch.tensor([[0.0, 1.0, 1.0, 0.25]], dtype=dtype)
    ours = aevb.bernoulli_log_likelihood(x, logits)
    # log(1 - y) = 0, log y = 0, log y = -1e4, and 0.75 log(1 - y) = -7500: no -inf, no nan.
    assert ours.item() == -17500.0
    ours.sum().backward()
    torch.testing.assert_close(logits.grad, x - torch.tensor([[0, 1, 0, 1]], dtype=dtype))


def test_gradients_of_the_formulas():
    mu, log_var, z = (drawn(s, 3, 4).requires_grad_() for s in (0, 1, 2))
    x = torch.sigmoid(drawn(3, 3, 4)).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(aevb.gaussian_kl, (mu, log_var))
    assert check(aevb.log_normal, (z, mu, log_var))
    assert check(aevb.log_standard_normal, (z,))
    assert check(aevb.bernoulli_log_likelihood, (x, z))

    def rsample(mu: Tensor, log_var: Tensor) -> Tensor:
        return aevb.Gaussian(mu, log_var).rsample(torch.Generator().manual_seed(0), (2,))

    assert check(rsample, (mu, log_var))


def test_rsample_has_the_mean_and_variance_of_the_distribution():
    mu, log_var = drawn(0, 2, 3), drawn(1, 2, 3)
    n = 200_000
    z = aevb.Gaussian(mu, log_var).rsample(torch.Generator().manual_seed(2), (n,))
    assert z.shape == (n, 2, 3)
    standardised = (z - mu) / (0.5 * log_var).exp()
    # 5 standard errors of the mean (1 / sqrt n) and of the variance (sqrt(2 / n)).
    assert standardised.mean(0).abs().max() < 5 / math.sqrt(n)
    assert (standardised.var(0) - 1).abs().max() < 5 * math.sqrt(2 / n)


def test_rsample_is_made_by_its_generator_alone():
    q = aevb.Gaussian(drawn(0, 2, 3), drawn(1, 2, 3))
    first, second = (q.rsample(torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (2, 3)
    assert not torch.equal(first, q.rsample(torch.Generator().manual_seed(8)))


def numpy_mlp(module: torch.nn.Module, v: np.ndarray) -> np.ndarray:
    """Appendix C: one tanh layer, then a linear one, in numpy."""
    p = {name: value.detach().numpy() for name, value in module.named_parameters()}
    hidden = np.tanh(v @ p["hidden.weight"].T + p["hidden.bias"])
    return hidden @ p["out.weight"].T + p["out.bias"]


def test_the_networks_are_those_of_appendix_c():
    torch.manual_seed(0)
    vae = aevb.VAE(pixels=6, hidden=5, latents=2).double()
    frey = aevb.VAE(pixels=6, hidden=5, latents=2, decoder="gaussian").double()
    x, z = torch.sigmoid(drawn(1, 3, 6)), drawn(2, 4, 3, 2)

    q = vae.encoder(x)
    reference = numpy_mlp(vae.encoder, x.numpy())
    np.testing.assert_allclose(q.mu.detach(), reference[:, :2], rtol=1e-12)
    np.testing.assert_allclose(q.log_var.detach(), reference[:, 2:], rtol=1e-12)

    logits = torch.from_numpy(numpy_mlp(vae.decoder, z.numpy()))
    likelihood = Independent(Bernoulli(logits=logits), 1).log_prob((x > 0.5).double())
    torch.testing.assert_close(vae.decoder.log_likelihood((x > 0.5).double(), z), likelihood)
    torch.testing.assert_close(vae.decoder.mean(z), torch.sigmoid(logits))

    out = torch.from_numpy(numpy_mlp(frey.decoder, z.numpy()))
    means = torch.sigmoid(out[..., :6])
    reference = normal(means, out[..., 6:]).log_prob(x.expand_as(means))
    torch.testing.assert_close(frey.decoder.log_likelihood(x, z), reference)
    torch.testing.assert_close(frey.decoder.mean(z), means)

    joint = likelihood + normal(torch.zeros_like(z), torch.zeros_like(z)).log_prob(z)
    torch.testing.assert_close(vae.log_joint((x > 0.5).double(), z), joint)


def test_decoders_sample_what_their_means_say():
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    z, n = drawn(2, 1, 2).expand(20_000, 2), 20_000
    for kind in ("bernoulli", "gaussian"):
        decoder = aevb.VAE(pixels=4, hidden=3, latents=2, decoder=kind).double().decoder
        x = decoder.sample(z, g)
        error = (x.mean(0) - decoder.mean(z)[0]).abs() / (x.std(0) / math.sqrt(n))
        assert error.max() < 5, kind  # standard errors
        assert kind == "gaussian" or set(x.unique().tolist()) == {0.0, 1.0}


def test_an_unknown_decoder_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'laplace' is not one of \['bernoulli', 'gaussian'\]"):
        aevb.VAE(pixels=4, hidden=3, latents=2, decoder="laplace")


@pytest.mark.parametrize("std", [0.1, 0.01])
def test_init_normal_has_the_standard_deviation_that_it_names(std):
    vae = aevb.VAE(pixels=784, hidden=200, latents=20)
    aevb.init_normal(vae, std=std, generator=torch.Generator().manual_seed(0))
    for name, p in vae.named_parameters():
        # 5 standard errors: a standard deviation of n normals has std / sqrt(2 n).
        within = 5 * std / math.sqrt(2 * p.numel())
        assert p.std().item() == pytest.approx(std, abs=within), name
        assert abs(p.mean().item()) < 5 * std / math.sqrt(p.numel()), name


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
        ),
    ],
)
def test_init_normal_starts_alike_on_every_device_and_precision(device):
    start = aevb.VAE(pixels=9, hidden=4, latents=2)
    other = aevb.VAE(pixels=9, hidden=4, latents=2).to(device).double()
    for model in (start, other):
        aevb.init_normal(model, std=0.1, generator=torch.Generator().manual_seed(3))
    for a, b in zip(start.parameters(), other.parameters(), strict=True):
        # Drawn in float32 in both, so that the float64 copy has the same value exactly.
        assert torch.equal(a.double(), b.cpu())
