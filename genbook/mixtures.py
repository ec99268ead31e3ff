"""Mixtures of normal densities with one standard deviation: data of which everything is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class GaussianMixture:
    """p(x_0) = sum_k weights_k N(means_k, std^2 I); means [K, D], weights [K] add up to 1.

    Diffused as in Ho et al. 2020, equation (4), x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps is the
    mixture of N(sqrt(abar) means_k, (abar std^2 + 1 - abar) I): abar = 1 is the data itself.
    abar is [M, 1], in nats, one value a point.
    """

    means: Tensor
    weights: Tensor
    std: float

    def sample(self, n: int, random: Generator | None) -> Tensor:
        """x_0 [n, D]."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=random)
        noise = torch.randn(n, self.means.shape[1], generator=random, dtype=self.means.dtype)
        return self.means[k] + self.std * noise

    def _parts(self, x: Tensor, abar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gaps x - sqrt(abar) means [M, K, D], the variance, and log of weight times density."""
        gaps = x[:, None] - abar.sqrt()[..., None] * self.means
        var = abar * self.std**2 + 1.0 - abar
        dim = self.means.shape[1]
        log_density = -0.5 * (gaps.square().sum(dim=-1) / var + dim * (2 * math.pi * var).log())
        return gaps, var, self.weights.log() + log_density

    def log_prob(self, x: Tensor, abar: Tensor) -> Tensor:
        """log q(x_t) [M], nats; abar [M, 1] is alpha_bar_t (1 for the data)."""
        return self._parts(x, abar)[2].logsumexp(dim=1)

    def score(self, x: Tensor, abar: Tensor) -> Tensor:
        """The gradient of log q(x_t), [M, D]."""
        gaps, var, log_joint = self._parts(x, abar)
        return -(log_joint.softmax(dim=1)[..., None] * gaps).sum(dim=1) / var

    def eps(self, x: Tensor, abar: Tensor) -> Tensor:
        """E[eps|x_t] [M, D], the network that minimises equation (14): -sqrt(1 - abar) score."""
        return -(1.0 - abar).sqrt() * self.score(x, abar)
