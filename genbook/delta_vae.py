"""Preventing Posterior Collapse with delta-VAEs: Razavi, van den Oord, Poole & Vinyals 2019,
arXiv 1901.03416.

Indices: t counts positions in time, here the rows of an image (n of them), k the latent dimensions
of a position (K of them).  mu, log_var and z are [M, n, K], alpha is [K].  Rates, divergences and
likelihoods are in nats, one value a data point, summed over t and k; nothing here averages over the
batch, but for the free bits, which are defined by its mean.

A pair of prior and posterior families is a class with four methods (`StandardNormal`,
`SlowFeatures`, `FarMeans`).  The networks are in `genbook.rows` and `genbook.pixels`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from genbook.aevb import gaussian_kl, log_normal, log_standard_normal


def draw(mu: Tensor, log_var: Tensor, random: Generator | None) -> Tensor:
    """One z ~ N(mu, exp log_var), in the shape of mu."""
    eps = torch.randn(mu.shape, generator=random, device=mu.device, dtype=mu.dtype)
    return mu + (0.5 * log_var).exp() * eps


def log_q(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log q(z|x) of the factored Gaussian posterior, [M, n, K] -> [M], nats."""
    return log_normal(z, mu, log_var).sum(dim=-1)


def ar1_log_prob(z: Tensor, alpha: Tensor) -> Tensor:
    """log p(z) of the slow prior: z [M, n, K] -> [M], nats.

    z_1 ~ N(0, 1), z_t = alpha z_{t-1} + e_t with e_t ~ N(0, 1 - alpha^2), a variance: every z_t has
    variance 1.
    """
    assert z.shape[-1:] == alpha.shape, (z.shape, alpha.shape)
    first = log_standard_normal(z[:, 0])
    log_var = (1.0 - alpha.square()).log().expand_as(z[:, 1:])
    return first + log_normal(z[:, 1:], alpha * z[:, :-1], log_var).sum(dim=-1)


def ar1_sample(alpha: Tensor, *, examples: int, n: int, random: Generator | None = None) -> Tensor:
    """z from the slow prior, [examples, n, K], on the device of alpha."""
    shape = (examples, n, len(alpha))
    eps = torch.randn(shape, generator=random, device=alpha.device, dtype=alpha.dtype)
    z = [eps[:, 0]]
    for t in range(1, n):
        z.append(alpha * z[-1] + (1.0 - alpha.square()).sqrt() * eps[:, t])
    return torch.stack(z, dim=1)


def ar1_kl(mu: Tensor, log_var: Tensor, alpha: Tensor) -> Tensor:
    """KL(q(z|x) || p(z)) of a factored Gaussian posterior and the slow prior, [M, n, K] -> [M].

    E_q (z_t - alpha z_{t-1})^2 = (mu_t - alpha mu_{t-1})^2 + var_t + alpha^2 var_{t-1}, because the
    factors of q are independent.
    """
    assert mu.shape == log_var.shape, (mu.shape, log_var.shape)
    assert mu.shape[-1:] == alpha.shape, (mu.shape, alpha.shape)
    var, noise = log_var.exp(), 1.0 - alpha.square()
    square = (mu[:, 1:] - alpha * mu[:, :-1]).square() + var[:, 1:] + alpha.square() * var[:, :-1]
    rest = 0.5 * (square / noise - 1.0 + noise.log() - log_var[:, 1:])
    return gaussian_kl(mu[:, 0], log_var[:, 0]) + rest.sum(dim=(-2, -1))


def committed_rate(alpha: Tensor, n: int) -> Tensor:
    """delta: the smallest KL(q || p) of any factored Gaussian q from the slow prior.

        1/2 sum_k [ (n - 2) ln(1 + alpha_k^2) - ln(1 - alpha_k^2) ]

    in nats (the brackets are missing in the paper).  alpha [K] -> number.  Raises ValueError for
    n < 2, where the smallest KL is 0 whatever the formula says, and unless all |alpha| < 1.
    """
    if n < 2:
        raise ValueError(f"n = {n}: a slow prior needs two positions in time")
    require_stationary(alpha)
    square = alpha.square()
    return 0.5 * ((n - 2) * torch.log1p(square) - torch.log1p(-square)).sum()


def require_stationary(alpha: Tensor) -> None:
    """ValueError unless all |alpha| < 1."""
    if not (alpha.abs() < 1.0).all():
        raise ValueError("the slow prior needs |alpha| < 1")


def closest_variances(alpha: Tensor, n: int) -> Tensor:
    """The variances [n, K] at which the rate is `committed_rate`, with means 0: 1 - alpha^2 at both
    ends and (1 - alpha^2) / (1 + alpha^2) between them, 1 over the diagonal of the precision."""
    if n < 2:
        raise ValueError(f"n = {n}: a slow prior needs two positions in time")
    noise, square = 1.0 - alpha.square(), alpha.square()
    middle = (noise / (1.0 + square)).expand(n - 2, -1)
    return torch.cat([noise[None], middle, noise[None]])


def smallest_square(log_var: Tensor, rate: float) -> Tensor:
    """The smallest mu^2 with KL(N(mu, var) || N(0, 1)) >= rate, elementwise: the appendix.

    mu^2 >= 2 rate + 1 + ln var - var, and 0 where the right side is negative.
    """
    return (2.0 * rate + 1.0 + log_var - log_var.exp()).clamp(min=0.0)


class Families(Protocol):
    """A prior, and a family of posteriors that may keep away from it."""

    def posterior(self, mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), [M, n, K] each, from what the encoder says."""

    def rate(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """KL(q || p) [M], nats, of what `posterior` gave."""

    def log_prior(self, z: Tensor) -> Tensor:
        """log p(z), [M, n, K] -> [M]."""

    def committed(self, *, n: int, latents: int) -> float:
        """The smallest rate that any posterior of the family has, nats a data point."""


@dataclass(frozen=True)
class StandardNormal:
    """The VAE's: p = N(0, I), any factored Gaussian q."""

    def posterior(self, mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        return mu, log_var

    def rate(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return gaussian_kl(mu, log_var).sum(dim=-1)

    def log_prior(self, z: Tensor) -> Tensor:
        return log_standard_normal(z).sum(dim=-1)

    def committed(self, *, n: int, latents: int) -> float:
        return 0.0


@dataclass(frozen=True, eq=False)
class SlowFeatures:
    """The temporal delta-VAE's: p = AR(1) with alpha [K], any factored Gaussian q.

    The encoder's log_var counts from that of the closest posterior, so that an encoder that says 0
    starts at the committed rate and not, as with variances of 1, at many times that (ours).  alpha
    stays where it was made; its values are moved to the latents when they are needed.  Raises
    ValueError unless all |alpha| < 1.
    """

    alpha: Tensor

    def __post_init__(self) -> None:
        require_stationary(self.alpha)

    def posterior(self, mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        return mu, log_var + closest_variances(self.alpha.to(mu), mu.shape[1]).log()

    def rate(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return ar1_kl(mu, log_var, self.alpha.to(mu))

    def log_prior(self, z: Tensor) -> Tensor:
        return ar1_log_prob(z, self.alpha.to(z))

    def committed(self, *, n: int, latents: int) -> float:
        if latents != len(self.alpha):
            raise ValueError(f"{latents} latents, but {len(self.alpha)} values of alpha")
        return committed_rate(self.alpha, n).item()


@dataclass(frozen=True)
class FarMeans:
    """The independent delta-VAE's (appendix): p = N(0, I), and q with means far enough from 0 that
    every single latent has a rate of at least `each` nats.

    The mean is the smallest one that is allowed for its variance, and a softplus of what the
    encoder says: mu = sqrt(smallest_square + 1e-12) + softplus(m - 2).  (The region is the paper's,
    this way to write it is ours.)  Where the smallest mean comes near 0 it is steep in log var.
    """

    each: float

    def __post_init__(self) -> None:
        if self.each < 0.0:
            raise ValueError(f"a rate of {self.each} nats is below 0")

    def posterior(self, mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        floor = (smallest_square(log_var, self.each) + 1e-12).sqrt()
        return floor + functional.softplus(mu - 2.0), log_var

    def rate(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return gaussian_kl(mu, log_var).sum(dim=-1)

    def log_prior(self, z: Tensor) -> Tensor:
        return log_standard_normal(z).sum(dim=-1)

    def committed(self, *, n: int, latents: int) -> float:
        return self.each * n * latents


@dataclass(frozen=True)
class Bound:
    """The evidence lower bound and its parts, [M] each: bound = -(distortion + rate), nats."""

    distortion: Tensor
    rate: Tensor

    def value(self) -> Tensor:
        return -(self.distortion + self.rate)


class Decoder(Protocol):
    """What a decoder can do; it is an nn.Module as well."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) [M], nats, summed over all values."""


class DeltaVAE(nn.Module):
    """Encoder, autoregressive decoder, and a pair of families.

    The encoder maps x [M, ...] to mu and log_var [M, n, K] and knows its number of `latents`, K;
    the decoder has log_likelihood(x, z) -> [M].
    """

    def __init__(self, encoder: nn.Module, decoder: Decoder, families: Families):
        super().__init__()
        self.encoder, self.decoder, self.families = encoder, decoder, families

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x)."""
        mu, log_var = self.encoder(x)
        return self.families.posterior(mu, log_var)

    def bound(self, x: Tensor, random: Generator | None) -> Bound:
        """One draw of the bound of each data point; the rate is exact."""
        mu, log_var = self.posterior(x)
        z = draw(mu, log_var, random)
        return Bound(-self.decoder.log_likelihood(x, z), self.families.rate(mu, log_var))


def beta_loss(bound: Bound, beta: float) -> Tensor:
    """distortion + beta rate, [M]: beta-VAE (Higgins et al. 2017); with a beta that grows from 0 to
    1 it is the annealing of Bowman et al. 2016."""
    return bound.distortion + beta * bound.rate


def free_bits_loss(bound: Bound, nats: float) -> Tensor:
    """distortion + max(mean rate of the batch, nats), [M]: free bits (Kingma et al. 2016), with one
    group of all latents.  Below `nats` the rate has no gradient."""
    return bound.distortion + bound.rate.mean().clamp(min=nats)


class AuxiliaryPrior(nn.Module):
    """p_aux(z) = prod_t N(z_t; LSTM(z_<t)): one LSTM layer with Gaussian outputs, fitted to samples
    of q(z|x) with the model frozen."""

    def __init__(self, *, latents: int, hidden: int):
        super().__init__()
        self.lstm = nn.LSTM(latents, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 2 * latents)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p_aux(z), [M, n, K] -> [M], nats."""
        before = torch.cat([torch.zeros_like(z[:, :1]), z[:, :-1]], dim=1)
        mu, log_var = self.out(self.lstm(before)[0]).chunk(2, dim=-1)
        return log_normal(z, mu, log_var).sum(dim=-1)

    @torch.no_grad()
    def sample(self, *, examples: int, n: int, random: Generator | None = None) -> Tensor:
        """[examples, n, K], on the CPU or wherever the weights are."""
        where = self.out.weight
        z = where.new_zeros(examples, 1, self.lstm.input_size)
        state, drawn = None, []
        for _ in range(n):
            h, state = self.lstm(z, state)
            mu, log_var = self.out(h).chunk(2, dim=-1)
            z = draw(mu, log_var, random)
            drawn.append(z)
        return torch.cat(drawn, dim=1)


def bits_per_dim(nats: float, dimensions: int) -> float:
    """nats a data point -> bits a dimension: nats / (dimensions ln 2)."""
    return nats / (dimensions * math.log(2.0))
