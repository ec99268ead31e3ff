"""Samples held against each other: the contrastive bound on mutual information (InfoNCE: van den
Oord, Li & Vinyals 2018, arXiv 1807.03748), and estimates of the entropy of samples, of which
contrastive and diversity terms turn out to be special settings.

Everything is in nats and differentiable in the samples, so that a generator can be trained on it.
S sets of samples may stand side by side: x is [..., N, D], an estimate [...].
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["normal", "laplace"]


def infonce(scores: Tensor) -> Tensor:
    """log N - L_N from scores [..., N, N] of every x (row) with every y (column); pairs that belong
    together are on the diagonal.

    L_N is the cross-entropy of picking the right y among N, the right one counted.  A lower bound
    on I(x; y) in expectation, for any scores, and never above log N.
    """
    n = scores.shape[-1]
    right = scores.log_softmax(dim=-1).diagonal(dim1=-2, dim2=-1)
    return math.log(n) + right.mean(dim=-1)


def normal_information(rho: float, dim: int) -> float:
    """I(x; y) = -D/2 log(1 - rho^2), nats: D pairs of standard normals with correlation rho."""
    return -0.5 * dim * math.log1p(-(rho**2))


def normal_scores(x: Tensor, y: Tensor, rho: float) -> Tensor:
    """The best scores for these: log p(y_j|x_i) - log p(y_j), [N, D] twice -> [N, N]."""
    var = 1.0 - rho**2
    squares = (y[None] - rho * x[:, None]).square().sum(dim=-1)
    return 0.5 * (y.square().sum(dim=-1)[None] - squares / var) - 0.5 * y.shape[-1] * math.log(var)


def log_kernel(a: Tensor, b: Tensor, width: float, kernel: Kernel) -> Tensor:
    """log k(a_i - b_j) of a density: [..., N, D], [..., K, D] -> [..., N, K].

    "normal": N(0, width^2 I).  "laplace": each coordinate Laplace with scale `width`, so that
    -log k is the L1 distance over the width, and a constant.
    """
    gaps, dim = a[..., :, None, :] - b[..., None, :, :], a.shape[-1]
    if kernel == "normal":
        squares = (gaps / width).square().sum(dim=-1)
        return -0.5 * squares - dim * math.log(width * math.sqrt(2.0 * math.pi))
    return -(gaps / width).abs().sum(dim=-1) - dim * math.log(2.0 * width)


def kernel_entropy(x: Tensor, *, others: int, width: float, kernel: Kernel = "normal") -> Tensor:
    """-mean_i log(mean over K others j of k(x_i - x_j)), nats: [..., N, D] -> [...].

    The others of i are the next K of the N samples, round the end: K = others < N; ValueError
    otherwise.  Of the same samples the expectation falls with K (Jensen), from a mean distance of
    two samples at K = 1 (squared for "normal") to the cross-entropy of p and p smoothed by k, which
    is above the entropy.

    K = 1, "laplace": a diversity term, mean L1 distance over the width.  K = N - 1, "normal": less
    a constant, minus the spread of a contrastive loss without the pair itself, of temperature
    width^2.
    """
    n = x.shape[-2]
    if not 0 < others < n:
        raise ValueError(f"{n} samples have at most {n - 1} others: {others}")
    steps = (torch.arange(n, device=x.device) - torch.arange(n, device=x.device)[:, None]) % n
    other = (steps > 0) & (steps <= others)  # [N, N]: the next K, round the end
    total = log_kernel(x, x, width, kernel).masked_fill(~other, -math.inf).logsumexp(dim=-1)
    return math.log(others) - total.mean(dim=-1)


def normal_kernel_entropy(std: float, dim: int, *, width: float) -> tuple[float, float]:
    """Expectations of `kernel_entropy` with a normal kernel for x ~ N(0, std^2 I_D): with K = 1,
    and in the limit of many others."""
    one = dim * (0.5 * math.log(2.0 * math.pi * width**2) + std**2 / width**2)
    wide = std**2 + width**2
    many = 0.5 * dim * (math.log(2.0 * math.pi * wide) + std**2 / wide)
    return one, many


def nearest_entropy(x: Tensor, *, neighbour: int = 1) -> Tensor:
    """Kozachenko & Leonenko's estimate from the distance to the k-th neighbour, nats:
    psi(N) - psi(k) + log V_D + D mean log r_k, [..., N, D] -> [...]; consistent, without a width.
    k < N.  Distances count as 1e-6 at least.
    """
    n, dim = x.shape[-2:]
    squares = (x[..., :, None, :] - x[..., None, :, :]).square().sum(dim=-1)
    itself = torch.eye(n, dtype=torch.bool, device=x.device)
    near = squares.masked_fill(itself, math.inf).kthvalue(neighbour, dim=-1).values
    volume = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1.0)
    psi = torch.special.digamma(x.new_tensor([n, neighbour]))
    return psi[0] - psi[1] + volume + 0.5 * dim * near.clamp(min=1e-12).log().mean(dim=-1)


def normal_entropy(std: float, dim: int) -> float:
    """D/2 log(2 pi e std^2), nats."""
    return 0.5 * dim * math.log(2.0 * math.pi * math.e * std**2)


def soft_minimum(distances: Tensor) -> Tensor:
    """-log sum_j exp(-d_j) over the last dimension: what many negatives make of distances.

    At most the smallest of them, and near it when it is alone; the sum of the distances it is not.
    """
    return -torch.logsumexp(-distances, dim=-1)


def contrastive_loss(
    x: Tensor, positive: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """InfoNCE with -|x - y|^2 / (2 temperature) as scores, x and its positives [..., N, D], and its
    two halves: loss = alignment + spread, alignment the mean of |x - positive|^2 / (2 temperature),
    spread log N plus the mean of log mean exp(scores), which is least where points are far apart
    (uniformity: Wang & Isola 2020, arXiv 2005.10242; the pair itself is among the N)."""
    scores = -0.5 * (x[..., :, None, :] - positive[..., None, :, :]).square().sum(-1) / temperature
    alignment = -scores.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    spread = scores.logsumexp(dim=-1).mean(dim=-1)
    return alignment + spread, alignment, spread
