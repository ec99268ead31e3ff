"""Section 4.2 of the conditional GAN: networks, protocol, baselines and scores against numpy."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from genbook import cgan, tagging

FEW = settings(max_examples=25, deadline=None, derandomize=True)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def distributions(seed: int, n: int, words: int) -> Tensor:
    """Random ones, with zeros in them."""
    p = drawn(seed, n, words).relu() + 1e-3 * (torch.arange(words) == 0)
    return p / p.sum(dim=1, keepdim=True)


def small_gan() -> cgan.GAN:
    generator = tagging.TagGenerator(
        noise=4, features=5, width=3, noise_units=6, feature_units=7
    ).double()
    discriminator = tagging.TagDiscriminator(
        width=3, features=5, word_units=6, feature_units=7, units=8, pieces=3
    ).double()
    gan = cgan.GAN(generator, discriminator)
    cgan.init_uniform(gan, random=seeded(0), g=1.0, d=1.0)
    for k, p in enumerate(gan.parameters()):
        if p.ndim == 1:
            p.data.copy_(drawn(k, *p.shape))
    return gan


def weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def relu(layer: str, p: dict[str, np.ndarray], v: np.ndarray) -> np.ndarray:
    return np.maximum(v @ p[f"{layer}.weight"].T + p[f"{layer}.bias"], 0)


def test_the_networks_are_those_of_section_4_2():
    gan, z, y, x = small_gan(), drawn(1, 9, 4), drawn(2, 9, 5), drawn(3, 9, 3)
    p = weights(gan.generator)
    h = np.hstack([relu("z_layer", p, z.numpy()), relu("y_layer", p, y.numpy())])
    reference = h @ p["out.weight"].T + p["out.bias"]  # linear: no ReLU and no sigmoid
    np.testing.assert_allclose(gan.generator(z, y).detach(), reference, rtol=1e-12)

    p = weights(gan.discriminator)
    h = np.hstack([relu("x_layer", p, x.numpy()), relu("y_layer", p, y.numpy())])
    maps = h @ p["joint.linear.weight"].T + p["joint.linear.bias"]
    h = maps.reshape(9, 3, 8).max(axis=1)
    logit = (h @ p["out.weight"].T + p["out.bias"])[:, 0]
    np.testing.assert_allclose(gan.discriminator(x, y).detach(), logit, rtol=1e-12)


def test_the_sizes_are_the_paper_s():
    generator, discriminator = tagging.TagGenerator(), tagging.TagDiscriminator()
    assert generator(torch.ones(2, 100), torch.ones(2, 4096)).shape == (2, 200)
    assert discriminator(torch.ones(2, 200), torch.ones(2, 4096)).shape == (2,)
    assert {n: tuple(p.shape) for n, p in generator.named_parameters() if p.ndim == 2} == {
        "z_layer.weight": (500, 100),
        "y_layer.weight": (2000, 4096),
        "out.weight": (200, 2500),
    }
    assert {n: tuple(p.shape) for n, p in discriminator.named_parameters() if p.ndim == 2} == {
        "x_layer.weight": (500, 200),
        "y_layer.weight": (1200, 4096),
        "joint.linear.weight": (3000, 1700),
        "out.weight": (1, 1000),
    }
    assert generator.rate == discriminator.rate == 0.5


def test_many_samples_of_an_image_are_samples_of_each():
    generator, z, y = small_gan().generator, drawn(1, 6, 9, 4), drawn(2, 9, 5)
    one_by_one = torch.stack([generator(row, y) for row in z])
    torch.testing.assert_close(generator(z, y), one_by_one)


def test_dropout_acts_on_the_hidden_units_alone():
    gan, z, y = small_gan(), drawn(1, 1, 4), drawn(2, 1, 5)
    n = 20_000
    made = gan.generator(z.expand(n, -1), y, seeded(0))
    # The output is linear in the units dropped, so its mean is the output with none dropped.
    error = (made.mean(dim=0) - gan.generator(z, y)[0]).abs() / (made.std(dim=0) / math.sqrt(n))
    assert error.max() < 5  # standard errors
    assert torch.equal(made, gan.generator(z.expand(n, -1), y, seeded(0)))
    # 8 maxout units before the last layer, all dropped in one of 256: then D is its last bias.
    logits = gan.discriminator(drawn(3, 1, 3).expand(n, -1), y.expand(n, -1), seeded(1))
    share = (logits == gan.discriminator.out.bias).double().mean()
    assert abs(share - 1 / 256) < 5 * math.sqrt(1 / 256 / n)


def test_the_game_of_cgan_is_played_by_these_networks():
    gan, z, y, x = small_gan(), drawn(1, 20, 4), drawn(2, 20, 5), drawn(3, 20, 3)
    check = torch.autograd.gradcheck
    assert check(gan.generator, (z[:3].requires_grad_(), y[:3].requires_grad_()))
    assert check(gan.discriminator, (x[:3].requires_grad_(), y[:3]))
    cgan.init_uniform(gan, random=seeded(0))
    assert (gan.generator.out.bias == 0).all()
    made = gan.discriminator(gan.generator(z, y, seeded(1)), y, seeded(2))
    real = gan.discriminator(x, y, seeded(3))
    d_loss = cgan.discriminator_loss(real, made).mean()
    g_loss = cgan.non_saturating_loss(made).mean()
    expected = torch.autograd.grad(d_loss, gan.discriminator.x_layer.weight, retain_graph=True)
    expected += torch.autograd.grad(g_loss, gan.generator.z_layer.weight, retain_graph=True)
    cgan.set_gradients(gan, g_loss, d_loss)
    torch.testing.assert_close(gan.discriminator.x_layer.weight.grad, expected[0])
    torch.testing.assert_close(gan.generator.z_layer.weight.grad, expected[1])
    before = gan.generator.out.weight.detach().clone()
    optimizer = torch.optim.SGD(gan.parameters(), lr=1.0)
    cgan.Schedule().apply(optimizer, 0)
    optimizer.step()
    assert not torch.equal(gan.generator.out.weight, before)


def test_the_noise_is_standard_normal():
    z = tagging.gaussian_noise(4000, 50, seeded(0), "cpu").flatten().double()
    assert scipy.stats.kstest(z.numpy(), "norm").pvalue > 1e-3


def test_pairs_are_one_for_each_tag():
    tags = drawn(0, 7, 5) > 0.5
    tags[3] = False
    reference = [(n, v) for n in range(7) for v in range(5) if tags[n, v]]
    image, word = tagging.pairs(tags)
    assert list(zip(image.tolist(), word.tolist(), strict=True)) == reference
    assert 3 not in image


@FEW
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(3, 12))
def test_ties_are_broken_by_weight_and_then_by_the_vocabulary(seed, n, words):
    counts = torch.randint(3, (n, words), generator=seeded(seed)).double()
    weight = torch.randint(2, (n, words), generator=seeded(seed + 1)).double()
    found = tagging.most_common(counts, weight, 3).tolist()
    for row, c, w in zip(found, counts.tolist(), weight.tolist(), strict=True):
        assert row == sorted(range(words), key=lambda v: (-c[v], -w[v], v))[:3]


def vote_by_hand(made: np.ndarray, vectors: np.ndarray, nearest: int, tags: int):
    """The protocol for the samples [S, W] of one image, in numpy and with a Counter."""
    names: Counter[int] = Counter()
    cosines: Counter[int] = Counter()
    share = np.zeros(len(vectors))
    for sample in made:
        cosine = vectors @ sample / np.linalg.norm(vectors, axis=1) / np.linalg.norm(sample)
        order = np.argsort(-cosine)
        share[order[0]] += 1 / len(made)
        for v in order[:nearest]:
            names[v] += 1
            cosines[v] += cosine[v]
    ranked = sorted(range(len(vectors)), key=lambda v: (-names[v], -cosines[v], v))
    return ranked[:tags], share


def test_vote_is_the_protocol_of_section_4_2():
    made, vectors = drawn(0, 5, 30, 6), drawn(1, 40, 6)
    found = tagging.vote(made, vectors, nearest=7, tags=10)
    for n in range(5):
        tags, share = vote_by_hand(made[n].numpy(), vectors.numpy(), 7, 10)
        assert found.tags[n].tolist() == tags
        np.testing.assert_allclose(found.distribution[n], share, atol=1e-12)
    torch.testing.assert_close(found.distribution.sum(dim=1), torch.ones(5, dtype=torch.float64))
    # Cosines do not see lengths, and the order of the samples does not matter.
    scaled = made.flip(1) * torch.rand(5, 30, 1, generator=seeded(2)).double().add(0.1)
    again = tagging.vote(scaled, vectors * 3.0, nearest=7, tags=10)
    assert torch.equal(again.tags, found.tags)
    torch.testing.assert_close(again.distribution, found.distribution)


def test_samples_that_are_not_finite_are_refused():
    made = drawn(0, 2, 3, 4)
    made[1, 2, 0] = math.nan
    with pytest.raises(ValueError, match="diverged"):
        tagging.vote(made, drawn(1, 30, 4))


def test_a_vocabulary_without_enough_words_is_refused():
    with pytest.raises(ValueError, match="of 3 words has no 4 nearest"):
        tagging.vote(torch.zeros(1, 1, 2), torch.eye(3, 2), nearest=4)


def test_tag_images_is_the_vote_on_the_generator_s_samples(monkeypatch):
    generator, y, vectors = small_gan().generator.float(), drawn(2, 7, 5).float(), drawn(3, 30, 3)
    vectors = vectors.float()
    # 16 samples of 4 numbers: torch fills normal numbers by sixteens, so blocks draw alike.
    settings = {"samples": 16, "nearest": 5}
    whole = tagging.tag_images(generator, y, vectors, random=seeded(5), **settings)
    z = tagging.gaussian_noise(7 * 16, 4, seeded(5), "cpu").view(7, 16, 4)
    made = torch.stack([generator(z[n], y[n]) for n in range(7)]).detach()
    by_hand = tagging.vote(made, vectors, nearest=5)
    assert torch.equal(whole.tags, by_hand.tags)
    assert torch.equal(whole.distribution, by_hand.distribution)
    monkeypatch.setattr(tagging, "BLOCK", 2 * 16 * (30 + 13))  # two images a block
    blocks = tagging.tag_images(generator, y, vectors, random=seeded(5), **settings)
    assert torch.equal(blocks.tags, whole.tags)
    assert torch.equal(blocks.distribution, whole.distribution)
    dropped = tagging.tag_images(
        generator, y, vectors, random=seeded(5), drop=seeded(6), **settings
    )
    assert not torch.equal(dropped.distribution, whole.distribution)


def test_ridge_is_least_squares_over_pairs():
    x, vectors, tags = drawn(0, 30, 4), drawn(1, 6, 3), drawn(2, 30, 6) > 0.3
    image, word = tagging.pairs(tags)
    rows, targets = x[image].numpy(), vectors[word].numpy()
    centred = rows - rows.mean(axis=0)
    penalty = 0.05 * np.mean(np.sum(centred**2, axis=0))
    # The penalty as four more rows of the system, the offset as a column that they leave alone.
    system = np.block(
        [[rows, np.ones((len(rows), 1))], [np.sqrt(penalty) * np.eye(4), np.zeros((4, 1))]]
    )
    reference = np.linalg.lstsq(system, np.vstack([targets, np.zeros((4, 3))]), rcond=None)[0]
    np.testing.assert_allclose(tagging.ridge(x, tags, vectors, penalty=0.05), reference, rtol=1e-9)
    exact = tagging.ridge(x, torch.eye(30).bool(), x @ drawn(3, 4, 3) + 2.0, penalty=0.0)
    torch.testing.assert_close(exact, torch.cat([drawn(3, 4, 3), 2.0 + torch.zeros(1, 3)]))


def test_regression_names_the_words_nearest_to_the_mean(monkeypatch):
    x, vectors, tags, new = drawn(0, 40, 4), drawn(1, 25, 3), drawn(2, 40, 25) > 1, drawn(3, 9, 4)
    map_ = tagging.ridge(x, tags, vectors, penalty=1e-3).numpy()
    mean = new.numpy() @ map_[:-1] + map_[-1]
    monkeypatch.setattr(tagging, "BLOCK", 4 * 25)  # four images a block
    found = tagging.tag_by_regression(x, tags, new, vectors)
    for n in range(9):
        best, share = vote_by_hand(mean[n : n + 1], vectors.numpy(), 20, 10)
        assert found.tags[n].tolist() == best
        np.testing.assert_array_equal(found.distribution[n], share)


def test_neighbours_lend_their_tags(monkeypatch):
    x, tags, new = drawn(0, 60, 4), drawn(1, 60, 15) > 0.7, drawn(2, 5, 4)
    tags[:10] = False
    unit = x / x.norm(dim=1, keepdim=True)
    monkeypatch.setattr(tagging, "BLOCK", 2 * (50 + 20 * 15))  # two images a block
    found = tagging.tag_by_neighbours(x, tags, new)
    for n in range(5):
        cosine = (unit @ new[n] / new[n].norm()).numpy()
        near = [i for i in np.argsort(-cosine) if tags[i].any()][:20]
        counts = tags[near].sum(dim=0).numpy()
        weight = (cosine[near][:, None] * tags[near].numpy()).sum(axis=0)
        ranked = sorted(range(15), key=lambda v: (-counts[v], -weight[v], v))
        assert found.tags[n].tolist() == ranked[:10]
        np.testing.assert_allclose(found.distribution[n], counts / counts.sum(), rtol=1e-12)


def test_frequency_says_the_same_of_every_image():
    tags = drawn(0, 50, 12) > torch.linspace(1, 0, 12)
    found = tagging.tag_by_frequency(tags, images=3, tags=4)
    counts = tags.sum(dim=0).tolist()
    assert found.tags.tolist() == 3 * [sorted(range(12), key=lambda v: (-counts[v], v))[:4]]
    share = torch.tensor(counts).double() / sum(counts)
    torch.testing.assert_close(found.distribution, share.expand(3, -1))


def test_the_ceiling_draws_from_the_truth():
    true = distributions(0, 3, 20)
    found = tagging.tag_by_truth(true, random=seeded(1), samples=100_000)
    assert (found.distribution - true).abs().max() < 5 * math.sqrt(0.25 / 100_000)
    assert ((found.distribution > 0) <= (true > 0)).all()
    assert torch.equal(found.tags, true.argsort(dim=1, descending=True, stable=True)[:, :10])
    few = tagging.tag_by_truth(true, random=seeded(1), samples=10)
    torch.testing.assert_close(few.distribution.sum(dim=1), torch.ones(3, dtype=torch.float64))


def test_precision_and_recall_by_hand():
    tags = torch.tensor([[0, 1], [2, 3], [4, 0], [1, 2]])
    own = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0]]).bool()
    precision, recall = tagging.precision_recall(tags, own)
    assert precision.tolist() == [1.0, 0.5, 0.0], "the second image has no tag: not scored"
    torch.testing.assert_close(recall, torch.tensor([1.0, 1 / 3, 0.0]).double())


@FEW
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 9))
def test_jensen_shannon_and_entropy_are_scipy_s(seed, n, words):
    p, q = distributions(seed, n, words), distributions(seed + 1, n, words)
    ours = tagging.jensen_shannon(p, q)
    # jensenshannon is the root of the divergence, so near 0 it magnifies rounding.
    np.testing.assert_allclose(ours, jensenshannon(p.numpy(), q.numpy(), axis=1) ** 2, atol=1e-12)
    np.testing.assert_allclose(
        tagging.entropy(p), scipy.stats.entropy(p.numpy(), axis=1), atol=1e-12
    )
    torch.testing.assert_close(ours, tagging.jensen_shannon(q, p))
    assert (ours <= math.log(2) + 1e-12).all()
    assert (tagging.jensen_shannon(p, p) == 0).all()
    assert (tagging.entropy(p) <= math.log(words) + 1e-12).all()


def test_jensen_shannon_of_strangers_is_ln_2_and_shapes_have_to_fit():
    a, b = torch.eye(2, dtype=torch.float64)
    assert tagging.jensen_shannon(a, b).item() == pytest.approx(math.log(2), abs=1e-15)
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        tagging.jensen_shannon(torch.ones(1, 2), torch.ones(1, 3))


def test_score_is_the_mean_of_each_measure():
    true, own = distributions(0, 8, 15), drawn(1, 8, 15) > 0.8
    own[2], own[3, 0] = False, True
    made = tagging.tag_by_truth(distributions(2, 8, 15), random=seeded(0))
    found = tagging.score(made, own, true)
    precision, recall = tagging.precision_recall(made.tags, own)
    assert len(precision) == int(own.any(dim=1).sum()) < 8
    assert found == tagging.Scores(
        precision=precision.mean().item(),
        recall=recall.mean().item(),
        divergence=tagging.jensen_shannon(made.distribution, true).mean().item(),
        entropy=tagging.entropy(made.distribution).mean().item(),
        true_entropy=tagging.entropy(true).mean().item(),
        words=len({word for row in made.tags.tolist() for word in row}),
    )
    with pytest.raises(ValueError, match="nothing to score"):
        tagging.score(made, own & False, true)
