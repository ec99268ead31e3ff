"""What keeps the generator of a GAN from missing modes: packing, diversity terms, penalties on the
slope of the discriminator, spectral normalisation, unrolling.

S games are played side by side (genbook.nn): samples are [S, M, D], logits [S, M], and what is
called a loss is [S], a mean over M in nats where it is a logarithm.  Add them up before backward.

Papers, by the name used below: PacGAN (Lin, Khetan, Fanti & Oh 2018, arXiv 1712.04086), VEEGAN
(Srivastava et al. 2017, arXiv 1705.07761), Unrolled GAN (Metz et al. 2017, arXiv 1611.02163),
WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028), spectral normalisation (Miyato et al. 2018, arXiv
1802.05957), StarGAN v2 (Choi et al. 2020, arXiv 1912.01865), mode seeking (Mao et al. 2019, arXiv
1903.05628), R1 (Mescheder et al. 2018, arXiv 1801.04406).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from genbook.mixtures import GaussianMixture
from genbook.nn import BatchNorm, Linear, Maxout, mlp

Net = Callable[[Tensor], Tensor]


def ring(*, modes: int = 8, radius: float = 1.0, std: float = 0.01) -> GaussianMixture:
    """Modes on a circle; PacGAN's experiments: 8 on the unit circle, std 0.01."""
    angle = 2.0 * math.pi * torch.arange(modes) / modes
    means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    return GaussianMixture(means, torch.full((modes,), 1.0 / modes), std)


def grid(*, side: int = 5, gap: float = 2.0, std: float = 0.05) -> GaussianMixture:
    """Modes on a square grid around 0; PacGAN's experiments: {-4, -2, 0, 2, 4}^2, std 0.05."""
    places = gap * (torch.arange(side) - 0.5 * (side - 1))
    means = torch.cartesian_prod(places, places)
    return GaussianMixture(means, torch.full((side**2,), 1.0 / side**2), std)


def pacgan_generator(nets: int, *, noise: int = 2, units: int = 400) -> nn.Sequential:
    """PacGAN's for ring and grid: z [S, M, 2] -> x [S, M, 2], four layers of 400 rectified units
    with batch normalisation and without biases, a bias at the end (official code, pacgan_task.py;
    its eps is the default of the library there)."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise([noise, *[units] * 4]):
        layers += [Linear(nets, a, b, bias=False), BatchNorm(nets, b, momentum=0.05, eps=1e-4)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, Linear(nets, units, 2))


def pacgan_discriminator(
    nets: int, *, packed: int = 1, units: int = 200, pieces: int = 5
) -> nn.Sequential:
    """PacGAN's: `packed` points in a row -> three maxout layers of 200 units, 5 pieces -> logit."""
    hidden = [Maxout(nets, a, units, pieces) for a in (2 * packed, units, units)]
    return nn.Sequential(*hidden, Linear(nets, units, 1), nn.Flatten(1))


def generator(nets: int, *, noise: int = 2, units: int = 128) -> nn.Sequential:
    """z [S, M, noise] -> x [S, M, 2]: two layers of 128 rectified units."""
    return mlp(nets, noise, [units] * 2, 2)


def discriminator(nets: int, *, inputs: int = 2, units: int = 128) -> nn.Sequential:
    """x [S, M, inputs] -> logit [S, M]: two layers of 128 leaky rectified units."""
    return nn.Sequential(*mlp(nets, inputs, [units] * 2, 1, nn.LeakyReLU), nn.Flatten(1))


class StackGenerator(nn.Module):
    """z [M, 100] -> [M, 3, 28, 28] in [-1, 1]: PacGAN's DCGAN for stacked MNIST (official code,
    VEEGAN_experiment/model.py), five by five kernels, sides 2, 4, 7, 14, 28."""

    def __init__(self, *, noise: int = 100, width: int = 64):
        super().__init__()
        self.noise, self.start = noise, 8 * width
        self.enter = nn.Linear(noise, self.start * 4)
        layers: list[nn.Module] = []
        channels = [8 * width, 4 * width, 2 * width, width, 3]
        for (a, b), more in zip(itertools.pairwise(channels), (1, 0, 1, 1), strict=True):
            layers += [nn.BatchNorm2d(a), nn.ReLU()]
            layers += [nn.ConvTranspose2d(a, b, 5, 2, padding=2, output_padding=more)]
        self.body = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.body(self.enter(z).view(len(z), self.start, 2, 2))


class StackDiscriminator(nn.Module):
    """[M, 3 m, 28, 28], m packed pictures, -> logit [M]: four convolutions of stride 2 with leaky
    rectified units, batch normalisation from the second on (same source)."""

    def __init__(self, *, packed: int = 1, width: int = 64):
        super().__init__()
        channels = [3 * packed, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for number, (a, b) in enumerate(itertools.pairwise(channels)):
            layers += [nn.Conv2d(a, b, 5, 2, padding=2)]
            layers += [nn.BatchNorm2d(b)] if number else []
            layers += [nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * width * 4, 1), nn.Flatten(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))) from logits [S, M] -> [S], nats."""
    return (functional.softplus(-real) + functional.softplus(made)).mean(dim=1)


def generator_loss(made: Tensor) -> Tensor:
    """-log D(G(z)) from logits [S, M] -> [S], nats: the loss that does not saturate."""
    return functional.softplus(-made).mean(dim=1)


def pack(x: Tensor, m: int) -> Tensor:
    """m samples in a row, as the discriminator of PacGAN sees them: [S, M, D] -> [S, M/m, m D].

    ValueError unless m divides M.
    """
    if x.shape[1] % m:
        raise ValueError(f"{x.shape[1]} samples cannot be packed by {m}")
    return x.reshape(len(x), -1, m * x.shape[2])


def diversity(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of two sets of samples [S, M, D] -> [S]; to be *maximised*.

    StarGAN v2, equation (3), for two style codes and one input; the mean is over dimensions too,
    and the caller detaches b (official code, core/solver.py).  It has no upper bound: the weight
    has to fall to 0, in the code in a straight line over 100 000 updates.
    """
    return (a - b).abs().mean(dim=(1, 2))


def mode_seeking(a: Tensor, b: Tensor, z_a: Tensor, z_b: Tensor) -> Tensor:
    """1 / (ratio + 1e-5), ratio = mean |a - b| / mean |z_a - z_b| -> [S]; to be minimised.

    Mode-seeking GAN's ratio, turned over as its official code does (weight 1).
    """
    ratio = (a - b).abs().mean(dim=(1, 2)) / (z_a - z_b).abs().mean(dim=(1, 2))
    return 1.0 / (ratio + 1e-5)


def slopes(net: Net, x: Tensor) -> Tensor:
    """Norm of the gradient of a net's logit at x [S, M, D] -> [S, M], with a graph behind it."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    return gradient.norm(dim=2)


def gradient_penalty(critic: Net, real: Tensor, made: Tensor, random: Generator | None) -> Tensor:
    """Mean of (|gradient| - 1)^2 on segments from real to made points, [S]; WGAN-GP, equation (3).

    One uniform place on each segment.  The paper's weight is 10.
    """
    place = torch.rand(*real.shape[:2], 1, generator=random, device=real.device, dtype=real.dtype)
    return (slopes(critic, real + place * (made - real)) - 1.0).square().mean(dim=1)


def r1_penalty(discriminator: Net, real: Tensor) -> Tensor:
    """Mean of |gradient|^2 at real points, [S]; R1, section 4.1, whose weight is gamma / 2."""
    return slopes(discriminator, real).square().mean(dim=1)


class SpectralNorm(nn.Module):
    """W / sigma(W) for a `Linear`, sigma its largest singular value by power iteration, one step at
    each call in training mode (spectral normalisation, Algorithm 1).

    u stands for the left singular vector in the paper's notation; W here is [S, I, O].
    """

    u: Tensor

    def __init__(self, weight: Tensor, random: Generator | None = None):
        super().__init__()
        self.register_buffer("u", unit(torch.randn(len(weight), weight.shape[2], generator=random)))

    def sigma(self, weight: Tensor) -> Tensor:
        """The estimate [S], with a gradient through W alone."""
        with torch.no_grad():
            u = self.u.clone()  # a graph keeps it, and the next call moves the buffer
            v = unit(torch.einsum("sio,so->si", weight, u))
            if self.training:
                u = unit(torch.einsum("sio,si->so", weight, v))
                self.u.copy_(u)
        return torch.einsum("si,sio,so->s", v, weight, u)

    def forward(self, weight: Tensor) -> Tensor:
        return weight / self.sigma(weight)[:, None, None]


def unit(x: Tensor) -> Tensor:
    """Rows of length 1."""
    return functional.normalize(x, dim=1)


def spectrally_normed(net: nn.Module, random: Generator | None = None) -> nn.Module:
    """The net, with every `Linear` of it divided by its largest singular value."""
    for layer in net.modules():
        if isinstance(layer, Linear):
            norm = SpectralNorm(layer.weight, random)
            nn.utils.parametrize.register_parametrization(layer, "weight", norm, unsafe=True)
    return net


def unrolled(
    discriminator: nn.Module,
    loss: Callable[[Net], Tensor],
    *,
    steps: int,
    rate: float,
    moments: Mapping[str, tuple[Tensor, Tensor, float]] | None = None,
    betas: tuple[float, float] = (0.5, 0.999),
    eps: float = 1e-8,
) -> Net:
    """The discriminator after `steps` updates of Adam on `loss`, as a function of what the loss
    depends on: a gradient through it sees how the discriminator will answer (Unrolled GAN,
    equations (7) and (9)).

    `loss` takes a discriminator and gives [S].  `moments` are those of the discriminator's own
    Adam, by parameter name, with the number of steps taken; without, they start at 0.  eps^2 is
    added under the root, where a gradient needs it.  The weights of the discriminator stay as they
    are; buffers that move at a call in training mode do move, and backward fills its gradients.
    """
    weights: dict[str, Tensor] = dict(discriminator.named_parameters())
    zero = {name: (torch.zeros_like(p), torch.zeros_like(p), 0.0) for name, p in weights.items()}
    first, second, taken = (
        {name: kept[i] for name, kept in (moments or zero).items()} for i in range(3)
    )
    for step in range(1, steps + 1):
        here = list(weights.items())
        total = loss(_with(discriminator, weights)).sum()
        gradients = torch.autograd.grad(total, [p for _, p in here], create_graph=True)
        for (name, p), gradient in zip(here, gradients, strict=True):
            count = taken[name] + step
            first[name] = betas[0] * first[name] + (1.0 - betas[0]) * gradient
            second[name] = betas[1] * second[name] + (1.0 - betas[1]) * gradient.square()
            size = (second[name] / (1.0 - betas[1] ** count) + eps**2).sqrt()
            weights[name] = p - rate * first[name] / (1.0 - betas[0] ** count) / size
    return _with(discriminator, weights)


def _with(net: nn.Module, weights: dict[str, Tensor]) -> Net:
    """The net with these weights in place of its own."""
    kept = dict(weights)
    return lambda x: functional_call(net, kept, (x,))
