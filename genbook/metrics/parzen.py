"""The Parzen-window log-likelihood of a set of samples, as the first GAN papers measured it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# numpy.logspace(-1, 0, 10) in the official code of Goodfellow et al. 2014 (parzen_ll.py).
SIGMAS = tuple(10.0 ** (-1.0 + k / 9.0) for k in range(10))
VALIDATION_IMAGES = 1_000  # of the same code: sigma is chosen on the first 1000


def log_likelihood(
    x: Tensor, samples: Tensor, *, sigma: float | tuple[float, ...], block: int = 500
) -> Tensor:
    """log p(x) under a mixture of N(mu_i, sigma^2 I), one an equal share for each sample, in nats.

    Breuleux et al. 2011; parzen_ll.py:  log 1/n sum_i exp(-|x - mu_i|^2 / (2 sigma^2))
    - D log(sigma sqrt(2 pi)).  x [N, D], samples [n, D] -> [N], or [S, N] for several sigmas; in
    float64, `block` rows of x at a time.  Squared distances come from one matrix product
    |x|^2 + |mu|^2 - 2 x mu', whose rounding (1e-12 for images in [0, 1]) is far below a nat.
    """
    if x.ndim != 2 or samples.ndim != 2 or x.shape[1] != samples.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} and samples {tuple(samples.shape)} do not fit")
    scales = torch.tensor(sigma, dtype=torch.float64, device=x.device).reshape(-1)
    if not (scales > 0).all():
        raise ValueError(f"sigma has to be positive, not {sigma}")
    mu = samples.double().T.contiguous()
    half = 0.5 * mu.square().sum(dim=0)
    parts = []
    for rows in x.double().split(block):
        # |x - mu|^2 / 2, [rows, n]
        distance = torch.addmm(half, rows, mu, alpha=-1.0)
        distance += 0.5 * rows.square().sum(dim=1, keepdim=True)
        parts.append(torch.stack([(distance / -s.square()).logsumexp(dim=1) for s in scales]))
    found = torch.cat(parts, dim=1) - math.log(len(samples))
    found -= x.shape[1] * (scales * math.sqrt(2.0 * math.pi)).log()[:, None]
    return found if isinstance(sigma, tuple) else found[0]


def choose_sigma(validation: Tensor, samples: Tensor, sigmas: tuple[float, ...] = SIGMAS) -> float:
    """The sigma of the grid with the highest mean log-likelihood of `validation` [N, D]."""
    means = log_likelihood(validation, samples, sigma=sigmas).mean(dim=1)
    return sigmas[int(means.argmax())]


@dataclass(frozen=True)
class Score:
    """Mean log-likelihood of the test set in nats an image, its standard error, and sigma."""

    mean: float
    error: float
    sigma: float


def score(test: Tensor, validation: Tensor, samples: Tensor) -> Score:
    """The whole protocol of parzen_ll.py: sigma on the first 1000 validation images, then the mean
    over `test` [N, D].  The error is over test images, std / sqrt(N), not over trained models.
    """
    sigma = choose_sigma(validation[:VALIDATION_IMAGES], samples)
    found = log_likelihood(test, samples, sigma=sigma)
    error = found.std(correction=0) / math.sqrt(len(found))
    return Score(found.mean().item(), error.item(), sigma)
