"""SurVAE Flows: Nielsen, Jaini, Hoogeboom, Winther & Welling 2020, arXiv 2007.02731, for points in
a plane: maps that are not invertible and still have an exact likelihood.

A layer takes x [M, D] to z and the number [M], in nats, that it adds to log p(x): the logarithm of
a volume where the map is a bijection, of a probability where several x share one z.  All here are
deterministic from x to z; some draw an x on the way back ("inference surjections").  Then log p(x)
= log p(z) + the sum of these numbers is exact if the layers that follow take all of the range of z,
and nothing beyond it, to the base; it is a lower bound if the base reaches beyond.

"Official code" is didriknielsen/survae_flows at 271a31d (experiments/toy).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

Scale = Literal["exp", "softplus"]
Base = Literal["normal", "uniform"]


class Layer(nn.Module, ABC):
    """x -> (z, contribution [M] to log p(x)); `inverse` draws an x that belongs to z."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def inverse(self, z: Tensor, random: Generator | None) -> Tensor: ...


class Coupling(Layer):
    """One coordinate scaled and shifted by a network of the other: a bijection of the plane.

    z_moved = s(x_kept) x_moved + b(x_kept), with s the exp or softplus of what the network says.
    """

    def __init__(self, hidden: Sequence[int], *, moved: int, scale: Scale):
        super().__init__()
        self.moved, self.scale = moved, scale
        sizes = [1, *hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], 2))

    def _map(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the scale, and the shift."""
        said, shift = self.net(kept).unbind(dim=1)
        return said if self.scale == "exp" else functional.softplus(said).log(), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._map(x[:, 1 - self.moved, None])
        return self._with(x, log_scale.exp() * x[:, self.moved] + shift), log_scale

    def inverse(self, z: Tensor, random: Generator | None) -> Tensor:
        log_scale, shift = self._map(z[:, 1 - self.moved, None])
        return self._with(z, (z[:, self.moved] - shift) * (-log_scale).exp())

    def _with(self, x: Tensor, moved: Tensor) -> Tensor:
        kept = x[:, 1 - self.moved]
        return torch.stack([moved, kept] if self.moved == 0 else [kept, moved], dim=1)


class Box(Layer):
    """Affine, from the box [low, high] per coordinate to the unit square."""

    low: Tensor
    high: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float]):
        super().__init__()
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = self.high - self.low
        return (x - self.low) / size, -size.log().sum().expand(len(x))

    def inverse(self, z: Tensor, random: Generator | None) -> Tensor:
        return self.low + (self.high - self.low) * z


class Logit(Layer):
    """log(x / (1 - x)) per coordinate, from the unit square to the plane.

    Points outside are moved to 1e-5 inside it (ours): data with normal noise have some beyond every
    box.  What comes out for them is no density.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clamp(1e-5, 1.0 - 1e-5)
        return x.logit(), -(x.log() + torch.log1p(-x)).sum(dim=1)

    def inverse(self, z: Tensor, random: Generator | None) -> Tensor:
        return z.sigmoid()


class Abs(Layer):
    """|x| per coordinate (section 3.1): a surjection in which 2^D points share one z.

    From z each sign is drawn with probability one half, so that the density is symmetric in every
    coordinate: contribution -D log 2.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.abs(), x.new_full((len(x),), -x.shape[1] * math.log(2.0))

    def inverse(self, z: Tensor, random: Generator | None) -> Tensor:
        signs = torch.randint(0, 2, z.shape, generator=random, device=z.device)
        return z * (2.0 * signs - 1.0)


class AbsOf(Layer):
    """|x| of the first coordinate alone, with a network that says the probability of a plus from
    the z that results: contribution log p(sign | z), for antisymmetric data (official code)."""

    def __init__(self, hidden: Sequence[int]):
        super().__init__()
        sizes = [2, *hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.stack([x[:, 0].abs(), x[:, 1]], dim=1)
        logit = self.net(z).squeeze(1)
        return z, functional.logsigmoid(torch.where(x[:, 0] > 0.0, logit, -logit))

    def inverse(self, z: Tensor, random: Generator | None) -> Tensor:
        plus = torch.bernoulli(self.net(z).squeeze(1).sigmoid(), generator=random)
        return torch.stack([(2.0 * plus - 1.0) * z[:, 0], z[:, 1]], dim=1)


class Sort(Layer):
    """Coordinates in rising order (section 3.1): D! points share one z, which is given back in
    random order, so that the density does not mind the order: contribution -log D!."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sort(dim=1).values, x.new_full((len(x),), -math.lgamma(x.shape[1] + 1))

    def inverse(self, z: Tensor, random: Generator | None) -> Tensor:
        order = torch.rand(z.shape, generator=random, device=z.device).argsort(dim=1)
        return z.gather(1, order)


class Gap(Layer):
    """(z_1, g), softplus(g) = z_2 - z_1: from sorted pairs to the whole plane, a bijection.
    Without it a base on the plane wastes its mass on pairs that are not sorted (ours)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gap = (x[:, 1] - x[:, 0]).clamp(min=1e-30)
        slope = (-(-gap).expm1()).log()  # log(1 - exp(-gap)), of softplus at g
        return torch.stack([x[:, 0], gap + slope], dim=1), -slope

    def inverse(self, z: Tensor, random: Generator | None) -> Tensor:
        return torch.stack([z[:, 0], z[:, 0] + functional.softplus(z[:, 1])], dim=1)


class Flow(nn.Module):
    """Layers in a row and a base density, standard normal or uniform in the unit square."""

    def __init__(self, layers: Sequence[Layer], *, base: Base = "normal"):
        super().__init__()
        self.layers, self.base = nn.ModuleList(layers), base

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) [M], nats; -inf outside the unit square of a uniform base."""
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, contribution = layer(x)
            total = total + contribution
        if self.base == "uniform":
            inside = ((x >= 0.0) & (x <= 1.0)).all(dim=1)
            return torch.where(inside, total, -math.inf)
        return total - 0.5 * (x.square() + math.log(2.0 * math.pi)).sum(dim=1)

    def sample(self, n: int, random: Generator | None, *, device: str = "cpu") -> Tensor:
        """x [n, 2]."""
        draw = torch.randn if self.base == "normal" else torch.rand
        z = draw(n, 2, generator=random, device=device)
        for layer in reversed(self.layers):
            assert isinstance(layer, Layer)
            z = layer.inverse(z, random)
        return z


def couplings(hidden: Sequence[int], *, scale: Scale, steps: int = 4) -> list[Layer]:
    """The official code's flow: `steps` couplings that move the coordinates in turn."""
    return [Coupling(hidden, moved=1 - step % 2, scale=scale) for step in range(steps)]


def checkerboard(n: int, random: Generator | None) -> Tensor:
    """Uniform on the black fields of a 4 x 4 board of side 8 around 0, [n, 2]; entropy log 32 =
    3.466 nats (official code, after neural spline flows)."""
    x = 4.0 * torch.rand(n, generator=random) - 2.0
    field = 2.0 * torch.randint(0, 2, (n,), generator=random)
    y = torch.rand(n, generator=random) - field + x.floor() % 2.0
    return 2.0 * torch.stack([x, y], dim=1)


EIGHT_STD, EIGHT_RADIUS = 0.5 / 1.414, 4.0 / 1.414  # of eight_gaussians: official code


def eight_gaussians(n: int, random: Generator | None) -> Tensor:
    """Eight normal densities on a circle, the first at 22.5 degrees, [n, 2]; entropy 2.8319."""
    angle = math.pi / 8.0 + math.pi / 4.0 * torch.randint(0, 8, (n,), generator=random)
    centre = EIGHT_RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)
    return centre + EIGHT_STD * torch.randn(n, 2, generator=random)
