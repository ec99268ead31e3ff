"""Auto-Encoding Variational Bayes: Kingma & Welling 2013, arXiv 1312.6114.

Indices as in the paper: i counts data points (N in all, M in a minibatch), j latent dimensions
(J of them), l draws of the noise (L of them), d pixels (D).  x is [M, D] with values in [0, 1],
z is [M, J] or [L, M, J].  Every likelihood, divergence and bound is in nats, one value a data
point, summed over pixels and latents; nothing here averages over the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """N(mu, diag(exp(log_var))); both [..., J].  The paper's networks output log sigma^2."""

    mu: Tensor
    log_var: Tensor

    def rsample(self, generator: Generator | None, draws: tuple[int, ...] = ()) -> Tensor:
        """z = mu + sigma * eps with eps ~ N(0, I), section 2.4: [*draws, ..., J], with gradient."""
        shape = (*draws, *self.mu.shape)
        eps = torch.randn(shape, generator=generator, device=self.mu.device, dtype=self.mu.dtype)
        return self.mu + (0.5 * self.log_var).exp() * eps

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; mu, diag(exp(log_var))) in nats, summed over the last dimension."""
        return log_normal(z, self.mu, self.log_var)


def log_normal(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log N(z; mu, diag exp log_var), summed over the last dimension, in nats:
    -1/2 sum_j [log 2 pi + log var_j + (z_j - mu_j)^2 / var_j]."""
    return -0.5 * (LOG_2PI + log_var + (z - mu).square() * (-log_var).exp()).sum(dim=-1)


def log_standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats, summed over the last dimension: the prior p(z) of section 3."""
    return -0.5 * (LOG_2PI + z.square()).sum(dim=-1)


def gaussian_kl(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL( N(mu, diag exp log_var) || N(0, I) ) of each data point, in nats.

    Appendix B (with the sign turned):  1/2 sum_j (mu_j^2 + var_j - 1 - log var_j).

    Shapes: mu, log_var [..., J] -> [...].  Summed over latents, not averaged over the batch.
    """
    assert mu.shape == log_var.shape, (mu.shape, log_var.shape)
    return 0.5 * (mu.square() + log_var.exp() - 1.0 - log_var).sum(dim=-1)


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x|z) = sum_d [x_d log y_d + (1 - x_d) log(1 - y_d)], appendix C.1, y = sigmoid(logits).

    Shapes: x [M, D], logits [..., M, D] -> [..., M], nats.  Grey levels x in [0, 1] are allowed;
    the value is then a cross-entropy, not the logarithm of a probability of grey levels.
    """
    return -functional.binary_cross_entropy_with_logits(
        logits, x.expand_as(logits), reduction="none"
    ).sum(dim=-1)


class RecognitionModel(nn.Module):
    """q(z|x) = N(mu, diag(sigma^2)), appendix C.2: one tanh layer, outputs mu and log sigma^2."""

    def __init__(self, pixels: int, hidden: int, latents: int):
        super().__init__()
        self.hidden = nn.Linear(pixels, hidden)
        self.out = nn.Linear(hidden, 2 * latents)

    def forward(self, x: Tensor) -> Gaussian:
        mu, log_var = self.out(torch.tanh(self.hidden(x))).chunk(2, dim=-1)
        return Gaussian(mu, log_var)


class BernoulliDecoder(nn.Module):
    """p(x|z) of appendix C.1: one tanh layer, then the logits of a Bernoulli for every pixel."""

    def __init__(self, latents: int, hidden: int, pixels: int):
        super().__init__()
        self.hidden = nn.Linear(latents, hidden)
        self.out = nn.Linear(hidden, pixels)

    def forward(self, z: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(z)))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return bernoulli_log_likelihood(x, self(z))

    def mean(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self(z))

    def sample(self, z: Tensor, generator: Generator | None) -> Tensor:
        return torch.bernoulli(self.mean(z), generator=generator)


class GaussianDecoder(nn.Module):
    """p(x|z) of appendix C.2 for Frey Face: means squashed to (0, 1), variances learned."""

    def __init__(self, latents: int, hidden: int, pixels: int):
        super().__init__()
        self.hidden = nn.Linear(latents, hidden)
        self.out = nn.Linear(hidden, 2 * pixels)

    def forward(self, z: Tensor) -> Gaussian:
        mean, log_var = self.out(torch.tanh(self.hidden(z))).chunk(2, dim=-1)
        return Gaussian(torch.sigmoid(mean), log_var)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return self(z).log_prob(x)

    def mean(self, z: Tensor) -> Tensor:
        return self(z).mu

    def sample(self, z: Tensor, generator: Generator | None) -> Tensor:
        return self(z).rsample(generator)


class VAE(nn.Module):
    """The generative model p(z) p(x|z) and the recognition model q(z|x), trained together.

    `decoder` is "bernoulli" (MNIST) or "gaussian" (Frey Face).  Encoder and decoder have the same
    number of hidden units: 500 on MNIST, 200 on Frey Face, 100 in Figure 3 (section 5).
    """

    def __init__(self, *, pixels: int, hidden: int, latents: int, decoder: str = "bernoulli"):
        super().__init__()
        kinds: dict[str, type[BernoulliDecoder] | type[GaussianDecoder]] = {
            "bernoulli": BernoulliDecoder,
            "gaussian": GaussianDecoder,
        }
        if decoder not in kinds:
            raise ValueError(f"decoder {decoder!r} is not one of {sorted(kinds)}")
        self.latents = latents
        self.encoder = RecognitionModel(pixels, hidden, latents)
        self.decoder = kinds[decoder](latents, hidden, pixels)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) = log p(x|z) + log p(z): x [M, D], z [..., M, J] -> [..., M], nats."""
        return self.decoder.log_likelihood(x, z) + log_standard_normal(z)

    def prior_sample(self, n: int, generator: Generator | None) -> Tensor:
        """z ~ N(0, I): [n, J]."""
        like = self.decoder.hidden.weight
        return torch.randn(
            n, self.latents, generator=generator, device=like.device, dtype=like.dtype
        )


def init_normal(model: nn.Module, *, std: float, generator: Generator) -> None:
    """Every weight and bias from N(0, std^2), section 5.

    The paper writes N(0, 0.01) and does not say whether 0.01 is the variance (std = 0.1) or the
    standard deviation; the chapter compares the two readings.  Drawn on the CPU from `generator`,
    so that a model starts alike on every device.
    """
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * std)


def elbo(vae: VAE, x: Tensor, *, generator: Generator | None, samples: int = 1) -> Tensor:
    """Equation (10), estimator B: -KL(q(z|x) || p(z)) + 1/L sum_l log p(x|z_l).  x [M, D] -> [M].

    The penalty is exact (appendix B); only the expected log-likelihood is sampled, with L =
    `samples` reparameterised draws.  In nats, one value a data point.
    """
    q = vae.encoder(x)
    z = q.rsample(generator, (samples,) if samples > 1 else ())
    log_likelihood = vae.decoder.log_likelihood(x, z)
    if samples > 1:
        log_likelihood = log_likelihood.mean(dim=0)
    return log_likelihood - gaussian_kl(q.mu, q.log_var)


def elbo_a(vae: VAE, x: Tensor, *, generator: Generator | None, samples: int = 1) -> Tensor:
    """Equation (6), estimator A: 1/L sum_l [log p(x, z_l) - log q(z_l|x)].  x [M, D] -> [M], nats.

    Needs no closed form of the KL, and is usually the noisier of the two for it.
    """
    q = vae.encoder(x)
    z = q.rsample(generator, (samples,))
    return (vae.log_joint(x, z) - q.log_prob(z)).mean(dim=0)


def score_function_surrogate(vae: VAE, x: Tensor, *, generator: Generator | None) -> Tensor:
    """A value [M] whose gradient in the encoder is the naive estimator of section 2.2.

    grad_phi E_q[f(z)] = E_q[ f(z) grad_phi log q(z|x) ] with f = log p(x, z) - log q(z|x): the draw
    is held fixed and f enters as a number.  (The term E_q[grad_phi log q] is zero and left out.)
    """
    q = vae.encoder(x)
    z = q.rsample(generator).detach()
    log_q = q.log_prob(z)
    f = (vae.log_joint(x, z) - log_q).detach()
    return f * log_q


def coding_cost(vae: VAE, x: Tensor, *, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """The two parts of the bound as a code (section 2.1): rate KL(q||p) and distortion
    -log p(x|z), both [M], nats; their sum is minus the estimator of `elbo`."""
    q = vae.encoder(x)
    return gaussian_kl(q.mu, q.log_var), -vae.decoder.log_likelihood(x, q.rsample(generator))


@dataclass(frozen=True)
class WakeSleep:
    """What one step of wake-sleep maximises, both [M], nats."""

    wake: Tensor
    sleep: Tensor


def wake_sleep(vae: VAE, x: Tensor, *, generator: Generator | None) -> WakeSleep:
    """Hinton et al. 1995, the paper's rival on-line method, with the same recognition model.

    Wake: z ~ q(z|x) held fixed, log p(x|z) teaches the decoder.  Sleep: a dream z ~ p(z),
    x ~ p(x|z) held fixed, log q(z|x) teaches the encoder.  The two never optimise one objective.
    """
    with torch.no_grad():
        z = vae.encoder(x).rsample(generator)
        dream_z = vae.prior_sample(len(x), generator)
        dream_x = vae.decoder.sample(dream_z, generator)
    return WakeSleep(
        wake=vae.decoder.log_likelihood(x, z), sleep=vae.encoder(dream_x).log_prob(dream_z)
    )


def importance_weighted_bound(
    vae: VAE, x: Tensor, *, k: int, generator: Generator | None, chunk: int = 50
) -> Tensor:
    """log 1/k sum_l p(x, z_l) / q(z_l|x), z_l ~ q(z|x): Burda et al. 2016, equation (8).

    x [M, D] -> [M], nats, without gradient; a lower bound on log p(x) in expectation that grows
    with k.  Only `chunk` draws are held at a time.
    """
    with torch.no_grad():
        q = vae.encoder(x)
        total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
        for start in range(0, k, chunk):
            z = q.rsample(generator, (min(chunk, k - start),))
            log_w = (vae.log_joint(x, z) - q.log_prob(z)).double()
            total = torch.logaddexp(total, log_w.logsumexp(dim=0))
        return total - math.log(k)


@torch.no_grad()
def mean_bound(
    vae: VAE, images: Tensor, *, generator: Generator | None, chunk: int = 2000
) -> float:
    """The mean over `images` [N, D] of estimator B with one draw each, in nats per image."""
    total = 0.0
    for x in images.split(chunk):
        total += elbo(vae, x, generator=generator).double().sum().item()
    return total / len(images)


@dataclass(frozen=True)
class LinearGaussian:
    """The one model of this kind where everything is known (factor analysis, equal noise).

    p(z) = N(0, I_J), p(x|z) = N(W z + b, s^2 I_D): W [D, J], b [D], s > 0.  Used to check the
    bound, its gap and the estimators of the marginal likelihood against closed forms.
    """

    W: Tensor
    b: Tensor
    s: float

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z): x [M, D], z [..., M, J] -> [..., M], nats."""
        log_var = torch.full_like(self.b, 2.0 * math.log(self.s))
        return log_normal(x, z @ self.W.T + self.b, log_var) + log_standard_normal(z)

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x) = log N(x; b, W W' + s^2 I): [M, D] -> [M], nats."""
        cov = self.W @ self.W.T + self.s**2 * torch.eye(len(self.b), dtype=self.W.dtype)
        return torch.distributions.MultivariateNormal(self.b, cov).log_prob(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [M, J] and covariance [J, J] of p(z|x): (I + W'W / s^2)^-1 for every x."""
        eye = torch.eye(self.W.shape[1], dtype=self.W.dtype)
        cov = torch.linalg.inv(eye + self.W.T @ self.W / self.s**2)
        return (x - self.b) @ self.W @ cov / self.s**2, cov

    def expected_log_likelihood(self, x: Tensor, q: Gaussian) -> Tensor:
        """E_q log p(x|z) in closed form for a diagonal Gaussian q(z|x): [M], nats."""
        square = (x - self.b - q.mu @ self.W.T).square().sum(dim=-1)
        trace = (q.log_var.exp() * self.W.square().sum(dim=0)).sum(dim=-1)
        d = len(self.b)
        return -0.5 * (d * (LOG_2PI + 2 * math.log(self.s)) + (square + trace) / self.s**2)
