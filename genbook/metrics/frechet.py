"""The Fréchet distance of two sets of samples, and the features to take it in.  In float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, blas, eigh, eigvalsh
from torch import Tensor

NUMBERS = 2**18  # of a block of points: 2 MiB


@dataclass(frozen=True)
class Moments:
    """Mean [d] of a set and the lower triangle of its unbiased covariance [d, d], in float64."""

    mean: NDArray[np.float64]
    cov: NDArray[np.float64]


def moments(x: Tensor) -> Moments:
    """Mean and covariance of x [n, d].  Beside the result it needs room for a few blocks of 2 MiB,
    however many points there are: the set is read twice, and never copied as a whole."""
    n, d = x.shape
    blocks = x.split(max(1, NUMBERS // d))
    mean = sum(block.sum(dim=0, dtype=torch.float64) for block in blocks).cpu() / n
    cov = np.zeros((d, d), order="F")
    for block in blocks:
        centred = (block.cpu().double() - mean).numpy()
        cov = blas.dsyrk(1.0 / (n - 1), centred.T, 1.0, cov, lower=True, overwrite_c=True)
    return Moments(mean.numpy(), cov)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet (2-Wasserstein) distance of the Gaussians fitted to two feature sets.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2), Dowson & Landau 1982, with unbiased
    covariances.  a [n, d], b [m, d]; in squared units of the features.  Raises ValueError when a
    set has no more points than dimensions: its covariance would be singular.

    The last trace is the sum of the square roots of the eigenvalues of C_a C_b, a symmetric problem
    once C_b = L L' (LAPACK's sygvd, type 2), solved in place: memory for two covariances.
    """
    for name, x in (("first", a), ("second", b)):
        if len(x) <= x.shape[1]:
            raise ValueError(f"the {name} set has {len(x)} points in {x.shape[1]} dimensions")
    of_a, of_b = moments(a), moments(b)
    apart = np.square(of_a.mean - of_b.mean).sum() + of_a.cov.trace() + of_b.cov.trace()
    try:
        values = eigvalsh(of_a.cov, of_b.cov, type=2, overwrite_a=True, overwrite_b=True)
    except LinAlgError:  # a covariance of lower rank has no L
        values = _with_root(moments(a).cov, moments(b).cov)
    return float(apart - 2.0 * np.sqrt(values.clip(min=0.0)).sum())


def _with_root(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The eigenvalues of a^1/2 b a^1/2, from the lower triangles of a and b."""
    values, vectors = eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    return eigvalsh(root @ (np.tril(b) + np.tril(b, -1).T) @ root)


def principal_components(x: Tensor, *, components: int) -> tuple[Tensor, Tensor]:
    """Mean [d] and the leading principal directions [d, components] of x [n, d], in float64."""
    of_x = moments(x)
    _, vectors = eigh(of_x.cov)
    directions = vectors[:, ::-1][:, :components].copy()
    return torch.from_numpy(of_x.mean).to(x.device), torch.from_numpy(directions).to(x.device)
