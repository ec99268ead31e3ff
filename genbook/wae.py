"""Wasserstein Auto-Encoders: Tolstikhin, Bousquet, Gelly & Schoelkopf 2018, arXiv 1711.01558, and
On the Latent Space of Wasserstein Auto-Encoders: Rubenstein, Schoelkopf & Tolstikhin 2018, arXiv
1802.03761.

z [M, J] are draws of the prior P_Z, codes [M, J] are draws of Q_Z, one for each x [M, ...]: the
mixture of what the encoder makes of every x.  Costs and penalties are without units; a reduction is
named where there is one.

"Official code" is tolstikhin/wae at 6351565; "latent space code" is
paruby/Wasserstein-Auto-Encoders at d753cf7.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the kernel: official code, wae.py
LATENT_SPACE_SCALES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0, 2.0)  # their config.py


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2: [M, J] and [N, J] -> [M, N], by one matrix product, never below 0."""
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    return (squares - 2.0 * a @ b.T).clamp(min=0.0)


@dataclass(frozen=True)
class InverseMultiquadratics:
    """k(x, y) = sum over C of C / (C + |x - y|^2): characteristic, with tails heavier than a
    Gaussian's, so that codes far out still feel a gradient (section 3).

    The paper has one kernel with C = 2 J sigma_z^2, the expected squared distance of two draws of
    the prior; the official code sums seven with that C times `SCALES`, the latent space code ten
    with J times `LATENT_SPACE_SCALES`.
    """

    constants: tuple[float, ...]

    @classmethod
    def of(cls, base: float, scales: Sequence[float] = (1.0,)) -> InverseMultiquadratics:
        """C = base * scale for every scale; base = 2 J for a standard normal prior."""
        return cls(tuple(base * scale for scale in scales))

    def __call__(self, squares: Tensor) -> Tensor:
        """The kernel at squared distances, elementwise."""
        c = squares.new_tensor(self.constants).view(-1, *[1] * squares.ndim)
        return (c / (c + squares)).sum(dim=0)

    def mean(self, mean_square: float, variance: float, *, latents: int) -> float:
        """E k(x, y) for x - y ~ N(m, variance I_J), |m|^2 = mean_square.

        C / (C + s) is the integral of e^-u e^(-u s / C) over u > 0, and the expectation of the
        second factor is known: w^(-J/2) exp(-(u / C) |m|^2 / w) with w = 1 + 2 v u / C.  The
        integral by 400 Gauss-Legendre nodes in r, u = (r / (1 - r))^2.
        """
        total = 0.0
        nodes, weights = _gauss_legendre(400)
        u, du = (nodes / (1.0 - nodes)).square(), 2.0 * nodes / (1.0 - nodes) ** 3
        for c in self.constants:
            wide = 1.0 + 2.0 * variance * u / c
            inside = -u - u / c * mean_square / wide - 0.5 * latents * wide.log()
            total += (weights * du * inside.exp()).sum().item()
        return total


@functools.cache
def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1): eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    i = torch.arange(1, n, dtype=torch.float64)
    off = i / (4.0 * i.square() - 1.0).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return 0.5 * (nodes + 1.0), vectors[0].square()


Cross = Literal["all", "off-diagonal"]


def mmd(a: Tensor, b: Tensor, kernel: InverseMultiquadratics, *, cross: Cross = "all") -> Tensor:
    """Unbiased estimate of MMD^2 between the distributions of a and b, both [M, J], a number:

        sum_{i != j} [k(a_i, a_j) + k(b_i, b_j)] / (M (M - 1)) - 2 mean_{i, j} k(a_i, b_j)

    Algorithm 2 and the official code.  With cross "off-diagonal" the pairs (a_i, b_i) are left out
    too, as the latent space code does: unbiased even for dependent pairs, and noisier.
    It may be negative.  ValueError unless a and b are equally many, two at least.
    """
    n = len(a)
    if a.shape != b.shape or n < 2:
        raise ValueError(f"two equal sets of two or more are needed: {[*a.shape]}, {[*b.shape]}")
    within = kernel(squared_distances(a, a)) + kernel(squared_distances(b, b))
    between = kernel(squared_distances(a, b))
    same = within.sum() - within.diagonal().sum()
    if cross == "all":
        return same / (n * (n - 1)) - 2.0 * between.mean()
    return (same - 2.0 * (between.sum() - between.diagonal().sum())) / (n * (n - 1))


def mmd_of_normals(
    mean_square: float, variance: float, kernel: InverseMultiquadratics, *, latents: int
) -> float:
    """MMD^2 between N(m, variance I_J), |m|^2 = mean_square, and N(0, I_J), in closed form."""
    return (
        kernel.mean(0.0, 2.0 * variance, latents=latents)
        + kernel.mean(0.0, 2.0, latents=latents)
        - 2.0 * kernel.mean(mean_square, 1.0 + variance, latents=latents)
    )


class LatentDiscriminator(nn.Module):
    """Tells draws of the prior from codes: z [M, J] -> logits [M].

    Four layers of rectified units (512 for MNIST, 1024 for CelebA: official code).  With
    `adds_prior` the log-density of a standard normal prior is added, up to a constant: the best
    discriminator is log p_Z(z) - log q_Z(z), and only the second part has to be learnt (official
    code, gan_p_trick, after Mescheder et al. 2017).
    """

    def __init__(self, latents: int, hidden: int, *, layers: int = 4, adds_prior: bool = True):
        super().__init__()
        self.net, self.adds_prior = mlp(latents, [hidden] * layers, 1), adds_prior

    def forward(self, z: Tensor) -> Tensor:
        said = self.net(z)[:, 0]
        return said - 0.5 * z.square().sum(dim=1) if self.adds_prior else said


def mlp(
    inputs: int, hidden: Sequence[int], outputs: int, act: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """Linear layers with `act` between them."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), act()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


Law = Literal["deterministic", "gaussian", "uniform", "corner"]


def draw(mean: Tensor, log_scale: Tensor, law: Law, random: Generator | None) -> Tensor:
    """One code for each mean [M, J], with gradient.

    "gaussian": mean + exp(log_scale / 2) eps, so log_scale is a log-variance.  "uniform": a box
    around the mean with sides exp(log_scale).  "corner": the same box with the mean in its lowest
    corner, as the latent space code draws it.  "deterministic": the mean.  ValueError otherwise.
    """
    if law not in ("deterministic", "gaussian", "uniform", "corner"):
        raise ValueError(f"no law is called {law!r}")
    if law == "deterministic":
        return mean
    if law == "gaussian":
        eps = torch.randn(mean.shape, generator=random, device=mean.device, dtype=mean.dtype)
        return mean + (0.5 * log_scale).exp() * eps
    u = torch.rand(mean.shape, generator=random, device=mean.device, dtype=mean.dtype)
    return mean + log_scale.exp() * (u if law == "corner" else u - 0.5)


def log_variance_penalty(log_var: Tensor) -> Tensor:
    """sum_j |log sigma_j^2| [M]: keeps a random encoder random (latent space paper, section 3)."""
    return log_var.abs().sum(dim=1)


def squared_error(x: Tensor, made: Tensor) -> Tensor:
    """c(x, y) = |x - y|^2 [M], summed over everything but the first dimension.

    The official code has 0.05 times that, so its lambda is a twentieth of ours.
    """
    return (x - made).square().flatten(1).sum(dim=1)


def moment_loss(codes: Tensor, z: Tensor) -> Tensor:
    """Mean squared difference of the means, plus that of the covariances: what the official code
    pretrains its encoder with, until it is below 0.1."""
    difference = codes.mean(dim=0) - z.mean(dim=0)
    return difference.square().mean() + (codes.T.cov() - z.T.cov()).square().mean()


class ConvEncoder(nn.Module):
    """x [M, C, S, S] -> [M, outputs]: four convolutions 4 x 4 of stride 2 with width / 8, / 4, / 2
    and the whole of it, batch normalisation, rectified units (official code, dcgan_encoder).

    Padded as TensorFlow's SAME, and the running averages of batch normalisation decay with 0.9.
    """

    def __init__(self, values: int, side: int, width: int, outputs: int, *, kernel: int = 4):
        super().__init__()
        self.kernel, channels = kernel, [values, width // 8, width // 4, width // 2, width]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, stride=2) for a, b in itertools.pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in channels[1:])
        for _ in self.convs:
            side = -(-side // 2)
        self.out = nn.Linear(width * side**2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.relu(norm(conv(pad_same(x, self.kernel))))
        return self.out(x.flatten(1))


def pad_same(x: Tensor, kernel: int) -> Tensor:
    """Zeros around x [M, C, S, S] as SAME has them for stride 2: the odd one below and right."""
    side = x.shape[-1]
    total = (-(-side // 2) - 1) * 2 + kernel - side
    return functional.pad(x, (total // 2, total - total // 2) * 2)


class SameTranspose(nn.ConvTranspose2d):
    """[M, A, S, S] -> [M, B, stride S, stride S]: the gradient of a convolution padded as SAME."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__(inputs, outputs, kernel, stride, padding=(kernel - stride) // 2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        side = self.stride[0] * x.shape[-1]
        return super().forward(x, output_size)[..., :side, :side]


class ConvDecoder(nn.Module):
    """z [M, J] -> logits [M, C, S, S] (official code, dcgan_decoder with dcgan_mod): one linear
    layer to `width` channels at S / 2^steps, then `steps` transposed convolutions of stride 2 that
    halve the channels, with batch normalisation and rectified units, then one of stride 1.
    ValueError when S or the width cannot be halved so often."""

    def __init__(
        self, latents: int, values: int, side: int, width: int, *, steps: int = 2, kernel: int = 4
    ):
        super().__init__()
        self.start, self.width = side // 2**steps, width
        if side % 2**steps or width % 2**steps:
            raise ValueError(f"{side} or {width} cannot be halved {steps} times")
        self.enter = nn.Linear(latents, width * self.start**2)
        layers: list[nn.Module] = []
        for step in range(steps):
            a, b = width >> step, width >> step + 1
            layers += [SameTranspose(a, b, kernel, 2), nn.BatchNorm2d(b), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.leave = SameTranspose(width >> steps, values, kernel, 1)

    def forward(self, z: Tensor) -> Tensor:
        h = functional.relu(self.enter(z)).view(len(z), self.width, self.start, self.start)
        return self.leave(self.body(h))


def init_weights(net: nn.Module, *, std: float = 0.0099999, random: Generator | None) -> None:
    """Every weight N(0, std^2), every bias 0 (official code; it cuts those of convolutions, but not
    of transposed ones, at two standard deviations)."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            values = torch.randn(layer.weight.shape, generator=random)
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(values, std=1.0, a=-2.0, b=2.0, generator=random)
            with torch.no_grad():
                layer.weight.copy_(std * values)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def learning_rate(epoch: int) -> float:
    """The official code's factor for MNIST ("manual"), epochs from 0: a half from epoch 30 on, a
    fifth of that from 50 on, a tenth of that from 100 on (its 100 epochs end before)."""
    return 1.0 if epoch < 30 else 0.5 if epoch < 50 else 0.1 if epoch < 100 else 0.01


def far_from_codes(z: Tensor, codes: Tensor, *, radius: float, block: int = 1_000) -> Tensor:
    """Whether the nearest code is further than `radius` from each z [N, J] -> bool [N]: the holes.

    The share of it over draws of the prior is the mass of P_Z that the decoder never saw.
    """
    nearest = [torch.cdist(rows, codes).amin(dim=1) for rows in z.split(block)]
    return torch.cat(nearest) > radius


def sharpness(images: Tensor) -> Tensor:
    """Variance of the answers of a Laplace filter [[0, 1, 0], [1, -4, 1], [0, 1, 0]] inside each
    image, [N, 1, S, S] in the range that the network works in -> [N] (official code,
    compute_blurriness).  The code reports the smallest of a batch, the paper an average."""
    laplace = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    answers = functional.conv2d(images, laplace[None, None])
    return answers.flatten(1).var(dim=1, correction=0)
