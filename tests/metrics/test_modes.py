"""Captured modes and their evenness against loops, scipy, enumeration and draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom, chi2, entropy

from genbook.metrics import modes
from genbook.metrics.modes import Modes

Array = NDArray[np.float64]


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def tensor(x: Array) -> torch.Tensor:
    return torch.from_numpy(x)


def slow_count(samples: Array, means: Array, std: float, within: float) -> Modes:
    """The docstring of `count`, one sample after the other."""
    counts = [0] * len(means)
    for x in samples:
        squares = [sum((a - b) ** 2 for a, b in zip(x, mean, strict=True)) for mean in means]
        nearest = min(range(len(means)), key=squares.__getitem__)
        if math.sqrt(squares[nearest]) < within * std:
            counts[nearest] += 1
    kl = 0.0 if any(counts) else math.nan
    for c in counts:
        if c:
            kl += c / sum(counts) * math.log(len(means) * c / sum(counts))
    return Modes(sum(c > 0 for c in counts), sum(counts) / len(samples), kl)


def close(found: Modes, expected: Modes) -> None:
    assert found.captured == expected.captured
    # float64 against float64, of sums of a few hundred terms.
    assert found.high_quality == pytest.approx(expected.high_quality, abs=1e-12)
    assert found.reverse_kl == pytest.approx(expected.reverse_kl, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("k", [1, 2, 7, 1000])
def test_reverse_kl_is_that_of_scipy(k: int) -> None:
    for seed in range(5):
        counts = random(seed).poisson(1.5, size=k)
        counts[0] += 1
        found = modes.reverse_kl(tensor(counts))
        assert isinstance(found, float)
        assert found == pytest.approx(entropy(counts, np.ones(k)), abs=1e-12)
        assert found >= -1e-15
        # Counts in another order or ten times as many of each: the same histogram.
        assert modes.reverse_kl(tensor(random(seed).permutation(counts))) == pytest.approx(found)
        assert modes.reverse_kl(tensor(10 * counts)) == pytest.approx(found, abs=1e-12)


def test_reverse_kl_has_its_known_values() -> None:
    assert modes.reverse_kl(torch.full((8,), 7)) == pytest.approx(0.0, abs=1e-15)
    assert modes.reverse_kl(torch.tensor([0, 0, 9, 0])) == pytest.approx(math.log(4))
    by_hand = 0.25 * math.log(3 * 0.25) + 0.75 * math.log(3 * 0.75)
    assert modes.reverse_kl(torch.tensor([1, 0, 3])) == pytest.approx(by_hand, abs=1e-15)
    # So many of 1000 modes, evenly: what the published 3.40, 2.95, 5.40 are compared with.
    for covered, kl in ((99, 2.31), (150, 1.90), (16, 4.14)):
        counts = torch.zeros(1000)
        counts[:covered] = 26
        assert round(modes.reverse_kl(counts), 2) == kl
    assert math.isnan(modes.reverse_kl(torch.zeros(4)))


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize(("n", "k"), [(3, 4), (60, 4), (200, 40)])
def test_count_is_a_loop_over_samples(n: int, k: int, dim: int) -> None:
    for seed, within in ((0, 3.0), (1, 1.0), (2, 10.0)):
        draws = random(seed)
        means = draws.normal(size=(k, dim))
        # Overlapping modes, so that a sample is within reach of several.
        samples = means[draws.integers(k, size=n)] + 0.2 * draws.standard_t(2, size=(n, dim))
        found = modes.count(tensor(samples), tensor(means), 0.15, within=within)
        close(found, slow_count(samples, means, 0.15, within))
        assert isinstance(found.captured, int)
        assert isinstance(found.high_quality, float)
    found = modes.count(tensor(samples), tensor(means), 0.15)
    close(found, slow_count(samples, means, 0.15, 3.0))  # 3 unless it is said


@pytest.mark.parametrize("copies", [1, 30])
def test_a_sample_at_three_deviations_is_not_of_high_quality(copies: int) -> None:
    """Distances in binary fractions are exact, by cdist's products (above 25 points) too."""
    means, std = np.array([[2.0, -4.0], [50.0, 0.0]]), 0.25
    steps = {(0.75, 0.0): 0, (0.0, -0.75): 0, (0.75 - 2**-30, 0.0): 1, (-0.75 - 2**-30, 0.0): 0,
             (0.5, 0.5): 1, (0.625, 0.625): 0, (0.0, 0.0): 1}  # fmt: skip
    for step, good in steps.items():
        samples = np.tile(means[:1] + np.array(step), (copies, 1))
        found = modes.count(tensor(samples), tensor(means), std)
        assert (found.captured, found.high_quality) == (good, good), step
    # 3-4-5: at five deviations of 0.25, in Euclidean distance.
    samples = np.tile(means[:1] + np.array([0.75, 1.0]), (copies, 1))
    assert modes.count(tensor(samples), tensor(means), std, within=5.0).high_quality == 0.0
    assert modes.count(tensor(samples), tensor(means), std, within=5.001).high_quality == 1.0


def test_a_mode_is_captured_by_one_good_sample_that_is_nearest_to_it() -> None:
    means = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 9.0], [20.0, 20.0]])
    samples = torch.tensor([[0.4, 0.0], [0.1, 0.1], [0.0, 5.0], [1.1, 0.0]])
    # All of the first two modes are within 3 of one another's samples; the third has one 4 away.
    found = modes.count(samples, means, 1.0)
    by_hand = 2 / 3 * math.log(4 * 2 / 3) + 1 / 3 * math.log(4 / 3)
    assert (found.captured, found.high_quality) == (2, 0.75)
    assert found.reverse_kl == pytest.approx(by_hand, abs=1e-12)
    none = modes.count(samples + 100.0, means, 1.0)
    assert (none.captured, none.high_quality) == (0, 0.0)
    assert math.isnan(none.reverse_kl)


def test_far_modes_of_single_precision_are_told_apart() -> None:
    """At 4096 the squares have 24 bits: a step of 2, where the rule is at 0.56."""
    means = torch.tensor([[4096.0, 4096.0], [4098.0, 4096.0]])
    samples = means.repeat_interleave(20, dim=0) + torch.tensor([0.5, 0.25])
    assert modes.count(samples, means, 0.25) == Modes(2, 1.0, 0.0)
    assert modes.count(samples, means, 0.125).captured == 0


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_true_samples_are_of_high_quality_as_often_as_a_chi_squared_law_says(dim: int) -> None:
    n, draws = 200_000, random(0)
    means = 10.0 * np.eye(8, dim)
    samples = means[draws.integers(8, size=n)] + 0.05 * draws.normal(size=(n, dim))
    for within in (1.0, 3.0):
        expected = chi2.cdf(within**2, dim)
        found = modes.count(tensor(samples), tensor(means), 0.05, within=within).high_quality
        error = math.sqrt(expected * (1 - expected) / n)
        assert found == pytest.approx(expected, abs=4 * error)
    if dim == 2:
        assert expected == pytest.approx(1 - math.exp(-9 / 2), abs=1e-15)
        assert round(100 * expected, 2) == 98.89


def test_count_classes_is_a_histogram_of_labels() -> None:
    for seed, classes in ((0, 10), (1, 1000)):
        labels = random(seed).integers(classes - 3, size=500)
        counts = np.bincount(labels, minlength=classes)
        found = modes.count_classes(tensor(labels), classes)
        close(
            found, Modes(len(set(labels.tolist())), 1.0, float(entropy(counts, np.ones(classes))))
        )
        assert isinstance(found.captured, int)
    assert modes.count_classes(torch.arange(4).repeat(5), 4) == Modes(4, 1.0, 0.0)
    found = modes.count_classes(torch.zeros(5, dtype=torch.long), 8)
    close(found, Modes(1, 1.0, math.log(8)))


@pytest.mark.parametrize(("classes", "n"), [(2, 1), (2, 6), (3, 4), (5, 3)])
def test_expected_kl_is_a_mean_over_all_draws(classes: int, n: int) -> None:
    every = itertools.product(range(classes), repeat=n)
    kls = [entropy(np.bincount(labels, minlength=classes), np.ones(classes)) for labels in every]
    assert len(kls) == classes**n
    assert modes.expected_kl(classes, n) == pytest.approx(np.mean(kls), abs=1e-12)


@pytest.mark.parametrize(
    ("classes", "n", "floor"), [(8, 2500, 0.0014), (25, 2500, 0.0048), (1000, 26_000, 0.0193)]
)
def test_a_perfect_sampler_has_a_divergence_of_its_own(classes: int, n: int, floor: float) -> None:
    found = modes.expected_kl(classes, n)
    assert round(found, 4) == floor
    c = np.arange(1, n + 1)
    mean = (binom.pmf(c, n, 1 / classes) * c * np.log(c)).sum()
    by_scipy = math.log(classes) - math.log(n) + classes / n * mean
    # Logarithms of factorials of 26 000 are 2e5 and have 11 digits after the point.
    assert found == pytest.approx(by_scipy, rel=0, abs=1e-9)
    # To first order; the next is about K^2 / (12 n^2), at most a hundredth of it.
    assert found == pytest.approx((classes - 1) / (2 * n), rel=0.02)
    # Draws, 7e-5 of a standard error or less.
    draws = random(0).multinomial(n, np.full(classes, 1 / classes), size=400)
    kls = np.array([modes.reverse_kl(tensor(counts)) for counts in draws])
    assert kls.mean() == pytest.approx(found, abs=4 * kls.std() / math.sqrt(len(kls)))


def test_expected_kl_falls_with_samples_from_log_k() -> None:
    found = [modes.expected_kl(10, n) for n in (1, 2, 5, 20, 100, 1000, 10_000)]
    assert found[0] == pytest.approx(math.log(10), abs=1e-12)
    assert (np.diff(found) < 0).all()
    assert found[-1] > 0
    # Twice as many samples, half of it.
    assert found[-1] == pytest.approx(found[-2] / 10, rel=0.02)


def test_samples_of_a_ring_are_at_the_floor() -> None:
    """2500 points, 200 times: captured modes, share and divergence of a perfect sampler."""
    draws, angle = random(0), 2 * math.pi * np.arange(8) / 8
    means = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = []
    for _ in range(200):
        samples = means[draws.integers(8, size=2500)] + 0.01 * draws.normal(size=(2500, 2))
        found.append(modes.count(tensor(samples), tensor(means), 0.01))
    assert {f.captured for f in found} == {8}
    share = np.array([f.high_quality for f in found])
    assert share.mean() == pytest.approx(1 - math.exp(-4.5), abs=4 * share.std() / math.sqrt(200))
    kl = np.array([f.reverse_kl for f in found])
    floor = modes.expected_kl(8, 2472)  # of those of high quality
    assert kl.mean() == pytest.approx(floor, abs=4 * kl.std() / math.sqrt(200))
