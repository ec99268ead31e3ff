"""Small networks, several of them side by side: S nets of one shape train at once, each on rows of
its own, so that what is said of one run can be said of several in little more time.

x is [S, M, I]: row s goes through net s only, and a loss summed over S gives each net the gradient
that it would have alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn


class Linear(nn.Module):
    """y_s = x_s W_s + b_s: [S, M, I] -> [S, M, O]."""

    def __init__(self, nets: int, inputs: int, outputs: int, *, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(nets, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(nets, 1, outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.shape[2] == 1:  # a product with one column costs less as a sum
            y = (x * self.weight.mT).sum(dim=2, keepdim=True)
            return y if self.bias is None else y + self.bias
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias, x, self.weight)


class Maxout(nn.Module):
    """The largest of several linear maps, unit by unit: [S, M, I] -> [S, M, U]."""

    def __init__(self, nets: int, inputs: int, units: int, pieces: int):
        super().__init__()
        self.shape = (pieces, units)
        self.linear = Linear(nets, inputs, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(-1, self.shape).amax(dim=-2)


class BatchNorm(nn.Module):
    """Batch normalisation of each net's own batch: [S, M, I] -> [S, M, I].

    In training mode by the mean and variance of the batch; the running ones, which evaluation mode
    uses, move by `momentum` of the difference (torch's variance there is the unbiased one, not so
    this).
    """

    mean: Tensor
    var: Tensor

    def __init__(self, nets: int, units: int, *, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(nets, 1, units))
        self.bias = nn.Parameter(torch.zeros(nets, 1, units))
        self.register_buffer("mean", torch.zeros(nets, 1, units))
        self.register_buffer("var", torch.ones(nets, 1, units))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.mean, self.var
        if self.training:
            var, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.var.lerp_(var, self.momentum)
        return (x - mean) * (self.weight * (var + self.eps).rsqrt()) + self.bias


def sines(x: Tensor, octaves: int) -> Tensor:
    """x and the sines and cosines of x, 2 x, 4 x, ...: [..., D] -> [..., D + 2 D octaves].

    A network of few layers finds narrow modes only with them: by itself it learns smooth functions
    long before sharp ones (Tancik et al. 2020, arXiv 2006.10739).
    """
    turns = (x[..., None] * 2.0 ** torch.arange(octaves, device=x.device)).flatten(-2)
    return torch.cat([x, turns.sin(), turns.cos()], dim=-1)


def mlp(
    nets: int, inputs: int, hidden: Sequence[int], outputs: int, act: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Linear layers with `act` between them; weights are 0 until `init`."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise([inputs, *hidden]):
        layers += [Linear(nets, a, b), act()]
    return nn.Sequential(*layers, Linear(nets, hidden[-1] if hidden else inputs, outputs))


def init(net: nn.Module, randoms: Sequence[Generator], *, std: float | None = None) -> None:
    """Weights of net s from generator s alone, whatever its neighbours are.

    With `std` every weight is N(0, std^2) and every bias 0; without, both are uniform in
    ±1 / sqrt(inputs), as torch's own layers.  Before a parametrisation, which hides the weights.
    ValueError unless there is a generator for each net.
    """
    for layer in net.modules():
        if not isinstance(layer, Linear):
            continue
        if len(randoms) != len(layer.weight):
            raise ValueError(f"{len(layer.weight)} nets need as many generators: {len(randoms)}")
        bound = 1.0 / math.sqrt(layer.weight.shape[1])
        with torch.no_grad():
            for s, random in enumerate(randoms):
                for p in (layer.weight, layer.bias):
                    if p is None:
                        continue
                    if std is None:
                        p[s] = bound * (2.0 * torch.rand(p[s].shape, generator=random) - 1.0)
                    elif p is layer.weight:
                        p[s] = std * torch.randn(p[s].shape, generator=random)
                    else:
                        p[s] = 0.0
