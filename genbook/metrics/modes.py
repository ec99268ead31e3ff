"""How many modes of known data a model's samples reach, and how evenly: the protocols of VEEGAN
(Srivastava et al. 2017, arXiv 1705.07761) and PacGAN (Lin et al. 2018, arXiv 1712.04086)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Modes:
    """`captured`: modes with at least one sample of high quality; `high_quality`: the share of such
    samples; `reverse_kl`: KL(q || uniform) of their histogram q over all modes, nats."""

    captured: int
    high_quality: float
    reverse_kl: float


def reverse_kl(counts: Tensor) -> float:
    """sum_k q_k log(K q_k) for counts [K], nats: 0 when all are equal, log K when one has all.

    Of samples drawn evenly its mean is about (K - 1) / (2 n), not 0.  nan without any sample.
    """
    q = counts.double() / counts.sum()
    return float(torch.special.xlogy(q, q * len(q)).sum())


def count(samples: Tensor, means: Tensor, std: float, *, within: float = 3.0) -> Modes:
    """Samples [N, D] against the means [K, D] of modes N(mean, std^2 I).

    A sample is of high quality if it is nearer than `within` standard deviations to the nearest
    mean (VEEGAN: 3 in the plane), in Euclidean distance; in the plane 1 - exp(-9 / 2) = 98.89 % of
    true samples are.  PacGAN's code has the same rule.  Without samples the share is nan.
    """
    distance, nearest = torch.cdist(samples.double(), means.double()).min(dim=1)
    good = distance < within * std
    counts = torch.bincount(nearest[good], minlength=len(means))
    return Modes(int((counts > 0).sum()), float(good.double().mean()), reverse_kl(counts))


def count_classes(labels: Tensor, classes: int) -> Modes:
    """Labels [N] of samples by a classifier: every sample counts, whatever it looks like."""
    counts = torch.bincount(labels, minlength=classes)
    return Modes(int((counts > 0).sum()), 1.0, reverse_kl(counts))


def expected_kl(classes: int, n: int) -> float:
    """The mean of `reverse_kl` over n samples drawn evenly from `classes` modes, nats.

    log K - log n + K E[c log c] / n, where c, the count of one mode, is binomial(n, 1 / K).
    """
    if classes == 1:
        return 0.0
    c = torch.arange(1, n + 1, dtype=torch.float64)
    p = torch.tensor(1.0 / classes, dtype=torch.float64)
    log_binomial = math.lgamma(n + 1) - torch.lgamma(c + 1) - torch.lgamma(n - c + 1)
    log_probability = log_binomial + c * p.log() + (n - c) * torch.log1p(-p)
    mean_entropy = (log_probability.exp() * c * c.log()).sum()
    return float(math.log(classes) - math.log(n) + classes * mean_entropy / n)
