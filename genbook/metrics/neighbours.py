"""How two sets of samples cover each other, by balls around nearest neighbours.  In float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Neighbours:
    """Four shares between two sets of features; density alone can exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbours(real: Tensor, made: Tensor, *, k: int = 5, block: int = 1_000) -> Neighbours:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Around every point lies the ball that reaches to its k-th nearest neighbour in its own set.
    Precision: the share of made points in a ball of a real one; recall: the share of real points in
    a ball of a made one; density: the number of balls of real points around a made point, over k;
    coverage: the share of balls of real points with a made point inside.  "Inside" is nearer than
    the radius, as in the official code of the latter paper, whose k = 5 is the default.

    real [N, d], made [n, d] features, Euclidean distances.  Raises ValueError when a set has no
    more than k points or the dimensions differ.
    """
    if real.shape[1:] != made.shape[1:] or real.ndim != 2:
        raise ValueError(f"real {tuple(real.shape)} and made {tuple(made.shape)} do not fit")
    if min(len(real), len(made)) <= k:
        raise ValueError(f"{len(real)} and {len(made)} points have no {k}-th neighbour each")
    real, made = real.double(), made.double()
    real_radius, made_radius = radius(real, k=k, block=block), radius(made, k=k, block=block)
    balls = torch.zeros(len(made), dtype=torch.float64, device=made.device)
    recalled, covered = [], []
    for rows, r in zip(real.split(block), real_radius.split(block), strict=True):
        distance = torch.cdist(rows, made)
        inside = distance < r[:, None]
        balls += inside.sum(dim=0)
        covered.append(inside.any(dim=1))
        recalled.append((distance < made_radius).any(dim=1))
    return Neighbours(
        precision=(balls > 0).double().mean().item(),
        recall=torch.cat(recalled).double().mean().item(),
        density=balls.mean().item() / k,
        coverage=torch.cat(covered).double().mean().item(),
    )


def radius(points: Tensor, *, k: int, block: int = 1_000) -> Tensor:
    """The distance of each of `points` [N, d] to its k-th nearest neighbour, itself not counted."""
    return torch.cat(
        [torch.cdist(rows, points).kthvalue(k + 1, dim=1).values for rows in points.split(block)]
    )
