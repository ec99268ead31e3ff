"""Conditional Generative Adversarial Nets: Mirza & Osindero 2014, arXiv 1411.1784.

The networks of section 4.1 (MNIST) and the game that they play.  z is [M, Z], y is [M, Y] (labels,
one-hot), x is [M, D] with values in [0, 1].  A discriminator gives logits [M]; the D(x|y) of the
paper is their sigmoid.  Losses are in nats, one value an example; nothing here averages over the
batch.  `drop` is the generator of random numbers that drops units; without it none is dropped.

The paper builds on Goodfellow et al. 2014 and published no code.  "Official code" below is
goodfeli/adversarial at 1720041, the code of that earlier paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator as Random
from torch import Tensor, nn
from torch.nn import functional


def dropout(h: Tensor, rate: float, drop: Random | None) -> Tensor:
    """Each number is 0 with probability `rate`, else divided by 1 - rate: the mean stays."""
    if drop is None or rate == 0.0:
        return h
    kept = torch.empty_like(h).bernoulli_(1.0 - rate, generator=drop)
    return h * kept.div_(1.0 - rate)


class Maxout(nn.Module):
    """The largest of several linear maps, unit by unit: [M, I] -> [M, U]."""

    def __init__(self, inputs: int, units: int, pieces: int):
        super().__init__()
        self.units, self.pieces = units, pieces
        self.linear = nn.Linear(inputs, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(-1, (self.pieces, self.units)).amax(dim=-2)


class Generator(nn.Module):
    """G(z|y), section 4.1: z -> 200 ReLU, y -> 1000 ReLU, both -> 1200 ReLU -> 784 sigmoid.

    Dropout 0.5 on the hidden layers: the paper says that it "was applied to both" networks; the
    official code of the unconditional model has none in G.
    """

    def __init__(self, *, noise: int = 100, labels: int = 10, pixels: int = 784, rate: float = 0.5):
        super().__init__()
        self.noise, self.rate = noise, rate
        self.z_layer = nn.Linear(noise, 200)
        self.y_layer = nn.Linear(labels, 1000)
        self.joint = nn.Linear(1200, 1200)
        self.out = nn.Linear(1200, pixels)

    def forward(self, z: Tensor, y: Tensor, drop: Random | None = None) -> Tensor:
        h = functional.relu(torch.cat([self.z_layer(z), self.y_layer(y)], dim=-1))
        h = functional.relu(self.joint(dropout(h, self.rate, drop)))
        return torch.sigmoid(self.out(dropout(h, self.rate, drop)))


class Discriminator(nn.Module):
    """Logit of D(x|y): x -> maxout 240 x 5, y -> maxout 50 x 5, both -> maxout 240 x 4 -> 1.

    Section 4.1.  Dropout 0.5 on the hidden layers (paper) and 0.2 on the pixels (official code).
    """

    def __init__(
        self, *, pixels: int = 784, labels: int = 10, rate: float = 0.5, pixel_rate: float = 0.2
    ):
        super().__init__()
        self.rate, self.pixel_rate = rate, pixel_rate
        self.x_layer = Maxout(pixels, 240, 5)
        self.y_layer = Maxout(labels, 50, 5)
        self.joint = Maxout(290, 240, 4)
        self.out = nn.Linear(240, 1)

    def forward(self, x: Tensor, y: Tensor, drop: Random | None = None) -> Tensor:
        x = dropout(x, self.pixel_rate, drop)
        h = torch.cat([self.x_layer(x), self.y_layer(y)], dim=-1)
        h = self.joint(dropout(h, self.rate, drop))
        return self.out(dropout(h, self.rate, drop)).squeeze(-1)


class UnconditionalGenerator(nn.Module):
    """G(z) of the official code (mnist.yaml): z -> 1200 ReLU -> 1200 ReLU -> 784 sigmoid.

    Takes y like the conditional one, and ignores it.
    """

    def __init__(self, *, noise: int = 100, pixels: int = 784, rate: float = 0.0):
        super().__init__()
        self.noise, self.rate = noise, rate
        self.hidden = nn.Linear(noise, 1200)
        self.joint = nn.Linear(1200, 1200)
        self.out = nn.Linear(1200, pixels)

    def forward(self, z: Tensor, y: Tensor, drop: Random | None = None) -> Tensor:
        h = dropout(functional.relu(self.hidden(z)), self.rate, drop)
        h = dropout(functional.relu(self.joint(h)), self.rate, drop)
        return torch.sigmoid(self.out(h))


class UnconditionalDiscriminator(nn.Module):
    """Logit of D(x) of the official code: maxout 240 x 5 twice, dropout as above."""

    def __init__(self, *, pixels: int = 784, rate: float = 0.5, pixel_rate: float = 0.2):
        super().__init__()
        self.rate, self.pixel_rate = rate, pixel_rate
        self.x_layer = Maxout(pixels, 240, 5)
        self.joint = Maxout(240, 240, 5)
        self.out = nn.Linear(240, 1)

    def forward(self, x: Tensor, y: Tensor, drop: Random | None = None) -> Tensor:
        h = dropout(self.x_layer(dropout(x, self.pixel_rate, drop)), self.rate, drop)
        return self.out(dropout(self.joint(h), self.rate, drop)).squeeze(-1)


class GAN(nn.Module):
    """The two players."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


def init_uniform(
    gan: GAN,
    *,
    random: Random,
    mean_image: Tensor | None = None,
    g: float = 0.05,
    d: float = 0.005,
) -> None:
    """Weights uniform in ±0.05 (G) and ±0.005 (D), biases 0, as in the official code.

    With a mean image [D] the output bias of G is such that sigmoid(bias) = mean, clipped to
    [1e-7, 1 - 1e-7] (the same source).  Drawn on the CPU from `random`, so that a model starts
    alike on every device.
    """
    with torch.no_grad():
        for net, width in ((gan.generator, g), (gan.discriminator, d)):
            for p in net.parameters():
                p.zero_()
                if p.ndim == 2:
                    p.copy_((2.0 * torch.rand(p.shape, generator=random) - 1.0) * width)
        if mean_image is not None:
            bias = mean_image.clamp(1e-7, 1.0 - 1e-7).logit()
            gan.generator.get_parameter("out.bias").copy_(bias)


def uniform_noise(n: int, dim: int, random: Random | None, device: str | torch.device) -> Tensor:
    """z uniform in the unit hypercube [0, 1]^dim, section 4.1: [n, dim]."""
    return torch.rand(n, dim, generator=random, device=device)


def centred_noise(n: int, dim: int, random: Random | None, device: str | torch.device) -> Tensor:
    """z uniform between ±sqrt(3), mean 0 and variance 1, as in the official code: [n, dim]."""
    return math.sqrt(12.0) * (uniform_noise(n, dim, random, device) - 0.5)


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """-1/2 [log D(x|y) + log(1 - D(G(z|y)|y))] from logits [M] -> [M], nats: minus half of
    equation (2) inside its expectations; the half is the official code's."""
    return 0.5 * (functional.softplus(-real) + functional.softplus(made))


def saturating_loss(made: Tensor) -> Tensor:
    """log(1 - D(G(z|y)|y)) from logits [M] -> [M], nats: what G minimises in equation (2)."""
    return -functional.softplus(made)


def non_saturating_loss(made: Tensor) -> Tensor:
    """-log D(G(z|y)|y) from logits [M] -> [M], nats: what G descends in the official code."""
    return functional.softplus(-made)


def set_gradients(gan: GAN, generator_loss: Tensor, discriminator_loss: Tensor) -> None:
    """Give each player the gradient of its own scalar loss, and of nothing else.

    Both losses may come from one forward pass: as in the official code the players see the same
    samples and the same dropped units, and then step together, not in turn.
    """
    losses = ((gan.discriminator, discriminator_loss), (gan.generator, generator_loss))
    for player, loss in losses:
        params = list(player.parameters())
        gradients = torch.autograd.grad(loss, params, retain_graph=player is gan.discriminator)
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient


@dataclass(frozen=True)
class Schedule:
    """Learning rate and momentum of section 4.1 after a number of updates.

    Rate 0.1 divided by 1.00004 at every update down to 1e-6, momentum from 0.5 to 0.7 (paper), in a
    straight line from the first pass to pass 250 of 500 batches each (official code).
    """

    rate: float = 0.1
    decay: float = 1.00004
    floor: float = 1e-6
    momentum: tuple[float, float] = (0.5, 0.7)
    ramp: tuple[int, int] = (500, 250 * 500)

    def learning_rate(self, update: int) -> float:
        return max(self.rate * math.exp(-update * math.log(self.decay)), self.floor)

    def momentum_at(self, update: int) -> float:
        (low, high), (start, end) = self.momentum, self.ramp
        return low + (high - low) * min(max((update - start) / (end - start), 0.0), 1.0)

    def updates_to_floor(self) -> float:
        """ln(rate / floor) / ln(decay): 287 829 for the paper's numbers, 576 passes of 500."""
        return math.log(self.rate / self.floor) / math.log(self.decay)

    def apply(self, optimizer: torch.optim.Optimizer, update: int) -> None:
        for group in optimizer.param_groups:
            group["lr"], group["momentum"] = self.learning_rate(update), self.momentum_at(update)
