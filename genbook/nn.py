"""Small networks, several of them side by side: S nets of one shape train at once, each on rows of
its own, so that what is said of one run can be said of several in little more time.

x is [S, M, I]: row s goes through net s only, and a loss summed over S gives each net the gradient
that it would have alone.  `side_by_side` makes such a net of models in torch's own layers.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class Linear(nn.Module):
    """y_s = x_s W_s + b_s: [S, M, I], or [M, I] for all nets the same, -> [S, M, O]."""

    mask: Tensor | None  # [S, 1 + I, O]: 1 for a bias or weight, 0 for padding; None: no padding

    def __init__(self, nets: int, inputs: int, outputs: int, *, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(nets, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(nets, 1, outputs)) if bias else None
        self.parts = 1  # of the outputs, each padded for itself
        self.register_buffer("mask", None)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if x.dim() == 2:
            x = x.expand(len(weight), *x.shape)
        if self.mask is not None:
            weight = weight * self.mask[:, 1:]
            bias = None if bias is None else bias * self.mask[:, :1]
        if weight.shape[2] == 1:  # a product with one column costs less as a sum
            y = (x * weight.mT).sum(dim=2, keepdim=True)
            return y if bias is None else y + bias
        if bias is None:
            return torch.bmm(x, weight)
        return torch.baddbmm(bias, x, weight)


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


def side_by_side(models: Sequence[Model], *, halves: Collection[str] = ()) -> Model:
    """One model in which each linear layer is the `Linear` of that layer of all `models`.

    Where a model alone gives [M, ...] for a minibatch, this one gives [S, M, ...].  Layers may
    differ in size: they are padded with zeros that stay zeros, so that each model learns what it
    would learn alone.  `halves` names the layers whose outputs are two vectors, as means and log
    variances: each of the two is padded.  All that is not a layer comes from the largest model;
    hooks of layers are lost.  One model alone is given back as it is, and still gives [M, ...].
    ValueError unless the models have the same modules and learn nothing but torch.nn.Linear layers
    with biases.
    """
    shared = _linear_layers(models)
    if unknown := set(halves) - set(shared):
        raise ValueError(f"no linear layers of these models: {', '.join(sorted(unknown))}")
    if len(models) == 1:
        return models[0]
    joint = copy.deepcopy(max(models, key=_size))
    for name, layers in shared.items():
        outputs, inputs = (max(layer.weight.shape[i] for layer in layers) for i in (0, 1))
        together = Linear(len(models), inputs, outputs).to(layers[0].weight)
        together.parts = 2 if name in halves else 1
        ones = copy.deepcopy(together)
        with torch.no_grad():
            for s, layer in enumerate(layers):
                for place, own in _places(together, s, layer):
                    place.copy_(own)
                for place, _ in _places(ones, s, layer):
                    place.fill_(1.0)
        assert ones.bias is not None
        if not ones.weight.all():
            mask = torch.cat([ones.bias, ones.weight], dim=1).detach()
            together.register_buffer("mask", mask, persistent=False)
        joint.set_submodule(name, together)
    return joint


@torch.no_grad()
def apart(joint: Model, models: Sequence[Model]) -> None:
    """Copy what `joint` has learnt into the `models` that `side_by_side` made it of."""
    if joint is models[0]:
        return
    for name, layers in _linear_layers(models).items():
        together = joint.get_submodule(name)
        assert isinstance(together, Linear), name
        for s, layer in enumerate(layers):
            for place, own in _places(together, s, layer):
                own.copy_(place)


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _linear_layers(models: Sequence[nn.Module]) -> dict[str, list[nn.Linear]]:
    """The linear layers by name, one of each model."""
    kinds = [[(name, type(m)) for name, m in model.named_modules()] for model in models]
    if not kinds or any(other != kinds[0] for other in kinds):
        raise ValueError(f"{len(models)} models side by side must have the same modules")
    shared: dict[str, list[nn.Linear]] = {}
    for model in models:
        for name, m in model.named_modules():
            if isinstance(m, nn.Linear):
                shared.setdefault(name, []).append(m)
    size = sum(_size(layer) for layers in shared.values() for layer in layers)
    biased = all(layer.bias is not None for layers in shared.values() for layer in layers)
    if not biased or size != sum(_size(model) for model in models):
        raise ValueError("models side by side may have linear layers with biases and no others")
    return shared


def _places(together: Linear, s: int, layer: nn.Linear) -> Iterator[tuple[Tensor, Tensor]]:
    """Views [I, parts, O] of net s in `together` and of its own layer: of weights, then biases."""
    assert together.bias is not None
    for whole, mine in (
        (together.weight[s], layer.weight.T),
        (together.bias[s], layer.bias[None]),
    ):
        own = mine.unflatten(1, (together.parts, -1))
        yield whole.unflatten(1, (together.parts, -1))[: len(own), :, : own.shape[2]], own
