"""Models with a likelihood, a bound on one, or a diffusion process, for points in a plane: what the
GANs of genbook.coverage are held against.

S models are trained side by side (genbook.nn): x is [S, M, 2], values a point are [S, M], in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from genbook.nn import Linear, mlp, sines


class Autoregressive(nn.Module):
    """p(x) = p(x_1) p(x_2|x_1), each a mixture of K normal densities: an exact likelihood without
    an invertible map.  The parts of the second are said by a network that sees x_1."""

    def __init__(self, nets: int, *, parts: int = 32, units: int = 128, spread: float = 4.0):
        super().__init__()
        self.parts, self.spread = parts, spread
        self.first = Linear(nets, 1, 3 * parts)
        self.second = mlp(nets, 1, [units] * 2, 3 * parts)

    def _densities(self, x_1: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters [S, M, 3 K] of both densities."""
        return self.first(torch.zeros_like(x_1)), self.second(x_1)

    def _unpack(self, said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and log standard deviations [S, M, K]; the means start evenly from
        -spread to spread, the deviations at their distance."""
        logits, means, log_std = said.chunk(3, dim=-1)
        start = torch.linspace(-self.spread, self.spread, self.parts, device=said.device)
        gap = 2.0 * self.spread / (self.parts - 1)
        return logits.log_softmax(dim=-1), start + means, log_std + math.log(gap)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) [S, M]."""
        total = x.new_zeros(x.shape[:-1])
        for said, value in zip(self._densities(x[..., :1]), x.unbind(dim=-1), strict=True):
            log_weight, mean, log_std = self._unpack(said)
            gap = (value[..., None] - mean) * (-log_std).exp()
            normal = -0.5 * gap.square() - log_std - 0.5 * math.log(2.0 * math.pi)
            total = total + (log_weight + normal).logsumexp(dim=-1)
        return total

    @torch.no_grad()
    def sample(self, n: int, random: Generator | None) -> Tensor:
        """x [S, n, 2]: two draws, the second after the first."""
        nets = len(self.first.weight)
        x_1 = self._draw(self.first(self.first.weight.new_zeros(nets, n, 1)), random)
        return torch.cat([x_1, self._draw(self.second(x_1), random)], dim=-1)

    def _draw(self, said: Tensor, random: Generator | None) -> Tensor:
        log_weight, mean, log_std = self._unpack(said)
        flat = log_weight.exp().flatten(0, 1)
        k = torch.multinomial(flat, 1, generator=random).view(*said.shape[:2], 1)
        eps = torch.randn(k.shape, generator=random, device=said.device, dtype=said.dtype)
        return mean.gather(-1, k) + log_std.gather(-1, k).exp() * eps


class VAE(nn.Module):
    """Normal encoder and decoder, two latents; the decoder has one standard deviation for all."""

    def __init__(self, nets: int, *, latents: int = 2, units: int = 128):
        super().__init__()
        self.latents = latents
        self.encoder = mlp(nets, 2, [units] * 2, 2 * latents)
        self.decoder = mlp(nets, latents, [units] * 2, 2)
        self.log_std = nn.Parameter(torch.zeros(nets, 1))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), [S, M, J] each."""
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        return mean, log_var

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) [S, M]."""
        gap = (x - self.decoder(z)).square().sum(dim=-1) * (-2.0 * self.log_std).exp()
        return -0.5 * gap - 2.0 * self.log_std - math.log(2.0 * math.pi)

    def bound(self, x: Tensor, random: Generator | None, *, entropy: float = 1.0) -> Tensor:
        """E_q log p(x, z) + entropy * H(q(z|x)), one z a point, [S, M].

        entropy 1 is the evidence lower bound (AEVB, equation (2)); 0 leaves q nothing to be wide
        for.
        """
        mean, log_var = self.encode(x)
        eps = torch.randn(mean.shape, generator=random, device=x.device, dtype=x.dtype)
        z = mean + (0.5 * log_var).exp() * eps
        prior = -0.5 * (mean.square() + log_var.exp() + math.log(2.0 * math.pi)).sum(dim=-1)
        spread = 0.5 * (log_var + math.log(2.0 * math.pi * math.e)).sum(dim=-1)
        return self.log_likelihood(x, z) + prior + entropy * spread

    @torch.no_grad()
    def sample(self, n: int, random: Generator | None) -> Tensor:
        """x [S, n, 2], the decoder's noise included."""
        like, shape = self.log_std, (len(self.log_std), n)
        z, noise = (
            torch.randn(*shape, dim, generator=random, device=like.device, dtype=like.dtype)
            for dim in (self.latents, 2)
        )
        return self.decoder(z) + self.log_std.exp()[..., None] * noise


class EpsNet(nn.Module):
    """eps(x_t, t) for the diffusion process: x_t [S M, 2], t [S M] -> [S M, 2], set by set, as
    genbook.diffusion calls it.  t is told by sines and cosines of ten periods, x by itself and
    `octaves` more (ours)."""

    def __init__(self, nets: int, T: int, *, units: int = 128, layers: int = 3, octaves: int = 6):
        super().__init__()
        self.nets, self.T, self.octaves = nets, T, octaves
        self.net = mlp(nets, 2 + 4 * octaves + 21, [units] * layers, 2, nn.SiLU)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = 0.5 * math.pi * t[:, None].to(x) / self.T
        told = torch.cat([sines(x, self.octaves), sines(angle, 10)], dim=1)
        return self.net(told.unflatten(0, (self.nets, -1))).flatten(0, 1)
