"""Denoising Diffusion GANs: Xiao, Kreis & Vahdat 2022, arXiv 2112.07804, for points in a plane.

A diffusion process of few steps whose reverse steps are not normal: x_{t-1} is drawn by a
generator that sees x_t and a latent z, and is judged by a discriminator that sees x_{t-1}, x_t and
t.  T = 1 is a plain GAN, which sees x_1, nearly pure noise, beside z.

S models are trained side by side (genbook.nn): x_0 and x_t are [S, M, D], z is [S, M, Z], t is
[S, M] with values 1 ... T, logits are [S, M].  Times and tables are those of genbook.diffusion.

"Official code" is NVlabs/denoising-diffusion-gan at 6818ded (train_ddgan.py).
"""

from __future__ import annotations

import torch
from torch import Generator as Random
from torch import Tensor, nn
from torch.nn import functional

from genbook.diffusion import GaussianDiffusion
from genbook.nn import mlp, sines


def vp_betas(T: int, *, low: float = 0.1, high: float = 20.0, offset: float = 1e-3) -> Tensor:
    """beta_1 ... beta_T [T] of the variance-preserving process, cut into T equal steps.

    log abar(s) = -(high - low) s^2 / 2 - low s at s = offset ... 1; the offset is the official
    code's, the other constants are in the paper too.
    """
    s = offset + (1.0 - offset) * torch.linspace(0.0, 1.0, T + 1, dtype=torch.float64)
    log_abar = -0.5 * (high - low) * s.square() - low * s
    return -torch.expm1(log_abar.diff())


def pairs(
    process: GaussianDiffusion, x_0: Tensor, t: Tensor, random: Random | None
) -> tuple[Tensor, Tensor]:
    """x_{t-1} and x_t of one path: the first from x_0 at once, the second by one step from it."""
    flat, times = x_0.flatten(0, 1), t.flatten()
    before = process.q_sample(flat, times - 1, _noise(flat, random))
    after = process.q_step(before, times, _noise(flat, random))
    return before.view_as(x_0), after.view_as(x_0)


def posterior_sample(
    process: GaussianDiffusion, x_0: Tensor, x_t: Tensor, t: Tensor, random: Random | None
) -> Tensor:
    """x_{t-1} ~ q(x_{t-1}|x_t, x_0), with a gradient through x_0; x_0 itself at t = 1."""
    flat, times = x_t.flatten(0, 1), t.flatten()
    mean = process.posterior_mean(x_0.flatten(0, 1), flat, times)
    std = process.at(process.beta_tilde, times, flat).sqrt()
    return (mean + std * _noise(flat, random)).view_as(x_t)


def _noise(like: Tensor, random: Random | None) -> Tensor:
    return torch.randn(like.shape, generator=random, device=like.device, dtype=like.dtype)


class Generator(nn.Module):
    """G(x_t, z, t) -> x_0: fully connected, three layers of 512 for 25 Gaussians (appendix C.5);
    t is told as one of T, x_t by itself and `octaves` of sines and cosines (ours)."""

    def __init__(
        self, nets: int, T: int, *, noise: int, units: int = 512, layers: int = 3, octaves: int = 0
    ):
        super().__init__()
        self.T, self.noise, self.octaves = T, noise, octaves
        self.net = mlp(nets, 2 + 4 * octaves + noise + T, [units] * (layers - 1), 2)

    def forward(self, x_t: Tensor, z: Tensor, t: Tensor) -> Tensor:
        told = functional.one_hot(t - 1, self.T).to(z)
        return self.net(torch.cat([sines(x_t, self.octaves), z, told], dim=-1))


class Discriminator(nn.Module):
    """Logit of D(x_{t-1}, x_t, t): as the generator, with leaky rectified units."""

    def __init__(self, nets: int, T: int, *, units: int = 512, layers: int = 3, octaves: int = 0):
        super().__init__()
        self.T, self.octaves = T, octaves
        self.net = mlp(nets, 4 + 8 * octaves + T, [units] * (layers - 1), 1, nn.LeakyReLU)

    def forward(self, before: Tensor, after: Tensor, t: Tensor) -> Tensor:
        told = functional.one_hot(t - 1, self.T).to(before)
        points = sines(torch.cat([before, after], dim=-1), self.octaves)
        return self.net(torch.cat([points, told], dim=-1)).squeeze(-1)


@torch.no_grad()
def sample(
    process: GaussianDiffusion, generator: Generator, x_T: Tensor, random: Random | None
) -> Tensor:
    """x_0 [S, M, D] from x_T ~ N(0, I) by T calls of the generator, each with a z of its own."""
    x = x_T
    for step in range(process.T, 0, -1):
        t = torch.full(x.shape[:2], step, device=x.device)
        z = torch.randn(*x.shape[:2], generator.noise, generator=random, device=x.device)
        x = posterior_sample(process, generator(x, z, t), x, t, random)
    return x
