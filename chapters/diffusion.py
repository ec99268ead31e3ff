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
# # Denoising diffusion probabilistic models
#
# Add a little noise to a picture, a thousand times, until nothing is left of it. Learn to take back one step. Ho, Jain
# and Abbeel {cite}`ho2020denoising` showed that a network trained to do only this, with the plainest of losses, draws
# pictures as well as the best of its time, and that the same network is a model with a bound on its likelihood and a code
# that spends its first bits on what matters most.
#
# Here, on MNIST at {result}`side` × {result}`side` pixels, a network with {result}`weights` weights trained for
# {result}`updates` updates draws samples of which a classifier is more than 90 % sure in {result}`confident` % of the
# cases; real digits reach {result}`confident-real` %. In recorded runs of a larger network on whole pictures of
# {result}`side@long` × {result}`side@long` pixels, {result}`weights@long` weights and {result}`updates@long` updates on a GPU,
# three seeds, it is {result}`confident@long` %, which is {result}`confident-share@long` % of the rate of real digits. As a code
# the network here needs {result}`bound-simple` bits a pixel, of which {result}`distortion-share` % are paid in the last step, for
# errors of {result}`rmse-end` grey levels. What holds, what could not be judged at this scale and what did not hold is listed in
# [the ledger of this chapter](#the-ledger-of-this-chapter).

# %% tags=["parameters"]
profile = "smoke"
device = "cpu"
seed = 0

# %%
import itertools
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from genbook import (
    aevb,
    data,
    diffusion,
    graphs,
    ledger,
    mixtures,
    parallel,
    plotting,
    precision,
    training,
    unet,
)
from genbook.metrics import classifier, frechet, inception, neighbours
from genbook.reading import Table, check, show

torch.manual_seed(seed)
claims = ledger.Ledger("diffusion", profile=profile, seed=seed)

# %% [markdown]
# Four profiles of the same code. `book` is what the page shows, `long` and `paper` are run once and recorded, `smoke` only
# proves that every line runs. The `paper` profile trains the network of the paper on CIFAR-10 with its settings; MNIST and
# the small networks for it are ours. The noise is the paper's, 1000 steps, in all but `smoke`.


# %% tags=["hide-input"]
@dataclass(frozen=True)
class Profile:
    toy_updates: int  # of a network in the plane
    toy_points: int  # for bounds and samples in the plane
    ideal_points: int  # samples with the best network
    classifier_updates: int
    autoencoder_updates: int
    judged: int  # real images on either side of a comparison
    side: int  # of a picture of MNIST: 28, or 14 by means of 2 x 2 pixels
    patch: int  # folded into channels
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    updates: int  # of the main network
    warmup: int
    ema: float
    half: bool  # bfloat16 in training, where the machine has instructions for it
    samples: int  # of the main network, at most half of the test images
    sample_steps: int  # 1000 where it can be afforded
    few: int  # samples of every other measure
    coded: int  # test images coded
    table_channels: int
    table_updates: int  # of each network of Table 2
    table_samples: int  # of each of them
    variant_updates: int  # of each trial of a deviation or a mistake
    photo_updates: int  # on CIFAR-10; paper: 800 000
    photo_channels: int  # paper: 128
    photo_batch: int  # paper: 128
    photo_warmup: int  # official code: 5000
    photo_ema: float  # paper: 0.9999
    photo_samples: int  # paper: 50 000
    photo_coded: int  # images of CIFAR-10 coded; paper: 10 000
    photo_bound: bool  # the network trained on the bound as well
    steps: int = 1000  # paper, T
    batch: int = 64
    lr: float = 2e-3  # paper, on CIFAR-10: 2e-4
    table_lr: float = 2e-3
    photo_lr: float = 2e-4
    cool: float = 0.3  # last share of the updates, in which the rate falls to 0; paper: 0
    groups: int = 8  # official code: 32


PROFILES = {
    "smoke": Profile(
        toy_updates=10, toy_points=30, ideal_points=50, classifier_updates=30, autoencoder_updates=5, judged=100, side=14,
        patch=2, channels=16, multipliers=(1,), blocks=1, updates=3, warmup=2, ema=0.5, half=False,
        samples=40, sample_steps=4, few=40, coded=1, table_channels=16, table_updates=1, table_samples=40, variant_updates=1,
        photo_updates=1, photo_channels=16, photo_batch=2, photo_warmup=2, photo_ema=0.5, photo_samples=1,
        photo_coded=1, photo_bound=True, steps=40,
    ),
    "book": Profile(
        toy_updates=4_000, toy_points=500, ideal_points=5_000, classifier_updates=800, autoencoder_updates=600, judged=1_000,
        side=14, patch=2, channels=48, multipliers=(1,), blocks=2, updates=1_200, warmup=100, ema=0.995,
        half=True, samples=250, sample_steps=100, few=100, coded=8, table_channels=16, table_updates=0, table_samples=0, variant_updates=30,
        photo_updates=2, photo_channels=32, photo_batch=4, photo_warmup=2, photo_ema=0.5, photo_samples=1,
        photo_coded=0, photo_bound=False, lr=6e-3, cool=0.5,
    ),
    "long": Profile(
        toy_updates=6_000, toy_points=5_000, ideal_points=20_000, classifier_updates=3_000, autoencoder_updates=3_000,
        judged=4_000, side=28, patch=2, channels=64, multipliers=(1, 2), blocks=1, updates=12_000,
        warmup=500, ema=0.9995, half=True, samples=500, sample_steps=1_000, few=300, coded=30,
        table_channels=16, table_updates=1_200, table_samples=120, variant_updates=150, photo_updates=20, photo_channels=32, photo_batch=8, photo_warmup=10,
        photo_ema=0.9, photo_samples=4, photo_coded=2, photo_bound=False, batch=128, lr=3e-3, cool=0.5,
    ),
    "paper": Profile(
        toy_updates=6_000, toy_points=5_000, ideal_points=20_000, classifier_updates=6_000, autoencoder_updates=6_000,
        judged=5_000, side=28, patch=1, channels=64, multipliers=(1, 2, 2), blocks=2, updates=50_000,
        warmup=1_000, ema=0.9995, half=True, samples=5_000, sample_steps=1_000, few=2_000, coded=1_000,
        table_channels=64, table_updates=10_000, table_samples=2_000, variant_updates=2_000, photo_updates=800_000, photo_channels=128, photo_batch=128,
        photo_warmup=5_000, photo_ema=0.9999, photo_samples=50_000, photo_coded=10_000, photo_bound=True,
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
# | $\mathbf x_0$, the data | `x_0` | `[M, C, S, S]`, $-1$ to $1$ | paper, section 2 |
# | $t = 1 \dots T$, the time | `t` | `[M]` | paper, section 2 |
# | $\beta_t$, variance of the noise of a step | `process.beta` | `[T + 1]` | {eq}`ddpm-step` |
# | $\bar\alpha_t = \prod_{s\le t}(1-\beta_s)$ | `process.alpha_bar` | `[T + 1]` | {eq}`ddpm-closed` |
# | $\mathbf x_t$, the data after $t$ steps | `x_t` | as $\mathbf x_0$ | {eq}`ddpm-closed` |
# | $\boldsymbol\epsilon$, the noise in $\mathbf x_t$ | `eps` | as $\mathbf x_0$ | {eq}`ddpm-closed` |
# | $\tilde{\boldsymbol\mu}_t, \tilde\beta_t$, posterior of a step | `posterior_mean`, `process.beta_tilde` | | {eq}`ddpm-posterior` |
# | $\boldsymbol\epsilon_\theta(\mathbf x_t, t)$, the network | `reverse.net` | as $\mathbf x_0$ | {eq}`ddpm-mean-eps` |
# | $L_{t-1}$, a term of the bound | `reverse.bound_term` | `[M]`, nats | {eq}`ddpm-bound` |
#
# Times count from 1, entry 0 of a table is the data itself. The official code counts from 0: its $t$ is our $t-1$.
#
# ## What a generative model is
#
# Somebody hands us points and we are to make more like them. The points below lie in five heaps on a ring. A
# *density* would say how likely every place is; a *sampler* hands out new points. A diffusion model is a sampler first:
# it starts from noise and is told at every step which way the data lie. The whole method:


# %%
angle = 2 * math.pi / 5 * torch.arange(5)
heaps = mixtures.GaussianMixture(
    0.65 * torch.stack([angle.cos(), angle.sin()], dim=1), torch.full((5,), 1 / 5), std=0.1
)
process = diffusion.GaussianDiffusion(
    diffusion.linear_betas(cfg.steps, first=0.1 / cfg.steps, last=20.0 / cfg.steps)
)


class ToyNet(nn.Module):
    """What a point and a time are made of: [M, 2] and [M] -> [M, 2]."""

    def __init__(self, outputs=2, hidden=128):
        super().__init__()
        widths = [2 + 32, hidden, hidden, hidden]
        layers = [nn.Linear(*pair) for pair in itertools.pairwise(widths)]
        layers = [part for layer in layers for part in (layer, nn.SiLU())]
        self.net = nn.Sequential(*layers, nn.Linear(hidden, outputs))

    def forward(self, x, t):
        return self.net(torch.cat([x, unet.time_embedding(t, 32)], dim=1))


def grey_levels(x):
    """Cut to [-1, 1] and rounded to the 256 levels of a pixel."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def train_toy(updates, *, simple=True, **kind):
    torch.manual_seed(seed)
    net = ToyNet(outputs=4 if kind.get("variance") == "learned" else 2)
    reverse = diffusion.Reverse(net, process, clip=False, **kind)
    adam = torch.optim.Adam(net.parameters())
    g = training.stream(seed, "toy")
    for update in range(updates):
        adam.param_groups[0]["lr"] = 3e-3 * (1 + math.cos(math.pi * update / updates))
        x_0 = grey_levels(heaps.sample(500, g))
        t = torch.randint(1, process.T + 1, (500,), generator=g)
        loss = reverse.loss(x_0, t, torch.randn(500, 2, generator=g), simple=simple).mean()
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
    return reverse


toy = train_toy(cfg.toy_updates)
start = torch.randn(cfg.toy_points, 2, generator=training.stream(seed, "toy start"))
path = {process.T: start}
for t, x, _ in diffusion.ancestral(toy, start, training.stream(seed, "toy noise")):
    if t in (3 * process.T // 10, process.T // 10, 3 * process.T // 100, 0):
        path[t] = x

# %% [markdown]
# Two procedures do the work: the loss above, which is Algorithm 1 of the paper, and the sampler, Algorithm 2.

# %%
show(diffusion.ancestral)


# %% tags=["hide-input"]
def draw_toy():
    figure, panels = plotting.axes(1, 5, figsize=(6.4, 1.7))
    for ax, (t, points) in zip(panels, path.items(), strict=True):
        ax.plot(*points[:500].T, ".", markersize=1.5)
        ax.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal", title=f"t = {t}")
        ax.set(xticks=[], yticks=[])
    return figure


def near(points):
    """Share of points within three standard deviations of a heap, and how many heaps have one."""
    distance, heap = torch.cdist(points, heaps.means).min(dim=1)
    inside = distance < 3 * heaps.std
    return inside.double().mean().item(), len(heap[inside].unique())


def of(record, name):
    return record["values"][name]["value"]


def cell(records, key, form=".1f"):
    """Mean over seeds, with the spread if there are several; empty if there is no such number."""
    if key not in records[0]["values"]:
        return ""
    numbers = [of(r, key) for r in records]
    spread = f" ± {np.std(numbers, ddof=1):{form}}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):{form}}{spread}"


everywhere = {f"{profile}, this run": [claims.record], **claims.recorded()}


share, found = near(path[0])
of_data, _ = near(heaps.sample(1_000_000, training.stream(seed, "toy share")))
claims.value("toy-near-data", 100 * of_data, unit="%", format=".1f")
claims.value("toy-near", 100 * share, unit="%", format=".1f")
claims.value("toy-heaps", found, unit="", format=".0f")
plotting.show(
    draw_toy,
    name="toy",
    alt=f"Points at times {plotting.names([*path])}: a round cloud that draws together into five heaps on a ring. At the "
    f"end {100 * share:.1f} % of {cfg.toy_points} points lie within three standard deviations of a heap.",
    caption=f"The sampler at work: profile {profile}, seed {seed}, 500 points shown.",
)

# %% [markdown]
# Of the samples {result}`toy-near` % lie within three standard deviations of a heap (of the data {result}`toy-near-data` % do), and
# {result}`toy-heaps` of the 5 heaps have some.
#
# ```{lab} diffusion
# :still: toy
# The same in your hands, with the best possible network in place of a trained one: for heaps of normal density it is known in
# closed form (see [the score](#the-score)). Let time run back from noise to data and forth from data to noise. An arrow
# points to where $\mathbf x_t$ becomes more likely; the tinted ground is within three standard deviations of a heap. Or draw
# data of your own into the plane, with the pointer, or with the arrow keys and the space bar. Notice that the believed
# $\mathbf x_0$ is near the middle of all data while $t$ is large, and that the heaps part late; that with all 1000 steps the
# cloud is as near the data on the way back as on the way forth, and with ten (of the thousand times, at their own
# $\bar\alpha_t$) it is not; and that where the standard deviation is very small, the best network can only give the data back.
# ```
#
# The rest of this chapter is about why this works, what else the same network
# can do, and what happens with pictures.
#
# ## From autoencoder to diffusion
#
# The pictures are MNIST. Where the profile says 14, every pixel is the mean of 2 × 2.


# %%
mnist = data.load("mnist", device=device)


def small(images):
    """uint8 [N, 28, 28] -> uint8 [N, 1, side, side]."""
    images = images[:, None]
    if cfg.side == 28:
        return images
    return functional.avg_pool2d(images.float(), 28 // cfg.side).round().to(torch.uint8)


# The two halves of the test set come from different writers, so it is shuffled, once for all seeds.
order = torch.randperm(len(mnist.test_images), generator=training.stream(0, "order")).to(device)
train_images, test_images = small(mnist.train_images), small(mnist.test_images)[order]
test_labels = mnist.test_labels[order]
claims.value("side", cfg.side, unit="pixels", format=".0f")


def seen(images):
    """uint8 [N, 1, side, side] -> [N, 784] in [0, 1], as the classifier is shown them."""
    x = images.float() / 255.0
    return x.repeat_interleave(28 // cfg.side, 2).repeat_interleave(28 // cfg.side, 3).flatten(1)


torch.manual_seed(seed)
judge = classifier.Classifier().to(device)
t = training.Training(
    "classifier",
    judge,
    torch.optim.Adam(judge.parameters(), lr=2e-3),
    training.stream(seed, "judge", device),
)
places = torch.arange(len(train_images), device=device)
for i in t.batches(places, size=100, steps=cfg.classifier_updates, passes=True):
    t.step(functional.cross_entropy(judge(seen(train_images[i])), mnist.train_labels[i]))


@torch.no_grad()
def logits_of(images):
    return torch.cat([judge(seen(x)) for x in images.split(1_000)])


@torch.no_grad()
def features_of(images):
    return torch.cat([judge.features(seen(x)) for x in images.split(1_000)])


def confident(images):
    """Share in % of the images for which the classifier gives one class more than 0.9."""
    return 100 * (logits_of(images).softmax(dim=1).amax(dim=1) > 0.9).double().mean().item()


accuracy = (logits_of(test_images).argmax(dim=1) == test_labels).double().mean().item()
claims.value("classifier-accuracy", 100 * accuracy, unit="%", format=".1f")
claims.value("confident-real", confident(test_images), unit="%", format=".1f")

# %% [markdown]
# An *autoencoder* squeezes a picture through a few numbers and back. It has learnt a decoder from numbers to pictures, so
# why not draw numbers at random and decode them? Because nobody has told it where codes lie: what a decoder makes of
# a place between the codes was never asked for. A *variational* autoencoder blurs every code with noise and pulls them all to
# one normal distribution, so that less lies between. Both below have the same networks; for the plain one the
# random numbers are given the mean and the standard deviation of its codes, dimension by dimension, which is generous.


# %%
class Autoencoder(nn.Module):
    """A picture to 10 numbers and back; with `weight` > 0 a variational one."""

    def __init__(self, weight):
        super().__init__()
        pixels = cfg.side**2
        self.weight = weight
        self.encoder = nn.Sequential(nn.Linear(pixels, 256), nn.SiLU(), nn.Linear(256, 20))
        self.decoder = nn.Sequential(nn.Linear(10, 256), nn.SiLU(), nn.Linear(256, pixels))

    def code(self, x, random):
        mu, log_var = self.encoder(x.flatten(1)).chunk(2, dim=1)
        noise = torch.randn(mu.shape, generator=random, device=mu.device)
        z = mu + (0.5 * log_var).exp() * noise if self.weight else mu
        return z, self.weight * aevb.gaussian_kl(mu, log_var)

    def decode(self, z):
        levels = (255 * torch.sigmoid(self.decoder(z))).round().to(torch.uint8)
        return levels.view(-1, 1, cfg.side, cfg.side)


def train_autoencoder(name, weight):
    torch.manual_seed(seed)
    model = Autoencoder(weight).to(device)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    t = training.Training(name, model, adam, training.stream(seed, name, device))
    for x in t.batches(train_images, size=100, steps=cfg.autoencoder_updates, passes=True):
        z, penalty = model.code(x, t.generator)
        distance = -aevb.bernoulli_log_likelihood(x.flatten(1), model.decoder(z))
        t.step((distance + penalty).mean())
    return model


@torch.no_grad()
def decoded(name, model):
    """Test images through the model, and pictures from random numbers."""
    g = training.stream(seed, f"{name} codes", device)
    z, _ = model.code(test_images[: cfg.judged].float() / 255.0, g)
    noise = torch.randn(z.shape, generator=g, device=device)
    if not model.weight:
        noise = z.mean(dim=0) + z.std(dim=0) * noise
    return model.decode(z), model.decode(noise)


pairs = {
    name: decoded(name, train_autoencoder(name, weight)) for name, weight in (("ae", 0), ("vae", 1))
}
for name, (there_and_back, made) in pairs.items():
    claims.value(f"confident-{name}-back", confident(there_and_back), unit="%", format=".0f")
    claims.value(f"confident-{name}", confident(made), unit="%", format=".0f")

# %% [markdown]
# The classifier, right on {result}`classifier-accuracy` % of the test images, is more than 90 % sure of its answer for
# {result}`confident-real` % of them. Of pictures that went through the autoencoder and back it is so for
# {result}`confident-ae-back` %, of those it made from random numbers for {result}`confident-ae` %. For the variational one
# the two numbers are {result}`confident-vae-back` and {result}`confident-vae` %.
#
# A diffusion model goes on from there: its codes $\mathbf x_T$ are as large as the picture, its encoder has nothing to
# learn, it only adds noise, and the decoder gets a thousand small steps in place of one large one.
#
# ## What sample measures measure
#
# Before we make pictures we want to know what a score says about them. Two are in common use, both look through the eyes of
# a classifier. The *inception score* {cite}`salimans2016improved` is $\exp \mathbb E_{\mathbf x} D_{KL}(p(y\mid\mathbf
# x)\Vert p(y))$:

# %%
show(inception.inception_score)

# %% [markdown]
# The *Fréchet distance* {cite}`heusel2017gans` fits a normal density to the features of real and one to those of made
# pictures, and takes the distance of the two:

# %%
show(frechet.frechet_distance)

# %% [markdown]
# Both names promise the features of one published network, Inception. For digits they come from the small classifier above,
# so no distance between digits is a FID. Beside them: *precision*, how many made pictures lie near real ones, and *recall*, how
# many real ones lie near made ones {cite}`kynkaanniemi2019improved`, and *coverage*, near how many real ones a made one
# lies {cite}`naeem2020reliable`. To learn what they see we give them sets whose
# faults we know, all made from real pictures:


# %%
@dataclass(frozen=True)
class Eye:
    """Real pictures and their features, to measure others against."""

    features: torch.Tensor
    mean: torch.Tensor
    directions: torch.Tensor

    @classmethod
    def of(cls, images):
        features = features_of(images).double()
        return cls(features, *frechet.principal_components(features, components=32))

    def distance(self, images):
        """Fréchet distance in the 32 leading directions of the real features."""
        a, b = (
            (f - self.mean) @ self.directions for f in (self.features, features_of(images).double())
        )
        return frechet.frechet_distance(a, b)

    def cover(self, images):
        return neighbours.neighbours(self.features, features_of(images).double(), k=3)


def measures(images):
    cover = eye.cover(images)
    return {
        "score": inception.inception_score(logits_of(images)),
        "distance": eye.distance(images),
        "precision": 100 * cover.precision,
        "recall": 100 * cover.recall,
        "coverage": 100 * cover.coverage,
    }


n = cfg.judged
real, other = test_images[:n], test_images[n : 2 * n]
other_labels = test_labels[n : 2 * n]
eye = Eye.of(real)
one_each = torch.stack([other[other_labels == digit][0] for digit in range(10)])
sevens = train_images[mnist.train_labels == 7][:n]
sets = {
    "other": ("other real pictures", other),
    "missing": ("no picture of a 0", other[other_labels != 0]),
    "blurred": (
        "blurred, 3 × 3",
        functional.avg_pool2d(other.float(), 3, 1, 1).round().to(torch.uint8),
    ),
    "ten": ("ten pictures, again and again", one_each.repeat(n // 10, 1, 1, 1)),
    "sevens": ("many pictures of a 7", sevens),
    "one": ("one picture of a 7, again and again", one_each[7:8].repeat(n, 1, 1, 1)),
    "few": ("other real pictures, a tenth", other[: max(40, n // 10)]),
    "training": ("pictures of the training set", train_images[:n]),
}
scores = {name: measures(images) for name, (_, images) in sets.items()}
for name, found in scores.items():
    for measure, number in found.items():
        claims.value(f"set-{name}-{measure}", number, unit="", format=".2f")


def score_table(rows):
    headings = ["inception score", "Fréchet distance", "precision, %", "recall, %", "coverage, %"]
    forms = (".2f", ".1f", ".0f", ".0f", ".0f")
    return Table(
        ["", *headings],
        [
            [label, *(f"{x:{form}}" for x, form in zip(found.values(), forms, strict=True))]
            for label, found in rows
        ],
    )


score_table([(label, scores[name]) for name, (label, _) in sets.items()])

# %%
distance = {name: found["distance"] for name, found in scores.items()}
tens = min(10, int(torch.bincount(other_labels, minlength=10).min()))  # ten choices of ten pictures
of_ten = [
    inception.inception_score(
        logits_of(torch.stack([other[other_labels == digit][k] for digit in range(10)]))
    )
    for k in range(tens)
]
claims.value("score-of-ten", np.mean(of_ten), unit="", format=".2f")
claims.judge("score-blind-within", ours=np.mean(of_ten) - scores["other"]["score"])
claims.judge("score-blind-to-copies", ours=scores["one"]["score"] - scores["sevens"]["score"])
claims.judge("distance-sees-within", ours=distance["ten"] / distance["other"])
claims.judge("distance-sees-missing", ours=distance["missing"] / distance["other"])
claims.judge("distance-sees-blur", ours=distance["blurred"] / distance["other"])
claims.judge("distance-wants-many", ours=distance["few"] / distance["other"])
claims.judge("distance-blind-to-copies", ours=distance["training"] / distance["other"])
claims.judge("coverage-sees-within", ours=[scores[name]["coverage"] for name in ("ten", "other")])

# %% [markdown]
# The inception score of ten pictures shown again and again is {result}`set-ten-score` for the ten of the table and
# {result}`score-of-ten` on average over ten such choices; of real variety it is {result}`set-other-score`: what happens inside a class is out of its sight. It is often said to reward variety
# within a class; it rewards an even spread *over* classes, as the {result}`set-sevens-score` of many different sevens
# shows, and {result}`set-one-score` for a single one. The Fréchet distance sees the ten pictures
# ({result}`set-ten-distance` against {result}`set-other-distance`), a missing class ({result}`set-missing-distance`) and
# blur ({result}`set-blurred-distance`), but a tenth of the very same real pictures has {result}`set-few-distance`: it
# is biased, and only sets of equal size compare. And it does not see that pictures of the training set are no inventions:
# {result}`set-training-distance`. (The rule asks for less than twice the distance of other test pictures. With the larger sets of
# the long runs the claim is missed, by {result}`set-training-distance@long` against {result}`set-other-distance@long`: the
# difference of the two is about 3 here as there, and is that of the people who wrote the training and the test set. What
# chance adds to both falls with the size of the sets, so the ratio grows.) Recall is 0 for repeated pictures because the nearest neighbours of a copy are its own
# copies and its ball has no size; coverage, which has its balls around real pictures, is {result}`set-ten-coverage` % for
# the ten and {result}`set-other-coverage` % for real variety.
#
# Published values of FID and inception score come from the Inception network, which this book cannot bring along. Who
# has its weights can have them measured, by torch-fidelity {cite}`obukhov2020torchfidelity`; who has not is told what to do:

# %%
nothing = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
try:
    inception.published(nothing, nothing, weights=Path("not-there.pth"))
except inception.InceptionError as refusal:
    print(refusal)

# %% [markdown]
# ## The way into noise
#
# One step of the forward process $q$ shrinks the picture a little and adds a little noise (equation 2 of the paper),
#
# $$
# q(\mathbf x_t\mid\mathbf x_{t-1}) = \mathcal N\big(\sqrt{1-\beta_t}\,\mathbf x_{t-1},\ \beta_t\mathbf I\big),
# $$ (ddpm-step)
#
# and because sums of independent normal variables are normal, all steps up to $t$ can be taken at once (equation 4):
#
# $$
# q(\mathbf x_t\mid\mathbf x_0) = \mathcal N\big(\sqrt{\bar\alpha_t}\,\mathbf x_0,\ (1-\bar\alpha_t)\mathbf I\big),
# \qquad \bar\alpha_t = \prod_{s=1}^t (1-\beta_s).
# $$ (ddpm-closed)
#
# With $\beta$ from $10^{-4}$ to 0.02 in 1000 equal steps, $\bar\alpha_{1000}$ is {result}`alpha-bar-end` × $10^{-5}$: nothing
# is left.

# %%
show(diffusion.GaussianDiffusion)

# %% [markdown]
# Is {eq}`ddpm-closed` the product of the steps {eq}`ddpm-step`? The chain, step by step, with mean and variance carried along:

# %%
paper_process = diffusion.GaussianDiffusion(diffusion.linear_betas())
mean, variance, errors = 1.0, 0.0, []
for t in range(1, paper_process.T + 1):
    beta = paper_process.beta[t].item()
    mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    errors.append(abs(mean - paper_process.alpha_bar[t].sqrt().item()))
    errors.append(abs(variance - (1 - paper_process.alpha_bar[t].item())))
claims.judge("closed-form", ours=max(errors))
claims.value("alpha-bar-end", 1e5 * paper_process.alpha_bar[-1].item(), unit="", format=".3f")

# %% [markdown]
# ### The step back, when the data are known
#
# Given $\mathbf x_0$, the step back is normal too (equations 6 and 7),
#
# $$
# q(\mathbf x_{t-1}\mid\mathbf x_t,\mathbf x_0) = \mathcal N(\tilde{\boldsymbol\mu}_t, \tilde\beta_t\mathbf I), \quad
# \tilde{\boldsymbol\mu}_t = \frac{\sqrt{\bar\alpha_{t-1}}\beta_t}{1-\bar\alpha_t}\mathbf x_0
#   + \frac{\sqrt{1-\beta_t}(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\mathbf x_t, \quad
# \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\beta_t .
# $$ (ddpm-posterior)
#
# Against Bayes' rule, summed on a fine grid of $x_{t-1}$, for first, middle and last steps:

# %%
errors = []
for t in (2, 3, 50, 500, 1000):
    x_0, x_t = torch.tensor([0.4], dtype=torch.float64), torch.tensor([-0.7], dtype=torch.float64)
    var, beta = paper_process.beta_tilde[t].item(), paper_process.beta[t]
    abar = paper_process.alpha_bar[t - 1]
    want = paper_process.posterior_mean(x_0, x_t, t).item()
    x = want + math.sqrt(var) * torch.linspace(-12, 12, 4_001, dtype=torch.float64)
    log_joint = -0.5 * (x - abar.sqrt() * x_0).square() / (1 - abar)
    log_joint -= 0.5 * (x_t - (1 - beta).sqrt() * x).square() / beta
    p = log_joint.softmax(dim=0)
    mean = (p * x).sum()
    errors += [
        (mean - want).abs() / math.sqrt(var),
        ((p * (x - mean).square()).sum() / var - 1).abs(),
    ]
claims.judge("posterior", ours=max(errors).item())

# %% [markdown]
# ## The way back
#
# A model that gives a picture the probability $p$ can write it down in $-\log_2 p$ bits, so a bound on $-\log p$ is a bound on
# the length of a code, and $D_{KL}(q\Vert p)$ is what it costs to use $p$ where $q$ is true. (One nat is 1.44 bits.)
#
# The model runs the chain backwards, $p_\theta(\mathbf x_{t-1}\mid\mathbf x_t) = \mathcal N(\boldsymbol\mu_\theta(\mathbf
# x_t, t), \sigma_t^2\mathbf I)$, from $p(\mathbf x_T) = \mathcal N(0, \mathbf I)$. The usual bound on the likelihood falls
# into a sum over steps (equation 5),
#
# $$
# -\log p_\theta(\mathbf x_0) \le \mathbb E_q\Big[
#   \underbrace{D_{KL}\big(q(\mathbf x_T\mid\mathbf x_0)\Vert p(\mathbf x_T)\big)}_{L_T}
#   + \sum_{t>1}\underbrace{D_{KL}\big(q(\mathbf x_{t-1}\mid\mathbf x_t,\mathbf x_0)\Vert p_\theta(\mathbf x_{t-1}\mid\mathbf x_t)\big)}_{L_{t-1}}
#   \underbrace{-\log p_\theta(\mathbf x_0\mid\mathbf x_1)}_{L_0}\Big] .
# $$ (ddpm-bound)
#
# Every term in the middle compares two normal densities. $L_T$ has nothing to learn. At the end the pixels are whole numbers,
# so the last normal density is integrated over the width of a grey level (equation 13), which makes $L$ a true code
# length:

# %%
show(diffusion.discretised_log_likelihood)

# %% [markdown]
# The 256 levels must have probability 1 together, and on photographs $L_T$ must be as small as the paper says,
# {result}`prior-bits.published` bits a value:

# %%
levels = (2 * torch.arange(256).double() / 255 - 1)[:, None]
for mean, log_var in ((0.1, -9.0), (-1.3, -4.0), (0.99, 0.0)):
    p = diffusion.discretised_log_likelihood(
        levels, torch.tensor(mean), torch.tensor(log_var)
    ).exp()
    check(f"all levels, mean {mean}", p.sum(), 1.0, atol=1e-8)
cifar = data.load("cifar10", device=device)


def centred(images):
    """uint8 -> [-1, 1]."""
    return images.float() / 127.5 - 1.0


photographs = centred(cifar.test_images[:1_000])
prior_bits = diffusion.bits_per_dim(
    paper_process.prior_kl(photographs.double()), photographs
).mean()
claims.judge("prior-bits", ours=prior_bits.item())

# %% [markdown]
# ### What the network should say
#
# To predict $\tilde{\boldsymbol\mu}_t$ is to predict $\mathbf x_0$, because $\mathbf x_t$ is known, and that is to predict the
# noise, because $\mathbf x_t = \sqrt{\bar\alpha_t}\mathbf x_0 + \sqrt{1-\bar\alpha_t}\boldsymbol\epsilon$. The paper lets the
# network say the noise (equation 11),
#
# $$
# \boldsymbol\mu_\theta(\mathbf x_t, t) = \frac1{\sqrt{1-\beta_t}}\Big(\mathbf x_t -
#   \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\boldsymbol\epsilon_\theta(\mathbf x_t, t)\Big),
# $$ (ddpm-mean-eps)
#
# and then a term of the bound is a weighted squared error of the noise (equation 12),
#
# $$
# L_{t-1} - C = \mathbb E\Big[\frac{\beta_t^2}{2\sigma_t^2(1-\beta_t)(1-\bar\alpha_t)}
#   \big\Vert\boldsymbol\epsilon - \boldsymbol\epsilon_\theta(\mathbf x_t, t)\big\Vert^2\Big] .
# $$ (ddpm-weighted)

# %%
show(diffusion.Reverse)


# %%
def guess(x, t):
    """Some network."""
    return 0.3 * x + 0.1 * t[:, None] / process.T


g = training.stream(seed, "equations")
times = torch.arange(2, process.T + 1)
x_0, eps = torch.randn(2, len(times), 3, generator=g, dtype=torch.float64)
x_t = process.q_sample(x_0, times, eps)
step = diffusion.Reverse(guess, process, clip=False).step(x_t, times)
beta, abar = (process.at(table, times, x_t) for table in (process.beta, process.alpha_bar))
direct = (x_t - beta / (1 - abar).sqrt() * guess(x_t, times)) / (1 - beta).sqrt()
claims.judge("mean-from-eps", ours=(step.mean - direct).abs().max().item())
small_step = diffusion.Reverse(guess, process, variance="small", clip=False)
term, _ = small_step.bound_term(x_0, x_t, times)
weight = beta.square() / (2 * process.at(process.beta_tilde, times, x_t) * (1 - beta) * (1 - abar))
error = weight[:, 0] * (eps - guess(x_t, times)).square().sum(dim=1)
claims.judge("weighted-error", ours=((term - error) / error).abs().max().item())

# %% [markdown]
# (With $\sigma_t^2 = \tilde\beta_t$ the constant $C$ is zero, so {eq}`ddpm-weighted` can be checked as it stands.)
#
# ### The simple loss
#
# The paper then drops the weight (equation 14): $L_{\text{simple}} = \mathbb E\Vert\boldsymbol\epsilon -
# \boldsymbol\epsilon_\theta(\mathbf x_t, t)\Vert^2$ with $t$ uniform. In the bound the first steps weigh most, where there is
# little noise to find; without weights the network cares more about the hard ones.


# %%
beta, abar = paper_process.beta[1:], paper_process.alpha_bar[1:]
weights = {
    "large": beta / (2 * (1 - beta) * (1 - abar)),
    "small": (beta.square() / (2 * (1 - beta) * (1 - abar)))[1:] / paper_process.beta_tilde[2:],
}
ratio = (weights["large"][1] / weights["large"][-1]).item()
lowest = 1 + int(weights["large"].argmin())
claims.value("weight-ratio", ratio, unit="", format=".0f")
claims.value("weight-lowest", lowest, unit="", format=".0f")


# %% tags=["hide-input"]
def draw_weights():
    figure, ax = plotting.axes(figsize=(6.4, 2.8))
    for kind, label in (("large", "σ² = β"), ("small", "σ² = β̃")):
        first = 1 + paper_process.T - len(weights[kind])
        ax.plot(
            range(first, paper_process.T + 1), weights[kind] / weights["large"][-1], label=label
        )
    ax.set(xlabel="t", ylabel="weight, 1 at t = T", xscale="log", yscale="log")
    ax.legend()
    return figure


plotting.show(
    draw_weights,
    name="weights",
    alt=f"Weight of the squared error in the bound against t, both axes logarithmic. With σ² = β it falls from {ratio:.0f} "
    f"at t = 2 to its smallest value at t = {lowest} and rises to 1 at t = 1000.",
    caption="What the simple loss drops: the weight in the bound, divided by that of the last step.",
)

# %% [markdown]
# The error at $t=2$ weighs {result}`weight-ratio` times that at $t=1000$; the smallest weight is at $t$ =
# {result}`weight-lowest`. (At $t=1$ the bound has $L_0$ in its place.)
#
# ### Which variance?
#
# For normal data of variance $v$ the true step back has the variance $\tilde\beta_t$ plus what is not known of
# $\mathbf x_0$, times the square of its factor in {eq}`ddpm-posterior`. The paper says (section 3.2) that
# $\sigma_t^2=\beta_t$ is right for $\mathbf x_0\sim\mathcal N(0,\mathbf I)$ and $\tilde\beta_t$ for a single point, the two
# extremes for data of variance 1 at most:

# %%
errors = []
for v, table in ((1.0, paper_process.beta), (0.0, paper_process.beta_tilde)):
    abar = paper_process.alpha_bar
    unknown = v * (1 - abar) / (abar * v + 1 - abar)  # variance of x_0 given x_t
    true = paper_process.beta_tilde + paper_process.mean_x_0.square() * unknown
    errors.append((true - table)[1:].abs().max())
claims.judge("variance-extremes", ours=max(errors).item())
last_noise = 127.5 * paper_process.beta[1].sqrt().item()
claims.value("last-noise", last_noise, unit="grey levels", format=".1f")

# %% [markdown]
# The last step of Algorithm 2 adds no noise. If it did, with $\sigma_1^2=\beta_1$, every pixel would carry a noise of
# {result}`last-noise` grey levels. For the likelihood a $\sigma_1$ is needed; the official code takes $\tilde\beta_2$ in
# both choices, and so do we.
#
# ### The score
#
# The best possible network, the mean of $\boldsymbol\epsilon$ given $\mathbf x_t$, is minus $\sqrt{1-\bar\alpha_t}$ times
# the slope of $\log q(\mathbf x_t)$: denoising is score matching {cite}`vincent2011connection,song2019generative`. For the
# heaps of the beginning all of it is known. Slopes by automatic differentiation, the mean by simulation:

# %%
show(mixtures.GaussianMixture)

# %%
exact = mixtures.GaussianMixture(heaps.means.double(), heaps.weights.double(), heaps.std)
g = training.stream(seed, "score")
abar = paper_process.alpha_bar[torch.tensor([[1], [10], [100], [400], [1000]])]
x = torch.randn(5, 2, generator=g, dtype=torch.float64).requires_grad_()
(slope,) = torch.autograd.grad(exact.log_prob(x, abar).sum(), x)
var = abar * exact.std**2 + 1 - abar  # below: E[eps|x_t] from the mean of x_0 in every heap
gaps = x[:, None] - abar.sqrt()[..., None] * exact.means
share_of = (-0.5 * gaps.square().sum(dim=2) / var).softmax(dim=1)
x_0 = exact.means + (abar.sqrt() * exact.std**2 / var)[..., None] * gaps
noise = (x - abar.sqrt() * (share_of[..., None] * x_0).sum(dim=1)) / (1 - abar).sqrt()
claims.judge("score", ours=(noise + (1 - abar).sqrt() * slope).abs().max().item())
check("the library's", exact.eps(x, abar).sum().detach(), noise.sum().detach(), atol=1e-9)
draws = exact.sample(200_000, g)
a = paper_process.alpha_bar[100]
x_t = torch.tensor([[0.5, 0.1]], dtype=torch.float64)
eps = (x_t - a.sqrt() * draws) / (1 - a).sqrt()  # the noise that would lead from each draw to x_t
posterior = (-0.5 * eps.square().sum(dim=1)).softmax(dim=0)
check("E[eps|x_t]", (posterior @ eps)[0], exact.eps(x_t, a.reshape(1, 1))[0, 0], atol=0.02)

# %% [markdown]
# ## The plane, where everything is known
#
# ### How good is the trained network?
#
# The best one is known in closed form. The distance of the trained one from it, as a share of its size, over all times:

# %%
g = training.stream(seed, "toy test")
x_0 = grey_levels(heaps.sample(20_000, g))
t = torch.randint(1, process.T + 1, (20_000,), generator=g)
x_t = process.q_sample(x_0, t, torch.randn(x_0.shape, generator=g))
best = heaps.eps(x_t, process.at(process.alpha_bar, t, x_t))
with torch.no_grad():
    gap = (toy.net(x_t, t) - best).square().sum(dim=1)
claims.judge("toy-denoiser", ours=(gap.mean() / best.square().sum(dim=1).mean()).sqrt().item())
early = t <= process.T // 5
claims.value("toy-early", 100 * (gap[early].sum() / gap.sum()).item(), unit="%", format=".0f")

# %% [markdown]
# The relative distance is {result}`toy-denoiser`; {result}`toy-early` % of the squared error is made in the first fifth of
# the times, where $\mathbf x_t$ is almost the point itself and the noise is hard to see. (The best network is that of the
# points before they are rounded to grey levels, which makes no difference that could be seen here.)
#
# With the best network in place of a trained one the sampler should make the data themselves:


# %%
class Best(nn.Module):
    """The network that no training can beat."""

    def forward(self, x, t):
        return heaps.eps(x, process.at(process.alpha_bar, t, x))


ideal = diffusion.Reverse(Best(), process, clip=False)
g = training.stream(seed, "ideal")
noise = torch.randn(cfg.ideal_points, 2, generator=g)
made = diffusion.last(diffusion.ancestral(ideal, noise, g))
claims.judge("ideal-sampler", ours=100 * (near(made)[0] - of_data))

# %% [markdown]
# ### Table 2 in the plane
#
# The paper's Table 2 compares what the network predicts, which loss, and fixed or learned variances. Here the same six on the
# heaps, whose points are rounded to 256 levels a coordinate so that bits a value mean the same as for pictures. The
# entropy of the data is the floor of every bound.


# %%
KINDS = {
    "mu-learned": ("μ̃, L, learned variance", {"predicts": "mu", "variance": "learned"}, False),
    "mu-bound": ("μ̃, L, fixed variance", {"predicts": "mu"}, False),
    "mu-simple": ("μ̃, unweighted error", {"predicts": "mu"}, True),
    "eps-learned": ("ε, L, learned variance", {"variance": "learned"}, False),
    "eps-bound": ("ε, L, fixed variance", {}, False),
    "eps-simple": ("ε, unweighted error (simple)", {}, True),
}
coded_points = grey_levels(heaps.sample(cfg.toy_points, training.stream(seed, "toy coded")))


def plane(kind, simple):
    """Bits a value and share of samples near a heap, in %, of one of the six."""
    reverse = train_toy(cfg.toy_updates // 4, simple=simple, **kind)
    g, noise = training.stream(seed, "toy code"), training.stream(seed, "toy noise")
    coding = diffusion.progressive_coding(reverse, coded_points, g)
    share, _ = near(diffusion.last(diffusion.ancestral(reverse, start, noise)))
    return diffusion.bits_per_dim(coding.bound(), coded_points).mean().item(), 100 * share


rows = []
for name, (label, kind, simple) in KINDS.items():
    bits, share = training.remember(f"plane-{name}", partial(plane, kind, simple))
    claims.value(f"plane-bits-{name}", bits, unit="bits/dim", format=".3f")
    claims.value(f"plane-near-{name}", share, unit="%", format=".1f")
    rows.append([label, f"{bits:.3f}", f"{share:.1f}"])
floor = -(heaps.log_prob(coded_points, torch.ones(1, 1)) + 2 * math.log(2 / 255))
floor_bits = diffusion.bits_per_dim(floor, coded_points).mean().item()
claims.value("plane-floor", floor_bits, unit="bits/dim", format=".3f")
of_kind = {name: of(claims.record, f"plane-bits-{name}") for name in KINDS}
claims.judge("plane-bound", ours=np.min([*of_kind.values()]) - floor_bits)
claims.judge("plane-bound-is-the-loss", ours=[of_kind["eps-bound"], of_kind["eps-simple"]])
of_the_data = ["the data", f"{floor_bits:.3f}", f"{100 * of_data:.1f}"]
Table(["", "bits a value", "near a heap, %"], [*rows, of_the_data])

# %% [markdown]
# Every bound lies above the floor of {result}`plane-floor` bits, as it must. Here, with one seed, training on the bound gives
# {result}`plane-bits-eps-bound` bits and the simple loss {result}`plane-bits-eps-simple`. Over the three seeds of the long runs,
# trained half as long again, it is {result}`plane-bits-eps-bound@long` and {result}`plane-bits-eps-simple@long`: the order depends on the
# seed, and the claim that dropping the weights costs code length is missed there. These trainings are a quarter as long as the
# one above, and every bound still lies more than half a bit above the floor. Predicting the mean is worse than predicting the
# noise with every loss and every seed.
#
# ## Digits
#
# ### The network
#
# One U-Net for all times, after the official code: residual blocks at several resolutions, attention, and the time added to
# every block.

# %%
show(unet.UNet)

# %%
show(unet.ResidualBlock)

# %% [markdown]
# With the paper's settings for CIFAR-10 it must have the paper's 35.7 million weights:

# %%
claims.judge("weights-cifar", ours=sum(p.numel() for p in unet.UNet().parameters()) / 1e6)

# %% [markdown]
# ### Training
#
# Algorithm 1 on pictures, with what the official code adds: the gradient cut to a norm of 1, a rate that grows from zero
# at first, and a second set of weights, the moving average of the first, which does the sampling. On digits, where the
# training is short, the rate falls back to zero in the last part of it; that is ours. On a GPU the part of an update that
# makes the gradient is recorded once and replayed, because a small network there waits for Python and not for arithmetic.


# %%
class Averaged(nn.Module):
    """A network, and the moving average of its weights."""

    def __init__(self, net, decay):
        super().__init__()
        self.net = net
        self.average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))


def digit_net(**changes):
    torch.manual_seed(seed)
    sizes = {
        "values": 1, "size": cfg.side, "channels": cfg.channels, "multipliers": cfg.multipliers,
        "blocks": cfg.blocks, "attention": (7,), "dropout": 0.0, "groups": cfg.groups, "patch": cfg.patch,
    }  # fmt: skip
    return unet.UNet(**sizes | changes)


def train(
    name, net, updates, *, images=train_images, simple=True, read=centred, size=cfg.batch, lr=cfg.lr,
    warmup=cfg.warmup, cool=cfg.cool, clip=1.0, decay=cfg.ema, half=cfg.half, flip=False,
    shared=False, **kind,
):  # fmt: skip
    """Algorithm 1; the trained `Averaged` network."""
    model = Averaged(net, decay).to(device)
    beside = diffusion.GaussianDiffusion(
        process.beta[1:].to(device)
    )  # tables where the pictures are
    reverse = diffusion.Reverse(model.net, beside, clip=False, **kind)
    gpu = torch.device(device).type == "cuda"
    adam = torch.optim.Adam(model.net.parameters(), lr=lr, fused=True)
    if shared:
        parallel.begin_alike(name)
    rows = parallel.share(size) if shared else slice(size)
    t = training.Training(name, model, adam, training.stream(seed, name, device))
    places = torch.arange(len(images), device=device)

    def slope(x_0, times, eps):
        with precision.products(device, half=half):
            loss = reverse.loss(x_0, times, eps, simple=simple).mean()
        adam.zero_grad()
        loss.backward()
        loss = loss.detach()
        if shared:
            parallel.average(loss, *(p.grad for p in model.net.parameters()))
        nn.utils.clip_grad_norm_(model.net.parameters(), clip)
        return loss

    if gpu and not shared:
        x_0 = read(images[:size])
        slope = graphs.capture(slope, x_0, places[:size] % process.T + 1, torch.zeros_like(x_0))
    for i in t.batches(places, size=size, steps=updates, passes=True):
        # Of dropout: a resumed run draws the same, another process draws its own.
        torch.manual_seed(1_000_003 * seed + t.count + 10**12 * parallel.rank())
        x_0 = read(images[i])
        if flip:
            mirror = torch.rand(size, generator=t.generator, device=device) < 0.5
            x_0 = torch.where(mirror[:, None, None, None], x_0.flip(3), x_0)
        times = torch.randint(1, process.T + 1, (size,), generator=t.generator, device=device)
        eps = torch.randn(x_0.shape, generator=t.generator, device=device)
        left = (updates - t.count) / (cool * updates) if cool else 1.0
        adam.param_groups[0]["lr"] = lr * min(1.0, (t.count + 1) / warmup, left)
        loss = slope(x_0[rows], times[rows], eps[rows])
        adam.step()
        model.average.update_parameters(model.net)
        t.count += 1
        if t.count % 50 == 0 or t.count == updates:
            t.note(update=t.count, loss=loss.item())
    claims.series(name, **t.history)
    model.average.eval()
    return model


VARIANTS = 9
training.expect(
    images=cfg.batch * (cfg.updates + 6 * cfg.table_updates + VARIANTS * cfg.variant_updates)
    + 100 * (cfg.classifier_updates + 2 * cfg.autoencoder_updates)
    + cfg.photo_batch * cfg.photo_updates * (1 + cfg.photo_bound)
)
net = digit_net()
claims.value("weights", sum(p.numel() for p in net.parameters()), unit="", format=",.0f")
claims.value("updates", cfg.updates, unit="", format=",.0f")
main = train("main", net, cfg.updates)

# %% [markdown]
# ### Samples
#
# A chain of 1000 steps is slow, so some measures below take fewer: a *respaced* chain visits only some of the times, with
# the $\bar\alpha$ that they have in the full one {cite}`nichol2021improved,song2021denoising`.


# %%
def spaced(net, steps=process.T, **kind):
    """The reverse process over `steps` of the 1000 times, evenly."""
    if steps == process.T:
        return diffusion.Reverse(net, process, **kind)
    times = torch.linspace(0, process.T, steps + 1).round().long()[1:]
    return diffusion.Reverse(net, process.respaced(times), times=times, **kind)


def levels_of(x):
    """[-1, 1] -> uint8."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def sampled(name, reverse, count, *, sampler=diffusion.ancestral, shape=(1, cfg.side, cfg.side)):
    """uint8 [count, ...]: every block of 250 is kept with the run's checkpoints."""
    g, paths = training.stream(seed, f"samples {name}"), []
    for first in range(0, count, 250):
        size = min(250, count - first)
        noise = torch.randn(size, *shape, generator=g).to(device)
        path = training.run_folder() / "checkpoints" / f"samples-{name}-{first}.safetensors"
        paths.append(path)
        if not path.exists() and parallel.mine(first // 250):
            steps = sampler(reverse, noise, training.stream(seed, f"{name} {first}", device))
            partial_path = path.with_suffix(".tmp")
            save_file({"x": levels_of(diffusion.last(steps)).cpu()}, partial_path)
            partial_path.replace(path)
            training.log_progress(f"samples {name}")
    parallel.collect(paths)
    return torch.cat([load_file(path)["x"] for path in paths]).to(device)


def coded(name, reverse, x):
    """Progressive coding of x, kept as samples are, 500 images a block."""
    paths = []
    for first in range(0, len(x), 500):
        path = training.run_folder() / "checkpoints" / f"code-{name}-{first}.safetensors"
        paths.append(path)
        if not path.exists() and parallel.mine(first // 500):
            g = training.stream(seed, f"code {first}", device)  # the same noise for every coder
            coding = diffusion.progressive_coding(reverse, x[first : first + 500], g)
            partial_path = path.with_suffix(".tmp")
            save_file({k: v.contiguous() for k, v in vars(coding).items()}, partial_path)
            partial_path.replace(path)
            training.log_progress(f"code {name}")
    parallel.collect(paths)
    parts = [load_file(path) for path in paths]
    return diffusion.Coding(**{k: torch.cat([part[k] for part in parts], dim=-1) for k in parts[0]})


def keep_sheet(name, images, columns=20):
    """Keep pictures for a figure, in grey."""
    grey, side = images.float().mean(dim=1).flatten(1) / 255.0, images.shape[-1]
    claims.sheet(name, plotting.packed(grey, columns=columns, height=side, width=side))


def keep_measures(name, images):
    """Keep and give what can be said of a set of pictures."""
    claims.value(f"confident-{name}", confident(images), unit="%", format=".1f")
    found = measures(images)
    for measure, number in found.items():
        claims.value(f"{measure}-{name}", number, unit="", format=".1f")
    return found


n = cfg.samples
eye = Eye.of(test_images[:n])
sigma = "large" if cfg.sample_steps == process.T else "small"  # the better one for a short chain
digits = sampled("main", spaced(main.average, cfg.sample_steps, variance=sigma), n)
keep_sheet("samples", digits[:100])
rivals = {
    "main": ("diffusion", digits),
    "vae-decoded": ("variational autoencoder", pairs["vae"][1][:n]),
    "ae-decoded": ("autoencoder, random codes", pairs["ae"][1][:n]),
    "digits": ("other real digits", test_images[n : 2 * n]),
}
found = {name: keep_measures(name, images) for name, (_, images) in rivals.items()}
share = of(claims.record, "confident-main") / of(claims.record, "confident-real")
claims.value("confident", of(claims.record, "confident-main"), unit="%", format=".1f")
claims.value("confident-share", 100 * share, unit="%", format=".1f")
claims.judge("whole-digits", ours=100 * share)
claims.judge("covers", ours=found["main"]["recall"] / found["digits"]["recall"])
claims.judge("beats-vae", ours=[found[name]["distance"] for name in ("main", "vae-decoded")])
claims.judge(
    "noise-through-decoders",
    ours=[of(claims.record, f"confident-{name}") for name in ("ae-decoded", "main")],
)


# %% tags=["hide-input"]
def draw_sheet(record, name, labels, height):
    def draw():
        figure, ax = plotting.axes(figsize=(6.4, height))
        plotting.packed_sheet(ax, record["sheets"][name])
        rows = ax.get_images()[0].get_array().shape[0] / max(len(labels), 1)
        for row, label in enumerate(labels):
            ax.text(-4, rows * (row + 0.5), label, ha="right", va="center", fontsize=8)
        return figure

    return draw


def show_sheet(name, *, alt, caption, labels=(), height=1.9):
    """The pictures of this run, then those of the first seed of every recorded profile."""
    for shown, records in everywhere.items():
        plotting.show(
            draw_sheet(records[0], name, labels, height),
            name=f"{name}-{records[0]['profile']}",
            alt=alt(records[0]),
            caption=f"{caption}; profile {shown}, seed {records[0]['seed']}.",
        )


def samples_alt(record):
    return (
        "A hundred samples of handwritten digits, white on black. A classifier is more than 90 % sure of "
        f"{of(record, 'confident-main'):.1f} % of all samples, and of {of(record, 'confident-real'):.1f} % of real digits."
    )


show_sheet("samples", alt=samples_alt, caption="Samples, not selected")
score_table([(label, found[name]) for name, (label, _) in rivals.items()])

# %% tags=["hide-input"]
Table(
    ["profile", "pixels", "weights", "updates", "confident, %", "of real digits, %", "Fréchet distance", "recall, %"],
    [
        [
            label, cell(r, "side", ".0f"), cell(r, "weights", ",.0f"), cell(r, "updates", ",.0f"),
            cell(r, "confident-main"), cell(r, "confident-real"), cell(r, "distance-main"), cell(r, "recall-main"),
        ]
        for label, r in everywhere.items()
    ],
)  # fmt: skip

# %% [markdown]
# The classifier is more than 90 % sure of {result}`confident` % of the samples, {result}`confident-share` % of the rate of
# real digits. The autoencoder's pictures from random codes have {result}`confident-ae-decoded` %, those of the variational one
# {result}`confident-vae-decoded` %. After few updates the diffusion model need not be ahead of the first of the two in this
# number, as the ledger shows. But the classifier never saw bad digits and is sure of some of them. So Fréchet distance and
# recall stand beside it: the autoencoder reaches {result}`recall-ae-decoded` % of the real digits, the diffusion model
# {result}`recall-main` %.
#
# How whole the digits are depends on the network more than on the length of the training (see the trials that the head of the
# claims file lists). In the long runs the sampler's {result}`confident@long` % stand against {result}`confident-real@long` % of
# all real digits, recall is {result}`recall-main@long` % where as many real digits have {result}`recall-digits@long` %, and the
# Fréchet distance is {result}`distance-main@long`; other real digits are at {result}`distance-digits@long` and the
# variational autoencoder at {result}`distance-vae-decoded@long`.
#
# ### Fewer steps, other samplers
#
# How few steps will do? Three samplers on the same network: Algorithm 2 with $\sigma_t^2$ the one or the other, and
# the deterministic sampler of Song et al. {cite}`song2021denoising`:

# %%
show(diffusion.ddim)


# %%
def without_noise(reverse, x, random):
    return diffusion.ddim(reverse, x)


STEPS = (10, 30, 100)
SAMPLERS = {
    "large": ("σ² = β", "large", diffusion.ancestral),
    "small": ("σ² = β̃", "small", diffusion.ancestral),
    "ddim": ("DDIM", "small", without_noise),
}
rows = []
for name, (label, variance, sampler) in SAMPLERS.items():
    row = [label]
    for steps in STEPS:
        reverse = spaced(main.average, max(2, steps * process.T // 1000), variance=variance)
        images = sampled(f"{name}-{steps}", reverse, cfg.few, sampler=sampler)
        claims.value(f"distance-{name}-{steps}", eye.distance(images), unit="", format=".1f")
        claims.value(f"confident-{name}-{steps}", confident(images), unit="%", format=".0f")
        row.append(
            f"{of(claims.record, f'distance-{name}-{steps}'):.1f} ({confident(images):.0f} %)"
        )
    rows.append(row)
claims.judge(
    "steps-matter-large", ours=[of(claims.record, f"distance-large-{n}") for n in reversed(STEPS)]
)
claims.judge(
    "few-steps-ddim", ours=[of(claims.record, f"distance-{n}-10") for n in ("ddim", "large")]
)
Table(["Fréchet distance (confident)", *(f"{n} steps" for n in STEPS)], rows)

# %% [markdown]
# ### The average of the weights
#
# The sampling is done with the moving average of the weights. The chain of 30 steps with $\tilde\beta$ again, with the
# weights of the last update in their place:

# %%
main.net.eval()
thirty = max(2, 30 * process.T // 1000)
last_weights = sampled("last", spaced(main.net, thirty, variance="small"), cfg.few)
claims.value("confident-last", confident(last_weights), unit="%", format=".0f")
claims.value("distance-last", eye.distance(last_weights), unit="", format=".1f")
claims.judge(
    "average-helps", ours=[of(claims.record, f"distance-{n}") for n in ("small-30", "last")]
)

# %% [markdown]
# With the average {result}`confident-small-30` % are confident and the distance is {result}`distance-small-30`, with the last
# weights {result}`confident-last` % and {result}`distance-last`. In the long runs the distances are
# {result}`distance-small-30@long` and {result}`distance-last@long`: the average is ahead by less than the spread over the seeds. (The rate has
# fallen to zero there, which leaves an average less to do.)
#
# ### A code that sends the important things first
#
# The bound is a code length. Read from $t=T$ downwards it is even a *progressive* code: at every step the receiver has a guess
# of $\mathbf x_0$, and every term $L_{t-1}$ paid makes it better (section 4.3). What is paid before the last step
# is the *rate*, the last term $L_0$ the *distortion*. No such coder is run here: the numbers are what an ideal one would need.

# %%
show(diffusion.progressive_coding)

# %%
sheet = centred(test_images[: cfg.coded])
coding = coded("right", spaced(main.average), sheet)


def bits_of(nats):
    return diffusion.bits_per_dim(nats, sheet).mean().item()


bound, distortion = bits_of(coding.bound()), bits_of(coding.distortion())
first_log_var = process.log_variances("large")[1]
perfect = -diffusion.discretised_log_likelihood(sheet, sheet, first_log_var)
claims.value("bound-simple", bound, unit="bits/dim", format=".3f")
claims.value("rate-simple", bits_of(coding.rate()), unit="bits/dim", format=".3f")
claims.value("distortion-simple", distortion, unit="bits/dim", format=".3f")
claims.value("distortion-floor", bits_of(perfect), unit="bits/dim", format=".3f")
claims.value("distortion-share", 100 * distortion / bound, unit="%", format=".0f")
claims.value("rmse-end", coding.rmse()[-1].item(), unit="grey levels", format=".2f")

# %% [markdown]
# Rate and distortion must add up to the bound. So that this says something, the other side comes from the training's loss,
# averaged over all times, with the same noise. (The loss never clips $\mathbf x_0$, so the code must not do it here.)

# %%
unclipped = diffusion.Reverse(main.average, process, clip=False)
parts = coded("unclipped", unclipped, sheet[:500])
g, whole = training.stream(seed, "code 0", device), 0.0
with torch.no_grad():
    for t in range(process.T, 0, -1):
        eps = torch.randn(sheet[:500].shape, generator=g, device=device)
        times = torch.full((len(eps),), t, device=device)
        whole = whole + unclipped.loss(sheet[:500], times, eps, simple=False).double().cpu()
both = diffusion.bits_per_dim(parts.rate() + parts.distortion() - parts.prior, sheet)
claims.judge("rate-plus-distortion", ours=(both - whole).abs().max().item())

# %%
claims.value("coded", cfg.coded, unit="images", format=".0f")
spent = diffusion.bits_per_dim(coding.spent(), sheet)
rmse = coding.rmse()
marks = [0, *range(process.T // 10, process.T, process.T // 10), process.T - 1]  # index T - t
claims.judge("rmse-falls", ours=[rmse[i].item() for i in reversed(marks)])
half = int((rmse > 0.5 * rmse[0]).sum())  # steps before the error is halved
claims.value(
    "half-bits", 100 * (spent[min(half, process.T - 1)] / bound).item(), unit="%", format=".1f"
)
claims.value("half-time", process.T - half, unit="", format=".0f")
claims.judge("most-bits-are-distortion", ours=distortion / bound)


# %% tags=["hide-input"]
def draw_coding():
    figure, (left, right) = plotting.axes(1, 2, figsize=(6.4, 2.8))
    times = process.T - np.arange(process.T)
    left.plot(times, rmse, color="C0")
    left.set(xlabel="t", ylabel="RMSE, grey levels", ylim=(0, None))
    left.invert_xaxis()
    right.plot(spent, rmse, color="C1")
    right.set(xlabel="bits a value received", ylim=(0, None))
    return figure


plotting.show(
    draw_coding,
    name="coding",
    alt=f"Left, the error of the receiver's guess against t from {process.T} down: {rmse[0]:.0f} grey levels at first, "
    f"{rmse[process.T // 2]:.0f} half way, {rmse[-1]:.1f} at the end. Right, the same against bits received: a steep fall with the first "
    "bits, then a long flat tail.",
    caption=f"Progressive coding of {cfg.coded} test images: profile {profile}, seed {seed}.",
)
PUBLISHED = (  # Table 4 of the paper: bits and RMSE on CIFAR-10 after 100, 200, ... 1000 reverse steps
    ("0.00000", "67.60"), ("0.00013", "60.97"), ("0.00081", "54.19"), ("0.00282", "46.13"),
    ("0.00716", "38.03"), ("0.01507", "30.81"), ("0.02866", "24.44"), ("0.05415", "18.47"),
    ("0.11994", "12.02"), ("1.77581", "0.95"),
)  # fmt: skip
Table(
    ["reverse steps", "bits a value", "RMSE, grey levels", "CIFAR-10, published: bits", "RMSE"],
    [
        [f"{process.T if i == marks[-1] else i}", f"{spent[i]:.5f}", f"{rmse[i]:.2f}", *theirs]
        for i, theirs in zip(marks[1:], PUBLISHED, strict=True)
    ],
)

# %% [markdown]
# The code needs {result}`bound-simple` bits a value: {result}`rate-simple` of rate and {result}`distortion-simple` of
# distortion. Its error is down to half after {result}`half-bits` % of the bits, at $t$ = {result}`half-time`. On CIFAR-10 the
# paper has {result}`cifar-rate.published` and {result}`cifar-distortion.published` bits, and an error of
# {result}`cifar-rmse.published` grey levels at the end; it concludes that more than half of the code describes what nobody
# sees. A part of that is the price of the fixed $\sigma_1^2$: even a perfect prediction of every value would cost
# {result}`distortion-floor` bits in the last step here.
#
# On digits less than half is distortion, {result}`distortion-share@long` % in the long runs, and the claim is missed. The reason is
# the variance of the steps back. Most pixels of a digit are plainly black, so that the true step back has a variance near
# $\tilde\beta_t$, and a code with $\beta_t$ pays for the difference at every step. With $\tilde\beta_t$ the same network
# needs {result}`code-small@long` bits in place of {result}`bound-simple@long`, and the last step, which is the same in both,
# costs {result}`distortion-simple@long` of them: more than half.
#
# ### What is decided when
#
# While a picture is made, the network believes in some $\mathbf x_0$ at every step. How these beliefs settle is *progressive
# generation*:

# %%
believed, g = [], training.stream(seed, "believed", device)
noise = torch.randn(20, 1, cfg.side, cfg.side, generator=g, device=device)
steps = [
    *diffusion.ancestral(spaced(main.average, min(100, process.T), variance="small"), noise, g)
]
for tenths in (10, 8, 6, 4, 2, 0):
    t, _, x_0 = steps[min((10 - tenths) * len(steps) // 10, len(steps) - 1)]
    believed.append(levels_of(x_0))
keep_sheet("believed", torch.cat(believed))


# %% tags=["hide-input"]
def believed_alt(record):
    return (
        "Twenty columns, six rows: what the network believes the digit to be, from t = T at the top to 0 at the bottom. Grey "
        f"clouds at first, strokes in the middle, digits of {of(record, 'side'):.0f} pixels a side at the end."
    )


show_sheet(
    "believed",
    labels=[f"{tenths / 10:g} T" for tenths in (10, 8, 6, 4, 2, 0)],
    alt=believed_alt,
    caption="The believed picture on the way",
)

# %% [markdown]
# Now take $\mathbf x_t$ of a test image and go back from there. What of the image has survived?

# %%
KEPT = (1, 3, 5, 7, 9)  # tenths of T
originals, their_labels = test_images[: cfg.few], test_labels[: cfg.few]
kept, rows_shown = [], [originals[:20]]
for tenths in KEPT:
    t = tenths * process.T // 10
    times = torch.linspace(0, t, max(2, t // 20) + 1).round().long()[1:]
    reverse = diffusion.Reverse(
        main.average, process.respaced(times), times=times, variance="small"
    )
    g = training.stream(seed, f"kept {t}", device)
    x = centred(originals)
    x_t = process.q_sample(x, t, torch.randn(x.shape, generator=g, device=device))
    images = levels_of(diffusion.last(diffusion.ancestral(reverse, x_t, g)))
    rows_shown.append(images[:20])
    right = (logits_of(images).argmax(dim=1) == their_labels).double().mean().item()
    claims.value(f"kept-{tenths}", 100 * right, unit="%", format=".0f")
    kept.append(100 * right)
claims.judge("large-before-small", ours=[kept[-1], kept[2], kept[0]])
together = torch.cat(rows_shown).flatten(1) / 255.0
claims.sheet(
    "kept", plotting.packed(together, columns=len(rows_shown[0]), height=cfg.side, width=cfg.side)
)


# %% tags=["hide-input"]
def kept_alt(record):
    numbers = plotting.names([f"{of(record, f'kept-{tenths}'):.0f}" for tenths in KEPT])
    return (
        "Six rows of digits: test images, then what comes back from t = 0.1, 0.3, 0.5, 0.7 and 0.9 T. The classifier reads "
        f"the digit of the image in {numbers} % of them."
    )


show_sheet(
    "kept",
    labels=["image", *(f"{tenths / 10:g} T" for tenths in KEPT)],
    alt=kept_alt,
    caption="Back from the middle of the chain, the first test images",
)

# %% [markdown]
# The digit survives $t=0.1\,T$ in {result}`kept-1` %, $0.5\,T$ in {result}`kept-5` % and $0.9\,T$ in {result}`kept-9` % of the
# images: the large things are settled early in the chain, the details at the end.
#
# ### Between two digits
#
# To mix two pictures one can mix their $\mathbf x_t$ in shares $1-\lambda$ and $\lambda$ and go back. With the same noise in
# both this is the same as to add noise to the mixed picture, a double exposure. The official code draws two noises; then the
# mixture has too little of it, half the variance at $\lambda=\frac12$.

# %%
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
a, b = centred(test_images[: cfg.few]), centred(test_images[cfg.few : 2 * cfg.few])


def mixed(t, share, count):
    """The first pictures of a and b mixed at time t, taken back."""
    g = training.stream(seed, "mixed", device)
    x_t = 0.0
    for x, weight in ((a[:count], 1 - share), (b[:count], share)):
        noise = torch.randn(x.shape, generator=g, device=device)
        x_t = x_t + weight * process.q_sample(x, t, noise)
    times = torch.linspace(0, t, max(2, t // 20) + 1).round().long()[1:]
    reverse = diffusion.Reverse(
        main.average, process.respaced(times), times=times, variance="small"
    )
    return levels_of(diffusion.last(diffusion.ancestral(reverse, x_t, g)))


rows_shown = [levels_of((1 - share) * a[:4] + share * b[:4]) for share in SHARES]
claims.value("mixed-confident-0", confident(levels_of(0.5 * (a + b))), unit="%", format=".0f")
for quarter in (1, 2, 3):
    t = quarter * process.T // 4
    rows_shown += [mixed(t, share, 4) for share in SHARES]
    sure = confident(mixed(t, 0.5, cfg.few))
    claims.value(f"mixed-confident-{quarter}", sure, unit="%", format=".0f")
claims.judge(
    "mixing-in-noise", ours=[of(claims.record, f"mixed-confident-{quarter}") for quarter in (0, 3)]
)
by_pair = torch.stack(rows_shown).view(4, len(SHARES), 4, 1, cfg.side, cfg.side).transpose(1, 2)
keep_sheet("mixed", by_pair.reshape(-1, 1, cfg.side, cfg.side))


# %% tags=["hide-input"]
def mixed_alt(record):
    numbers = plotting.names(
        [f"{of(record, f'mixed-confident-{quarter}'):.0f}" for quarter in range(4)]
    )
    return (
        "Four pairs of digits, five columns each from the one to the other; rows: the pixels mixed, then mixed at a quarter, "
        f"a half and three quarters of T. Of pictures mixed in equal parts {numbers} % are confident."
    )


show_sheet(
    "mixed",
    labels=["pixels", "0.25 T", "0.5 T", "0.75 T"],
    alt=mixed_alt,
    caption="Four pairs of test images, mixed",
)

# %% [markdown]
# The classifier is sure of {result}`mixed-confident-0` % of the double exposures, and of {result}`mixed-confident-1`,
# {result}`mixed-confident-2` and {result}`mixed-confident-3` % of what was mixed at a quarter, a half and three quarters of the
# chain.
#
# ### Table 2 on digits
#
# The six of the plane again, with equal networks and equal updates, smaller and shorter than the main one. For predicting the
# mean on CIFAR-10 the paper has FID {result}`table-2-fixed.published`, for the noise {result}`cifar-bound-fid.published`
# with the bound and {result}`cifar-fid.published` with the simple loss; predicting the noise with a learned variance, and
# the mean with an unweighted error, it calls unstable.

# %%
for name, (_, kind, simple) in KINDS.items() if cfg.table_updates else ():
    net = digit_net(
        outputs=2 if kind.get("variance") == "learned" else 1,
        channels=cfg.table_channels, groups=cfg.table_channels // 4,
    )  # fmt: skip
    model = train(f"table-{name}", net, cfg.table_updates, lr=cfg.table_lr, simple=simple, **kind)
    reverse = diffusion.Reverse(model.average, process, **kind)
    images = sampled(f"table-{name}", reverse, cfg.table_samples)
    few_coded = sheet[: max(1, cfg.coded // 3)]
    code = coded(f"table-{name}", reverse, few_coded).bound()
    claims.value(f"table-distance-{name}", eye.distance(images), unit="", format=".1f")
    claims.value(
        f"table-bits-{name}",
        diffusion.bits_per_dim(code, few_coded).mean().item(),
        unit="bits/dim",
        format=".3f",
    )
    claims.value(f"table-confident-{name}", confident(images), unit="%", format=".0f")


def table_2(what, *names):
    """What an ordering claim is judged by, or None where the six are not trained."""
    return [of(claims.record, f"table-{what}-{n}") for n in names] if cfg.table_updates else None


claims.judge("table-2-bound", ours=table_2("bits", "eps-bound", "eps-simple"))
claims.judge("table-2-simple", ours=table_2("distance", "eps-simple", "eps-bound"))
claims.judge("table-2-fixed", ours=table_2("distance", "mu-bound", "mu-learned"))
claims.judge("table-2-eps-learned", ours=table_2("distance", "eps-bound", "eps-learned"))
claims.judge("table-2-mu-simple", ours=table_2("distance", "mu-bound", "mu-simple"))
Table(
    ["profile", "", "bits a value", "Fréchet distance", "confident, %"],
    [
        [
            shown, label, cell(records, f"table-bits-{name}", ".3f"),
            cell(records, f"table-distance-{name}"), cell(records, f"table-confident-{name}", ".0f"),
        ]
        for shown, records in everywhere.items()
        for name, (label, *_) in KINDS.items()
    ],
)  # fmt: skip

# %% [markdown]
# Nothing can be read from these numbers, neither from the orders that came out as in the paper nor from the others, and the
# mistake is ours. Codes of thousands of bits a value, for values of eight bits, give it away. The six are judged by the moving
# average of their weights, and they took the decay of the main network, 0.9995. Of the weights at the start
# $0.9995^{1200} = 0.55$ are still in that average after 1200 updates, so more than half of each network that was measured had never been
# trained. (Of the main network it is $0.9995^{12000} = 0.002$.) A decay goes with the length of a training: whoever shortens
# the one must shorten the memory of the other.
#
# ## CIFAR-10
#
# The paper's own experiment. The `paper` profile has its network and its settings: 800 000 updates of 128 photographs, half of
# them mirrored, dropout 0.1, a moving average with 0.9999. The other profiles train a network a quarter as wide for
# a handful of updates: that proves the code and says nothing about quality. Several GPUs can share these trainings
# (`--processes`): each takes the gradient of its rows of the batch, and the step is made with the mean.


# %%
def photo_net():
    torch.manual_seed(seed)
    return unet.UNet(channels=cfg.photo_channels, groups=min(32, cfg.photo_channels // 4))


def score_photographs(name, model):
    """Bits, and with the reader's Inception weights FID and inception score, as a dict."""
    reverse, found = spaced(model.average), {}
    for part, images in (("test", cifar.test_images), ("train", cifar.train_images)):
        x = centred(images[: cfg.photo_coded])
        if len(x):
            coding = coded(f"photo-{name}-{part}", reverse, x)
            for what in ("bound", "rate", "distortion"):
                nats = getattr(coding, what)()
                found[f"{what}-{part}"] = diffusion.bits_per_dim(nats, x).mean().item()
            found[f"rmse-{part}"] = coding.rmse()[-1].item()
    reverse = spaced(model.average, cfg.sample_steps)
    images = sampled(f"photo-{name}", reverse, cfg.photo_samples, shape=(3, 32, 32))
    keep_sheet(f"photo-{name}", images[:20], columns=10)
    for part, real_images in (("train", cifar.train_images), ("test", cifar.test_images)):
        cuda = torch.device(device).type == "cuda"
        measure = partial(inception.published, images, real_images, cuda=cuda)
        try:
            scores = training.remember(f"{name}-{part}", measure) if profile == "paper" else {}
        except inception.InceptionError as refusal:
            print(refusal)
            scores = {}
        for key, number in scores.items():
            found[f"{key}-{part}"] = number
    for key, number in found.items():
        claims.value(f"photo-{name}-{key}", number, unit="", format=".3f")
    return found


photo = {}
for name in ("simple", "bound") if cfg.photo_bound else ("simple",):
    model = train(
        f"photo-{name}", photo_net(), cfg.photo_updates, images=cifar.train_images, simple=name == "simple",
        size=cfg.photo_batch, lr=cfg.photo_lr, warmup=cfg.photo_warmup, cool=0.0, decay=cfg.photo_ema,
        flip=True, shared=parallel.processes() > 1,
    )  # fmt: skip
    photo[name] = score_photographs(name, model)
a, b = photo["simple"], photo.get("bound", {})
FID, IS = "frechet_inception_distance", "inception_score_mean"
gap = a["bound-test"] - a["bound-train"] if "bound-test" in a else None
for claim, number in (
    ("cifar-bits", a.get("bound-test")), ("cifar-bits-train", a.get("bound-train")), ("cifar-gap", gap),
    ("cifar-rate", a.get("rate-test")), ("cifar-distortion", a.get("distortion-test")),
    ("cifar-rmse", a.get("rmse-test")), ("cifar-fid", a.get(f"{FID}-train")),
    ("cifar-fid-test", a.get(f"{FID}-test")), ("cifar-is", a.get(f"{IS}-train")),
    ("cifar-bound-bits", b.get("bound-test")), ("cifar-bound-bits-train", b.get("bound-train")),
    ("cifar-bound-fid", b.get(f"{FID}-train")), ("cifar-bound-is", b.get(f"{IS}-train")),
):  # fmt: skip
    claims.judge(claim, ours=number)
for claim in ("mu-learned-fid", "mu-bound-fid", "lsun-church", "lsun-bedroom", "lsun-cat"):
    claims.judge(claim, ours=None)  # no profile trains these
claims.value("photo-updates", cfg.photo_updates, unit="updates", format=",.0f")

# %% tags=["hide-input"]
for shown, records in claims.recorded().items():
    if shown == "paper":
        plotting.show(
            draw_sheet(records[0], "photo-simple", (), 1.6),
            name="photo-simple",
            alt=f"Twenty samples of the network for CIFAR-10 after {of(records[0], 'photo-updates'):,.0f} updates, in shades of grey.",
            caption="Samples on CIFAR-10, not selected, in grey: recorded paper profile, the first seed.",
        )

# %% [markdown]
# This profile made {result}`photo-updates` updates. The published values: {result}`cifar-bits.published` bits a value at most
# for the simple loss and {result}`cifar-bound-bits.published` for the bound, FID {result}`cifar-fid.published` and
# {result}`cifar-bound-fid.published`, inception score {result}`cifar-is.published` and {result}`cifar-bound-is.published`:
# the better code draws the worse pictures. Predicting $\tilde{\boldsymbol\mu}$: FID {result}`mu-learned-fid.published` with a
# learned and {result}`mu-bound-fid.published` with a fixed variance. On LSUN at 256 × 256: {result}`lsun-church.published`
# (churches), {result}`lsun-bedroom.published` (bedrooms), {result}`lsun-cat.published` (cats). Others on CIFAR-10 in the paper's
# Table 1: NCSN FID 25.32, SNGAN 21.7, BigGAN (with labels) 14.73, StyleGAN2 + ADA 3.26.
#
# ## What goes wrong, and how it looks
#
# The pictures of this section come from the trained network by 30 steps with $\tilde\beta$, first as it should be.
#
# **A noise that ends too early.** With $\beta$ up to 0.002 in place of 0.02, much of the picture is left at the end of the
# chain, and the sampler starts from something that the network never saw. $L_T$ tells at once. The samples start from pure
# noise at the time where so much is left.
#
# **Times off by one.** The official code counts from 0, this book from 1, and the network is told $t-1$ in place of $t$. The
# code length tells.
#
# **No clipping**, and **the last weights** instead of their average.

# %%
weak = diffusion.GaussianDiffusion(
    diffusion.linear_betas(
        process.T, first=process.beta[1].item(), last=process.beta[-1].item() / 10
    )
)
left_over = weak.alpha_bar[-1].item()
claims.value("weak-left", 100 * math.sqrt(left_over), unit="%", format=".0f")
claims.value("weak-bits", bits_of(weak.prior_kl(sheet.double())), unit="bits/dim", format=".2f")
begin = int((process.alpha_bar < left_over).double().argmax())
times = torch.linspace(0, begin, thirty + 1).round().long()[1:]
narrow = {"variance": "small"}
early = diffusion.Reverse(main.average, process.respaced(times), times=times, **narrow)
times = spaced(main.average, thirty, **narrow).times
shifted = diffusion.Reverse(main.average, process.respaced(times), times=times - 1, **narrow)
mistakes = {
    "weak": early,
    "off": shifted,
    "wide": spaced(main.average, thirty, clip=False, **narrow),
}
as_it_should_be = sampled("small-30", spaced(main.average, thirty, **narrow), cfg.few)
gallery = [as_it_should_be[:20]]
for name, reverse in mistakes.items():
    images = sampled(name, reverse, cfg.few)
    gallery.append(images[:20])
    claims.value(f"distance-{name}", eye.distance(images), unit="", format=".1f")
    claims.value(f"confident-{name}", confident(images), unit="%", format=".0f")
keep_sheet("gallery", torch.cat([*gallery, last_weights[:20]]))
claims.judge("weak-noise", ours=[of(claims.record, f"distance-{n}") for n in ("small-30", "weak")])
claims.value("code-unclipped", bits_of(parts.bound()), unit="bits/dim", format=".3f")
for name, kind in (("off", {"times": torch.arange(process.T)}), ("small", narrow)):
    code = coded(name, diffusion.Reverse(main.average, process, **kind), sheet)
    claims.value(f"code-{name}", bits_of(code.bound()), unit="bits/dim", format=".3f")
claims.judge("off-by-one", ours=of(claims.record, "code-off") - bound)


# %% tags=["hide-input"]
def gallery_alt(record):
    numbers = plotting.names(
        [
            f"{of(record, f'distance-{name}'):.0f}"
            for name in ("small-30", "weak", "off", "wide", "last")
        ]
    )
    return (
        "Five rows of twenty samples: as it should be, with a noise that ends too early, with times off by one, without "
        f"clipping, with the last weights. Fréchet distances of the whole sets: {numbers}."
    )


show_sheet(
    "gallery",
    labels=["right", "noise too weak", "off by one", "not clipped", "last weights"],
    alt=gallery_alt,
    caption="What goes wrong, 30 steps each",
)

# %% [markdown]
# As it should be the distance is {result}`distance-small-30` and {result}`confident-small-30` % are confident. With the weak
# noise {result}`weak-left` % of the picture's size is left at the end of the chain, $L_T$ is {result}`weak-bits` bits a value,
# and distance and confident share are {result}`distance-weak` and {result}`confident-weak` %. Off by one they are
# {result}`distance-off` and {result}`confident-off` %, and {result}`bound-simple` bits a value become {result}`code-off`.
# Without clipping: {result}`distance-wide`, {result}`confident-wide` %, {result}`code-unclipped` bits. Where the confident
# share is high and the distance large, the pictures are clear and are not like the data: no single measure is enough.
#
# **Data left between 0 and 1.** The picture is then half as large against the noise, and the trial below shows what that does
# to the loss and to the samples. A grey value whose prediction is perfect costs {result}`last-step-zero-one` bits in the
# last step in place of {result}`last-step-centred`.

# %%
sigma = 0.5 * process.log_variances("large")[1]
for name, half_width in (("centred", 1 / 255), ("zero-one", 0.5 / 255)):
    p = 2 * torch.special.ndtr(half_width / sigma.exp()) - 1
    claims.value(f"last-step-{name}", -math.log2(p), unit="bits/dim", format=".2f")

# %% [markdown]
# **A network that is deaf to the time.** Group normalisation with one channel a group takes the mean off every channel. What
# the time added to the channel is such a mean. Our network refuses; here it is built all the same. It still learns
# something, since the noise level can be seen in the picture. Beside it, for comparison, the usual groups and a time that
# says nothing.
#
# These mistakes, and the deviations of the next section, in short trainings of their own; the loss is that of
# {result}`tested-images` test images with the same noise for all, a mean over the values:


# %%
@torch.no_grad()
def noise_loss(net, read):
    g = training.stream(seed, "test loss", device)
    total = []
    for images in test_images[:500].split(250):
        x_0 = read(images)
        times = torch.randint(1, process.T + 1, (len(x_0),), generator=g, device=device)
        eps = torch.randn(x_0.shape, generator=g, device=device)
        total.append(diffusion.Reverse(net, process).loss(x_0, times, eps, simple=True))
    return torch.cat(total).mean().item()


def deaf():
    net = digit_net()
    for block in net.modules():
        if isinstance(block, unet.ResidualBlock):
            channels = block.norm_2.num_channels
            block.norm_2 = nn.GroupNorm(channels, channels)
    return net


class Nothing(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, time):
        return time.new_zeros(len(time), self.channels)


def untimed():
    net = digit_net()
    for block in net.modules():
        if isinstance(block, unet.ResidualBlock):
            block.time = Nothing(block.norm_2.num_channels)
    return net


def zero_one(images):
    return images.float() / 255.0


variants = {
    "plain": ("as above", {}),
    "unwarmed": ("no warm-up", {"warmup": 1}),
    "uncut": ("gradient not cut", {"clip": math.inf}),
    "dropout": ("dropout 0.1, as on CIFAR-10", {"net": partial(digit_net, dropout=0.1)}),
    "other-precision": (
        "single precision" if cfg.half else "bfloat16",
        {"half": not cfg.half},
    ),
    "slow": ("the paper's rate, 0.0002", {"lr": 2e-4, "cool": 0.0}),
    "deaf": ("deaf: one channel a group", {"net": deaf}),
    "untimed": ("deaf: a time that says nothing", {"net": untimed}),
    "zero-one": ("data in [0, 1]", {"read": zero_one}),
}
assert len(variants) == VARIANTS
claims.value("tested-images", 500, unit="images", format=".0f")
ranges = []
for name, (_, changes) in variants.items():
    changes = {"warmup": max(1, cfg.variant_updates // 10)} | changes
    made_net = changes.pop("net", digit_net)()
    model = train(f"variant-{name}", made_net, cfg.variant_updates, **changes)
    model.net.eval()
    loss = noise_loss(model.net, changes.get("read", centred))
    claims.value(f"loss-{name}", loss, unit="", format=".4f")
    if name in ("plain", "zero-one"):
        ranges.append(sampled(f"variant-{name}", spaced(model.net, thirty, variance="small"), 20))
        ground = ranges[-1].double().median().item()
        claims.value(f"ground-{name}", ground, unit="grey levels", format=".0f")
keep_sheet("ranges", torch.cat(ranges))
claims.value("variant-updates", cfg.variant_updates, unit="updates", format=".0f")
claims.judge("deaf-is-worse", ours=[of(claims.record, f"loss-{n}") for n in ("plain", "untimed")])
claims.judge(
    "zero-one-looks-better", ours=[of(claims.record, f"loss-{n}") for n in ("zero-one", "plain")]
)
Table(
    ["profile", "updates", *(label for label, _ in variants.values())],
    [
        [
            shown,
            cell(records, "variant-updates", ".0f"),
            *(cell(records, f"loss-{name}", ".4f") for name in variants),
        ]
        for shown, records in everywhere.items()
    ],
)


# %% tags=["hide-input"]
def ranges_alt(record):
    return (
        f"Two rows of twenty samples after {of(record, 'variant-updates'):.0f} updates. The median "
        f"grey level is {of(record, 'ground-plain'):.0f} of 255 with data in [-1, 1] and {of(record, 'ground-zero-one'):.0f} "
        "with data in [0, 1]."
    )


show_sheet(
    "ranges",
    labels=["in [-1, 1]", "in [0, 1]"],
    alt=ranges_alt,
    caption="Samples after the short trainings, both read as if the data were in [-1, 1]",
    height=0.9,
)

# %% [markdown]
# After {result}`variant-updates` updates there is more noise than digit in either row, but the grounds differ already: black is
# $-1$ for the first network and 0, which is shown as grey, for the second. The median grey levels are
# {result}`ground-plain` and {result}`ground-zero-one`.
#
# ## Deviations from the paper and from the official code
#
# * **MNIST** does not occur in the paper. Network, batch, decay of the average and the course of the rate are ours. After the
#   {result}`variant-updates` of the trial the test loss is {result}`loss-plain` with our rate and {result}`loss-slow` with the
#   paper's; in the long runs, where the trial has {result}`variant-updates@long` updates and the rate is half as large,
#   {result}`loss-plain@long` and {result}`loss-slow@long`. Pixels are folded so that the net works at a lower resolution, and the groups of the normalisation are 8, not 32,
#   because our nets are narrow.
# * **In the official code and not in the paper's list**: warm-up (without: {result}`loss-unwarmed`), the cut of the gradient
#   (without: {result}`loss-uncut`; in one of the three long runs that trial went astray, and their mean is
#   {result}`loss-uncut@long` against {result}`loss-plain@long`), $\sigma_1^2=\tilde\beta_2$ for the likelihood, and the clipping of $\mathbf x_0$ to
#   $[-1, 1]$ in sampling and coding. Without clipping the code length is {result}`code-unclipped` in place of
#   {result}`bound-simple` bits.
# * **The bound as a loss** is in bits a value, one term at a time, as in the official code. The scale matters, since the
#   gradient is cut at a fixed norm.
# * **Dropout**: 0.1 on CIFAR-10, none on MNIST (with: {result}`loss-dropout`).
# * **Precision**: the U-Nets multiply in bfloat16 while they train, where the machine has instructions for it; bounds and
#   samples are never made in it. The trial in the other precision gives {result}`loss-other-precision`, in the long runs
#   {result}`loss-other-precision@long` against {result}`loss-plain@long`, a difference of the size of that between seeds.
# * **The two variances**: $\beta_t$ and $\tilde\beta_t$ give code lengths of {result}`bound-simple` and {result}`code-small`.
# * **The normal distribution function** of the last step is exact; the official code has an approximation by tanh.
# * **The average** starts as a copy of the weights after the first update.
# * **The best of many.** The paper's FID is that of the checkpoint with the smallest FID over the training. We keep the last.
# * **Chains with fewer steps** for some measures; each says how many.
#
# ## Exercises
#
# ```{exercise} Half the steps
# :label: diffusion-exercise-half
# With 500 steps and $\beta_1 = 10^{-4}$, how large must the last $\beta$ be to leave as little of the picture,
# $\bar\alpha_{500} = \bar\alpha_{1000}$ of the paper?
# ```
#
# ```{solution-start} diffusion-exercise-half
# :class: dropdown
# ```
#
# $\log\bar\alpha_T \approx -\sum_t\beta_t$, about $-T(\beta_1+\beta_T)/2$: half the steps need about twice the last
# $\beta$. Halving an interval gives the exact value:

# %%
target = paper_process.alpha_bar[-1].item()
low, high = 0.02, 0.08
for _ in range(60):
    middle = 0.5 * (low + high)
    reached = diffusion.GaussianDiffusion(diffusion.linear_betas(500, last=middle)).alpha_bar[-1]
    low, high = (middle, high) if reached > target else (low, middle)
check("what is left", reached, target, rtol=1e-9)
print(f"last beta = {middle:.5f}")

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} An error in two currencies
# :label: diffusion-exercise-snr
# A network predicts $\boldsymbol\epsilon$ with mean squared error $e$. What is the mean squared error of the $\mathbf x_0$ that
# belongs to it, and what does the simple loss say about $\mathbf x_0$ at $t=T$?
# ```
#
# ```{solution-start} diffusion-exercise-snr
# :class: dropdown
# ```
#
# $\mathbf x_0 = (\mathbf x_t - \sqrt{1-\bar\alpha_t}\boldsymbol\epsilon)/\sqrt{\bar\alpha_t}$, so the error is
# $e\,(1-\bar\alpha_t)/\bar\alpha_t$. At $t=T$ that factor is about 25 000: a prediction of the noise that is
# right to a hundredth says nothing about the picture, which is why clipping $\mathbf x_0$ matters in the first steps.

# %%
g = training.stream(seed, "currencies")
x_0, eps, wrong = torch.randn(3, 4, 1_000, generator=g, dtype=torch.float64)
t = torch.tensor([1, 10, 500, 1000])
x_t = paper_process.q_sample(x_0, t, eps)
believed = paper_process.x_0_from_eps(x_t, t, eps + 0.1 * wrong)
factor = (1 - paper_process.alpha_bar[t]) / paper_process.alpha_bar[t]
ratio = (believed - x_0).square().mean(dim=1) / (0.01 * wrong.square().mean(dim=1)) / factor
check("error of x_0 over the formula", ratio.max(), 1.0, rtol=1e-9)
print(f"factor at t = T: {factor[-1]:,.0f}")

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} The best network for one normal density
# :label: diffusion-exercise-normal
# Let $x_0\sim\mathcal N(0, v)$. What is the best network, and what is the smallest possible simple loss at time $t$?
# ```
#
# ```{solution-start} diffusion-exercise-normal
# :class: dropdown
# ```
#
# $x_t$ has variance $\bar\alpha_t v + 1-\bar\alpha_t$ and covariance $\sqrt{1-\bar\alpha_t}$ with $\epsilon$, so
# $\mathbb E[\epsilon\mid x_t] = \sqrt{1-\bar\alpha_t}\,x_t/(\bar\alpha_t v+1-\bar\alpha_t)$, and what is left of the variance of
# $\epsilon$ is $\bar\alpha_t v/(\bar\alpha_t v+1-\bar\alpha_t)$.

# %%
v, abar = 0.3, paper_process.alpha_bar[200]
normal = mixtures.GaussianMixture(torch.zeros(1, 1).double(), torch.ones(1).double(), math.sqrt(v))
x_0, eps = torch.randn(2, 200_000, 1, generator=g, dtype=torch.float64)
x_t = paper_process.q_sample(math.sqrt(v) * x_0, 200, eps)
best = normal.eps(x_t, abar.expand(len(x_t), 1))
check("best network", best[0, 0], (1 - abar).sqrt() * x_t[0, 0] / (abar * v + 1 - abar), rtol=1e-9)
smallest = abar * v / (abar * v + 1 - abar)
check("smallest loss", (eps - best).square().mean(), smallest, rtol=0.02)

# %% [markdown]
# ```{solution-end}
# ```
#
# ## Errata, and what is said about the paper
#
# * Warm-up and the cut of the gradient are in the official code and not among the settings that the paper lists.
# * Clipping $\mathbf x_0$ is in the code for sampling and coding and in no equation.
# * "The inception score rewards variety within a class": it cannot see it; see above.
# * "Diffusion models have no likelihood": they have a bound, and on data with a known entropy the bound can be compared with
#   it, as in the plane.
#
# ## The ledger of this chapter
#
# ```{ledger}
# :chapter: diffusion
# ```

# %% tags=["remove-input"]
claims.close()
