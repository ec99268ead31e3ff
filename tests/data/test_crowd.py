"""The simulated crowd: its vocabulary, what it sees in pixels, and the tags it writes."""

from __future__ import annotations

import colorsys
import itertools

import numpy as np
import torch
from torch import Tensor

from genbook.data import crowd


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_vocabulary_is_sound():
    assert 200 <= len(crowd.WORDS) <= 300
    assert len(set(crowd.WORDS)) == len(crowd.WORDS), "a word belongs to one concept"
    assert all(len(concept) >= 2 for concept in crowd.CONCEPTS), "a user has two words for each"
    shown = {name for classes, _ in crowd.OBJECTS.values() for name in classes.split()}
    assert shown == set(crowd.CLASSES.split())
    assert [crowd.CONCEPTS[k][0] for k in (0, 28, 40)] == ["plane", "red", "canon"]
    for word, k in zip(crowd.WORDS, crowd.CONCEPT_OF_WORD, strict=True):
        assert word in crowd.CONCEPTS[k]


def attributes_of(image: np.ndarray) -> set[str]:
    """The definitions, pixel by pixel, with the hue from the standard library."""
    ends = dict(zip(list(crowd.ATTRIBUTES)[:6], crowd.HUE_EDGES, strict=True))
    held, lumas, chromas = dict.fromkeys(ends, 0.0), [], []
    for r, g, b in image.reshape(3, -1).T.astype(float):
        hue = round(360.0 * colorsys.rgb_to_hsv(r, g, b)[0], 6)
        name = next((name for name, end in ends.items() if hue < end), "red")
        chromas.append(max(r, g, b) - min(r, g, b))
        held[name] += chromas[-1]
        lumas.append(0.299 * r + 0.587 * g + 0.114 * b)
    chroma, luma, spread = np.mean(chromas), np.mean(lumas), np.std(lumas)
    found = {"grey"} if chroma < 16 else {max(held, key=lambda name: held[name])}
    found |= {"vivid"} if chroma > 48 else set()
    found |= {"dark"} if luma < 100 else {"bright"} if luma > 145 else set()
    return found | ({"contrast"} if spread > 62 else {"soft"} if spread < 36 else set())


def random_images(n: int, seed: int) -> Tensor:
    """Images of every brightness, contrast and colour: a mean colour and noise of random size."""
    g = seeded(seed)
    mean = 255 * torch.rand(n, 3, 1, 1, generator=g)
    grey = torch.rand(n, 1, 1, 1, generator=g)
    noise = 120 * torch.randn(n, 1, 6, 5, generator=g) * torch.rand(n, 1, 1, 1, generator=g)
    colour = 20 * torch.randn(n, 3, 6, 5, generator=g) * grey
    mean = grey * mean + (1 - grey) * mean.mean(dim=1, keepdim=True)
    return (mean + noise + colour).clamp(0, 255).byte()


def test_attributes_are_what_their_definitions_say():
    images = random_images(400, seed=0)
    found = crowd.attributes(images)
    names = list(crowd.ATTRIBUTES)
    for image, row in zip(images.numpy(), found.tolist(), strict=True):
        assert {n for n, there in zip(names, row, strict=True) if there} == attributes_of(image)
    assert found.any(dim=0).all(), "every attribute was tried"
    assert (found[:, :7].sum(dim=1) == 1).all(), "grey, or one hue"
    assert not (found[:, 8] & found[:, 9]).any()
    shuffled = images.flatten(2)[:, :, torch.randperm(30, generator=seeded(1))].view_as(images)
    assert torch.equal(crowd.attributes(shuffled), found), "where a pixel lies is not seen"


def test_concepts_of_a_photograph():
    blue = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    blue[:, 2] = 200
    present = crowd.concepts(blue, torch.tensor([0, 6]))  # airplane, frog
    names = [*crowd.OBJECTS, *crowd.ATTRIBUTES, *crowd.NOISE]
    noise = set(crowd.NOISE)
    seen = [{n for n, there in zip(names, row, strict=True) if there} for row in present.tolist()]
    look = {"blue", "vivid", "dark", "soft"}
    assert seen[0] == {"plane", "flight", "transport", "sky"} | look | noise
    assert seen[1] == {"frog", "pond", "animal", "wild", "water"} | look | noise


def test_users_have_two_words_a_concept_and_prefer_the_popular():
    users = 1500
    habits = crowd.draw_crowd(seeded(0), users=users)
    assert habits.shape == (users, len(crowd.WORDS))
    assert torch.equal(habits, crowd.draw_crowd(seeded(0), users=users))
    assert habits.min() == 0.0
    assert habits.max() <= 0.9
    sizes = [len(concept) for concept in crowd.CONCEPTS]
    for k, mine in enumerate(habits.split(sizes, dim=1)):
        top = mine.topk(2, dim=1)
        assert ((mine > 0).sum(dim=1) == 2 * (top.values[:, 0] > 0)).all()
        torch.testing.assert_close(top.values[:, 1], 0.3 * top.values[:, 0])
        first = top.indices[top.values[:, 0] > 0, 0].bincount(minlength=sizes[k]).double()
        n, p = first.sum(), 1.0 / np.arange(1, sizes[k] + 1)
        p = torch.from_numpy(p / p.sum())
        # Zipf's law of first words, within 5 standard errors of each count.
        assert ((first - n * p).abs() < 5 * (n * p * (1 - p)).sqrt()).all(), k


def test_true_distribution_is_the_sum_over_all_users_and_lists():
    habits = crowd.draw_crowd(seeded(1), users=3)
    # Two concepts, two words of a user for each: 16 lists at most.
    present = torch.zeros(1, len(crowd.CONCEPTS), dtype=torch.bool)
    present[0, [0, 32]] = True
    expected = np.zeros(len(crowd.WORDS))
    for habit in habits.tolist():
        says = [v for v, k in enumerate(crowd.CONCEPT_OF_WORD) if k in (0, 32) and habit[v] > 0]
        for made in itertools.product([False, True], repeat=len(says)):
            p = np.prod([habit[v] if m else 1 - habit[v] for v, m in zip(says, made, strict=True)])
            for v, m in zip(says, made, strict=True):
                expected[v] += p * m
    ours = crowd.true_distribution(present, habits)
    np.testing.assert_allclose(ours[0].numpy(), expected / expected.sum(), rtol=1e-12)


def test_true_distribution_is_that_of_a_long_simulation():
    habits = crowd.draw_crowd(seeded(2), users=40)
    present = crowd.concepts(random_images(3, seed=5), torch.tensor([0, 3, 9]))
    true = crowd.true_distribution(present, habits)
    torch.testing.assert_close(true.sum(dim=1), torch.ones(3, dtype=torch.float64))
    n, g = 20_000, seeded(3)
    for row in range(3):
        users = torch.randint(len(habits), (n,), generator=g)
        tags = crowd.tag_photographs(present[row].expand(n, -1), habits, users, random=g)
        share = tags.sum(dim=0).double() / tags.sum()
        # Pairs fall on a word nearly as independent draws; 6 standard errors, as lists make them
        # a little dependent (2 are exceeded by more words than a fifth would be a failure too).
        errors = (true[row] * (1 - true[row]) / tags.sum()).sqrt()
        gap = (share - true[row]).abs()
        assert (gap <= 6 * errors).all()
        assert (gap > 2 * errors).double().mean() < 0.2
        untagged = (1 - habits * present[row, list(crowd.CONCEPT_OF_WORD)]).prod(dim=1).mean()
        found = (~tags.any(dim=1)).double().mean()
        assert abs(found - untagged) < 5 * (untagged / n).sqrt()


def test_tags_come_from_the_users_own_words():
    habits = crowd.draw_crowd(seeded(0), users=5)
    present = crowd.concepts(random_images(500, seed=1), torch.arange(500) % 10)
    users = torch.arange(500) % 5
    tags = crowd.tag_photographs(present, habits, users, random=seeded(4))
    assert torch.equal(tags, crowd.tag_photographs(present, habits, users, random=seeded(4)))
    allowed = (habits[users] > 0) & present[:, list(crowd.CONCEPT_OF_WORD)]
    assert not (tags & ~allowed).any()
    assert tags.any()
