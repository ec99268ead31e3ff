"""DDPM step by step in plain numpy and scipy: what several modules of tests compare with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

if TYPE_CHECKING:  # it imports torch, which tests of pages do without
    from genbook.diffusion import GaussianDiffusion

Array = NDArray[np.float64]


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


@pytest.fixture(scope="session")
def slow_tables() -> type[Slow]:
    """slow_tables(process): the tables that it should have."""
    return Slow


def level_mass(x: Array | float, mean: Array | float, sd: Array | float) -> Array:
    """The part of N(mean, sd^2) that level x owns, by the tail in which nothing cancels."""
    low = np.where(np.asarray(x) < -0.999, -np.inf, (x - 1 / 255 - mean) / sd)
    high = np.where(np.asarray(x) > 0.999, np.inf, (x + 1 / 255 - mean) / sd)
    left, right = norm.cdf(high) - norm.cdf(low), norm.sf(low) - norm.sf(high)
    return np.where(low > 0, right, left)


@pytest.fixture(scope="session")
def mass() -> Callable[[Array | float, Array | float, Array | float], Array]:
    """mass(x, mean, sd): the part of N(mean, sd^2) that level x owns."""
    return level_mass
