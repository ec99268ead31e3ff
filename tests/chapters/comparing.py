"""Seeded numbers, and their comparison, for the tests of the essay's parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def same(found: Any, want: Any, tolerance: float = 1e-10) -> None:
    """Float64 against float64 where nothing else is said."""
    torch.testing.assert_close(found, want, rtol=tolerance, atol=tolerance)
