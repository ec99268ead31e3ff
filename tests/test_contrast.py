"""The contrastive bound and the entropies of samples against enumerations, loops and scipy."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import digamma
from torch import Tensor
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal, kl_divergence
from torch.nn.functional import cross_entropy

from genbook import contrast
from genbook.contrast import Kernel

# float64 against float64, of sums of some hundred terms.
same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
KERNELS: list[Kernel] = ["normal", "laplace"]
Array = NDArray[np.float64]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=random(seed), dtype=torch.float64)


def wanted(seed: int, *shape: int) -> Tensor:
    return drawn(seed, *shape).requires_grad_()


def errors_off(found: Tensor, expected: float) -> float:
    """How many standard errors the mean of independent values is above a number."""
    return (found.mean().item() - expected) / (found.std().item() / math.sqrt(len(found)))


def correlated(seed: int, rho: float, *shape: int) -> tuple[Tensor, Tensor]:
    x = drawn(seed, *shape)
    return x, rho * x + math.sqrt(1 - rho**2) * drawn(seed + 1, *shape)


def many_scores(x: Tensor, y: Tensor, rho: float) -> Tensor:
    """[B, N, D] twice -> [B, N, N]."""
    return torch.vmap(partial(contrast.normal_scores, rho=rho))(x, y)


# The contrastive bound.


def test_infonce_is_log_n_less_a_cross_entropy() -> None:
    for n in (1, 2, 7):
        scores = drawn(n, 3, 4, n, n, scale=2.0)
        found = contrast.infonce(scores)
        assert found.shape == (3, 4)
        for i, j in itertools.product(range(3), range(4)):
            loss = cross_entropy(scores[i, j], torch.arange(n))
            same(found[i, j], math.log(n) - loss)
    assert torch.autograd.gradcheck(contrast.infonce, (wanted(0, 2, 4, 4),))


def test_infonce_is_never_above_log_n_and_compares_the_ys_of_one_x() -> None:
    scores = drawn(0, 200, 5, 5, scale=30.0)
    found = contrast.infonce(scores)
    assert (found <= math.log(5)).all()
    assert contrast.infonce(1e4 * torch.eye(5)).item() == pytest.approx(math.log(5), abs=1e-6)
    assert contrast.infonce(drawn(0, 5, 1).expand(5, 5)).item() == pytest.approx(0, abs=1e-12)
    # What is said of an x alone does not matter, what is said of a y does.
    same(contrast.infonce(scores + drawn(1, 5, 1, scale=10.0)), found)
    assert (contrast.infonce(scores + drawn(1, 5)) - found).abs().max() > 0.1


def test_infonce_is_a_lower_bound_for_any_scores_by_enumeration() -> None:
    """Two letters for x and three for y: all samples of N pairs, with their chances."""
    p = drawn(0, 2, 3).abs()
    p = p / p.sum()
    information = (p * (p / (p.sum(1, keepdim=True) * p.sum(0))).log()).sum().item()
    letters = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    best = (p / (p.sum(1, keepdim=True) * p.sum(0))).log()
    bounds = []
    for n in (2, 3, 4):
        pairs = letters[torch.cartesian_prod(*[torch.arange(6)] * n)]  # [6^n, n, 2]
        x, y = pairs.unbind(dim=2)
        chance = p[x, y].prod(dim=1)
        assert chance.sum().item() == pytest.approx(1.0, abs=1e-12)
        given = [best, 0 * best, 0.3 * best, *drawn(1, 60, 2, 3, scale=2.0)]
        means = [
            (chance * contrast.infonce(f[x[:, :, None], y[:, None, :]])).sum().item() for f in given
        ]
        assert max(means) < information
        assert means[1] == pytest.approx(0.0, abs=1e-12)
        # None of the others is better than the logarithm of the ratio of densities.
        assert means[0] > 0
        assert means[0] == max(means)
        bounds.append(means[0])
    # The more there are to pick from, the better: about as 1 / N.
    assert bounds == sorted(bounds)
    left = [information - bound for bound in bounds]
    assert left[2] == pytest.approx(0.5 * left[0], rel=0.2)


@pytest.mark.parametrize(("rho", "dim"), [(0.3, 2), (0.9, 2), (0.99, 20)])
def test_infonce_is_below_the_information_of_normals_and_below_log_n(rho: float, dim: int) -> None:
    n, batches = 128, 150
    x, y = correlated(0, rho, batches, n, dim)
    found = contrast.infonce(many_scores(x, y, rho))
    information = contrast.normal_information(rho, dim)
    mean, error = found.mean().item(), found.std().item() / math.sqrt(batches)
    if rho == 0.3:  # 0.09 nats, far below log 128 = 4.85
        assert mean == pytest.approx(information, abs=4 * error)
        assert error < 0.1 * information
    elif rho == 0.9:  # 1.7 nats: the bound is visibly below
        assert 0.8 * information < mean < information - 4 * error
    else:  # 39 nats: at its end
        assert math.log(n) - 1e-3 < mean <= math.log(n) < information
    # The same scores for a wrong rho bound it too, from further below.
    wrong = contrast.infonce(many_scores(x, y, 0.5 * rho))
    assert wrong.mean() < information
    if rho < 0.99:
        assert errors_off(found - wrong, 0.0) > 4


def test_information_of_normals_is_a_divergence_of_their_densities() -> None:
    for rho, dim in ((0.0, 3), (0.3, 1), (-0.8, 2), (0.99, 5)):
        cov = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
        joint = torch.kron(cov, torch.eye(dim, dtype=torch.float64))
        zero, one = torch.zeros(2 * dim, dtype=torch.float64), torch.eye(2 * dim).double()
        kl = kl_divergence(MultivariateNormal(zero, joint), MultivariateNormal(zero, one))
        # By the Cholesky factor of a matrix that is nearly singular at 0.99.
        found = contrast.normal_information(rho, dim)
        assert found == pytest.approx(kl.item(), rel=1e-10, abs=1e-12)
        assert found == contrast.normal_information(-rho, dim)
    # Half of rho^2 where rho is small, without a loss of digits.
    assert contrast.normal_information(1e-9, 4) == pytest.approx(2e-18, rel=1e-12, abs=0.0)


def test_scores_of_normals_are_ratios_of_densities() -> None:
    for rho, dim in ((0.0, 3), (0.3, 1), (-0.8, 2), (0.99, 5)):
        x, y = drawn(0, 6, dim), drawn(1, 6, dim)
        found = contrast.normal_scores(x, y, rho)
        assert found.shape == (6, 6)
        for i, j in itertools.product(range(6), range(6)):
            given = Normal(rho * x[i], math.sqrt(1 - rho**2)).log_prob(y[j]).sum()
            alone = Normal(torch.zeros(dim).double(), 1.0).log_prob(y[j]).sum()
            # A variance of 0.02, and squares of some 100 over it.
            torch.testing.assert_close(found[i, j], given - alone, rtol=1e-11, atol=1e-11)
        same(contrast.normal_scores(y, x, rho), found.T)  # no side is special
    score = partial(contrast.normal_scores, rho=0.7)
    assert torch.autograd.gradcheck(score, (wanted(0, 3, 2), wanted(1, 3, 2)))


def test_scores_have_the_information_as_their_mean_and_ratios_the_mean_one() -> None:
    x, y = correlated(0, 0.6, 400_000, 1, 2)
    right = many_scores(x, y, 0.6)[:, 0, 0]
    assert abs(errors_off(right, contrast.normal_information(0.6, 2))) < 4
    other = many_scores(x, y.roll(1, 0), 0.6)[:, 0, 0]
    assert abs(errors_off(other.exp(), 1.0)) < 4


# Kernels and entropies.


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_densities_of_torch(kernel: Kernel) -> None:
    a, b, width = drawn(0, 2, 3, 5, 4), drawn(1, 2, 3, 6, 4), 0.7
    found = contrast.log_kernel(a, b, width, kernel)
    assert found.shape == (2, 3, 5, 6)
    centred = {"normal": Normal, "laplace": Laplace}[kernel](torch.zeros(4).double(), width)
    density = Independent(centred, 1)
    for i, j in itertools.product(range(5), range(6)):
        same(found[:, :, i, j], density.log_prob(a[:, :, i] - b[:, :, j]))
    same(contrast.log_kernel(b, a, width, kernel), found.mT)
    inputs = (wanted(2, 3, 2), wanted(3, 4, 2))
    assert torch.autograd.gradcheck(lambda a, b: contrast.log_kernel(a, b, 0.7, kernel), inputs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_add_up_to_one(kernel: Kernel) -> None:
    for width in (0.3, 1.5):
        side = width * torch.linspace(-20, 20, 1001, dtype=torch.float64)
        for dim in (1, 2):
            grid = torch.cartesian_prod(*[side] * dim).view(-1, dim)
            k = contrast.log_kernel(grid, torch.zeros(1, dim).double(), width, kernel).exp()
            # The peak of a Laplace density on a grid of 0.04 widths: 0.04^2 / 12 a coordinate.
            area = (side[1] - side[0]).item() ** dim
            assert k.sum().item() * area == pytest.approx(1.0, abs=3e-4)


def slow_kernel_entropy(x: Array, others: int, width: float, kernel: Kernel) -> float:
    """The docstring of `kernel_entropy`, one sample after the other."""
    n, dim = x.shape
    total = 0.0
    for i in range(n):
        near = []
        for step in range(1, others + 1):
            gap = np.abs(x[i] - x[(i + step) % n]) / width
            if kernel == "normal":
                near.append(math.exp(-0.5 * (gap**2).sum()) / (width**2 * 2 * math.pi) ** (dim / 2))
            else:
                near.append(math.exp(-gap.sum()) / (2 * width) ** dim)
        total -= math.log(np.mean(near))
    return total / n


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_entropy_is_a_double_loop(kernel: Kernel) -> None:
    n, x = 7, drawn(0, 2, 3, 7, 3)
    for others, width in itertools.product((1, 2, 5, n - 1), (0.4, 2.0)):
        entropy = partial(contrast.kernel_entropy, others=others, width=width, kernel=kernel)
        found = entropy(x)
        assert found.shape == (2, 3)
        for i, j in itertools.product(range(2), range(3)):
            slow = slow_kernel_entropy(x[i, j].numpy(), others, width, kernel)
            assert found[i, j].item() == pytest.approx(slow, rel=1e-12)
        # Where the samples lie does not matter, how far apart does.
        torch.testing.assert_close(entropy(x + 5.0), found, rtol=1e-12, atol=1e-11)
        assert (entropy(2.0 * x) > found).all()
        assert torch.autograd.gradcheck(entropy, (wanted(1, 2, n, 2),))
    # The normal kernel is the default.
    if kernel == "normal":
        same(
            contrast.kernel_entropy(x, others=3, width=1.0),
            contrast.kernel_entropy(x, others=3, width=1.0, kernel="normal"),
        )


def test_all_others_need_no_order_and_too_many_are_refused() -> None:
    x = drawn(0, 6, 2)
    order = torch.randperm(6, generator=random(1))
    entropy = partial(contrast.kernel_entropy, width=0.5)
    same(entropy(x[order], others=5), entropy(x, others=5))
    same(entropy(x.roll(2, 0), others=2), entropy(x, others=2))
    assert abs(entropy(x[order], others=2) - entropy(x, others=2)) > 1e-3
    for others in (-1, 0, 6, 7):
        with pytest.raises(ValueError, match="6 samples have at most 5 others"):
            entropy(x, others=others)


def test_one_other_by_laplace_is_a_mean_distance() -> None:
    x, width = drawn(0, 9, 3), 0.3
    gaps = np.abs(x.numpy() - np.roll(x.numpy(), -1, axis=0)).sum(axis=1)
    found = contrast.kernel_entropy(x, others=1, width=width, kernel="laplace").item()
    assert found == pytest.approx(gaps.mean() / width + 3 * math.log(2 * width), rel=1e-12)


def test_all_others_by_a_normal_kernel_are_what_a_contrastive_loss_repels() -> None:
    """The spread of x beside itself, without the 1 of each x and itself."""
    x, width = drawn(0, 8, 2), 0.6
    scores = -torch.cdist(x, x).square() / (2 * width**2)
    repelled = (scores.exp().sum(dim=1) - 1).log().mean()
    constant = 2 * math.log(width * math.sqrt(2 * math.pi)) + math.log(7)
    found = contrast.kernel_entropy(x, others=7, width=width)
    same(found, constant - repelled)
    # And of x beside itself, the whole: a mean over rows of the logarithm of the sum.
    _, alignment, spread = contrast.contrastive_loss(x, x, temperature=width**2)
    assert alignment == 0
    same(spread, scores.exp().sum(dim=1).log().mean())


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_entropy_falls_with_the_number_of_others_to_a_cross_entropy(kernel: Kernel) -> None:
    sets, n, std = 400, 33, 1.5
    x = drawn(0, sets, n, 2, scale=std)
    entropy = partial(contrast.kernel_entropy, x, width=0.8, kernel=kernel)
    found = torch.stack([entropy(others=k) for k in (1, 2, 4, 8, 16, 32)])
    for more, fewer in itertools.pairwise(found):
        assert errors_off(more - fewer, 0.0) > 4
    assert errors_off(found[-1], contrast.normal_entropy(std, 2)) > 4
    if kernel == "normal":
        one, many = contrast.normal_kernel_entropy(std, 2, width=0.8)
        # A set is one value: its samples are each other's others.
        assert abs(errors_off(found[0], one)) < 4
        assert errors_off(found[-1], many) > 4
        # The rest falls as 1 / K: from 32 others a large step, from 600 a twentieth of it.
        large = contrast.kernel_entropy(drawn(1, 8, 601, 2, scale=std), others=600, width=0.8)
        left = large.mean().item() - many
        error = large.std().item() / math.sqrt(8)
        assert left == pytest.approx((found[-1].mean().item() - many) * 32 / 600, abs=4 * error)
        assert error < 0.05


def test_kernel_entropy_of_normals_is_a_cross_entropy() -> None:
    for std, dim, width in ((1.0, 1, 1.0), (0.3, 2, 1.5), (2.0, 5, 0.25)):
        one, many = contrast.normal_kernel_entropy(std, dim, width=width)
        # H(p, q) = H(p) + KL(p || q) of one coordinate, times D.
        apart, kernel = Normal(0.0, std * math.sqrt(2)), Normal(0.0, width)
        expected = dim * (apart.entropy() + kl_divergence(apart, kernel)).item()
        assert one == pytest.approx(expected, rel=1e-6)  # torch makes float32 of numbers
        p, wide = Normal(0.0, std), Normal(0.0, math.hypot(std, width))
        expected = dim * (p.entropy() + kl_divergence(p, wide)).item()
        assert many == pytest.approx(expected, rel=1e-6, abs=1e-6)
        # And by draws.
        x, y = drawn(0, 200_000, dim, scale=std), drawn(1, 200_000, dim, scale=std)
        zero = torch.zeros(dim).double()
        cost = -Independent(Normal(zero, width), 1).log_prob(x - y)
        assert abs(errors_off(cost, one)) < 4
        cost = -Independent(Normal(zero, math.hypot(std, width)), 1).log_prob(x)
        assert abs(errors_off(cost, many)) < 4


def test_kernel_entropy_of_normals_has_its_limits() -> None:
    std, dim = 0.7, 3
    true = contrast.normal_entropy(std, dim)
    before = math.inf
    for width in (3.0, 1.0, 0.3, 0.1, 1e-2, 1e-4):
        one, many = contrast.normal_kernel_entropy(std, dim, width=width)
        assert true < many < min(one, before)
        before = many
    assert many == pytest.approx(true, abs=1e-7)
    assert one > 1e7
    # A kernel so wide that every distance is small beside it: one other tells as much as many.
    one, many = contrast.normal_kernel_entropy(std, dim, width=1e4)
    assert one - many == pytest.approx(0.0, abs=1e-7)
    # All at one place, the kernel's own height.
    one, many = contrast.normal_kernel_entropy(0.0, dim, width=0.5)
    assert one == many == pytest.approx(dim * math.log(0.5 * math.sqrt(2 * math.pi)), rel=1e-12)
    x = torch.zeros(5, dim).double()
    assert contrast.kernel_entropy(x, others=4, width=0.5).item() == pytest.approx(one, rel=1e-12)


def tree_entropy(x: Array, k: int) -> float:
    """Kozachenko & Leonenko by a tree of scipy, and the unit ball from the one of D - 2."""
    n, dim = x.shape
    r = cKDTree(x).query(x, k=k + 1)[0][:, k]
    ball = {0: 1.0, 1: 2.0}
    for d in range(2, dim + 1):
        ball[d] = ball[d - 2] * 2 * math.pi / d
    return float(digamma(n) - digamma(k) + math.log(ball[dim]) + dim * np.log(r).mean())


@pytest.mark.parametrize("dim", [1, 2, 3, 8])
def test_nearest_entropy_is_that_of_a_tree(dim: int) -> None:
    x = drawn(dim, 2, 3, 40, dim)
    for k in (1, 2, 5, 39):
        nearest = partial(contrast.nearest_entropy, neighbour=k)
        found = nearest(x)
        assert found.shape == (2, 3)
        for i, j in itertools.product(range(2), range(3)):
            slow = tree_entropy(x[i, j].numpy(), k)
            assert found[i, j].item() == pytest.approx(slow, rel=1e-11)
        # As an entropy does.
        torch.testing.assert_close(nearest(3.0 * x + 1.0), found + dim * math.log(3.0))
        order = torch.randperm(40, generator=random(1))
        same(nearest(x[:, :, order]), found)
    same(contrast.nearest_entropy(x), contrast.nearest_entropy(x, neighbour=1))
    assert torch.autograd.gradcheck(
        lambda x: contrast.nearest_entropy(x, neighbour=2), (wanted(3, 2, 6, dim),)
    )


def nearest_gaps(x: Tensor, true: float, neighbour: int = 1) -> tuple[float, float]:
    """Mean of the estimates of sets [sets, N, D] less the entropy, and its s.e."""
    found = torch.stack([contrast.nearest_entropy(part, neighbour=neighbour) for part in x]) - true
    return found.mean().item(), found.std().item() / math.sqrt(len(x))


@pytest.mark.parametrize("neighbour", [1, 4])
def test_nearest_entropy_finds_the_entropy_of_normals(neighbour: int) -> None:
    for dim, std in ((1, 0.2), (2, 3.0)):
        true = contrast.normal_entropy(std, dim)
        few, few_error = nearest_gaps(drawn(0, 1_000, 20, dim, scale=std), true, neighbour)
        gap, error = nearest_gaps(drawn(1, 20, 1_000, dim, scale=std), true, neighbour)
        # With 1000 samples nothing is left to see but the noise.
        assert error < 0.02
        assert abs(gap) < 4 * error
        # Four distances reach out to where the density is another: 20 samples are too few.
        if (neighbour, dim) == (4, 2):
            assert few < gap - 4 * math.hypot(error, few_error)


def test_nearest_entropy_finds_the_area_of_a_rectangle() -> None:
    low, size = torch.tensor([[-1.0, 5.0], [2.0, 3.0]], dtype=torch.float64)
    edge = []
    for n, sets in ((20, 1_000), (320, 100)):
        x = low + size * torch.rand(sets, n, 2, generator=random(n), dtype=torch.float64)
        gap, error = nearest_gaps(x, math.log(6.0))
        # A ball that sticks out at the edge is too large: a share of 1 / sqrt(N) of them.
        assert 4 * error < gap < 0.2
        edge.append((gap * math.sqrt(n), error * math.sqrt(n)))
    (small, small_error), (large, large_error) = edge
    assert large == pytest.approx(small, abs=4 * math.hypot(small_error, large_error))


def test_nearest_entropy_of_equal_samples_is_finite() -> None:
    """A distance of 1e-6 in the place of 0, and no gradient from there."""
    x = torch.zeros(5, 2).double().requires_grad_()
    found = contrast.nearest_entropy(x)
    expected = digamma(5) - digamma(1) + math.log(math.pi) + 2 * math.log(1e-6)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(found, x)
    assert (gradient == 0).all()


def test_entropy_of_normals_is_that_of_torch() -> None:
    for std, dim in ((1.0, 1), (0.1, 3), (7.0, 8)):
        expected = Independent(Normal(torch.zeros(dim).double(), std), 1).entropy().item()
        assert contrast.normal_entropy(std, dim) == pytest.approx(expected, rel=1e-12)
    assert contrast.normal_entropy(1.0, 1) == pytest.approx(1.4189385332, abs=1e-10)


# Distances and losses.


def test_soft_minimum_of_one_two_three_is_0_59_and_no_sum() -> None:
    d = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert contrast.soft_minimum(d).item() == pytest.approx(0.59, abs=5e-3)
    assert d.sum() == 6
    by_hand = -math.log(math.exp(-1) + math.exp(-2) + math.exp(-3))
    assert contrast.soft_minimum(d).item() == pytest.approx(by_hand, rel=1e-12)


def test_soft_minimum_is_between_the_minimum_and_log_n_below_it() -> None:
    d = drawn(0, 50, 3, 6, scale=4.0)
    found = contrast.soft_minimum(d)
    assert found.shape == (50, 3)
    least = d.amin(dim=-1)
    assert (found < least).all()
    assert (found > least - math.log(6)).all()
    # The ends: all equal, one alone, one and others far away, with no overflow.
    same(contrast.soft_minimum(torch.full((6,), 2.0).double()).item(), 2.0 - math.log(6))
    same(contrast.soft_minimum(d[..., :1]), d[..., 0])
    far = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64)
    assert contrast.soft_minimum(far) == -1e4
    same(contrast.soft_minimum(d + 3.0), found + 3.0)
    # The near ones are pushed most: shares that add up to 1.
    d = wanted(1, 2, 5)
    (shares,) = torch.autograd.grad(contrast.soft_minimum(d).sum(), d)
    same(shares, torch.softmax(-d.detach(), dim=-1))
    assert torch.autograd.gradcheck(contrast.soft_minimum, (d,))


def test_contrastive_loss_is_its_halves_and_the_cross_entropy_of_infonce() -> None:
    x, positive, temperature = drawn(0, 2, 3, 5, 4), drawn(1, 2, 3, 5, 4), 0.7
    loss, alignment, spread = contrast.contrastive_loss(x, positive, temperature=temperature)
    assert loss.shape == alignment.shape == spread.shape == (2, 3)
    same(loss, alignment + spread)
    for i, j in itertools.product(range(2), range(3)):
        a, b = x[i, j].numpy(), positive[i, j].numpy()
        squares = ((a[:, None] - b[None]) ** 2).sum(axis=2) / (2 * temperature)
        same(alignment[i, j].item(), float(squares.diagonal().mean()))
        same(spread[i, j].item(), float(np.log(np.exp(-squares).sum(axis=1)).mean()))
        scores = torch.from_numpy(-squares)
        same(loss[i, j], cross_entropy(scores, torch.arange(5)))
        same(loss[i, j], math.log(5) - contrast.infonce(scores))
    # A row is an x and its candidates: the other way round is another loss.
    other = contrast.contrastive_loss(positive, x, temperature=temperature)
    same(other[1], alignment)
    assert (other[2] - spread).abs().max() > 0.01
    assert torch.autograd.gradcheck(
        partial(contrast.contrastive_loss, temperature=0.7),
        (wanted(2, 2, 4, 3), wanted(3, 2, 4, 3)),
    )


def test_contrastive_loss_sees_distances_alone_and_is_log_n_for_equal_points() -> None:
    x, positive = drawn(0, 6, 3), drawn(1, 6, 3)
    loss = partial(contrast.contrastive_loss, temperature=0.7)
    found = torch.stack(loss(x, positive))
    turn = torch.linalg.qr(drawn(2, 3, 3)).Q
    same(torch.stack(loss(x @ turn + 1.0, positive @ turn + 1.0)), found)
    # Twice as far at four times the temperature is the same.
    same(torch.stack(contrast.contrastive_loss(2 * x, 2 * positive, temperature=2.8)), found)
    flat = loss(torch.zeros(6, 3).double(), torch.zeros(6, 3).double())
    assert [value.item() for value in flat] == pytest.approx([math.log(6), 0.0, math.log(6)])
    apart = 100.0 * torch.arange(6).double()[:, None]
    assert [value.item() for value in loss(apart, apart)] == pytest.approx([0.0, 0.0, 0.0])
