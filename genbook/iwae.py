"""Importance Weighted Autoencoders: Burda, Grosse & Salakhutdinov 2015, arXiv 1509.00519.

What the MNIST rows of Table 1 need.  Indices as in the paper: l = 1..L counts stochastic layers
from the pixels up, h_0 = x and h = (h_1, ..., h_L); i = 1..k counts draws from q(h|x).  x is
[M, D] with values 0 or 1, h_l is [k, M, J_l], log weights are [k, M].  Everything is in nats, one
value an image; nothing here averages over the batch.

Sources of constants: "paper" is version 4 (November 2016), "official code" is yburda/iwae at
commit 78a6075, "ours" is neither.  Where the two disagree the paper is followed, and said so.
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from genbook.aevb import Gaussian, bernoulli_log_likelihood, log_standard_normal

BATCH = 20  # images a step: paper, section 5.1, and official code
ACTIVE = 0.01  # a unit is active above it: paper, section 5.2, and official code
DRAWS = 5000  # of the reported log-likelihood, L_5000: paper, section 5.1, and official code


@dataclass(frozen=True)
class Architecture:
    """Units of each stochastic layer, and of each of the two tanh layers below it in q (and,
    mirrored, above it in p): section 5.1 and appendix C; the official code has the same."""

    latents: tuple[int, ...]
    hidden: tuple[int, ...]


ONE_LAYER = Architecture(latents=(50,), hidden=(200,))
TWO_LAYERS = Architecture(latents=(100, 50), hidden=(200, 100))


def tanh_layers(inputs: int, hidden: int) -> nn.Sequential:
    """The two deterministic layers between one stochastic layer and the next."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())


class GaussianLayer(nn.Module):
    """N(mu(h), diag(exp(log_var(h)))) on two tanh layers: q(h_l|h_{l-1}) or p(h_{l-1}|h_l).

    The exponential makes the variance (paper, section 5.1); in the official code it makes the
    standard deviation, so that the same weights there mean twice this log variance.
    """

    def __init__(self, inputs: int, hidden: int, units: int):
        super().__init__()
        self.hidden = tanh_layers(inputs, hidden)
        self.mu = nn.Linear(hidden, units)
        self.log_var = nn.Linear(hidden, units)

    def forward(self, h: Tensor) -> Gaussian:
        features = self.hidden(h)
        return Gaussian(self.mu(features), self.log_var(features))


class BernoulliLayer(nn.Module):
    """The logits of p(x|h_1) on two tanh layers: [..., J_1] -> [..., D]."""

    def __init__(self, inputs: int, hidden: int, pixels: int):
        super().__init__()
        self.hidden = tanh_layers(inputs, hidden)
        self.out = nn.Linear(hidden, pixels)

    def forward(self, h: Tensor) -> Tensor:
        return self.out(self.hidden(h))


@dataclass(frozen=True)
class Recognition:
    """k draws from q(h|x): h_l [k, M, J_l] for l = 1..L, their log q(h|x) [k, M] in nats, and the
    conditionals q(h_l|h_{l-1}) that they were drawn from (the first is [M, J_1])."""

    h: tuple[Tensor, ...]
    log_q: Tensor
    conditionals: tuple[Gaussian, ...]


class LatentVariableModel(Protocol):
    """What the estimate of the log-likelihood asks of a model."""

    def log_weights(self, x: Tensor, *, k: int, generator: Generator | None) -> Tensor: ...


class IWAE(nn.Module):
    """p(h_L) p(h_{L-1}|h_L) ... p(x|h_1), equation (1), and q(h_1|x) ... q(h_L|h_{L-1}), (2).

    The same networks for the VAE and the IWAE rows: only the objective differs (section 3).
    """

    def __init__(self, *, pixels: int, architecture: Architecture):
        super().__init__()
        below = (pixels, *architecture.latents[:-1])
        layers = list(zip(below, architecture.hidden, architecture.latents, strict=True))
        self.q = nn.ModuleList(GaussianLayer(down, hidden, up) for down, hidden, up in layers)
        self.p = nn.ModuleList(GaussianLayer(up, hidden, down) for down, hidden, up in layers[1:])
        self.visible = BernoulliLayer(architecture.latents[0], architecture.hidden[0], pixels)
        self.latents = architecture.latents

    def recognise(self, x: Tensor, *, k: int, generator: Generator | None) -> Recognition:
        """k draws h ~ q(h|x) by equation (4), layer by layer, with gradient: x [M, D]."""
        conditionals = [self.q[0](x)]
        h = [conditionals[0].rsample(generator, (k,))]
        for layer in self.q[1:]:
            conditionals.append(layer(h[-1]))
            h.append(conditionals[-1].rsample(generator))
        log_q = sum(
            (q.log_prob(h_l) for q, h_l in zip(conditionals, h, strict=True)), x.new_zeros(())
        )
        return Recognition(tuple(h), log_q, tuple(conditionals))

    def log_joint(self, x: Tensor, h: tuple[Tensor, ...]) -> Tensor:
        """log p(x, h), the summand of equation (1): x [M, D], h_l [k, M, J_l] -> [k, M], nats."""
        log_p = log_standard_normal(h[-1]) + bernoulli_log_likelihood(x, self.visible(h[0]))
        for layer, lower, upper in zip(self.p, h, h[1:], strict=False):
            log_p = log_p + layer(upper).log_prob(lower)
        return log_p

    def log_weights(self, x: Tensor, *, k: int, generator: Generator | None) -> Tensor:
        """log w_i = log p(x, h_i) - log q(h_i|x) of k draws: x [M, D] -> [k, M], nats."""
        draw = self.recognise(x, k=k, generator=generator)
        return self.log_joint(x, draw.h) - draw.log_q

    def sample_means(self, n: int, *, generator: Generator | None) -> Tensor:
        """Pixel probabilities of n ancestral samples, [n, D], as appendix E shows them."""
        like = self.visible.out.weight
        h = torch.randn(
            n, self.latents[-1], generator=generator, device=like.device, dtype=like.dtype
        )
        for layer in reversed(self.p):
            h = layer(h).rsample(generator)
        return torch.sigmoid(self.visible(h))


def vae_objective(log_w: Tensor) -> Tensor:
    """1/k sum_i log w_i, whose gradient is equation (7): log_w [k, M] -> [M], nats.

    No closed-form KL, also for k = 1 (paper, footnote 1, and official code).
    """
    return log_w.mean(dim=0)


def iwae_objective(log_w: Tensor) -> Tensor:
    """log 1/k sum_i w_i, the estimate of L_k, equation (8): log_w [k, M] -> [M], nats.

    Plain autograd of it is equation (14), sum_i w~_i grad log w_i with w~ = softmax(log w).
    """
    return log_w.logsumexp(dim=0) - math.log(len(log_w))


@torch.no_grad()
def log_likelihood(
    model: LatentVariableModel,
    x: Tensor,
    *,
    generator: Generator | None,
    k: int = DRAWS,
    chunk: int = 100,
) -> Tensor:
    """The k-draw estimate of log p(x), one sample of L_k: x [M, D] -> [M] float64, nats.

    A lower bound in expectation (Theorem 1); Table 1 is minus its mean over the test set, each
    image binarised once (official code).  `chunk` draws are held at a time (ours: speed only);
    log-sum-exp runs in float64.
    """
    total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    for start in range(0, k, chunk):
        log_w = model.log_weights(x, k=min(chunk, k - start), generator=generator)
        total = torch.logaddexp(total, log_w.double().logsumexp(dim=0))
    return total - math.log(k)


@torch.no_grad()
def activity(
    model: IWAE, x: Tensor, *, generator: Generator | None, draws: int = 50
) -> tuple[Tensor, ...]:
    """A_u = Var_x(E_q[u|x]) of every unit, section 5.2: x [M, D] -> L tensors [J_l], float64.

    The inner expectation is exact in the first layer and a mean over `draws` of h_{l-1} above it
    (50: ours), which adds (variance over h_{l-1}) / draws.  The official code takes one draw, and
    x is the first 500 training images, binarised.  The variance divides by M (official code).
    """
    conditionals = model.recognise(x, k=draws, generator=generator).conditionals
    means = [q.mu.double().reshape(-1, *q.mu.shape[-2:]).mean(dim=0) for q in conditionals]
    return tuple(mean.var(dim=0, correction=0) for mean in means)


def active_units(activities: tuple[Tensor, ...]) -> tuple[int, ...]:
    """How many units of each layer have A_u > 0.01: the "k1+k2" of Table 1."""
    return tuple(int((a > ACTIVE).sum()) for a in activities)


def binarize(x: Tensor, *, generator: Generator | None) -> Tensor:
    """x_d ~ Bernoulli(grey level), afresh every time an image is seen: [M, D] in [0, 1] -> 0 or 1.

    Paper, footnote 2 (expectations equal to the real values), and official code.
    """
    return torch.bernoulli(x, generator=generator)


@torch.no_grad()
def init_glorot(model: IWAE, *, mean_image: Tensor, generator: Generator) -> None:
    """Weights uniform within sqrt(6 / (n_in + n_out)) (Glorot & Bengio 2010: paper), biases 0.

    The output bias is the logit of `mean_image` [D], the mean of the training images, clipped to
    [0.001, 0.999] (official code; the paper does not say).  The official code seeds every layer
    alike, so that mu and sigma start from equal weights; here each draws its own (ours), on the
    CPU, so that a model starts alike on every device.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            bound = math.sqrt(6.0 / (layer.in_features + layer.out_features))
            unit = torch.rand(layer.weight.shape, generator=generator)
            layer.weight.copy_(bound * (2.0 * unit - 1.0))
            layer.bias.zero_()
    model.visible.out.bias.copy_(mean_image.clamp(0.001, 0.999).logit())


def adam(model: nn.Module, *, lr: float = 1e-3, beta_1: float = 0.9) -> torch.optim.Adam:
    """Adam with beta_1 0.9, beta_2 0.999, epsilon 1e-4 (paper, section 5.1).

    The official code, whose README announces it as the source of the numbers of version 2, has
    beta_1 = 0.99 and starts the second moments at 1, not 0.  Its gradient is the sum over the
    minibatch: take the loss as -objective.sum(), since Adam forgets the scale of the loss but
    epsilon does not (the paper does not say sum or mean).  One fused kernel: ours, for speed.
    """
    return torch.optim.Adam(model.parameters(), lr=lr, betas=(beta_1, 0.999), eps=1e-4, fused=True)


@dataclass(frozen=True)
class Stage:
    """`epochs` passes over the training images at one learning rate."""

    epochs: int
    lr: float


def schedule(*, stages: int = 8) -> tuple[Stage, ...]:
    """3^i passes at learning rate 0.001 * 10^(-i/7), i = 0..7: 3280 in all (paper, section 5.1).

    The official code rounds each rate to a tenth of 1e-4 (at most 2 % away), passes over 59,600
    images, not 60,000, and never shuffles.  With fewer `stages` (ours, for short runs) the
    rates still go from 1e-3 to 1e-4: 13 passes in 3 stages, 40 in 4, 121 in 5, 364 in 6.
    """
    if stages < 2:
        raise ValueError(f"a schedule has at least 2 stages, not {stages}")
    return tuple(Stage(3**i, 0.001 * 10.0 ** (-i / (stages - 1))) for i in range(stages))


def learning_rate(epoch: int, *, stages: int = 8) -> float:
    """The rate of pass `epoch`, counted from 0.  Raises ValueError outside the schedule."""
    plan = schedule(stages=stages)
    ends = list(itertools.accumulate(stage.epochs for stage in plan))
    if not 0 <= epoch < ends[-1]:
        raise ValueError(f"pass {epoch} is not in 0..{ends[-1] - 1}")
    return plan[bisect.bisect_right(ends, epoch)].lr
