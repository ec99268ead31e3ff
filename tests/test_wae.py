"""Wasserstein auto-encoders: kernels, penalties and draws against closed forms and loops."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import erfcx, expn
from scipy.stats import ncx2
from torch import Tensor

from genbook import wae
from genbook.wae import Cross, InverseMultiquadratics, Law

# float64 against float64, of sums of a few hundred terms.
same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
CROSSES: list[Cross] = ["all", "off-diagonal"]
KERNEL = InverseMultiquadratics((0.3, 1.0, 4.0))
Array = NDArray[np.float64]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=random(seed), dtype=torch.float64)


def wanted(seed: int, *shape: int) -> Tensor:
    return drawn(seed, *shape).requires_grad_()


def errors_off(found: Tensor, expected: float) -> float:
    """How many standard errors the mean of independent values is away."""
    return abs(found.mean().item() - expected) / (found.std().item() / math.sqrt(len(found)))


def test_squared_distances_are_those_of_cdist() -> None:
    a, b = drawn(0, 7, 3), drawn(1, 5, 3, scale=10.0)
    slow = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    found = wae.squared_distances(a, b)
    assert found.shape == (7, 5)
    same(found, slow)
    assert torch.autograd.gradcheck(wae.squared_distances, (wanted(0, 4, 3), wanted(1, 5, 3)))


def test_squared_distances_of_equal_points_are_not_negative() -> None:
    a = (drawn(0, 300, 8) + 1e3).float()
    squares = a.square().sum(dim=1)
    assert (squares[:, None] + squares - 2 * a @ a.T).min() < 0  # rounding, without the clamp
    found = wae.squared_distances(a, a)
    assert found.min() == 0
    # Norms of 8e6 have 24 bits: a step of 0.5, and a few of them.
    assert (found - torch.cdist(a.double(), a.double()).square()).abs().max() < 4


def test_kernel_is_a_sum_over_constants() -> None:
    kernel, squares = InverseMultiquadratics.of(16.0, wae.SCALES), drawn(0, 3, 4).square()
    assert kernel.constants == pytest.approx((1.6, 3.2, 8.0, 16.0, 32.0, 80.0, 160.0), rel=1e-15)
    assert InverseMultiquadratics.of(16.0).constants == (16.0,)
    slow = sum(c / (c + squares.numpy()) for c in (1.6, 3.2, 8.0, 16.0, 32.0, 80.0, 160.0))
    same(kernel(squares), torch.from_numpy(slow))
    # From 1 for each constant at 0, down to 0.
    assert kernel(torch.zeros(1)).item() == 7
    assert (kernel(torch.linspace(0, 1e6, 100)).diff() < 0).all()
    assert kernel(torch.tensor(1e12)) < 1e-9
    assert torch.autograd.gradcheck(kernel, drawn(1, 5).square().requires_grad_())


@pytest.mark.parametrize("scales", [(1.0,), wae.SCALES, wae.LATENT_SPACE_SCALES])
def test_kernel_is_positive_definite(scales: tuple[float, ...]) -> None:
    x = drawn(0, 30, 2)
    gram = InverseMultiquadratics.of(4.0, scales)(wae.squared_distances(x, x))
    # The smallest is 9e-6, of one constant; rounding of the largest, 120, is 1e-13.
    assert torch.linalg.eigvalsh(gram).min() > 1e-6


def by_quad(c: float, mean_square: float, variance: float, latents: int) -> float:
    """E C / (C + |d|^2): |d|^2 / variance has a non-central chi-squared law, at t = y^2."""
    centrality = mean_square / variance

    def integrand(y: float) -> float:
        density = 2 * y * ncx2.pdf(y * y, latents, centrality)
        return float(density * c / (c + variance * y * y))

    centre = math.sqrt(centrality + latents)
    # The density is at most 13 from the centre; the kernel is a spike of width sqrt(C / variance).
    spike = math.sqrt(c / variance)
    ends = sorted({1e-12, *(m * spike for m in (0.3, 1, 3, 10, 30)), centre, centre + 13})
    inside = [e for e in ends if e <= centre + 13]
    return sum(
        quad(integrand, a, b, epsabs=1e-13, epsrel=1e-11, limit=200)[0]
        for a, b in itertools.pairwise(inside)
    )


@pytest.mark.parametrize("latents", [1, 2, 8, 64])
@pytest.mark.parametrize("c", [1e-3, 0.1, 4.0, 160.0])
def test_mean_of_the_kernel_is_its_integral(c: float, latents: int) -> None:
    kernel = InverseMultiquadratics((c,))
    for mean_square, variance in ((0.5, 0.3), (9.0, 2.0)):
        found = kernel.mean(mean_square, variance, latents=latents)
        slow = by_quad(c, mean_square, variance, latents)
        assert found == pytest.approx(slow, rel=0, abs=1e-9)
    # In closed form around 0: the generalised exponential integral, at half C over the variance.
    for variance in (0.01, 1.0, 2.0, 40.0):
        x = 0.5 * c / variance
        central = math.sqrt(math.pi * x) * erfcx(math.sqrt(x))
        if latents > 1:
            central = x * math.exp(x) * expn(latents // 2, x) if x < 500 else math.nan
        if not math.isnan(central):
            found = kernel.mean(0.0, variance, latents=latents)
            assert found == pytest.approx(float(central), rel=0, abs=1e-9)
    # One point at a distance.
    assert kernel.mean(9.0, 0.0, latents=latents) == pytest.approx(c / (c + 9.0), abs=1e-12)


@pytest.mark.parametrize("latents", [1, 8])
def test_mean_of_the_kernel_is_that_of_draws(latents: int) -> None:
    mean = drawn(0, latents)
    difference = mean + math.sqrt(1.7) * drawn(1, 200_000, latents)
    found = KERNEL.mean(mean.square().sum().item(), 1.7, latents=latents)
    assert errors_off(KERNEL(difference.square().sum(dim=1)), found) < 4


def slow_mmd(a: Array, b: Array, cross: Cross) -> float:
    """The docstring of `mmd`, pair by pair."""

    def k(x: Array, y: Array) -> float:
        return sum(c / (c + ((x - y) ** 2).sum()) for c in KERNEL.constants)

    n, within, between, pairs = len(a), 0.0, 0.0, 0
    for i, j in itertools.product(range(n), range(n)):
        if i != j:
            within += k(a[i], a[j]) + k(b[i], b[j])
        if i != j or cross == "all":
            between, pairs = between + k(a[i], b[j]), pairs + 1
    return within / (n * (n - 1)) - 2 * between / pairs


@pytest.mark.parametrize("cross", CROSSES)
def test_mmd_is_a_double_loop(cross: Cross) -> None:
    for n, latents in ((2, 1), (3, 2), (9, 5)):
        a, b = drawn(n, n, latents), drawn(n + 1, n, latents, scale=2.0) + 0.5
        found = wae.mmd(a, b, KERNEL, cross=cross)
        assert found.shape == ()
        assert found.item() == pytest.approx(slow_mmd(a.numpy(), b.numpy(), cross), abs=1e-12)
        same(wae.mmd(b, a, KERNEL, cross=cross), found)
        order = torch.randperm(n, generator=random(0))
        same(wae.mmd(a[order], b[order], KERNEL, cross=cross), found)
    loss = partial(wae.mmd, kernel=KERNEL, cross=cross)
    assert torch.autograd.gradcheck(loss, (wanted(0, 4, 3), wanted(1, 4, 3)))


def official_mmd(z: Array, codes: Array) -> float:
    """wae.py, mmd_penalty at 6351565: C from 0.1 to 10 times 2 J, all n^2 cross pairs."""
    n, latents = z.shape

    def squares(x: Array, y: Array) -> Array:
        return (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T

    found = 0.0
    for scale in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0):
        c = 2 * latents * scale
        same = c / (c + squares(codes, codes)) + c / (c + squares(z, z))
        found += (same * (1 - np.eye(n))).sum() / (n * n - n)
        found -= 2 * (c / (c + squares(codes, z))).sum() / n**2
    return float(found)


def latent_space_mmd(z: Array, codes: Array) -> float:
    """models.py, _mmd_init at d753cf7: C from 0.001 to 2 times J, and no diagonal at all."""
    n, latents = z.shape
    found = 0.0
    for scale in (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0, 2.0):
        c = scale * latents
        for x, y, sign in ((z, z, 1), (codes, codes, 1), (codes, z, -2)):
            k = c / (c + ((x[:, None] - y) ** 2).sum(2))
            found += sign * (k.sum() - np.trace(k)) / (n * (n - 1))
    return float(found)


def test_mmd_is_that_of_both_official_codes() -> None:
    z, codes = drawn(0, 20, 8), drawn(1, 20, 8, scale=0.7) + 0.2
    kernel = InverseMultiquadratics.of(2 * 8, wae.SCALES)
    expected = official_mmd(z.numpy(), codes.numpy())
    assert wae.mmd(codes, z, kernel).item() == pytest.approx(expected, abs=1e-12)
    kernel = InverseMultiquadratics.of(8, wae.LATENT_SPACE_SCALES)
    expected = latent_space_mmd(z.numpy(), codes.numpy())
    found = wae.mmd(codes, z, kernel, cross="off-diagonal").item()
    assert found == pytest.approx(expected, abs=1e-12)


def many_mmds(a: Tensor, b: Tensor, cross: Cross) -> Tensor:
    """[K, M, J] twice -> [K]."""
    return torch.vmap(partial(wae.mmd, kernel=KERNEL, cross=cross))(a, b)


@pytest.mark.parametrize("cross", CROSSES)
def test_mmd_has_the_mean_mmd_of_normals(cross: Cross) -> None:
    z, eps = drawn(0, 20_000, 5, 2), drawn(1, 20_000, 5, 2)
    mean = torch.tensor([0.6, -0.3], dtype=torch.float64)
    for m, variance in ((mean, 0.5), (mean, 3.0), (0 * mean, 0.05), (0 * mean, 1.0)):
        codes = m + math.sqrt(variance) * eps
        expected = wae.mmd_of_normals(m.square().sum().item(), variance, KERNEL, latents=2)
        found = many_mmds(codes, z, cross)
        assert errors_off(found, expected) < 4, (m, variance)
        # 20 000 values that differ by 0.5: the test can see 0.015.
        assert expected == 0 if variance == 1.0 else expected > 0.05
    assert (found < 0).double().mean() > 0.3  # the last have one law


def test_mmd_without_the_diagonal_is_noisier() -> None:
    """For two pairs from one law: 4 products of centred kernels in the place of 3."""
    a, b = drawn(0, 50_000, 2, 2), drawn(1, 50_000, 2, 2)
    every, fewer = (many_mmds(a, b, cross).var().item() for cross in CROSSES)
    assert fewer / every == pytest.approx(4 / 3, rel=0.05)  # 50 000 squares: 1 % each


def test_mmd_without_the_diagonal_may_have_pairs() -> None:
    """Of a and b with a_i next to b_i the whole cross term is too large, the rest of it is not."""
    a = drawn(0, 20_000, 5, 2)
    b = 0.8 * a + 0.6 * drawn(1, 20_000, 5, 2)
    assert errors_off(many_mmds(a, b, "off-diagonal"), 0.0) < 4
    close = KERNEL.mean(0.0, 0.2**2 + 0.6**2, latents=2) - KERNEL.mean(0.0, 2.0, latents=2)
    assert errors_off(many_mmds(a, b, "all"), -2 * close / 5) < 4
    # At the end of it, a set and itself: the kernel at 0 is 3, one for each constant.
    x = a[0]
    assert wae.mmd(x, x, KERNEL, cross="off-diagonal").item() == pytest.approx(0.0, abs=1e-14)
    k = KERNEL(wae.squared_distances(x, x))
    others = (k.sum().item() - 15) / 20
    assert wae.mmd(x, x, KERNEL).item() == pytest.approx(-2 / 5 * (3 - others), abs=1e-12)


def test_mmd_needs_two_equal_sets_of_two() -> None:
    for a, b in (((3, 2), (4, 2)), ((3, 2), (3, 1)), ((1, 2), (1, 2)), ((0, 2), (0, 2))):
        with pytest.raises(ValueError, match="two equal sets of two or more"):
            wae.mmd(torch.zeros(a), torch.zeros(b), KERNEL)


def test_mmd_of_normals_is_zero_for_equal_ones_and_grows() -> None:
    for latents in (1, 64):
        far = partial(wae.mmd_of_normals, kernel=KERNEL, latents=latents)
        assert far(0.0, 1.0) == pytest.approx(0.0, abs=1e-12)
        for away in (
            [far(m * m, 1.0) for m in (0.0, 0.1, 1.0, 10.0)],
            [far(0.0, v) for v in (1.0, 0.9, 0.0)],
            [far(0.0, v) for v in (1.0, 1.1, 10.0)],
        ):
            assert (np.diff(away) > 1e-7).all()


def test_mmd_of_normals_is_that_of_the_normal_that_it_names() -> None:
    """Far away nothing is shared: each has its own mean, by the exponential integral."""
    kernel = InverseMultiquadratics((4.0,))
    found = wae.mmd_of_normals(1e12, 0.25, kernel, latents=2)
    own = [x * math.exp(x) * expn(1, x) for x in (2.0 / 0.5, 2.0 / 2.0)]
    assert found == pytest.approx(sum(own), abs=1e-9)


LAWS: list[tuple[Law, float, float]] = [
    # (z - mean) / scale has this mean and variance.
    ("gaussian", 0.0, 1.0),
    ("uniform", 0.0, 1 / 12),
    ("corner", 0.5, 1 / 12),
]


@pytest.mark.parametrize(("law", "centre", "variance"), LAWS)
def test_draws_have_their_law(law: Law, centre: float, variance: float) -> None:
    n, mean, log_scale = 100_000, drawn(0, 2, 3, scale=5.0), drawn(1, 2, 3)
    many = [v.repeat(n, 1) for v in (mean, log_scale)]
    before = torch.get_rng_state()
    z = wae.draw(*many, law, random(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert z.shape == (2 * n, 3)
    assert z.dtype == torch.float64
    scale = (0.5 * log_scale if law == "gaussian" else log_scale).exp()
    unit = ((z.view(n, 2, 3) - mean) / scale).flatten(1)
    for column in unit.T:
        assert errors_off(column, centre) < 4
        assert errors_off((column - centre).square(), variance) < 4
    # Independent: the mean product of two columns.
    for a, b in itertools.combinations((unit - centre).T, 2):
        assert errors_off(a * b, 0.0) < 4
    if law != "gaussian":
        low = 0.0 if law == "corner" else -0.5
        assert unit.min() == pytest.approx(low, abs=1e-4)  # 6e5 draws
        assert unit.max() == pytest.approx(low + 1.0, abs=1e-4)
    else:
        assert errors_off(unit.flatten() ** 4, 3.0) < 4
    assert torch.equal(wae.draw(*many, law, random(2)), z)
    assert not torch.equal(wae.draw(*many, law, random(3)), z)


def test_the_mean_of_a_box_from_its_corner_is_half_a_side_off() -> None:
    mean, log_side = drawn(0, 50, 3), drawn(1, 50, 3)
    boxes = [wae.draw(mean, log_side, law, random(2)) for law in ("corner", "uniform")]
    same(boxes[0] - boxes[1], 0.5 * log_side.exp())


@pytest.mark.parametrize("law", ["gaussian", "uniform", "corner", "deterministic"])
def test_gradients_reach_mean_and_scale(law: Law) -> None:
    mean, log_scale = wanted(0, 4, 3), wanted(1, 4, 3)
    z = wae.draw(mean, log_scale, law, random(2))
    of_mean, of_scale = torch.autograd.grad(z.sum(), (mean, log_scale), allow_unused=True)
    assert (of_mean == 1).all()
    if law == "deterministic":
        assert z is mean
        assert of_scale is None
        return
    same(of_scale, (0.5 if law == "gaussian" else 1.0) * (z - mean))
    assert of_scale.abs().min() > 0
    assert torch.autograd.gradcheck(
        lambda *said: wae.draw(*said, law, random(2)), (mean, log_scale)
    )


def test_an_unknown_law_is_refused() -> None:
    with pytest.raises(ValueError, match="no law"):
        wae.draw(torch.zeros(1, 1), torch.zeros(1, 1), "gausian", None)  # type: ignore[arg-type]
