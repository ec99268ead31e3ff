"""Denoising Diffusion Probabilistic Models: Ho, Jain & Abbeel 2020, arXiv 2006.11239.

Times: t = 1 ... T as in the paper (the official code counts from 0); index 0 is the data itself,
with beta_0 = 0 and alpha_bar_0 = 1, so that every table has T + 1 entries.  x_0 and x_t are
[M, ...] with values in [-1, 1] where they are images, t is [M] or one number, eps has the shape of
x_0.  Divergences and likelihoods are in nats, one value a data point, summed over its dimensions;
`bits_per_dim` converts.  Schedules are float64 and are cast to the type of x where they meet it.

"Official code" is hojonathanho/diffusion at 1e0dceb (diffusion_utils_2.py).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

Predicts = Literal["eps", "mu"]
Variance = Literal["large", "small", "learned"]


def linear_betas(T: int = 1000, *, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """beta_1 ... beta_T in equal steps, [T] (section 4: T = 1000, from 1e-4 to 0.02)."""
    return torch.linspace(first, last, T, dtype=torch.float64)


def sum_flat(x: Tensor) -> Tensor:
    """[M, ...] -> [M], the sum over all but the first dimension."""
    return x.flatten(1).sum(dim=1)


def bits_per_dim(nats: Tensor, x: Tensor) -> Tensor:
    """nats a data point -> bits a dimension of x [M, ...]."""
    return nats / (x[0].numel() * math.log(2.0))


def normal_kl(mean: Tensor, log_var: Tensor, other_mean: Tensor, other_log_var: Tensor) -> Tensor:
    """KL(N(mean, exp log_var) || N(other...)) elementwise, nats."""
    ratio = (log_var - other_log_var).exp()
    square = (mean - other_mean).square() * (-other_log_var).exp()
    return 0.5 * (other_log_var - log_var - 1.0 + ratio + square)


def discretised_log_likelihood(x_0: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log p(x_0|x_1) [M], nats: the decoder of equation (13), a normal density integrated.

    Each of the 256 levels of x_0 in [-1, 1] owns the interval x ± 1/255; the outermost ones own all
    that is beyond.  In float64; probabilities below 1e-12 count as 1e-12 (official code).
    """
    x_0, mean = x_0.double(), mean.double()
    scale = (-0.5 * log_var.double()).exp()
    above = torch.special.ndtr(scale * (x_0 - mean + 1.0 / 255.0))
    below = torch.special.ndtr(scale * (x_0 - mean - 1.0 / 255.0))
    p = torch.where(x_0 > 0.999, 1.0, above) - torch.where(x_0 < -0.999, 0.0, below)
    return sum_flat(p.clamp(min=1e-12).log())


class Denoiser(Protocol):
    """A network: x_t [M, ...] and t [M] -> the shape of x_t, or twice its channels."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor: ...


class GaussianDiffusion:
    """The forward process q with its tables [T + 1], section 2."""

    def __init__(self, betas: Tensor):
        """betas [T], each in (0, 1); ValueError otherwise."""
        if betas.ndim != 1 or len(betas) == 0 or not ((betas > 0.0) & (betas < 1.0)).all():
            raise ValueError("betas must be a list of numbers between 0 and 1")
        self.T = len(betas)
        self.beta = torch.cat([betas.new_zeros(1), betas]).double()
        self.alpha_bar = (1.0 - self.beta).cumprod(dim=0)
        before = torch.cat([self.alpha_bar[:1], self.alpha_bar[:-1]])  # alpha_bar_{t-1}
        rest = (1.0 - self.alpha_bar).clamp(min=1e-300)  # 0 at t = 0, which has no posterior
        self.beta_tilde = self.beta * (1.0 - before) / rest  # equation (7); 0 at t = 1
        self.mean_x_0 = self.beta * before.sqrt() / rest
        self.mean_x_t = (1.0 - before) * (1.0 - self.beta).sqrt() / rest

    def at(self, table: Tensor, t: Tensor | int, like: Tensor) -> Tensor:
        """The entries of a table at times t, in the type and on the device of `like` [M, ...]."""
        times = torch.as_tensor(t).to(like.device).expand(len(like))
        entries = table.to(like)[times]
        return entries.reshape(-1, *[1] * (like.ndim - 1))

    def q_step(self, x: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """x_t from x_{t-1}, equation (2): sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps."""
        beta = self.at(self.beta, t, x)
        return (1.0 - beta).sqrt() * x + beta.sqrt() * eps

    def q_sample(self, x_0: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """x_t from x_0 at once, equation (4): sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
        a, rest = self.at(self.alpha_bar, t, x_0), self.at(1.0 - self.alpha_bar, t, x_0)
        return a.sqrt() * x_0 + rest.sqrt() * eps

    def x_0_from_eps(self, x_t: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """Equation (15): the x_0 that x_t and eps belong to."""
        a, rest = self.at(self.alpha_bar, t, x_t), self.at(1.0 - self.alpha_bar, t, x_t)
        return (x_t - rest.sqrt() * eps) / a.sqrt()

    def eps_from_x_0(self, x_t: Tensor, t: Tensor | int, x_0: Tensor) -> Tensor:
        """The inverse of `x_0_from_eps`."""
        a, rest = self.at(self.alpha_bar, t, x_t), self.at(1.0 - self.alpha_bar, t, x_t)
        return (x_t - a.sqrt() * x_0) / rest.sqrt()

    def posterior_mean(self, x_0: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """mu_tilde(x_t, x_0), equation (7): the mean of q(x_{t-1}|x_t, x_0)."""
        return self.at(self.mean_x_0, t, x_t) * x_0 + self.at(self.mean_x_t, t, x_t) * x_t

    def x_0_from_mean(self, x_t: Tensor, t: Tensor | int, mean: Tensor) -> Tensor:
        """The x_0 with that posterior mean: the inverse of equation (7)."""
        return (mean - self.at(self.mean_x_t, t, x_t) * x_t) / self.at(self.mean_x_0, t, x_t)

    def log_variances(self, kind: Variance) -> Tensor:
        """log sigma_t^2, [T + 1]: of beta_t ("large") or beta_tilde_t ("small"), section 3.2.

        beta_tilde_1 is 0; at t = 1 both take beta_tilde_2 in its place, as the official code does
        ("to get a better decoder log likelihood").  Entry 0 has no meaning.
        """
        table = (self.beta if kind == "large" else self.beta_tilde).clone()
        table[:2] = self.beta_tilde[2] if self.T > 1 else self.beta[1]
        return table.log()

    def prior_kl(self, x_0: Tensor) -> Tensor:
        """L_T = KL(q(x_T|x_0) || N(0, I)) [M], nats."""
        mean = self.at(self.alpha_bar, self.T, x_0).sqrt() * x_0
        log_var = self.at((1.0 - self.alpha_bar).log(), self.T, x_0).expand_as(x_0)
        zero = torch.zeros_like(x_0)
        return sum_flat(normal_kl(mean, log_var, zero, zero))

    def respaced(self, times: Tensor) -> GaussianDiffusion:
        """The process that only visits `times` (rising): alpha_bar as here, and the betas that
        follow from it (Nichol & Dhariwal 2021).  Times that do not end at T are for a chain that
        starts in the middle: its first x is no N(0, I)."""
        kept = torch.cat([self.alpha_bar[:1], self.alpha_bar[times]])
        return GaussianDiffusion(1.0 - kept[1:] / kept[:-1])


@dataclass(frozen=True)
class Step:
    """p(x_{t-1}|x_t) = N(mean, exp log_var), and the x_0 that the network believes in."""

    mean: Tensor
    log_var: Tensor
    x_0: Tensor


@dataclass(frozen=True)
class Reverse:
    """The reverse process p of a network, section 3.2.

    `predicts`: what the network gives, eps (equation 11) or mu_tilde itself.  `variance`: sigma_t^2
    = beta_t ("large"), beta_tilde_t ("small"), or the exponential of further outputs ("learned").
    `clip`: x_0 is cut to [-1, 1] on the way (official code; not in the paper; never in training).
    `times` [T of the process]: the t that the network is told, when the process is a respaced one;
    then ValueError for a network that predicts mu or a variance, which are those of a single step.
    """

    net: Denoiser
    process: GaussianDiffusion
    predicts: Predicts = "eps"
    variance: Variance = "large"
    clip: bool = True
    times: Tensor | None = None

    def __post_init__(self) -> None:
        if self.times is not None and (self.predicts == "mu" or self.variance == "learned"):
            raise ValueError("the mean and the variance of one step say nothing about a longer one")

    def told(self, t: Tensor) -> Tensor:
        return t if self.times is None else self.times.to(t.device)[t - 1]

    def step(self, x_t: Tensor, t: Tensor) -> Step:
        """p(x_{t-1}|x_t) for t [M]."""
        said, log_var = self.net(x_t, self.told(t)).to(x_t.dtype), None
        if self.variance == "learned":
            said, log_var = said.chunk(2, dim=1)
        else:
            table = self.process.log_variances(self.variance)
            log_var = self.process.at(table, t, x_t).expand_as(x_t)
        if self.predicts == "eps":
            x_0 = self.process.x_0_from_eps(x_t, t, said)
        else:
            x_0 = self.process.x_0_from_mean(x_t, t, said)
        if self.clip:
            x_0 = x_0.clamp(-1.0, 1.0)
        if self.predicts == "mu":
            return Step(said, log_var, x_0)
        return Step(self.process.posterior_mean(x_0, x_t, t), log_var, x_0)

    def bound_term(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Step]:
        """L_{t-1} [M], nats: KL(q(x_{t-1}|x_t, x_0) || p(x_{t-1}|x_t)), and L_0 where t = 1."""
        step = self.step(x_t, t)
        true_mean = self.process.posterior_mean(x_0, x_t, t)
        true_log_var = self.process.at(self.process.log_variances("small"), t, x_t)
        kl = sum_flat(normal_kl(true_mean, true_log_var, step.mean, step.log_var))
        decoder = -discretised_log_likelihood(x_0, step.mean, step.log_var).to(kl)
        return torch.where(t == 1, decoder, kl), step

    def loss(self, x_0: Tensor, t: Tensor, eps: Tensor, *, simple: bool) -> Tensor:
        """[M]: with `simple` the squared error of what the network predicts, a mean over dimensions
        (equation 14); else a term of the bound in bits a dimension, as the official code scales it
        (T times its mean over t is L - L_T).  Never clips x_0."""
        x_t = self.process.q_sample(x_0, t, eps)
        if not simple:
            return bits_per_dim(replace(self, clip=False).bound_term(x_0, x_t, t)[0], x_0)
        if self.variance == "learned":
            raise ValueError("the simple loss has no gradient for a learned variance")
        target = eps if self.predicts == "eps" else self.process.posterior_mean(x_0, x_t, t)
        return (self.net(x_t, self.told(t)).to(x_t.dtype) - target).square().flatten(1).mean(dim=1)


def ancestral(
    reverse: Reverse, x: Tensor, random: Generator | None, *, start: int | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Algorithm 2 from x = x_start (T by default): yields t - 1, x_{t-1} and the believed x_0.

    x_{t-1} = mean + sigma_t z for t = T ... 1, and no noise at the last step.
    """
    for t in range(reverse.process.T if start is None else start, 0, -1):
        with torch.no_grad():
            step = reverse.step(x, torch.full((len(x),), t, device=x.device))
        x = step.mean
        if t > 1:
            noise = torch.randn(x.shape, generator=random, device=x.device, dtype=x.dtype)
            x = x + (0.5 * step.log_var).exp() * noise
        yield t - 1, x, step.x_0


def ddim(reverse: Reverse, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The deterministic sampler of Song et al. 2021 (eta = 0): x_{t-1} = sqrt(abar_{t-1}) x_0 +
    sqrt(1 - abar_{t-1}) eps with the network's x_0 and the eps that belongs to it."""
    process = reverse.process
    for t in range(process.T, 0, -1):
        with torch.no_grad():
            x_0 = reverse.step(x, torch.full((len(x),), t, device=x.device)).x_0
        x = process.q_sample(x_0, t - 1, process.eps_from_x_0(x, t, x_0))
        yield t - 1, x, x_0


def last(samples: Iterator[tuple[int, Tensor, Tensor]]) -> Tensor:
    """The x_0 at the end of a sampler."""
    return deque(samples, maxlen=1).pop()[1]


@dataclass(frozen=True)
class Coding:
    """What a code for each image costs, by reverse step; all [T, N] but where it says otherwise.

    rate[i]: L_{t-1} of t = T - i, nats (the last row is L_0, which is distortion, not rate);
    square[i]: mean squared error of the believed x_0 at that t, values in [-1, 1]; prior: L_T [N].
    """

    terms: Tensor
    square: Tensor
    prior: Tensor

    def distortion(self) -> Tensor:
        """L_0 [N], nats."""
        return self.terms[-1]

    def rate(self) -> Tensor:
        """L_1 + ... + L_T [N], nats, section 4.3."""
        return self.terms[:-1].sum(dim=0) + self.prior

    def bound(self) -> Tensor:
        """L = L_0 + ... + L_T [N], nats: equation (5)."""
        return self.terms.sum(dim=0) + self.prior

    def rmse(self) -> Tensor:
        """[T]: root of the mean squared error over images, on 0 ... 255."""
        return 127.5 * self.square.mean(dim=1).sqrt()

    def spent(self) -> Tensor:
        """[T]: mean nats an image received before the belief at t = T - i was formed."""
        paid = torch.cat([self.prior[None], self.terms[:-1]])
        return paid.cumsum(dim=0).mean(dim=1)


@torch.no_grad()
def progressive_coding(reverse: Reverse, x_0: Tensor, random: Generator | None) -> Coding:
    """All terms of the bound of x_0 [N, ...], each x_t drawn afresh from q(x_t|x_0): Algorithms 3
    and 4 without the coder, and the numbers of Table 4."""
    terms, squares = [], []
    for t in range(reverse.process.T, 0, -1):
        times = torch.full((len(x_0),), t, device=x_0.device)
        eps = torch.randn(x_0.shape, generator=random, device=x_0.device, dtype=x_0.dtype)
        term, step = reverse.bound_term(x_0, reverse.process.q_sample(x_0, t, eps), times)
        terms.append(term.double().cpu())
        squares.append((step.x_0 - x_0).square().flatten(1).mean(dim=1).double().cpu())
    prior = reverse.process.prior_kl(x_0.double()).cpu()
    return Coding(torch.stack(terms), torch.stack(squares), prior)
