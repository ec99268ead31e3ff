"""Multimodal tagging with a conditional GAN: Mirza & Osindero 2014, arXiv 1411.1784, section 4.2.

The generator makes word vectors given an image feature; the game, its losses and its schedule are
those of `genbook.cgan`.  z is [M, Z], y is [M, F] (image features), x is [M, W] (word vectors).
Tags are a bool matrix [N, V], whether image n has word v; a vocabulary is a matrix of word vectors
[V, W].  Every way of tagging here gives a `Tagging`, so that one `score` judges them all.

The paper published neither code nor a number for this experiment.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator as Random
from torch import Tensor, nn
from torch.nn import functional

from genbook.cgan import Maxout, dropout

BLOCK = 2**24  # numbers in the largest intermediate result of what goes block by block


class TagGenerator(nn.Module):
    """G(z|y), section 4.2: z -> 500 ReLU, y -> 2000 ReLU, both -> 200 linear, the word vector.

    Dropout 0.5 on the hidden layers.  z may have leading dimensions that y has not, [S, M, Z] with
    y [M, F]: many samples of an image, whose feature then passes its layer once.
    """

    def __init__(
        self,
        *,
        noise: int = 100,
        features: int = 4096,
        width: int = 200,
        noise_units: int = 500,
        feature_units: int = 2000,
        rate: float = 0.5,
    ):
        super().__init__()
        self.noise, self.rate = noise, rate
        self.z_layer = nn.Linear(noise, noise_units)
        self.y_layer = nn.Linear(features, feature_units)
        self.out = nn.Linear(noise_units + feature_units, width)

    def forward(self, z: Tensor, y: Tensor, drop: Random | None = None) -> Tensor:
        h_z, h_y = functional.relu(self.z_layer(z)), functional.relu(self.y_layer(y))
        h = torch.cat([h_z, h_y.expand(*h_z.shape[:-1], -1)], dim=-1)
        return self.out(dropout(h, self.rate, drop))


class TagDiscriminator(nn.Module):
    """Logit of D(x|y), section 4.2: x -> 500 ReLU, y -> 1200 ReLU, both -> maxout 1000 x 3.

    Dropout 0.5 on the hidden layers.
    """

    def __init__(
        self,
        *,
        width: int = 200,
        features: int = 4096,
        word_units: int = 500,
        feature_units: int = 1200,
        units: int = 1000,
        pieces: int = 3,
        rate: float = 0.5,
    ):
        super().__init__()
        self.rate = rate
        self.x_layer = nn.Linear(width, word_units)
        self.y_layer = nn.Linear(features, feature_units)
        self.joint = Maxout(word_units + feature_units, units, pieces)
        self.out = nn.Linear(units, 1)

    def forward(self, x: Tensor, y: Tensor, drop: Random | None = None) -> Tensor:
        h = functional.relu(torch.cat([self.x_layer(x), self.y_layer(y)], dim=-1))
        h = self.joint(dropout(h, self.rate, drop))
        return self.out(dropout(h, self.rate, drop)).squeeze(-1)


def gaussian_noise(n: int, dim: int, random: Random | None, device: str | torch.device) -> Tensor:
    """z from N(0, I), section 4.2: [n, dim].  (On MNIST the noise is uniform.)"""
    return torch.randn(n, dim, generator=random, device=device)


def pairs(tags: Tensor) -> tuple[Tensor, Tensor]:
    """The training examples of section 4.2, "images with several tags were repeated": one a tag.

    From tags bool [N, V]: index of the image [P] and of the word [P], by image, then word.  An
    image without tags is in no pair.
    """
    image, word = tags.nonzero(as_tuple=True)
    return image, word


@dataclass(frozen=True)
class Tagging:
    """What a model says of N images: its tags int64 [N, T], the best first, and its distribution
    over the vocabulary, float64 [N, V], rows sum to 1."""

    tags: Tensor
    distribution: Tensor


def most_common(counts: Tensor, weight: Tensor, tags: int) -> Tensor:
    """The `tags` words with the highest counts, [N, V] -> int64 [N, tags], the highest first.

    Equal counts are ordered by `weight` [N, V], the larger first, then by the vocabulary.
    """
    by_weight = weight.argsort(dim=1, descending=True, stable=True)
    by_count = counts.gather(1, by_weight).argsort(dim=1, descending=True, stable=True)
    return by_weight.gather(1, by_count[:, :tags])


def vote(made: Tensor, vectors: Tensor, *, nearest: int = 20, tags: int = 10) -> Tagging:
    """Section 4.2: words for the samples made [N, S, W] of N images, vocabulary [V, W].

    Each sample names its `nearest` words by cosine; the tags are the words named most often, equal
    ones ordered by the sum of their cosines over the samples that named them, then by the
    vocabulary.  The distribution (ours: the paper has none) is the share of the samples to which a
    word is the nearest.  Of exactly equal cosines torch's topk takes which it likes.  Raises
    ValueError when a sample is not finite, for the model has diverged, and when the vocabulary has
    fewer than `nearest` words.
    """
    if len(vectors) < nearest:
        raise ValueError(f"a vocabulary of {len(vectors)} words has no {nearest} nearest ones")
    if not made.isfinite().all():
        raise ValueError("a sample is not finite: the model has diverged")
    cosine = functional.normalize(made, dim=-1) @ functional.normalize(vectors, dim=-1).T
    value, word = cosine.topk(nearest, dim=-1)  # [N, S, nearest]
    empty = torch.zeros(len(made), len(vectors), dtype=torch.float64, device=made.device)
    named, value = word.flatten(1), value.double().flatten(1)
    counts = empty.scatter_add(1, named, torch.ones_like(value))
    weight = empty.scatter_add(1, named, value)
    first = word[..., 0]
    share = torch.full(first.shape, 1.0 / first.shape[1], dtype=empty.dtype, device=empty.device)
    return Tagging(most_common(counts, weight, tags), empty.scatter_add(1, first, share))


@torch.no_grad()
def tag_images(
    generator: TagGenerator,
    features: Tensor,
    vectors: Tensor,
    *,
    random: Random,
    drop: Random | None = None,
    samples: int = 100,
    nearest: int = 20,
    tags: int = 10,
) -> Tagging:
    """The protocol of section 4.2 for image features [N, F]: 100 samples an image, the 20 words
    nearest to each, the 10 most common (see `vote`, which also raises).  `random` and `drop` are
    on the features' device; without `drop` no unit is dropped."""
    numbers = samples * (len(vectors) + generator.out.in_features)  # an image
    parts = []
    for y in features.split(max(1, BLOCK // numbers)):
        z = gaussian_noise(samples * len(y), generator.noise, random, y.device)
        made = generator(z.unflatten(0, (len(y), samples)).transpose(0, 1), y, drop)  # [S, n, W]
        parts.append(vote(made.transpose(0, 1), vectors, nearest=nearest, tags=tags))
    return joined(parts)


def joined(parts: list[Tagging]) -> Tagging:
    """Taggings of blocks of images, as one."""
    return Tagging(torch.cat([p.tags for p in parts]), torch.cat([p.distribution for p in parts]))


def tag_by_regression(
    train_features: Tensor,
    train_tags: Tensor,
    features: Tensor,
    vectors: Tensor,
    *,
    penalty: float = 1e-3,
    nearest: int = 20,
    tags: int = 10,
) -> Tagging:
    """Baseline: the words nearest to the mean word vector, regressed on the feature (`ridge`).

    A generator that ignores its noise: `vote` on one sample an image, so that the tags are the
    nearest words and the distribution is 1 at the nearest.
    """
    predict = ridge(train_features, train_tags, vectors, penalty=penalty)
    made = features.double() @ predict[:-1] + predict[-1]
    rows = max(1, BLOCK // len(vectors))
    return joined(
        [vote(m[:, None], vectors.double(), nearest=nearest, tags=tags) for m in made.split(rows)]
    )


def ridge(features: Tensor, tags: Tensor, vectors: Tensor, *, penalty: float) -> Tensor:
    """Weights and, last, offset of the linear map from feature to word vector, [F + 1, W], float64.

    Least squares over image-tag pairs plus penalty * t * |weights|^2, in closed form; the offset is
    free, and t is the mean diagonal element of the centred X'X, so that the penalty has no unit.
    features [N, F], tags bool [N, V], vectors [V, W].
    """
    x, v = features.double(), vectors.double()
    n = tags.sum(dim=1, dtype=torch.float64)[:, None]  # an image counts once a tag
    x_mean = (n * x).sum(dim=0) / n.sum()
    words = tags.double() @ v  # [N, W], the sum of the vectors of an image
    v_mean = words.sum(dim=0) / n.sum()
    x = x - x_mean
    gram = x.T @ (n * x)
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    weights = torch.linalg.solve(gram, x.T @ (words - n * v_mean))
    return torch.cat([weights, (v_mean - x_mean @ weights)[None]])


def tag_by_neighbours(
    train_features: Tensor,
    train_tags: Tensor,
    features: Tensor,
    *,
    neighbours: int = 20,
    tags: int = 10,
) -> Tagging:
    """Baseline: the tags of the training images nearest by cosine of features, the most common.

    Training images without tags are left out.  Equal counts are ordered by the sum of the cosines
    of the images that have the tag, then by the vocabulary.  The distribution is the counts,
    divided by their sum.
    """
    own = train_tags.any(dim=1)
    known, words = functional.normalize(train_features[own], dim=-1), train_tags[own]
    parts = []
    for y in features.split(max(1, BLOCK // (len(known) + neighbours * words.shape[1]))):
        cosine = functional.normalize(y, dim=-1) @ known.T
        value, image = cosine.topk(neighbours, dim=-1)
        near = words[image].double()  # [n, neighbours, V]
        counts, weight = near.sum(dim=1), torch.einsum("nk,nkv->nv", value.double(), near)
        share = counts / counts.sum(dim=1, keepdim=True)
        parts.append(Tagging(most_common(counts, weight, tags), share))
    return joined(parts)


def tag_by_frequency(train_tags: Tensor, *, images: int, tags: int = 10) -> Tagging:
    """Baseline: the most common tags of the training set, the same for all of N = `images`.

    The distribution is that of the words of the training pairs.
    """
    counts = train_tags.sum(dim=0, dtype=torch.float64)[None]
    best = most_common(counts, torch.zeros_like(counts), tags)
    return Tagging(best.expand(images, -1), (counts / counts.sum()).expand(images, -1))


def tag_by_truth(true: Tensor, *, random: Random, samples: int = 100, tags: int = 10) -> Tagging:
    """Ceiling: a model that draws `samples` words an image from the true distribution [N, V].

    Its distribution is their shares: what the divergence of a perfect model is after 100 samples.
    Its tags are the words of the highest true probability.  `random` is on the device of `true`.
    """
    drawn = true.multinomial(samples, replacement=True, generator=random)
    each = torch.full(drawn.shape, 1.0 / samples, dtype=true.dtype, device=true.device)
    share = torch.zeros_like(true).scatter_add_(1, drawn, each)
    return Tagging(most_common(true, torch.zeros_like(true), tags), share)


def precision_recall(tags: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall at T of tags [N, T] against the photographs' own tags bool [N, V].

    Of each image with tags of its own, float64 [M]: right tags / T, and right tags / own tags.  An
    image without own tags is not scored.  T distinct words an image are assumed.
    """
    total = own.sum(dim=1)
    scored = total > 0
    right = own.gather(1, tags).sum(dim=1)[scored].double()
    return right / tags.shape[1], right / total[scored]


def entropy(p: Tensor) -> Tensor:
    """-sum_v p_v ln p_v of distributions [N, V] -> [N], nats."""
    return torch.special.entr(p).sum(dim=-1)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """1/2 KL(p|m) + 1/2 KL(q|m) with m = (p + q) / 2, of [N, V] -> [N], nats, from 0 to ln 2."""
    if p.shape != q.shape:
        raise ValueError(f"distributions {tuple(p.shape)} and {tuple(q.shape)} do not fit")
    return (entropy(0.5 * (p + q)) - 0.5 * (entropy(p) + entropy(q))).clamp(min=0.0)


@dataclass(frozen=True)
class Scores:
    """Means over images.  Only images with tags of their own count in precision and recall."""

    precision: float
    recall: float
    divergence: float  # Jensen-Shannon, of the model's and the true distribution, nats
    entropy: float  # of the model's distribution of an image, nats
    true_entropy: float  # of the true one, nats
    words: int  # distinct words among the tags of all images


def score(tagging: Tagging, own: Tensor, true: Tensor) -> Scores:
    """All scores of a tagging, given the own tags bool [N, V] and the true distribution [N, V].

    Raises ValueError when no image has a tag of its own.
    """
    if not own.any():
        raise ValueError("no image has a tag of its own: there is nothing to score against")
    precision, recall = precision_recall(tagging.tags, own)
    return Scores(
        precision=precision.mean().item(),
        recall=recall.mean().item(),
        divergence=jensen_shannon(tagging.distribution, true).mean().item(),
        entropy=entropy(tagging.distribution).mean().item(),
        true_entropy=entropy(true).mean().item(),
        words=len(tagging.tags.unique()),
    )
