# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # δ-VAE: preventing posterior collapse with a committed rate
#
# A variational autoencoder whose decoder could model the data by itself tends to leave its latent variables
# empty. Razavi, van den Oord, Poole and Vinyals {cite}`razavi2019preventing` neither change the objective nor weaken
# the decoder. They choose a prior and a family of posteriors of which every member is at least some distance away from
# that prior. The *rate*, the divergence between the two, then cannot fall below a number δ that is known before
# training, and what has to be paid anyway may as well be used.
#
# Here, on MNIST in black and white, with one and the same autoregressive decoder, the rate of a plain VAE ends at
# {result}`rate-vae` nats an image and that of a δ-VAE, whose δ is {result}`delta` nats, at {result}`rate-delta`. A
# linear classifier reads the digit from a sample of the latents of {result}`probe-vae` % and {result}`probe-delta` % of
# the test images. In longer runs of a larger decoder, with three seeds, recorded once and shown beside the fresh one, the
# rates are {result}`rate-vae@long` and {result}`rate-delta@long` nats, and the classifier reads {result}`probe-vae@long` and
# {result}`probe-delta@long` %. What holds, what could not be judged at this scale and what did not hold is listed in [the
# ledger of this chapter](#the-ledger-of-this-chapter).

# %% tags=["parameters"]
profile = "smoke"
device = "cpu"
seed = 0

# %%
import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from genbook import data, delta_vae, ledger, pixels, plotting, rows, training
from genbook.metrics import classifier
from genbook.reading import Table, check, show

torch.manual_seed(seed)
claims = ledger.Ledger("delta_vae", profile=profile, seed=seed)

# %% [markdown]
# Four profiles of the same code. `book` is what the page shows, `long` and `paper` are run once and recorded,
# `smoke` only proves that every line runs. MNIST and the networks for it are ours: the paper works on CIFAR-10, on
# ImageNet at 32 × 32 and on a corpus of text. The `paper` profile trains convolutional networks with the number of
# layers, channels and attention blocks of the paper's ablation on CIFAR-10; the other profiles train one very small
# one, which only shows that no rate falls below δ there either.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Profile:
    toy_updates: int  # of each toy in the plane
    updates: int  # of each main model on MNIST
    auxiliary_updates: int  # of each auxiliary prior
    classifier_updates: int
    test_images: int  # for bounds and probes
    probe_images: int  # training images of a probe
    decoded: int  # test images whose latents are decoded several times
    hidden: int  # state of the recurrent networks
    units: int  # inside a row
    layers: int  # gated layers inside a row
    prices: tuple[float, ...]  # of the rate, β-VAE
    targets: tuple[float, ...]  # of free bits, in units of δ
    photo_models: tuple[str, ...]  # on CIFAR-10
    photo_updates: int
    photo_auxiliary_updates: int
    photo_channels: int  # paper: 128
    photo_layers: int  # paper: 8
    photo_attention: int  # paper: 2
    photo_mixtures: int
    photo_batch: int
    photo_test: int  # test images of CIFAR-10
    batch: int = 128
    latents: int = 4  # a row
    high_latents: int = 16  # a row, for the high rate
    lr: float = 1e-3
    photo_lr: float = 4e-4


ONE = ("anti-low",)
ALL = ("alone", "vae", "anti-low", "non-low", "anti-high", "non-high")
PROFILES = {
    "smoke": Profile(
        toy_updates=20, updates=2, auxiliary_updates=2, classifier_updates=5, test_images=100,
        probe_images=200, decoded=10, hidden=16, units=28, layers=1, prices=(0.3,), targets=(1.0,),
        photo_models=ONE, photo_updates=1, photo_auxiliary_updates=1, photo_channels=8, photo_layers=1,
        photo_attention=1, photo_mixtures=2, photo_batch=2, photo_test=4,
    ),
    "book": Profile(
        toy_updates=1_500, updates=300, auxiliary_updates=150, classifier_updates=400,
        test_images=2_000, probe_images=5_000, decoded=200, hidden=64, units=56, layers=1,
        prices=(0.3,), targets=(1.0,), photo_models=ONE, photo_updates=10,
        photo_auxiliary_updates=20, photo_channels=16, photo_layers=2, photo_attention=1,
        photo_mixtures=5, photo_batch=8, photo_test=20,
    ),
    "long": Profile(
        toy_updates=3_000, updates=1_500, auxiliary_updates=600, classifier_updates=1_500,
        test_images=10_000, probe_images=20_000, decoded=1_000, hidden=160, units=140, layers=2,
        prices=(0.1, 0.3, 0.6), targets=(0.5, 1.0, 2.0), photo_models=ONE, photo_updates=100,
        photo_auxiliary_updates=200, photo_channels=32, photo_layers=3, photo_attention=1, photo_mixtures=5, photo_batch=16,
        photo_test=500,
    ),
    "paper": Profile(
        toy_updates=3_000, updates=10_000, auxiliary_updates=5_000, classifier_updates=6_000,
        test_images=10_000, probe_images=50_000, decoded=1_000, hidden=512, units=448, layers=4,
        prices=(0.1, 0.3, 0.6), targets=(0.5, 1.0, 2.0), photo_models=ALL, photo_updates=200_000,
        photo_auxiliary_updates=5_000, photo_channels=128, photo_layers=8, photo_attention=2, photo_mixtures=10, photo_batch=64,
        photo_test=10_000,
    ),
}  # fmt: skip
cfg = PROFILES[profile]
claims.settings(cfg)
Table(
    ["setting", *PROFILES],
    [[name, *(asdict(p)[name] for p in PROFILES.values())] for name in asdict(cfg)],
)

# %% [markdown]
# | symbol | in code | shape | where |
# |---|---|---|---|
# | $\mathbf x$, a picture | `x` | `[M, 28, 28]`, 0 or 1; CIFAR-10 `[M, 3, 32, 32]`, $-1$ to $1$ | |
# | $\mathbf z_t$, latents of row $t$ | `z[:, t]` | `[M, n, K]`: $n$ rows, $K$ latents each | section 2 |
# | $q(\mathbf z\mid\mathbf x)$, posterior | `mu`, `log_var` | `[M, n, K]` twice | |
# | $\alpha_k$, how slow latent $k$ is | `alpha` | `[K]` | {eq}`ar1` |
# | $D_{KL}(q\Vert p)$, the rate | `families.rate(mu, log_var)` | `[M]`, nats | |
# | $-\mathbb E_q\log p(\mathbf x\mid\mathbf z)$, the distortion | `bound.distortion` | `[M]`, nats | |
# | $\delta$, the committed rate | `delta_vae.committed_rate(alpha, n)` | number, nats | {eq}`committed` |
#
# ## The whole method in two dimensions
#
# A variational autoencoder writes down a point $\mathbf x$ with the help of latents $\mathbf z$, and pays twice: the
# *distortion*, what the decoder's description of $\mathbf x$ still costs when $\mathbf z$ is known, and the *rate*, what
# $\mathbf z$ costs. Minus their sum is the bound that is raised:

# %%
show(delta_vae.DeltaVAE.bound)

# %% [markdown]
# Below, points lie in eight heaps on a ring. Each of the two coordinates is cut into 24 steps, and the decoder writes
# one after the other: first $p(x_1\mid z_1)$, then $p(x_2\mid x_1, z_1, z_2)$, each a table of 24 probabilities. Without
# any $z$ such a decoder can already describe every distribution on the 24 × 24 squares. It is trained twice, with the
# same objective. Only the pair of families differs, the VAE's or the δ-VAE's.

# %%
STEPS, PAIR = 24, 2  # of a coordinate; latents of a step in time


def heaps(m, g):
    angle = 2 * math.pi / 8 * torch.randint(8, (m,), generator=g)
    points = 2 * torch.stack([angle.cos(), angle.sin()], dim=1)
    points = points + 0.15 * torch.randn(m, 2, generator=g)
    return ((points + 3) * (STEPS / 6)).long().clamp(0, STEPS - 1)


class Pair(nn.Module):
    """Two small networks, for the first and the second coordinate or latent."""

    def __init__(self, *sizes):
        super().__init__()
        self.first, self.second = (
            nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, outputs))
            for inputs, outputs in sizes
        )


class ToyEncoder(Pair):
    def forward(self, x):
        x = functional.one_hot(x, STEPS).float()
        said = [self.first(x.flatten(1)), self.second(x[:, 1])]  # z_2 sees only x_2
        return torch.stack(said, dim=1).chunk(2, dim=2)


class ToyDecoder(Pair):
    def tables(self, x_1, z):
        x_1 = functional.one_hot(x_1, STEPS).float()
        return self.first(z[:, 0]), self.second(torch.cat([z.flatten(1), x_1], dim=1))

    def log_likelihood(self, x, z):
        first, second = self.tables(x[:, 0], z)
        nats = functional.cross_entropy(first, x[:, 0], reduction="none")
        return -nats - functional.cross_entropy(second, x[:, 1], reduction="none")


def train_toy(families):
    torch.manual_seed(seed)
    encoder = ToyEncoder((2 * STEPS, 2 * PAIR), (STEPS, 2 * PAIR))
    decoder = ToyDecoder((PAIR, STEPS), (2 * PAIR + STEPS, STEPS))
    vae = delta_vae.DeltaVAE(encoder, decoder, families)
    adam = torch.optim.Adam(vae.parameters(), lr=3e-3)
    g, history = training.stream(seed, "toy"), []
    for _ in range(cfg.toy_updates):
        bound = vae.bound(heaps(500, g), g)
        adam.zero_grad()
        (-bound.value().mean()).backward()
        adam.step()
        rate = bound.rate.detach()
        history.append([rate.min().item(), rate.mean().item(), bound.value().mean().item()])
    return vae, np.array(history)


slow_pair = delta_vae.SlowFeatures(torch.full((PAIR,), 0.8))
toys = {"vae": train_toy(delta_vae.StandardNormal()), "delta": train_toy(slow_pair)}

# %% [markdown]
# What do the latents say? Take a point, draw its latents once, decode them many times, and see in how many of the
# decodes the heap is the point's own.


# %%
@torch.no_grad()
def decode_again(vae, x, times, g):
    """One draw of the latents of every point, decoded many times: [M, times, 2]."""
    z = delta_vae.draw(*vae.posterior(x), g).repeat_interleave(times, dim=0)
    nothing = torch.zeros(len(z), dtype=torch.long)
    x_1 = torch.multinomial(vae.decoder.tables(nothing, z)[0].softmax(1), 1, generator=g)
    x_2 = torch.multinomial(vae.decoder.tables(x_1[:, 0], z)[1].softmax(1), 1, generator=g)
    return torch.cat([x_1, x_2], dim=1).reshape(len(x), times, 2)


def heap_of(x):
    centred = x.double() - (STEPS - 1) / 2
    return (torch.atan2(centred[..., 1], centred[..., 0]) * 8 / (2 * math.pi)).round() % 8


def score_toy(name, vae, history):
    """Keep rate and bound of the last tenth; the decodes, and how far the rate stayed above δ."""
    again = decode_again(vae, points, 50, training.stream(seed, "toy decodes"))
    _, rate, bound = history[-max(1, len(history) // 10) :].mean(axis=0)
    same = (heap_of(again) == heap_of(points)[:, None]).double().mean().item()
    promised = vae.families.committed(n=2, latents=PAIR)
    claims.value(f"toy-rate-{name}", rate, unit="nats", format=".2f")
    claims.value(f"toy-bound-{name}", bound, unit="nats", format=".2f")
    claims.value(f"toy-same-{name}", 100 * same, unit="%", format=".0f")
    claims.value(f"toy-delta-{name}", promised, unit="nats", format=".2f")
    return again, history[:, 0].min() - promised


g = training.stream(seed, "toy points")
points = heaps(200, g)
decodes, margins = zip(*(score_toy(name, *toy) for name, toy in toys.items()), strict=True)
claims.judge("toy-never-below", ours=margins[1])
counts = torch.bincount(heaps(1_000_000, g) @ torch.tensor([STEPS, 1]), minlength=STEPS**2).double()
entropy = torch.special.entr(counts / counts.sum()).sum().item()
claims.value("toy-entropy", entropy, unit="nats", format=".2f")


# %% tags=["hide-input"]
def draw_toy():
    figure, panels = plotting.axes(1, 3, figsize=(6.4, 2.5))
    shown = [("data", points), ("VAE", decodes[0][0]), ("δ-VAE", decodes[1][0])]
    shake = np.random.default_rng(0).uniform(-0.4, 0.4, (200, 2))
    for ax, (title, dots) in zip(panels, shown, strict=True):
        moved = dots.numpy() + shake[: len(dots)]
        ax.plot(*moved.T, ".", markersize=3, color="C1" if title != "data" else "C0")
        if title != "data":
            ax.plot(*points[0].numpy(), "x", markersize=9, mew=2, color="C0")
        ax.set(xlim=(-1, STEPS), ylim=(-1, STEPS), aspect="equal", title=title)
        ax.set(xticks=[], yticks=[])
    return figure


def of(record, name):
    return record["values"][name]["value"]


plotting.show(
    draw_toy,
    name="toy",
    alt="Left, 200 data points in eight heaps on a ring. Middle and right, fifty decodes of one draw of the latents of "
    f"the point marked by a cross. Over 200 points, {of(claims.record, 'toy-same-vae'):.0f} % of the decodes of the VAE and "
    f"{of(claims.record, 'toy-same-delta'):.0f} % of those of the δ-VAE lie in the heap of their point.",
    caption=f"Decodes of the latents of one point: profile {profile}, seed {seed}; n = 200 and 50.",
)

# %% [markdown]
# At the end the VAE pays a rate of {result}`toy-rate-vae` nats, and {result}`toy-same-vae` % of its decodes are in the
# heap of their point (an eighth is chance). The δ-VAE pays {result}`toy-rate-delta`, never less than
# δ = {result}`toy-delta-delta`, and {result}`toy-same-delta` % are. As descriptions of the data the two have bounds of
# {result}`toy-bound-vae` and {result}`toy-bound-delta` nats; the best that any model can have is minus the entropy of the
# data, and that entropy is {result}`toy-entropy`. So the committed rate has a price. This chapter measures what it buys
# and how much of it can be had back in the end.
#
# ## Why a strong decoder ignores its latents
#
# A VAE learns with *amortised inference*: one network, the encoder, answers for every picture $\mathbf x$ which latents
# fit it, and is trained together with the decoder to raise the bound
#
# $$
# \log p(\mathbf x) \;\ge\; \underbrace{\mathbb E_{q(\mathbf z\mid\mathbf x)}\log p(\mathbf x\mid\mathbf z)}_{-\text{distortion}}
#   \;-\; \underbrace{D_{KL}\big(q(\mathbf z\mid\mathbf x)\,\Vert\,p(\mathbf z)\big)}_{\text{rate}} .
# $$ (two-costs)
#
# Two costs: everything the latents tell the decoder is paid for in rate. Averaged over data with entropy $H$, the
# bound is
#
# $$
# -H \;-\; D_{KL}\big(p_{\text{data}}(\mathbf x)\,\Vert\,p(\mathbf x)\big) \;-\; \mathbb E_{\mathbf x}\,
#   D_{KL}\big(q(\mathbf z\mid\mathbf x)\,\Vert\,p(\mathbf z\mid\mathbf x)\big) .
# $$ (three-terms)
#
# Nothing in {eq}`three-terms` asks that latents be used. A decoder without memory needs them, or its pixels would be
# independent and the second term huge. An autoregressive decoder can bring the second term to zero alone, and if
# it ignores $\mathbf z$ the posterior $p(\mathbf z\mid\mathbf x)$ is the prior, which makes the third term the easiest
# to zero as well: $q = p$ for every picture. At the start of the training the latents are mostly noise and the
# cheapest thing to do about noise is to stop paying for it; once the encoder says nothing, the decoder has no
# reason to listen. This is *posterior collapse*.
#
# The usual cures take something away. A decoder that cannot model the data alone needs its latents, and is a worse
# model of details. A smaller price for the rate (β-VAE, {cite}`higgins2017beta`) and no price at the beginning
# (annealing, {cite}`bowman2016generating`) give up that the objective is a bound on $\log p(\mathbf x)$, the second until
# the full price is charged. Free bits {cite}`kingma2016improved` charge a fixed sum while the rate is below a target:
# still a bound, but a looser one, and below the target the rate has no gradient at all. (Wherever this chapter prints a
# bound it is the one of {eq}`two-costs`, at the full price, however the model was trained.)
#
# Equation {eq}`three-terms`, and a second one that will be needed at the end, can be checked on a world so small that every
# sum can be written out: four pictures, three latents, all probabilities drawn at random. For any density
# $p_{\text{new}}$ of the latents
#
# $$
# \mathbb E_{\mathbf x} D_{KL}\big(q(\mathbf z\mid\mathbf x)\Vert p_{\text{new}}(\mathbf z)\big) = I(\mathbf x; \mathbf z) +
#   D_{KL}\big(q(\mathbf z)\Vert p_{\text{new}}(\mathbf z)\big) ,
# $$ (information)
#
# where $q(\mathbf z)$ is the average of the posteriors over the data and $I$ the mutual information of picture and latents
# under $q$: no prior can bring the rate below what the latents say.

# %%
g = training.stream(seed, "small world")


def drawn_table(*shape):
    return torch.rand(shape, generator=g, dtype=torch.float64).softmax(dim=-1)


def kl(a, b):
    return (a * (a / b).log()).sum(dim=-1)


of_data, prior, q, p_x = drawn_table(4), drawn_table(3), drawn_table(4, 3), drawn_table(3, 4)
marginal = prior @ p_x  # p(x)
true_posterior = (prior[:, None] * p_x / marginal).T  # p(z|x)
mean_bound = of_data @ ((q * p_x.T.log()).sum(dim=1) - kl(q, prior))
minus_entropy = (of_data * of_data.log()).sum()
gaps = kl(of_data, marginal) + of_data @ kl(q, true_posterior)
check("mean bound", mean_bound, minus_entropy - gaps, atol=1e-12)
average = of_data @ q
information = of_data @ kl(q, average)
check("mean rate", of_data @ kl(q, prior), information + kl(average, prior), atol=1e-12)

# %% [markdown]
# ## A rate that cannot be refused
#
# Let the latents be a sequence in time, one set a row of the picture, with a prior that changes slowly,
#
# $$
# z_1 \sim \mathcal N(0, 1), \qquad z_t = \alpha z_{t-1} + \epsilon_t, \qquad \epsilon_t \sim \mathcal N(0, 1-\alpha^2),
# $$ (ar1)
#
# where $1-\alpha^2$ is a variance, so that every $z_t$ has variance 1. The posterior stays factored: given $\mathbf x$
# the $z_t$ are independent. Neighbours under the prior have correlation $\alpha$, and no density with independent
# coordinates is the same as a density with correlated ones. How close can it come? For $n\ge2$ steps, $|\alpha|<1$ and
# each latent dimension
#
# $$
# D_{KL}(q\Vert p) \;\ge\; \tfrac12\Big[(n-2)\log(1+\alpha^2) - \log(1-\alpha^2)\Big] .
# $$ (committed)
#
# To see it, write the prior as $\mathcal N(0, \Lambda^{-1})$. Its precision $\Lambda$ is tridiagonal, with diagonal
# $(1, 1+\alpha^2, \dots, 1+\alpha^2, 1)/(1-\alpha^2)$, and $\log\det\Lambda = -(n-1)\log(1-\alpha^2)$. For a factored
# $q$ with means $\mu_t$ and variances $s_t^2$
#
# $$
# D_{KL}(q\Vert p) = \tfrac12\Big[\sum_t \Lambda_{tt} s_t^2 - n - \sum_t\log s_t^2 - \log\det\Lambda + \mu^\top\Lambda\mu\Big] .
# $$ (kl-matrix)
#
# The last term is smallest at $\mu = 0$. Setting the slope in $s_t^2$ to zero gives $s_t^2 = 1/\Lambda_{tt}$, and put
# in, {eq}`kl-matrix` is $\tfrac12\big[\sum_t\log\Lambda_{tt} - \log\det\Lambda\big]$, the right side of {eq}`committed`.

# %%
show(delta_vae.ar1_kl)

# %%
show(delta_vae.committed_rate)

# %% [markdown]
# The rate against the matrix formula of torch's own normal distributions, then {eq}`committed` against a minimisation
# over all means and variances, for several lengths and several α:

# %%
g = training.stream(seed, "rate")
mu, log_var = torch.randn(2, 1, 7, 1, dtype=torch.float64, generator=g)
lags = (torch.arange(7)[:, None] - torch.arange(7)).abs()
slow = torch.distributions.MultivariateNormal(torch.zeros(7).double(), 0.8 ** lags.double())
posterior = torch.distributions.MultivariateNormal(
    mu[0, :, 0], covariance_matrix=log_var[0, :, 0].exp().diag()
)
check(
    "rate",
    delta_vae.ar1_kl(mu, log_var, torch.tensor([0.8], dtype=torch.float64)),
    torch.distributions.kl_divergence(posterior, slow),
    rtol=1e-12,
)


# %%
def minimised(objective, parameters):
    """The smallest value of the objective that L-BFGS finds."""
    newton = torch.optim.LBFGS(
        [parameters], max_iter=500, tolerance_grad=1e-12, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        newton.zero_grad()
        loss = objective(parameters)
        loss.backward()
        return loss

    newton.step(closure)
    with torch.no_grad():
        return objective(parameters).item()


found, errors = {}, []
for n in (2, 3, 8, 16, 32):
    for value in (-0.8, 0.0, 0.5, 0.8, 0.95, 0.99):
        a = torch.tensor([value], dtype=torch.float64)
        free = torch.ones(2, 1, n, 1, dtype=torch.float64, requires_grad=True)  # mu, log var
        found[n, value] = minimised(lambda p, a=a: delta_vae.ar1_kl(p[0], p[1], a).sum(), free)
        errors.append(abs(found[n, value] - delta_vae.committed_rate(a, n).item()))
claims.judge("rate-minimised", ours=max(errors))


# %% tags=["hide-input"]
def draw_committed():
    figure, ax = plotting.axes(figsize=(6.4, 3.2))
    a = torch.linspace(0.0, 0.995, 400, dtype=torch.float64)
    for i, n in enumerate((2, 3, 8, 16, 32)):
        curve = [delta_vae.committed_rate(one[None], n).item() for one in a]
        ax.plot(a, curve, color=f"C{i}", label=f"n = {n}")
        dots = [(value, kl) for (steps, value), kl in found.items() if steps == n and value >= 0]
        ax.plot(*zip(*dots, strict=True), "o", color=f"C{i}", markersize=5)
    ax.set(xlabel="α", ylabel="committed rate, nats a latent")
    ax.legend()
    return figure


plotting.show(
    draw_committed,
    name="committed",
    alt="Committed rate against α from 0 to 0.995 for 2, 3, 8, 16 and 32 steps: curves that start at 0 and rise, to "
    f"{found[2, 0.99]:.2f} nats for two steps and {found[32, 0.99]:.2f} for 32 at α = 0.99. Dots of a numerical "
    f"minimisation lie on the curves to within {max(errors):.0e}.",
    caption="The committed rate, lines, and the smallest divergence that a minimiser finds over all factored normal posteriors, dots.",
)

# %% [markdown]
# The paper's Figure 2 prints the rates of two steps, and its Table 6 two settings of the whole model, in bits an
# image. Its last number in Figure 2, {result}`figure-2-095.published`, is misrounded: the exact value is
# {result}`figure-2-095`. The first of Table 6, {result}`table-6-low.published`, is cut off, not rounded.

# %%
for name, value in (("05", 0.5), ("08", 0.8), ("095", 0.95)):
    nats = delta_vae.committed_rate(torch.tensor([value], dtype=torch.float64), 2).item()
    claims.judge(f"figure-2-{name}", ours=nats)
for name, latents, top in (("low", 8, 0.95), ("high", 64, 0.99)):
    slow = torch.linspace(0.5, top, latents, dtype=torch.float64)
    nats = delta_vae.committed_rate(slow, 32).item()  # a step is a row of 32 x 32 pixels
    claims.judge(f"table-6-{name}", ours=nats / math.log(2))
    claims.value(
        f"table-6-{name}-dim",
        delta_vae.bits_per_dim(nats, 3 * 32 * 32),
        unit="bits/dim",
        format=".4f",
    )

# %% [markdown]
# With 8 latents a row and α from 0.5 to 0.95 the committed rate is {result}`table-6-low` bits an image, with 64 and α
# up to 0.99 {result}`table-6-high`. Spread over 3072 values that is {result}`table-6-low-dim` and
# {result}`table-6-high-dim` bits each.
#
# ```{lab} delta_vae
# :still: committed
# The first picture is {eq}`committed` for one latent, over the length $n$ and α, with lines of equal rate. Each dot on it is
# one of $K$ latents whose α go in equal steps from the first to the last, and δ is the sum over the dots. (Eight latents from
# 0.5 to 0.95 and 32 positions are the first setting of Table 6.) The second has the variances and means of a posterior $q$ of
# the last latent: move its dots, with the pointer or the arrow keys, and try to get below δ. Then let the minimiser try, which
# knows only {eq}`kl-matrix`: it ends on the rings, $1/\Lambda_{tt}$ with means 0, and no lower. Notice that the two ends may be
# wider than the rest, since they have one neighbour and not two, and what one more position costs at small and at large α.
# ```
#
# ### The conditions
#
# **A stationary prior**: $|\alpha| < 1$, and a first step with the variance of all others, here 1.
#
# **At least two steps.** With $n = 1$ the formula gives a positive number, but one normal variable can match another
# exactly, and the smallest rate is zero. The function refuses.
#
# **A factored posterior.** Let $z_t$ depend on $z_{t-1}$ under $q$ too, and nothing is committed. Below,
# $q(z_t\mid z_{t-1}) = \mathcal N(c_t z_{t-1}, s_t^2)$ starts at the closest factored posterior, all $c_t = 0$, where its rate
# is that of {eq}`committed`; then it may move.

# %%
one = torch.zeros(1, 1, 1, dtype=torch.float64)
claims.judge(
    "one-step-is-free",
    ours=delta_vae.ar1_kl(one, one, torch.tensor([0.9], dtype=torch.float64)).item(),
)
try:
    delta_vae.committed_rate(torch.tensor([0.9]), 1)
except ValueError as refusal:
    print(refusal)


def linked_kl(parameters, a):
    """KL of q(z_t|z_{t-1}) = N(c_t z_{t-1}, s_t^2) from the slow prior; parameters [2, n]: c, log s^2."""
    c, log_var = parameters
    variance = log_var[0].exp()  # of z_1
    kl = 0.5 * (variance - 1.0 - log_var[0])
    for t in range(1, len(c)):
        square = (c[t] - a).square() * variance + log_var[t].exp()
        kl = kl + 0.5 * (square / (1 - a**2) - 1.0 + math.log(1 - a**2) - log_var[t])
        variance = c[t].square() * variance + log_var[t].exp()
    return kl


closest = delta_vae.closest_variances(torch.tensor([0.8], dtype=torch.float64), 8)[:, 0].log()
linked = torch.stack([torch.zeros(8, dtype=torch.float64), closest]).requires_grad_()
start = linked_kl(linked, 0.8).item()
check(
    "factored",
    start,
    delta_vae.committed_rate(torch.tensor([0.8], dtype=torch.float64), 8),
    rtol=1e-12,
)
claims.judge("linked-is-free", ours=minimised(lambda p: linked_kl(p, 0.8), linked))

# %% [markdown]
# ### Other pairs of families
#
# The idea is wider than slow features: any prior and any family of posteriors will do whose closest members are a
# known distance apart. In the library a pair is a class with four short methods, and everything else, networks,
# training, measures, is the same for all of them.

# %%
show(delta_vae.Families)

# %%
show(delta_vae.SlowFeatures)

# %% [markdown]
# Draws must agree with the closed form: the mean of $\log q(\mathbf z\mid\mathbf x) - \log p(\mathbf z)$ over draws
# from $q$ is the rate. And an encoder that says nothing but zeros pays the committed rate exactly.

# %%
g = training.stream(seed, "draws")
families = delta_vae.SlowFeatures(torch.tensor([0.5, 0.9], dtype=torch.float64))
said = torch.randn(2, 1, 5, 2, generator=g, dtype=torch.float64)
mu, log_var = families.posterior(*said)
z = delta_vae.draw(mu.expand(200_000, 5, 2), log_var.expand(200_000, 5, 2), g)
ratio = delta_vae.log_q(z, mu, log_var) - families.log_prior(z)
error = 4 * ratio.std().item() / math.sqrt(len(ratio))
check("draws", ratio.mean(), families.rate(mu, log_var), atol=error)
silent = families.rate(*families.posterior(*torch.zeros_like(said)))
check("says nothing", silent, families.committed(n=5, latents=2), atol=1e-12)

# %% [markdown]
# The paper's appendix has a second pair, without time. The prior is the usual $\mathcal N(0, 1)$; the posterior
# $\mathcal N(\mu, \sigma^2)$ of each latent must keep a rate of at least δ to itself, which is a region of the plane
# $(\mu, \sigma)$:
#
# $$
# \mu^2 \;\ge\; 2\delta + 1 + \log\sigma^2 - \sigma^2 .
# $$ (allowed)

# %%
show(delta_vae.smallest_square)

# %%
edge = {}
for side, span in (("below", (-4.0, 0.0)), ("above", (0.0, 2.0))):  # log var with mu = 0 allowed
    low, high = span
    for _ in range(60):  # halving: the floor is 0 at one end and not at the other
        middle = 0.5 * (low + high)
        free = delta_vae.smallest_square(torch.tensor(middle, dtype=torch.float64), 0.1) == 0
        low, high = (middle, high) if free == (side == "below") else (low, middle)
    edge[side] = math.exp(0.5 * middle)
    claims.value(f"allowed-{side}", edge[side], unit="", format=".3f")
    normal = torch.distributions.Normal(0.0, 1.0)
    border = torch.distributions.Normal(0.0, torch.tensor(edge[side], dtype=torch.float64))
    check(
        f"rate on the border {side} 1",
        torch.distributions.kl_divergence(border, normal),
        0.1,
        atol=1e-9,
    )


# %% tags=["hide-input"]
def draw_allowed():
    figure, ax = plotting.axes(figsize=(6.4, 3.2))
    sigma = torch.linspace(0.05, 2.2, 400, dtype=torch.float64)
    for i, nats in enumerate((0.02, 0.1, 0.5)):
        border = delta_vae.smallest_square(2 * sigma.log(), nats).sqrt()
        ax.plot(sigma, border, color=f"C{i}", label=f"δ = {nats:g} nats")
        ax.plot(sigma, -border, color=f"C{i}")
        ax.fill_between(sigma, -border, border, color=f"C{i}", alpha=0.12, lw=0)
    ax.set(xlabel="σ", ylabel="μ", ylim=(-1.6, 1.6))
    ax.legend(loc="upper right")
    return figure


plotting.show(
    draw_allowed,
    name="allowed",
    alt="Plane of σ and μ. For each of three values of δ a lens around σ = 1, μ = 0 is forbidden: the larger δ, the "
    f"larger the lens. For δ = 0.1 it reaches from σ = {edge['below']:.3f} to {edge['above']:.3f} on the axis μ = 0 and to "
    f"|μ| = {math.sqrt(0.2):.3f} at σ = 1.",
    caption="The posteriors that the independent δ-VAE excludes, inside the curves.",
)

# %% [markdown]
# For δ = 0.1 nats and a mean of zero, σ must be below {result}`allowed-below` or above {result}`allowed-above`. Our way to
# keep an encoder in the region, which may differ from the paper's, is to start from the smallest mean that
# {eq}`allowed` asks for:

# %%
show(delta_vae.FarMeans)

# %% [markdown]
# ## The networks
#
# A row of the picture is a step in time. The encoder is *anti-causal*: the latents of a row know this row and those
# below it. The decoder writes from the top, so this is just what it does not have yet; what it has, it need not
# be told. The paper's encoder is a causal convolutional network on the reversed picture, with the mean taken over
# every row; for MNIST a recurrent network over rows does the same at a price that a processor can pay.

# %%
show(rows.AntiCausalEncoder)

# %% [markdown]
# The decoder is autoregressive in every pixel. A recurrent network carries the rows above and the latents up to
# the present row; inside the row gated layers with masks {cite}`germain2015made` see the pixels to the left.

# %%
show(rows.RowDecoder)

# %% [markdown]
# Who sees what is not a matter of trust. Derivatives show it: of the latents of each row with respect to every pixel, and,
# on a small picture, of every logit with respect to every pixel and latent.

# %%
torch.manual_seed(seed)
g = training.stream(seed, "field")


def sight(outputs, x):
    """Which entries of x each output depends on: [outputs, *x.shape], by the derivative."""
    slopes = [
        torch.autograd.grad(one, x, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        for one in outputs
    ]
    return torch.stack(slopes) != 0


x = torch.rand(28, 28, generator=g).requires_grad_()
encoder = rows.AntiCausalEncoder(values=28, hidden=16, latents=2)
said = torch.cat(encoder(x[None]), dim=2)[0]  # mean and log-variance of every row
seen = sight(said.abs().sum(dim=1), x)
row_of_pixel = torch.arange(28).view(1, 28, 1).expand(28, 28, 28)
row_of_latent = torch.arange(28).view(28, 1, 1).expand(28, 28, 28)
claims.judge("anti-causal", ours=(seen != (row_of_pixel >= row_of_latent)).sum().item())

SIDE = 6
x = torch.rand(SIDE, SIDE, generator=g).requires_grad_()
z = torch.randn(SIDE, 2, generator=g).requires_grad_()
decoder = rows.RowDecoder(values=SIDE, hidden=16, latents=2, units=24, layers=2)
logits = decoder(x[None], z[None])[0].flatten()
before = sight(logits, x).flatten(1)
told = sight(logits, z).any(dim=2)  # [pixel, row of the latents]
wrong = (before != torch.ones(SIDE**2, SIDE**2).tril(-1).bool()).sum()
up_to = torch.arange(SIDE)[None] <= (torch.arange(SIDE**2) // SIDE)[:, None]
claims.judge("decoder-causal", ours=(wrong + (told != up_to).sum()).item())


# %% tags=["hide-input"]
def draw_fields():
    figure, (left, right) = plotting.axes(1, 2, figsize=(6.4, 3.0))
    left.imshow(seen[12].float(), vmin=0, vmax=1.6, cmap="Blues", interpolation="none")
    left.axhspan(11.5, 12.5, fill=False, color="C1")
    left.set_title("latents of row 12 see")
    right.imshow(before[20].view(SIDE, SIDE).float(), vmin=0, vmax=1.6, cmap="Blues")
    right.plot(20 % SIDE, 20 // SIDE, "x", color="C1", markersize=10, mew=2)
    right.set_title("the logit at the cross sees")
    for ax in (left, right):
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    return figure


plotting.show(
    draw_fields,
    name="fields",
    alt="Left, a picture of 28 rows: the latents of row 12 depend on the 16 rows from 12 on and on none above. Right, a "
    f"picture of 6 × 6 pixels: the logit of pixel 20 in reading order depends on the {before[20].sum()} pixels before it.",
    caption="Pixels with a derivative other than zero, shaded. Rows and pixels are counted from 0.",
)

# %% [markdown]
# Encoder, decoder and a pair of families together:

# %%
show(delta_vae.DeltaVAE)

# %% [markdown]
# ## The ways to train
#
# MNIST, each pixel black or white: once, before the training, every grey value is replaced by a coin with that
# probability. The networks, the minibatches and the number of updates are the same for all, with two exceptions: the
# decoder *alone* has no encoder, and the *half* δ-VAE has half as many latents.
#
# | name | families | objective |
# |---|---|---|
# | alone | none: the decoder without latents | $\log p(\mathbf x)$ |
# | VAE | $\mathcal N(0,1)$, factored normal | the bound |
# | blind | the same | the bound, with a decoder that never sees a pixel |
# | β | the same | a part of the rate is charged |
# | annealed | the same | nothing is charged at first, then more and more, all from the middle of the training on |
# | free bits | the same | a fixed sum is charged while the mean rate is below a multiple of δ |
# | δ-VAE | slow features, factored normal | the bound |
# | δ-VAE, half | slow features, half as many | the bound |
# | far means | $\mathcal N(0,1)$, means away from 0 | the bound |


# %%
@dataclass(frozen=True)
class Pictures:
    """Training images (uint8 is scaled to [0, 1] on the way), test images in [0, 1]."""

    train: torch.Tensor
    test: torch.Tensor
    centred: bool = False  # the network wants [-1, 1]

    def read(self, batch):
        return 2.0 * batch - 1.0 if self.centred else batch


mnist = data.load("mnist", device=device)
coin = training.stream(0, "binary")  # drawn on the processor: the same pixels everywhere
train_images, test_images = (
    torch.bernoulli(images.cpu().float().view(-1, 28, 28) / 255.0, generator=coin).to(device)
    for images in (mnist.train_images, mnist.test_images)
)
digits = Pictures(train_images, test_images[: cfg.test_images])
test_labels = mnist.test_labels[: cfg.test_images]
slow = delta_vae.SlowFeatures(torch.linspace(0.5, 0.95, cfg.latents))
slow_half = delta_vae.SlowFeatures(slow.alpha[::2])
delta = slow.committed(n=28, latents=cfg.latents)
claims.value("delta", delta, unit="nats", format=".1f")
claims.value(
    "delta-half", slow_half.committed(n=28, latents=len(slow_half.alpha)), unit="nats", format=".1f"
)


class Blind(rows.RowDecoder):
    """The same net without autoregression: it never sees a pixel."""

    def above(self, x, z):
        return super().above(torch.zeros_like(x), z)

    def inside(self, x, h):
        return super().inside(torch.zeros_like(x), h)


class Alone(delta_vae.DeltaVAE):
    """The decoder without latents: z = 0 for every picture, which costs nothing."""

    def bound(self, x, random):
        z = x.new_zeros(len(x), x.shape[-2], self.encoder.latents)
        distortion = -self.decoder.log_likelihood(x, z)
        return delta_vae.Bound(distortion, torch.zeros_like(distortion))


def watched(vae):
    """With two numbers that travel with the weights: smallest rate of an image, largest mean rate."""
    vae.register_buffer("lowest", torch.tensor(math.inf))
    vae.register_buffer("peak", torch.tensor(0.0))
    return vae.to(device)


def new_vae(
    families, *, latents=cfg.latents, encoder=rows.AntiCausalEncoder, decoder=rows.RowDecoder,
    kind=delta_vae.DeltaVAE,
):  # fmt: skip
    size = {"values": 28, "hidden": cfg.hidden, "latents": latents}
    torch.manual_seed(seed)  # decoders of one size start from the same weights
    writer = decoder(**size, units=cfg.units, layers=cfg.layers)
    return watched(kind(encoder(**size), writer, families))


def plain(bound, progress):
    return -bound.value()


def train(name, vae, pictures, updates, *, size=cfg.batch, lr=cfg.lr, loss=plain):
    """Adam on the batch mean of the loss, with the gradient cut to a norm of 1."""
    adam = torch.optim.Adam(vae.parameters(), lr=lr)
    t = training.Training(name, vae, adam, training.stream(seed, "batches", device))
    for batch in t.batches(pictures.train, size=size, steps=updates, passes=True):
        bound = vae.bound(pictures.read(batch), t.generator)
        objective = loss(bound, t.count / updates).mean()
        with torch.no_grad():
            vae.lowest.copy_(torch.minimum(vae.lowest, bound.rate.min()))
            vae.peak.copy_(torch.maximum(vae.peak, bound.rate.mean()))
        adam.zero_grad()
        objective.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        adam.step()
        t.count += 1
        if t.count % 20 == 0 or t.count == updates:
            t.note(update=t.count, rate=bound.rate.mean().item(), lowest=vae.lowest.item())
            t.note(bound=bound.value().mean().item())
    claims.series(name, **t.history)


# %% [markdown]
# Three of the recipes are one line each:

# %%
show(delta_vae.beta_loss)

# %%
show(delta_vae.free_bits_loss)


# %%
def priced(price):
    return lambda bound, progress: delta_vae.beta_loss(bound, price)


def annealed(bound, progress):
    return delta_vae.beta_loss(bound, min(1.0, 2.0 * progress))


def free(target):
    return lambda bound, progress: delta_vae.free_bits_loss(bound, target * delta)


usual = delta_vae.StandardNormal()
far = delta_vae.FarMeans(delta / (28 * cfg.latents))  # of a single latent: the same δ in all
recipes = {
    "alone": ("alone", new_vae(usual, kind=Alone), plain),
    "vae": ("VAE", new_vae(usual), plain),
    "blind": ("blind", new_vae(usual, decoder=Blind), plain),
    **{f"beta-{b:g}": (f"β = {b:g}", new_vae(usual), priced(b)) for b in cfg.prices},
    "annealed": ("annealed", new_vae(usual), annealed),
    **{f"free-{m:g}": (f"free bits, {m:g} δ", new_vae(usual), free(m)) for m in cfg.targets},
    "delta": ("δ-VAE", new_vae(slow), plain),
    "half": ("δ-VAE, half", new_vae(slow_half, latents=len(slow_half.alpha)), plain),
    "far": ("far means", new_vae(far), plain),
}
NAMES = {name: label for name, (label, _, _) in recipes.items()}
vaes = {name: vae for name, (_, vae, _) in recipes.items()}
training.expect(
    images=(len(recipes) + 3) * cfg.updates * cfg.batch
    + 4 * cfg.auxiliary_updates * cfg.batch
    + cfg.classifier_updates * 100
    + len(cfg.photo_models) * (cfg.photo_updates + cfg.photo_auxiliary_updates) * cfg.photo_batch
)
for name, (_, vae, loss) in recipes.items():
    train(name, vae, digits, cfg.updates, loss=loss)


# %%
@torch.no_grad()
def test_bound(vae, pictures):
    """Rate and distortion of every test image, nats, one draw of the latents each."""
    g = training.stream(seed, "test", device)
    parts = [vae.bound(pictures.read(x), g) for x in pictures.test.split(200)]
    return delta_vae.Bound(
        *(torch.cat([getattr(b, k) for b in parts]).double() for k in ("distortion", "rate"))
    )


def keep_bound(name, vae):
    found = test_bound(vae, digits)
    claims.value(f"bound-{name}", found.value().mean().item(), unit="nats", format=".1f")
    claims.value(f"rate-{name}", found.rate.mean().item(), unit="nats", format=".1f")
    claims.value(f"distortion-{name}", found.distortion.mean().item(), unit="nats", format=".1f")
    return found


def judge_difference(claim, better, worse, plus=0.0):
    """Mean difference of two bounds of the same images, with its standard error."""
    difference = better.value() - worse.value() + plus
    error = difference.std().item() / math.sqrt(len(difference))
    claims.judge(claim, ours=difference.mean().item(), spread=error)


def above_promise(vae, n):
    """The smallest rate of any image at any update, minus the committed rate."""
    return vae.lowest.item() - vae.families.committed(n=n, latents=vae.encoder.latents)


ends = {name: keep_bound(name, vae) for name, vae in vaes.items()}
claims.judge("collapse", ours=of(claims.record, "rate-vae"))
claims.judge(
    "collapse-begun", ours=[of(claims.record, "rate-vae"), 0.25 * of(claims.record, "rate-blind")]
)
claims.judge("never-below", ours=min(above_promise(vaes[name], 28) for name in ("delta", "half")))
claims.judge("far-never-below", ours=above_promise(vaes["far"], 28))
claims.judge(
    "annealing-collapses", ours=[of(claims.record, "rate-annealed"), vaes["annealed"].peak.item()]
)
judge_difference("latents-cost-nothing", ends["vae"], ends["alone"])
judge_difference("temporal-beats-independent", ends["delta"], ends["far"])
judge_difference("rate-gets-used", ends["delta"], ends["alone"], plus=delta)
claims.value("ignoring", of(claims.record, "bound-alone") - delta, unit="nats", format=".1f")
claims.value("annealed-peak", vaes["annealed"].peak.item(), unit="nats", format=".1f")


# %% tags=["hide-input"]
MARKS = {
    name: (f"C{i % 6}", "os^Dv<>Ph*8X"[i])
    for i, name in enumerate(n for n in NAMES if n != "blind")
}  # a colour and a marker for each, the same in all figures
CURVES = ("vae", "beta-0.3", "annealed", "free-1", "delta", "far")


def draw_rates(series):
    def draw():
        figure, ax = plotting.axes(figsize=(6.4, 3.4))
        for name in CURVES:
            h = series[name]
            ax.plot(h["update"], h["rate"], color=MARKS[name][0], label=NAMES[name], lw=1.5)
        ax.axhline(delta, color="0.5", lw=1, ls=":")
        ax.set(xlabel="update", ylabel="rate, nats an image", yscale="symlog", ylim=(0, None))
        ax.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        ax.legend(ncols=2, fontsize=8)
        return figure

    return draw


def rates_alt(series):
    end = ", ".join(f"{NAMES[name]} {series[name]['rate'][-1]:.1f}" for name in CURVES)
    return f"Rate of a minibatch against updates, with a dotted line at δ = {delta:.1f} nats. At the end, in nats: {end}."


plotting.show(
    draw_rates(claims.record["series"]),
    name="rates",
    alt=rates_alt(claims.record["series"]),
    caption=f"Rates in training on binary MNIST: profile {profile}, seed {seed}, minibatches of {cfg.batch}. The axis is "
    "linear below 2.",
)

# %% [markdown]
# (VAE and far means share a colour: the VAE is the line that falls, the far means are the one that stays at δ.)
#
# The smallest rate of any training image at any update of the two δ-VAEs lies {result}`never-below` nats above the
# committed one (rounding in single precision counts here); for the far means it is {result}`far-never-below`.
#
# What does a collapse cost as a model of the data? The VAE's test bound is {result}`bound-vae` nats, its decoder
# without latents has {result}`bound-alone`. The blind decoder, which has nothing but its latents, pays a rate of
# {result}`rate-blind` nats and gets a bound of {result}`bound-blind`. The far means, with the same δ as the slow features,
# have a bound of {result}`bound-far`, the slow features of {result}`bound-delta`; the paper's appendix compares the two on
# CIFAR-10, 3.08 against 3.02 bits a value.
#
# ## The plane of rate and distortion
#
# One number hides the trade. In the plane of the two costs of {eq}`two-costs` a model is a point, and models of equal
# bound lie on a falling diagonal. A point to the lower left is better. What a model can reach for nothing, the decoder
# alone, stands on the left edge; a model further right that keeps the same diagonal has moved a part of the description
# into its latents at no loss.


# %% tags=["hide-input"]
def draw_plane(records):
    def draw():
        figure, ax = plotting.axes(figsize=(6.4, 3.8))
        for name, (color, marker) in MARKS.items():
            x, y = ([of(r, f"{what}-{name}") for r in records] for what in ("rate", "distortion"))
            ax.plot(x, y, marker, color=color, label=NAMES[name], markersize=6, ls="")
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        for total in np.arange(5 * (low // 5), high + right, 5):
            ax.plot([left, right], [total - left, total - right], color="0.5", lw=0.5, zorder=0)
        ax.set(xlim=(left, right), ylim=(low, high))
        ax.set(xlabel="rate, nats an image", ylabel="distortion, nats an image")
        figure.legend(fontsize=8, ncols=4, loc="outside lower center")
        return figure

    return draw


def plane_alt(records):
    def mean(what, name):
        return np.mean([of(r, f"{what}-{name}") for r in records])

    return "Points in the plane of rate and distortion, in nats: " + "; ".join(
        f"{NAMES[name]} {mean('rate', name):.1f} and {mean('distortion', name):.1f}"
        for name in MARKS
    )


plotting.show(
    draw_plane([claims.record]),
    name="plane",
    alt=plane_alt([claims.record]) + ". The blind decoder is outside the figure.",
    caption=f"Test images of binary MNIST: profile {profile}, seed {seed}, n = {cfg.test_images:,}. On a grey line the bound is "
    "the same; neighbours are 5 nats apart.",
)

# %%
judge_difference("free-bits-no-better", ends["delta"], ends["free-1"])

# %% [markdown]
# The paper calls free bits brittle. In the long runs they were not: with targets of half of δ, δ and twice δ their rates ended
# at {result}`rate-free-0.5@long`, {result}`rate-free-1@long` and {result}`rate-free-2@long` nats, and at the target δ their
# bound, {result}`bound-free-1@long`, is better than the δ-VAE's, {result}`bound-delta@long`. The claim is missed. The reason
# is what a rate buys. Free bits can spend all of it on the picture; of the δ-VAE's rate a part is the price of a
# posterior whose rows are independent under a prior whose rows are not. A prior that is fitted afterwards does not
# charge that part, and [under it](#paying-less-afterwards-the-auxiliary-prior) the two bounds are
# {result}`auxiliary-bound-free-1@long` and {result}`auxiliary-bound-delta@long`.
#
# ## What can be read from the latents
#
# A linear probe: logistic regression from all latents of a picture to its label. It is fitted to *samples* of
# $q(\mathbf z\mid\mathbf x)$, because samples are what a decoder gets. The posterior's mean is not: it can move by far
# less than the noise around it, so that nothing arrives, and a probe scales it up and reads the label all the same.
# Means are probed here too, as the trap that they are, and with them those of an encoder that was never trained.


# %%
@torch.no_grad()
def latents_of(vae, images, name, *, means=False):
    g = training.stream(seed, name, device)
    posteriors = [vae.posterior(x) for x in images.split(500)]
    return torch.cat(
        [mu if means else delta_vae.draw(mu, log_var, g) for mu, log_var in posteriors]
    )


def probe(vae, *, means=False):
    """Test accuracy in % of logistic regression on standardised latents, weight decay 1e-4."""
    x = latents_of(vae, train_images[: cfg.probe_images], "probe", means=means).flatten(1).double()
    y = mnist.train_labels[: cfg.probe_images]
    mean, scale = x.mean(dim=0), x.std(dim=0).clamp(min=1e-12)
    x = torch.cat([(x - mean) / scale, torch.ones_like(x[:, :1])], dim=1)
    weights = torch.zeros(x.shape[1], 10, dtype=torch.float64, device=device, requires_grad=True)
    newton = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        newton.zero_grad()
        loss = functional.cross_entropy(x @ weights, y) + 1e-4 * weights[:-1].square().sum()
        loss.backward()
        return loss

    newton.step(closure)
    held_out = latents_of(vae, digits.test, "probe test", means=means).flatten(1).double()
    with torch.no_grad():
        guess = ((held_out - mean) / scale @ weights[:-1] + weights[-1]).argmax(dim=1)
    return 100 * (guess == test_labels).double().mean().item()


for name, vae in {**vaes, "untrained": new_vae(usual)}.items():
    if name != "alone":
        claims.value(f"probe-{name}", probe(vae), unit="%", format=".0f")
        claims.value(f"probe-means-{name}", probe(vae, means=True), unit="%", format=".0f")
claims.judge("probe-gain", ours=of(claims.record, "probe-delta") - of(claims.record, "probe-vae"))
claims.judge(
    "means-hide", ours=[of(claims.record, f"probe{which}-vae") for which in ("", "-means")]
)
claims.judge("probes-alike", ours=of(claims.record, "probe-far") - of(claims.record, "probe-delta"))


# %% tags=["hide-input"]
def cell(records, key):
    """Mean over seeds, with the spread if there are several; empty if there is no such number."""
    if key not in records[0]["values"]:
        return ""
    numbers = [of(r, key) for r in records]
    spread = f" ± {np.std(numbers, ddof=1):.1f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.1f}{spread}"


everywhere = {f"{profile}, this run": [claims.record], **claims.recorded()}


def table(headings, names):
    """A row for each model of each profile; headings: column title -> name of the value."""
    return Table(
        ["profile", "", *headings],
        [
            [label, name_shown, *(cell(records, key.format(name)) for key in headings.values())]
            for label, records in everywhere.items()
            for name, name_shown in names.items()
        ],
    )


table(
    {
        "bound": "bound-{}", "rate": "rate-{}", "distortion": "distortion-{}",
        "probe of samples, %": "probe-{}", "probe of means, %": "probe-means-{}",
    },
    {**NAMES, "untrained": "untrained"},
)  # fmt: skip

# %% [markdown]
# (All in nats an image but for the probes; with several seeds the mean and the standard deviation over seeds.) A probe of
# *samples* finds the digit in {result}`probe-vae` % of the VAE's latents, and in {result}`probe-delta` % of the
# δ-VAE's. A probe of *means* finds it in {result}`probe-means-vae` % of the VAE's, and in
# {result}`probe-means-untrained` % of those of an encoder that never learnt anything: a number that an encoder gets for
# nothing says nothing about what a decoder is told. In the long runs the probe of samples reads {result}`probe-vae@long` % of
# the VAE's latents and {result}`probe-delta@long` % of the δ-VAE's, the probe of means {result}`probe-means-vae@long` % of the
# VAE's.
#
# The far means are read worse there than the slow features, {result}`probe-far@long` %, where the paper's appendix has the two
# about level on CIFAR-10: that claim is missed. They pay their {result}`rate-far@long` nats, but mostly for means that
# are far from 0 in the same way for every picture: under a prior that is fitted afterwards
# {result}`auxiliary-rate-far@long` are left, and with the slow features {result}`auxiliary-rate-delta@long`. How a network is
# kept in the allowed region is ours, and another way might do better; we tried only this one.

# %% tags=["hide-input"]
for profile_name, records in claims.recorded().items():
    plotting.show(
        draw_rates(records[0]["series"]),
        name=f"rates-{profile_name}",
        alt=rates_alt(records[0]["series"]),
        caption=f"Rates in the recorded {profile_name} profile, the first of {len(records)} seeds.",
    )
    plotting.show(
        draw_plane(records),
        name=f"plane-{profile_name}",
        alt=plane_alt(records) + ". The blind decoder is outside the figure.",
        caption=f"The plane in the recorded {profile_name} profile: {len(records)} seeds, a point each.",
    )

# %% [markdown]
# ## The same latents, several pictures
#
# What do the latents fix, and what is left to the decoder? Take the latents of a test image, decode them several
# times, and compare with the image: does a classifier read the same digit? Do means over patches of 4 × 4 pixels agree,
# and does what is left after subtracting them, the fine detail? From a collapsed model any digit can come.

# %%
torch.manual_seed(seed)
judge = classifier.Classifier().to(device)
adam = torch.optim.Adam(judge.parameters(), lr=2e-3)
t = training.Training("classifier", judge, adam, training.stream(seed, "judge", device))
places = torch.arange(len(train_images), device=device)
for i in t.batches(places, size=100, steps=cfg.classifier_updates, passes=True):
    t.step(functional.cross_entropy(judge(train_images[i].flatten(1)), mnist.train_labels[i]))
accuracy = classifier.accuracy(judge, digits.test.flatten(1), test_labels)
claims.value("classifier-accuracy", 100 * accuracy, unit="%", format=".1f")
originals, their_labels = digits.test[: cfg.decoded], test_labels[: cfg.decoded]


def coarse_and_fine(x):
    """Means of 4 x 4 pixels laid back over the picture, and what is left; minus the mean picture."""
    coarse = (
        functional.avg_pool2d(x[:, None], 4).repeat_interleave(4, 2).repeat_interleave(4, 3)[:, 0]
    )
    return {k: (v - v.mean(dim=0)).flatten() for k, v in (("coarse", coarse), ("fine", x - coarse))}


decodes = {}
for name in ("vae", "free-1", "delta"):
    z = latents_of(vaes[name], originals, "decode")
    g = training.stream(seed, f"decode {name}", device)
    decodes[name] = torch.stack([vaes[name].decoder.sample(z, random=g) for _ in range(4)])
    right = [classifier.accuracy(judge, x.flatten(1), their_labels) for x in decodes[name]]
    claims.value(f"kept-{name}", 100 * np.mean(right), unit="%", format=".0f")
    truth, ours = coarse_and_fine(originals), coarse_and_fine(decodes[name][0])
    for part in truth:
        agree = functional.cosine_similarity(truth[part], ours[part], dim=0).item()
        claims.value(f"{part}-{name}", agree, unit="", format=".2f")
claims.judge("digit-kept", ours=of(claims.record, "kept-delta") - of(claims.record, "kept-vae"))
claims.judge("global-from-z", ours=[of(claims.record, f"{p}-delta") for p in ("fine", "coarse")])
sheets = [originals[:8], *decodes["vae"][:3, :8], *decodes["delta"][:3, :8]]
claims.sheet("decodes", plotting.packed(torch.cat(sheets), columns=8))


# %% tags=["hide-input"]
def draw_decodes(png):
    def draw():
        figure, ax = plotting.axes(figsize=(5.0, 4.4))
        plotting.packed_sheet(ax, png)
        for row, label in ((0, "test image"), (2, "VAE"), (5, "δ-VAE")):
            ax.text(-6, 29 * row + 14, label, ha="right", va="center", fontsize=9)
        for line in (28.5, 28.5 + 3 * 29):
            ax.axhline(line, color="C1", lw=1.5)
        return figure

    return draw


def decodes_alt(record):
    return (
        "Seven rows of eight digits: test images, three decodes of their latents by the VAE, three by the δ-VAE. A classifier "
        f"reads the image's digit in {of(record, 'kept-vae'):.0f} % of the VAE's decodes and "
        f"{of(record, 'kept-delta'):.0f} % of the δ-VAE's."
    )


plotting.show(
    draw_decodes(claims.record["sheets"]["decodes"]),
    name="decodes",
    alt=decodes_alt(claims.record),
    caption=f"Three decodes of one draw of the latents of each image: profile {profile}, seed {seed}; the first eight test "
    "images, not selected.",
)
for profile_name, records in claims.recorded().items():
    plotting.show(
        draw_decodes(records[0]["sheets"]["decodes"]),
        name=f"decodes-{profile_name}",
        alt=decodes_alt(records[0]),
        caption=f"The same from the recorded {profile_name} profile, the first of {len(records)} seeds.",
    )

# %% [markdown]
# The classifier, right on {result}`classifier-accuracy` % of the test images, reads the digit of the image in
# {result}`kept-delta` % of the δ-VAE's decodes, in {result}`kept-free-1` % of those of free bits at the target δ, and in
# {result}`kept-vae` % of the VAE's. The correlation of image and decode, with the mean picture subtracted, is
# {result}`coarse-delta` in the patches and {result}`fine-delta` in the fine detail with the δ-VAE,
# {result}`coarse-free-1` and {result}`fine-free-1` with free bits, {result}`coarse-vae` and {result}`fine-vae` with the
# VAE.
#
# ## Paying less afterwards: the auxiliary prior
#
# δ is the price of a promise that was needed while the model learnt. Afterwards the prior can be replaced: a small
# LSTM is fitted to samples of $q(\mathbf z\mid\mathbf x)$ with everything else frozen. The rate under it is
# $\mathbb E_q[\log q(\mathbf z\mid\mathbf x) - \log p_{\text{aux}}(\mathbf z)]$, and the bound with it is as valid as the
# old one. By {eq}`information` it is also a measure of use: what the latents say about the picture, on average, cannot be
# more than this rate.

# %%
show(delta_vae.AuxiliaryPrior)


# %%
def fit_auxiliary(name, vae, pictures, updates, *, size=cfg.batch):
    torch.manual_seed(seed)
    prior = delta_vae.AuxiliaryPrior(latents=vae.encoder.latents, hidden=cfg.hidden).to(device)
    adam = torch.optim.Adam(prior.parameters(), lr=2e-3)
    g = training.stream(seed, "auxiliary", device)
    t = training.Training(f"auxiliary-{name}", prior, adam, g)
    for batch in t.batches(pictures.train, size=size, steps=updates, passes=True):
        with torch.no_grad():
            z = delta_vae.draw(*vae.posterior(pictures.read(batch)), t.generator)
        t.step(-prior.log_prob(z).mean())
    return prior


@torch.no_grad()
def auxiliary_rate(vae, prior, pictures):
    """log q(z|x) - log p_aux(z) of every test image, one draw each, nats."""
    g, found = training.stream(seed, "auxiliary test", device), []
    for x in pictures.test.split(200):
        mu, log_var = vae.posterior(pictures.read(x))
        z = delta_vae.draw(mu, log_var, g)
        found.append(delta_vae.log_q(z, mu, log_var) - prior.log_prob(z))
    return torch.cat(found).double()


priors = {}
for name in ("vae", "free-1", "delta", "far"):
    priors[name] = fit_auxiliary(name, vaes[name], digits, cfg.auxiliary_updates)
    rate = auxiliary_rate(vaes[name], priors[name], digits)
    improved = delta_vae.Bound(ends[name].distortion, rate)
    claims.value(f"auxiliary-rate-{name}", rate.mean().item(), unit="nats", format=".1f")
    claims.value(
        f"auxiliary-bound-{name}", improved.value().mean().item(), unit="nats", format=".1f"
    )
    if name == "delta":
        judge_difference("latents-for-free", improved, ends["alone"])
saved = 1 - of(claims.record, "auxiliary-rate-delta") / of(claims.record, "rate-delta")
claims.judge("auxiliary-saving", ours=100 * saved)
table(
    {
        "bound": "bound-{}", "with the auxiliary prior": "auxiliary-bound-{}",
        "rate": "rate-{}", "under the auxiliary prior": "auxiliary-rate-{}",
    },
    {"alone": "alone", **{name: NAMES[name] for name in priors}},
)  # fmt: skip

# %%
g = training.stream(seed, "samples", device)
zs = {
    "vae": torch.randn(16, 28, cfg.latents, generator=g, device=device),
    "slow": delta_vae.ar1_sample(slow.alpha.to(device), examples=16, n=28, random=g),
    "auxiliary": priors["delta"].sample(examples=16, n=28, random=g),
}
for name, z in zs.items():
    writer = vaes["vae" if name == "vae" else "delta"].decoder
    claims.sheet(f"samples-{name}", plotting.packed(writer.sample(z, random=g), columns=4))


# %% tags=["hide-input"]
def draw_samples(record):
    def draw():
        figure, panels = plotting.axes(1, 3, figsize=(6.4, 2.5))
        titles = {"vae": "VAE", "slow": "δ-VAE, slow prior", "auxiliary": "δ-VAE, auxiliary prior"}
        for ax, (name, title) in zip(panels, titles.items(), strict=True):
            plotting.packed_sheet(ax, record["sheets"][f"samples-{name}"])
            ax.set_title(title, fontsize=9)
        return figure

    return draw


def samples_alt(record):
    return (
        "Three sheets of sixteen samples: the VAE, the δ-VAE with latents from the slow prior, the δ-VAE with latents from the "
        f"auxiliary prior. The rate under the two priors is {of(record, 'rate-delta'):.1f} and "
        f"{of(record, 'auxiliary-rate-delta'):.1f} nats."
    )


plotting.show(
    draw_samples(claims.record),
    name="samples",
    alt=samples_alt(claims.record),
    caption=f"Samples: profile {profile}, seed {seed}, n = 16 each, not selected.",
)
for profile_name, records in claims.recorded().items():
    plotting.show(
        draw_samples(records[0]),
        name=f"samples-{profile_name}",
        alt=samples_alt(records[0]),
        caption=f"Samples in the recorded {profile_name} profile, the first of {len(records)} seeds.",
    )

# %% [markdown]
# Under the slow prior the δ-VAE's rate is {result}`rate-delta` nats, under the auxiliary one
# {result}`auxiliary-rate-delta`, a saving of {result}`auxiliary-saving` %. Its bound is {result}`bound-delta` with the
# one and {result}`auxiliary-bound-delta` with the other; the decoder alone has {result}`bound-alone`.
#
# In the long runs the saving is {result}`auxiliary-saving@long` %, and the bound with the auxiliary prior is
# {result}`auxiliary-bound-delta@long` against {result}`bound-alone@long` of the decoder alone. Both claims are missed: the
# paper saves more than half, and has no loss left. What can be saved is at most what is not information about the picture.
# The paper's rates stay near δ, 0.03 and 0.22 bits a value in Table 6 with a δ of {result}`table-6-low-dim` and
# {result}`table-6-high-dim`. Ours goes well beyond it, to {result}`rate-delta@long` nats with a δ of {result}`delta@long`, and
# {result}`auxiliary-rate-delta@long` of them remain under the fitted prior. For the loss of bound we have a suspicion only,
# that the decoder was trained too briefly to make full use of what it is told; longer trainings were not tried.
#
# ## Anti-causal against non-causal
#
# An encoder that sees the whole picture knows more, and may spend its rate on what the decoder has seen already. The
# paper compares the two in Table 6, in bits a value with the rate in brackets:
#
# | CIFAR-10, as published | small, low rate | with attention, low | with attention, **high** | large, low |
# |---|---|---|---|---|
# | non-causal, slow prior | 3.04 (.02) | 3.01 (.03) | 3.32 (.22) | 2.88 (.05) |
# | non-causal, auxiliary | 3.03 (.01) | 2.98 (.004) | 3.11 (.02) | 2.85 (.01) |
# | anti-causal, slow prior | 3.07 (.02) | 3.01 (.03) | 3.22 (.22) | 2.87 (.05) |
# | anti-causal, auxiliary | 3.06 (.01) | 2.98 (.006) | 3.03 (.03) | 2.84 (.02) |
#
# The text beside it says that the anti-causal encoder helps large models. The columns say something else: in the third
# one, of the size of the second, it gains 0.10 and 0.08, in the last and largest 0.01, and in the first it loses 0.03.
# What goes with the gain is the high rate. On MNIST, where our non-causal encoder has a second recurrent network that reads
# from the top beside the one of the anti-causal encoder:

# %%
slow_high = delta_vae.SlowFeatures(torch.linspace(0.5, 0.99, cfg.high_latents))
layouts = {
    "non-low": (slow, rows.NonCausalEncoder),
    "anti-high": (slow_high, rows.AntiCausalEncoder),
    "non-high": (slow_high, rows.NonCausalEncoder),
}
margins = []
for name, (families, encoder) in layouts.items():
    vae = new_vae(families, latents=len(families.alpha), encoder=encoder)
    train(name, vae, digits, cfg.updates)
    ends[name] = keep_bound(name, vae)
    margins.append(above_promise(vae, 28))
claims.judge("layouts-never-below", ours=min(margins))
delta_high = slow_high.committed(n=28, latents=cfg.high_latents)
claims.value("delta-high", delta_high, unit="nats", format=".1f")
gains = {
    "low": ends["delta"].value() - ends["non-low"].value(),
    "high": ends["anti-high"].value() - ends["non-high"].value(),
}
for level, gain in gains.items():
    claims.value(f"gain-{level}", gain.mean().item(), unit="nats", format=".1f")
difference = gains["high"] - gains["low"]
error = difference.std().item() / math.sqrt(len(difference))
claims.judge("anti-causal-gain", ours=difference.mean().item(), spread=error)
table(
    {"bound": "bound-{}", "rate": "rate-{}"},
    {
        "delta": "anti-causal, low",
        "non-low": "non-causal, low",
        "anti-high": "anti-causal, high",
        "non-high": "non-causal, high",
    },
)

# %% [markdown]
# The anti-causal encoder's bound minus that of the non-causal one is {result}`gain-low` nats at the low rate
# (δ = {result}`delta`) and {result}`gain-high` at the high rate (δ = {result}`delta-high`). In the long runs it is
# {result}`gain-low@long` and {result}`gain-high@long`: the non-causal encoder is better at both, and more so at the high rate,
# which the paper's table does not show. The claim is missed. One difference is known: our non-causal encoder has the
# anti-causal one within it and a second network of the same size beside it. Whether the order turns with equal numbers of
# weights, or after a longer training, was not tried.
#
# ## CIFAR-10
#
# The paper's own ground: photographs of 32 × 32 pixels in 256 levels of three colours. The networks are causal
# convolutions with attention, the distribution of a pixel is a mixture of logistics
# {cite}`oord2016conditional,chen2018pixelsnail,salimans2017pixelcnn`.

# %%
show(pixels.AntiCausalPixels)

# %%
show(pixels.CausalPixels)

# %%
show(pixels.LogisticMixture)

# %% [markdown]
# The same proofs as above, on pictures of 4 × 5 pixels, and the probabilities of all colours of a pixel, which must add
# up to 1:

# %%
torch.manual_seed(seed)
g = training.stream(seed, "small photographs")
x = torch.rand(2, 4, 5, generator=g).requires_grad_()
encoder = pixels.AntiCausalPixels(values=2, channels=8, layers=2, attention=1, latents=3)
said = torch.cat(encoder(x[None]), dim=2)[0].abs().sum(dim=1)
rows_seen = sight(said, x).any(dim=1)  # [row of latents, row, column]
wrong = (rows_seen != (torch.arange(4)[None] >= torch.arange(4)[:, None])[:, :, None]).sum().item()
causal = pixels.CausalPixels(values=2, channels=8, layers=2, attention=1, strict=True)
pixels_seen = sight(causal(x[None])[0].abs().sum(dim=0).flatten(), x).any(dim=1).flatten(1)
wrong += (pixels_seen != torch.ones(20, 20).tril(-1).bool()).sum().item()
claims.judge("pixels-causal", ours=wrong)
levels = 4
colours = torch.cartesian_prod(*[torch.arange(float(levels))] * 3) * 2 / (levels - 1) - 1
parts = [torch.randn(1, 2, *shape, 1, 1, generator=g) for shape in ((), (3,), (3,), (3, 3))]
mixture = pixels.LogisticMixture(*parts, levels=levels)
check(
    "all colours", mixture.log_prob(colours[:, :, None, None]).double().exp().sum(), 1.0, atol=1e-5
)

# %%
cifar = data.load("cifar10", device=device)
test_photographs = cifar.test_images[: cfg.photo_test].float() / 255.0
photographs = Pictures(cifar.train_images, test_photographs, centred=True)
level_of = {  # paper
    "low": delta_vae.SlowFeatures(torch.linspace(0.5, 0.95, 8)),
    "high": delta_vae.SlowFeatures(torch.linspace(0.5, 0.99, 64)),
}


def new_photo_vae(name):
    layout, _, level = name.partition("-")
    families = level_of.get(level, usual)
    size = {"values": 3, "channels": cfg.photo_channels, "layers": cfg.photo_layers}
    size |= {"attention": cfg.photo_attention, "latents": len(families.alpha) if level else 8}
    torch.manual_seed(seed)
    decoder = pixels.PixelDecoder(**size, mixtures=cfg.photo_mixtures)
    encoder = (pixels.NonCausalPixels if layout == "non" else pixels.AntiCausalPixels)(**size)
    kind = Alone if name == "alone" else delta_vae.DeltaVAE
    return watched(kind(encoder, decoder, families))


def keep_bits(key, nats):
    bits = delta_vae.bits_per_dim(nats.mean().item(), 3 * 32 * 32)
    claims.value(f"photo-{key}", bits, unit="bits/dim", format=".3f")


margins = []
for name in cfg.photo_models:
    vae = new_photo_vae(name)
    size = cfg.photo_batch
    train(f"photo-{name}", vae, photographs, cfg.photo_updates, size=size, lr=cfg.photo_lr)
    end = test_bound(vae, photographs)
    keep_bits(f"bound-{name}", -end.value())
    keep_bits(f"rate-{name}", end.rate)
    if "-" in name:
        margins.append(
            above_promise(vae, 32) / vae.families.committed(n=32, latents=vae.encoder.latents)
        )
        updates = cfg.photo_auxiliary_updates
        prior = fit_auxiliary(f"photo-{name}", vae, photographs, updates, size=size)
        rate = auxiliary_rate(vae, prior, photographs)
        keep_bits(f"auxiliary-bound-{name}", end.distortion + rate)
        keep_bits(f"auxiliary-rate-{name}", rate)
claims.judge("photo-never-below", ours=min(margins))
for name in ALL[2:]:
    for claim, key in (
        (f"photo-{name}", f"photo-bound-{name}"),
        (f"photo-{name}-auxiliary", f"photo-auxiliary-bound-{name}"),
    ):
        found = claims.record["values"].get(key, {"value": None})
        claims.judge(claim, ours=found["value"])
for name in (
    "cifar",
    "cifar-auxiliary",
    "cifar-alone",
    "imagenet",
    "imagenet-auxiliary",
    "imagenet-alone",
):
    claims.judge(f"table-1-{name}", ours=None)  # those networks are larger than any profile's
claims.value("photo-updates", cfg.photo_updates, unit="updates", format=",.0f")
claims.value("photo-batch", cfg.photo_batch, unit="images", format=".0f")

# %% [markdown]
# This profile trains {result}`photo-updates` updates with minibatches of {result}`photo-batch` photographs. The smallest rate
# of any photograph at any of them lies {result}`photo-never-below` of δ above δ. (That is all that can be said at a small
# size. The `paper` profile trains six models and fills the columns "with attention" of the table above.) Table 1 of the
# paper, with much larger networks than those of any profile: {result}`table-1-cifar.published` bits a value with the
# slow prior, {result}`table-1-cifar-auxiliary.published` with the auxiliary one and {result}`table-1-cifar-alone.published`
# for the decoder without latents; on ImageNet at 32 × 32 {result}`table-1-imagenet.published`,
# {result}`table-1-imagenet-auxiliary.published` and {result}`table-1-imagenet-alone.published`. Others on CIFAR-10, as
# quoted in the same table: ConvDraw 3.85 at most, Gated PixelCNN 3.03, PixelRNN 3.00, DenseNet VLAE about 2.95,
# PixelCNN++ 2.92, Image Transformer 2.90, PixelSNAIL 2.85. The paper's experiments on text and its probes on ImageNet are
# not reproduced here.

# %% [markdown]
# ## A pair of one's own
#
# Which other pairs are worth trying? Whatever keeps prior and posterior apart will do: posteriors whose precision is capped
# or floored, priors with heavier tails than any posterior of the family, a slow prior in more than one direction of the
# picture, values of α that are learnt. To try one is to write one class with the four methods of `Families`. Here is
# about the simplest: the prior is $\mathcal N(0, 1)$, and the posterior's variance may not be above some $v < 1$. A
# normal density that is too narrow is never the prior; the closest one has mean 0 and variance $v$, so
# $\delta = \tfrac12(v - 1 - \log v)$ for each latent.


# %%
@dataclass(frozen=True)
class CappedVariance(delta_vae.StandardNormal):
    """p = N(0, I), and q with variances below `cap`: exp(log_var) meets it from below, smoothly."""

    cap: float

    def posterior(self, mu, log_var):
        top = math.log(self.cap)
        return mu, top - functional.softplus(top - log_var)

    def committed(self, *, n, latents):
        return 0.5 * (self.cap - 1.0 - math.log(self.cap)) * n * latents


_, margin = score_toy("capped", *train_toy(CappedVariance(0.3)))
claims.judge("capped-never-below", ours=margin)

# %% [markdown]
# On the ring of the beginning it pays {result}`toy-rate-capped` nats (δ = {result}`toy-delta-capped`), and
# {result}`toy-same-capped` % of the decodes stay in the heap of their point. Its weakness is plain: the narrow variance can
# be paid for with the same mean for every picture, and then nothing is said for the price. The slow prior has this
# weakness as well; what speaks for it is how it does when it is tried.
#
# ## What goes wrong, and how it looks
#
# * **Collapse** does not show in the bound: {result}`bound-vae` nats for the VAE, {result}`bound-alone` for its decoder
#   alone. Only the rate tells, {result}`rate-vae` nats, or several decodes of the same latents.
# * **Means that look alive**: the probe of means reads {result}`probe-means-vae` % from the VAE, the probe of samples
#   {result}`probe-vae` %.
# * **Annealing**: the largest mean rate of a minibatch along the way is {result}`annealed-peak` nats, that of the test
#   images at the end {result}`rate-annealed`. The ledger says whether that is a collapse.
# * **A rate that is paid and not used.** δ is a promise about the rate, not about the information. A decoder that ignores
#   its latents has the bound of the decoder alone minus δ, here {result}`ignoring` nats. The δ-VAE has
#   {result}`bound-delta`, and its auxiliary prior shows that the latents say at most {result}`auxiliary-rate-delta` nats of
#   the {result}`rate-delta` that are paid.
# * **Far means** have an edge: where σ comes near the border of the forbidden region, the smallest mean goes to 0 ever more
#   steeply.
#
# ## Deviations from the paper
#
# * **Data.** Binary MNIST does not occur in the paper. It stands in because two processor cores can train an autoregressive
#   decoder on it. The pixels are drawn once.
# * **Networks on MNIST**: recurrent over rows and masked inside a row, in place of causal convolutions with attention.
# * **Networks on CIFAR-10**: the counts of layers, channels and attention blocks are the paper's in the `paper` profile; how
#   a layer is built, learning rate, minibatch, number of updates and the missing dropout are ours.
# * **The variances** of the slow posterior are counted from those of the closest one. Effect: at the start the rate is δ and
#   not, as with variances of 1, {result}`naive-start` nats on MNIST.
# * **The optimiser** is Adam at a fixed rate with the gradient cut to a norm of 1, and the last weights are kept. The
#   annealing schedule, the prices and the targets are ours. A bound is measured with one draw of the latents an image.
# * **The auxiliary prior** is one LSTM layer with normal outputs, as in the paper; its width is ours.
# * **The free bits** have one group for all latents, with the mean over the minibatch.
# * **The far means**: the region is the paper's, how a network is kept in it is ours, and each latent has the same δ.

# %% tags=["remove-output"]
zeros = torch.zeros(1, 28, cfg.latents)
claims.value("naive-start", slow.rate(zeros, zeros).item(), unit="nats", format=".0f")

# %% [markdown]
# ## Exercises
#
# ```{exercise} A variance is not a standard deviation
# :label: delta-exercise-variance
# The paper writes the prior's step as $\mathcal N(\alpha z_{t-1}, \sqrt{1-\alpha^2})$, where the second argument is a standard
# deviation. Read it as a variance, so that the noise has variance $\nu = \sqrt{1-\alpha^2}$. What is the smallest rate of a
# factored posterior then, and is {eq}`committed` still a bound?
# ```
#
# ```{solution-start} delta-exercise-variance
# :class: dropdown
# ```
#
# With noise of variance $\nu$ the diagonal of $\Lambda$ is $1+\alpha^2/\nu$, then $(1+\alpha^2)/\nu$, then $1/\nu$, and
# $\log\det\Lambda = -(n-1)\log\nu$. As before the smallest rate is
# $\tfrac12[\sum_t\log\Lambda_{tt} - \log\det\Lambda] = \tfrac12[\log(1+\alpha^2/\nu) + (n-2)\log(1+\alpha^2)]$. With the right
# $\nu = 1-\alpha^2$ this is {eq}`committed`; with the larger $\nu$ it is smaller, and {eq}`committed` promises too much.

# %%
a, steps = 0.9, 8
wrong = math.sqrt(1 - a**2)


def rate_of_any_noise(parameters):
    mu, log_var = parameters
    square = (mu[1:] - a * mu[:-1]).square() + log_var[1:].exp() + a**2 * log_var[:-1].exp()
    first = 0.5 * (mu[0].square() + log_var[0].exp() - 1 - log_var[0])
    return first + 0.5 * (square / wrong - 1 + math.log(wrong) - log_var[1:]).sum()


free = torch.ones(2, steps, dtype=torch.float64, requires_grad=True)
smallest = 0.5 * (math.log(1 + a**2 / wrong) + (steps - 2) * math.log(1 + a**2))
check("smallest rate of the misread prior", minimised(rate_of_any_noise, free), smallest, atol=1e-9)
promise = delta_vae.committed_rate(torch.tensor([a], dtype=torch.float64), steps).item()
print(f"the formula would promise {promise:.3f}")
assert promise > smallest

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} One slow latent or four
# :label: delta-exercise-one
# Our four latents a row have α from 0.5 to 0.95. Which single α, the same for all four, commits to the same rate over 28 rows?
# ```
#
# ```{solution-start} delta-exercise-one
# :class: dropdown
# ```
#
# {eq}`committed` rises with α, so halving an interval finds it.

# %%
target = delta_vae.committed_rate(torch.linspace(0.5, 0.95, 4, dtype=torch.float64), 28).item()
low, high = 0.0, 0.99
for _ in range(60):
    middle = 0.5 * (low + high)
    rate = delta_vae.committed_rate(torch.full((4,), middle, dtype=torch.float64), 28).item()
    low, high = (middle, high) if rate < target else (low, middle)
check("committed rate", rate, target, atol=1e-9)
print(f"alpha = {middle:.4f}")

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} One more row
# :label: delta-exercise-rows
# As $n$ grows, what does one more row cost, and what does it cost as α goes to 1?
# ```
#
# ```{solution-start} delta-exercise-rows
# :class: dropdown
# ```
#
# The only term of {eq}`committed` with $n$ is $\tfrac12(n-2)\log(1+\alpha^2)$: a row costs $\tfrac12\log(1+\alpha^2)$ nats a
# latent, which has the limit $\tfrac12\log2$, half a bit. The other term, $-\tfrac12\log(1-\alpha^2)$, does not depend on the
# length and grows without limit: the price of agreeing on one value for all times.

# %%
nearly = torch.tensor([1 - 1e-12], dtype=torch.float64)
row = delta_vae.committed_rate(nearly, 29) - delta_vae.committed_rate(nearly, 28)
check("a row at alpha = 1", row, 0.5 * math.log(2), atol=1e-9)

# %% [markdown]
# ```{solution-end}
# ```
#
# ## Errata of the paper, and of what is said about it
#
# * The bound {eq}`committed` is printed without brackets around the two logarithms under the sum.
# * It needs $|\alpha| < 1$, $n \ge 2$ and a factored posterior; with $n = 1$ the printed formula is positive and the smallest rate is zero.
# * Figure 2 gives 1.17 for α = 0.95; the exact value rounds to 1.16. Table 6 gives 79.44 bits; the exact value rounds to
#   79.45.
# * The prior's second argument is a standard deviation; see the first exercise.
# * "Anti-causal helps large models" is not what Table 6 shows: see above.
#
# ## The ledger of this chapter
#
# ```{ledger}
# :chapter: delta_vae
# ```

# %% tags=["remove-input"]
claims.close()
