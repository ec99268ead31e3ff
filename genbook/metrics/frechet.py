"""The Fréchet distance of two sets of samples, and the features to take it in.  In float64."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians fitted to two feature sets.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2), Dowson & Landau 1982, with unbiased
    covariances.  a [n, d], b [m, d]; in squared units of the features.  Raises ValueError when a
    set has no more points than dimensions: its covariance would be singular.
    Square roots are by eigenvalues in float64.
    """
    for name, x in (("first", a), ("second", b)):
        if len(x) <= x.shape[1]:
            raise ValueError(f"the {name} set has {len(x)} points in {x.shape[1]} dimensions")
    a, b = a.double(), b.double()
    mean_gap = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    cov_a, cov_b = (torch.cov(x.T).reshape(x.shape[1], -1) for x in (a, b))
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0.0).sqrt().sum()
    return float(mean_gap + cov_a.trace() + cov_b.trace() - 2.0 * cross)


def principal_components(x: Tensor, *, components: int) -> tuple[Tensor, Tensor]:
    """Mean [d] and the leading principal directions [d, components] of x [n, d], in float64."""
    x = x.double()
    mean = x.mean(dim=0)
    _, vectors = torch.linalg.eigh(torch.cov(x.T))
    return mean, vectors[:, -components:].flip(dims=(1,))
