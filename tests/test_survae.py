"""SurVAE flows: layers against Jacobians and preimages, densities against integrals and samples."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial
from typing import TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Independent,
    MultivariateNormal,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)

from genbook import survae
from genbook.survae import Abs, AbsOf, Box, Coupling, Flow, Gap, Layer, Logit, Sort

# float64 against float64, of sums of a few terms.
same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
Array = NDArray[np.float64]
Net = TypeVar("Net", bound=nn.Module)
SCALES: list[survae.Scale] = ["exp", "softplus"]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=random(seed), dtype=torch.float64)


def inside(seed: int, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=random(seed), dtype=torch.float64)


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def filled(net: Net, seed: int, std: float = 0.5) -> Net:
    """Every parameter at random, biases too, in float64."""
    with torch.no_grad():
        for p in net.double().parameters():
            p.copy_(drawn(seed, *p.shape, scale=std))
            seed += 1
    return net


def wide_box() -> Box:
    return Box([0.0, -2.0], [4.0, 1.0]).double()


BIJECTIONS = {
    **{
        f"coupling of {moved} by {scale}": (
            filled(Coupling([8, 5], moved=moved, scale=scale), 10 * moved),
            drawn(0, 40, 2),
        )
        for moved in (0, 1)
        for scale in SCALES
    },
    "box": (wide_box(), drawn(0, 40, 2, scale=3.0)),
    "logit": (Logit(), inside(0, 2e-5, 1 - 2e-5, 40, 2)),
    "gap": (Gap(), drawn(0, 40, 2).sort(dim=1).values),
}


@pytest.mark.parametrize(("layer", "x"), BIJECTIONS.values(), ids=BIJECTIONS.keys())
def test_a_bijection_adds_the_logarithm_of_its_volume_and_has_an_inverse(
    layer: Layer, x: Tensor
) -> None:
    z, contribution = layer(x)
    assert z.shape == x.shape
    assert contribution.shape == (len(x),)
    for i, row in enumerate(x):
        J = jacobian(lambda row: layer(row[None])[0][0], row)
        same(contribution[i], torch.linalg.slogdet(J).logabsdet)
        assert torch.linalg.det(J) > 0
    before = torch.get_rng_state()
    # Through e^-10 in the corners of the logit and back.
    torch.testing.assert_close(layer.inverse(z, None), x, rtol=1e-11, atol=1e-12)
    same(layer(layer.inverse(z, None))[0], z)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.autograd.gradcheck(layer, (x.clone().requires_grad_(),))


def perceptron(net: nn.Sequential, x: Array) -> Array:
    """Matrices with rectifiers between them."""
    weights = [p.detach().numpy() for p in net.parameters()]
    for i in range(0, len(weights), 2):
        x = (x if i == 0 else np.maximum(x, 0.0)) @ weights[i].T + weights[i + 1]
    return x


def coupled(layer: Coupling, x: Array) -> tuple[Array, Array]:
    """The docstring of `Coupling`; the network says first the scale and then the shift."""
    kept, moved = x[:, 1 - layer.moved], x[:, layer.moved]
    said, shift = perceptron(layer.net, kept[:, None]).T
    scale = np.exp(said) if layer.scale == "exp" else np.log1p(np.exp(said))
    z = x.copy()
    z[:, layer.moved] = scale * moved + shift
    return z, np.log(scale)


@pytest.mark.parametrize("scale", SCALES)
def test_couplings_move_the_coordinates_in_turn_by_a_net_of_the_other(scale: survae.Scale) -> None:
    x = drawn(0, 50, 2, scale=2.0)
    flow = filled(Flow(survae.couplings([7, 6], scale=scale, steps=3)), 1)
    z, total = x.numpy(), np.zeros(50)
    # The second coordinate first, as the official code; its order changes between couplings.
    for layer, moved in zip(flow.layers, (1, 0, 1), strict=True):
        assert layer.moved == moved
        z, added = coupled(layer, z)
        total += added
    expected = torch.from_numpy(total + norm.logpdf(z).sum(axis=1))
    same(flow.log_prob(x), expected)
    # Whole flows are bijections too.
    back = torch.from_numpy(z)
    for layer in reversed(flow.layers):
        back = layer.inverse(back, None)
    torch.testing.assert_close(back, x, rtol=1e-10, atol=1e-10)


def test_the_official_flow_has_four_couplings_of_200_and_100() -> None:
    layers = survae.couplings([200, 100], scale="exp")
    assert [layer.moved for layer in layers] == [1, 0, 1, 0]
    assert [tuple(p.shape) for p in layers[0].parameters() if p.ndim == 2] == [
        (200, 1),
        (100, 200),
        (2, 100),
    ]
    weights = [p for layer in layers for p in layer.parameters()]
    assert len({id(p) for p in weights}) == 4 * 6  # none is shared


@pytest.mark.parametrize("scale", SCALES)
def test_a_coupling_learns_as_finite_differences_say(scale: survae.Scale) -> None:
    layer, x = filled(Coupling([4], moved=0, scale=scale), 0), drawn(9, 5, 2)
    names = dict(layer.named_parameters())

    def by_weights(*weights: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(by_weights, tuple(names.values()))


def test_logit_counts_points_outside_as_just_inside() -> None:
    x = double([-3.0, 0.5], [0.0, 1.0], [1e-7, 1 - 1e-7], [0.5, 7.0])
    z, added = Logit()(x.requires_grad_())
    edge = math.log(1e-5 / (1 - 1e-5))
    # 1 - 1e-5 has lost 11 of 16 digits of its 1e-5.
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-10)
    close(z, double([edge, 0.0], [edge, -edge], [edge, -edge], [0.0, -edge]))
    per_edge, middle = -math.log(1e-5 * (1 - 1e-5)), math.log(4.0)
    one, two = per_edge + middle, 2 * per_edge
    close(added, double([one, two, two, one])[0])
    (gradient,) = torch.autograd.grad(z.sum(), x)
    same(gradient, double([0.0, 4.0], [0.0, 0.0], [0.0, 0.0], [4.0, 0.0]))
    # In float32, too, the edge is not 0 or 1.
    assert Logit()(x.detach().float())[0].isfinite().all()


def test_a_flow_of_box_and_logit_is_the_logit_normal_of_torch() -> None:
    low, size = double([0.0, -2.0], [4.0, 3.0])
    squeezed = TransformedDistribution(
        Independent(Normal(torch.zeros(2).double(), 1.0), 1),
        [SigmoidTransform(), AffineTransform(low, size, event_dim=1)],
    )
    x = low + size * inside(0, 0.01, 0.99, 60, 2)
    same(Flow([wide_box(), Logit()]).log_prob(x), squeezed.log_prob(x))


def test_the_bases_are_the_standard_normal_and_the_unit_square() -> None:
    x = drawn(0, 60, 2)
    normal = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    same(Flow([]).log_prob(x), normal.log_prob(x))
    flow = Flow([], base="uniform")
    edges = double([0.0, 0.0], [1.0, 1.0], [0.3, 0.9])
    assert flow.log_prob(edges).tolist() == [0.0, 0.0, 0.0]
    # One coordinate outside is enough, on whichever side.
    gone = double([-1e-9, 0.5], [0.5, -1.0], [1.0 + 1e-9, 0.5], [0.5, 2.0], [5.0, 5.0])
    assert flow.log_prob(gone).tolist() == [-math.inf] * 5
    boxed = Flow([wide_box()], base="uniform")
    low, high = double([0.0, -2.0], [4.0, 1.0])
    square = Independent(Uniform(low, high), 1)
    x = low + (high - low) * inside(0, 0.0, 1.0, 60, 2)
    same(boxed.log_prob(x), square.log_prob(x))
    assert boxed.log_prob(x + torch.tensor([4.0, 0.0])).tolist() == [-math.inf] * 60


def evenly(counts: Tensor, expected: Tensor) -> None:
    """Counts of independent draws, by the chi-squared statistic: within 5 s.d. of its mean."""
    assert counts.sum() == pytest.approx(expected.sum().item(), rel=1e-3)
    chi2 = ((counts - expected).square() / expected).sum().item()
    free = len(counts) - 1
    assert abs(chi2 - free) < 5 * math.sqrt(2 * free), (chi2, free)


def test_abs_divides_the_mass_of_z_by_its_preimages() -> None:
    for dim in (1, 2, 3):
        x = drawn(0, 30, dim)
        z, contribution = Abs()(x)
        same(z, torch.from_numpy(np.abs(x.numpy())))
        # A fair coin for each sign; the volume itself is 1.
        coins = Independent(Bernoulli(probs=torch.full((30, dim), 0.5).double()), 1)
        same(contribution, coins.log_prob((x > 0).double()))
        for row in x:
            J = jacobian(torch.abs, row)
            assert torch.linalg.slogdet(J).logabsdet == 0
    (gradient,) = torch.autograd.grad(Abs()(x.requires_grad_())[0].sum(), x)
    same(gradient, x.detach().sign())


def test_abs_gives_back_signs_by_fair_coins() -> None:
    n = 80_000
    z = drawn(0, n, 3).abs() + 0.1
    x = Abs().inverse(z, random(1))
    assert torch.equal(Abs()(x)[0], z)
    assert torch.equal(x, Abs().inverse(z, random(1)))
    which = ((x > 0).long() * torch.tensor([4, 2, 1])).sum(dim=1)
    evenly(which.bincount(minlength=8).double(), torch.full((8,), n / 8))


def test_sort_divides_the_mass_of_z_by_its_orders() -> None:
    for dim in (1, 2, 3, 4):
        x = drawn(dim, 30, dim)
        z, contribution = Sort()(x)
        same(z, torch.from_numpy(np.sort(x.numpy(), axis=1)))
        orders = len(list(itertools.permutations(range(dim))))
        same(contribution, torch.full((30,), -math.log(orders), dtype=torch.float64))
        for row in x:
            J = jacobian(lambda row: Sort()(row[None])[0][0], row)
            assert torch.linalg.slogdet(J).logabsdet == 0
        assert torch.autograd.gradcheck(lambda x: Sort()(x)[0], (x.requires_grad_(),))


def test_sort_gives_back_every_order_equally_often() -> None:
    n = 60_000
    z = drawn(0, n, 3).sort(dim=1).values
    x = Sort().inverse(z, random(1))
    assert torch.equal(Sort()(x)[0], z)
    assert torch.equal(x, Sort().inverse(z, random(1)))
    ranks = (x.argsort(dim=1) * torch.tensor([9, 3, 1])).sum(dim=1)
    counts = ranks.unique(return_counts=True)[1]
    evenly(counts.double(), torch.full((6,), n / 6))


def test_abs_of_adds_the_probability_of_the_sign() -> None:
    layer = filled(AbsOf([6, 5]), 0)
    x = drawn(9, 200, 2, scale=2.0)
    z, contribution = layer(x)
    assert torch.equal(z[:, 0], x[:, 0].abs())
    assert torch.equal(z[:, 1], x[:, 1])
    logits = torch.from_numpy(perceptron(layer.net, z.detach().numpy())[:, 0])
    same(contribution, Bernoulli(logits=logits).log_prob((x[:, 0] > 0).double()))
    # The two preimages share the mass of z, and not evenly.
    mirrored = x * torch.tensor([-1.0, 1.0])
    same(contribution.exp() + layer(mirrored)[1].exp(), torch.ones(200).double())
    assert (contribution - layer(mirrored)[1]).abs().max() > 1
    names = dict(layer.named_parameters())

    def by_weights(*weights: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x[:5],))

    assert torch.autograd.gradcheck(by_weights, tuple(names.values()))


def test_abs_of_gives_back_a_plus_as_often_as_its_net_says() -> None:
    layer, n = filled(AbsOf([6, 5]), 0, std=1.0), 50_000
    places = double([0.2, -1.0], [1.0, 0.5], [4.0, 2.0], [0.5, 4.0])
    z = places.repeat_interleave(n, dim=0)
    x = layer.inverse(z, random(1))
    assert torch.equal(x[:, 1], z[:, 1])
    assert torch.equal(x[:, 0].abs(), z[:, 0])
    assert torch.equal(x, layer.inverse(z, random(1)))
    expected = 1 / (1 + np.exp(-perceptron(layer.net, places.numpy())[:, 0]))
    found = (x[:, 0] > 0).double().view(4, n).mean(dim=1).numpy()
    assert expected.min() < 0.4 < 0.6 < expected.max()
    assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / n)).all()


def made(kind: str, scale: survae.Scale) -> tuple[Flow, list[tuple[float, float]]]:
    """A flow with random weights, and the part of the plane that has its mass."""
    steps = survae.couplings([6], scale=scale)
    square, half = Box([-4.0, -4.0], [4.0, 4.0]), Box([0.0, -4.0], [4.0, 4.0])
    layers, base, box = {
        "couplings": (steps, "normal", [(-9.0, 9.0)] * 2),
        "box and logit": ([square, Logit(), *steps], "normal", [(-4.0, 4.0)] * 2),
        "abs": (
            [Abs(), Box([0.0, 0.0], [4.0, 4.0]), Logit(), *steps],
            "normal",
            [(-4.0, 4.0)] * 2,
        ),
        "abs of one": ([AbsOf([6]), half, Logit(), *steps], "normal", [(-4.0, 4.0)] * 2),
        "abs of one, uniform": ([AbsOf([6]), half], "uniform", [(-4.0, 4.0)] * 2),
        # No midpoint of a grid lies on the diagonal, where two preimages meet.
        "sort": ([Sort(), Gap(), *steps], "normal", [(-9.0, 9.0), (-8.99, 9.01)]),
    }[kind]
    flow = filled(Flow(layers, base=base), 0, std=0.3)
    for layer in steps:  # scales of 1 or a little more: no mass at the edges of a box
        with torch.no_grad():
            layer.net[-1].bias.copy_(torch.tensor([0.1 if scale == "exp" else 0.8, 0.1]))
    return flow, box


KINDS = ["couplings", "box and logit", "abs", "abs of one", "abs of one, uniform", "sort"]


def masses(flow: Flow, box: list[tuple[float, float]], cells: int, fine: int) -> Tensor:
    """The integral over each of cells^2 equal parts of the box, by fine^2 midpoints a part."""
    sides = [
        low + (high - low) * (torch.arange(cells * fine, dtype=torch.float64) + 0.5) / cells / fine
        for low, high in box
    ]
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(*sides)).exp()
    area = math.prod((high - low) / cells / fine for low, high in box)
    return area * density.view(cells, fine, cells, fine).sum(dim=(1, 3))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_density_adds_up_to_one_and_samples_follow_it(kind: str, scale: survae.Scale) -> None:
    flow, box = made(kind, scale)
    cells, fine, n = 36, 20, 40_000
    p = masses(flow, box, cells, fine)
    # Kinks of rectifiers, the edge of the sorted half and the tails, on a grid of 720 x 720.
    assert p.sum().item() == pytest.approx(1.0, abs=1e-4)
    x = copy.deepcopy(flow).float().sample(n, random(1))
    assert x.shape == (n, 2)
    low, high = torch.tensor(box).unbind(dim=1)
    cell = ((x - low) / (high - low) * cells).floor().long()
    cell = cell[((cell >= 0) & (cell < cells)).all(dim=1)]
    counts = (cell[:, 0] * cells + cell[:, 1]).bincount(minlength=cells**2).double()
    expected = n * p.flatten()
    # A chi-squared law needs some draws in each part; all that is rare, and all outside, is one.
    often = expected > 10
    assert often.sum() > 50
    counts, expected = counts[often], expected[often]
    rest = n - expected.sum()
    if rest < 1e-6:
        assert counts.sum() == n
    else:
        counts = torch.cat([counts, (n - counts.sum())[None]])
        expected = torch.cat([expected, rest[None]])
    evenly(counts, expected)


@pytest.mark.parametrize("scale", SCALES)
def test_log_prob_has_the_right_gradient(scale: survae.Scale) -> None:
    for kind in KINDS:
        flow, _ = made(kind, scale)
        x = inside(7, 0.3, 1.9, 6, 2).requires_grad_()
        assert torch.autograd.gradcheck(flow.log_prob, (x,)), kind


def test_abs_makes_a_density_symmetric_in_each_coordinate_and_sort_in_their_order() -> None:
    x = inside(0, -3.9, 3.9, 100, 2)
    flow, _ = made("abs", "exp")
    for signs in itertools.product((-1.0, 1.0), repeat=2):
        same(flow.log_prob(x * torch.tensor(signs)), flow.log_prob(x))
    flow, _ = made("sort", "exp")
    same(flow.log_prob(x.flip(1)), flow.log_prob(x))
    # No other flow here is either.
    for kind in ("couplings", "box and logit", "abs of one"):
        flow, _ = made(kind, "exp")
        for other in (-x, x.flip(1)):
            assert (flow.log_prob(other) - flow.log_prob(x)).abs().max() > 0.1


def test_a_base_beyond_the_range_of_a_surjection_loses_its_mass() -> None:
    """log_prob is exact if the layers after it fill the range of z and no more: of N(0, I) only a
    quarter has no negative sign, and a half is sorted."""
    box = [(-9.0, 9.0)] * 2
    # Two diagonals of 400 midpoints on the edge of a half, of mass 2e-5 each, do no harm.
    for layer, part in ((Abs(), 0.25), (Sort(), 0.5)):
        assert masses(Flow([layer]), box, 20, 20).sum().item() == pytest.approx(part, abs=1e-6)


class Right(nn.Module):
    """Which of (±x, y) is on a black field, as a logit of 40: e^-40 is 0 beside 1."""

    def forward(self, z: Tensor) -> Tensor:
        fields = (z / 2).floor().sum(dim=1, keepdim=True)
        return 40.0 * (1.0 - 2.0 * (fields % 2))


def board() -> Flow:
    layer = AbsOf([])
    layer.net = Right()
    return Flow([layer, Box([0.0, -4.0], [4.0, 4.0])], base="uniform")


def black(x: Tensor) -> Tensor:
    """Fields of side 2 with an even sum of their indices, as (0, 0) is."""
    return ((x / 2).floor().sum(dim=1) % 2 == 0) & (x.abs() <= 4).all(dim=1)


def test_checkerboard_is_even_on_the_black_fields_and_nowhere_else() -> None:
    n, fine = 64_000, 4
    x = survae.checkerboard(n, random(0))
    assert x.shape == (n, 2)
    assert black(x).all()
    assert torch.equal(x, survae.checkerboard(n, random(0)))
    # Cells of side 1/2: those that can be met have an area of 32, and equal chances.
    cells = ((x + 4) * fine / 2).floor().long()
    counts = (cells[:, 0] * 4 * fine + cells[:, 1]).bincount(minlength=(4 * fine) ** 2)
    met = counts[counts > 0].double()
    area = len(met) * (2 / fine) ** 2
    assert area == 32
    assert math.log(area) == pytest.approx(3.466, abs=5e-4)
    evenly(met, torch.full_like(met, n / len(met)))
    # White fields are those of a mirrored board.
    assert not black(x * torch.tensor([-1.0, 1.0])).any()


def test_abs_of_represents_the_checkerboard_exactly() -> None:
    flow, x = board(), survae.checkerboard(4_000, random(0)).double()
    # e^-40 less, and Box in float32.
    found = flow.log_prob(x)
    torch.testing.assert_close(found, torch.full_like(found, -math.log(32)), rtol=0, atol=1e-6)
    assert (flow.log_prob(-x.flip(1)) == found).all()
    assert (flow.log_prob(x * torch.tensor([-1.0, 1.0])) < -40).all()
    sampled = flow.sample(32_000, random(1))
    assert black(sampled).all()
    cells = ((sampled + 4) * 2).floor().long()
    counts = (cells[:, 0] * 16 + cells[:, 1]).bincount(minlength=256)
    counts = counts[counts > 0].double()
    assert len(counts) == 128
    evenly(counts, torch.full((128,), 250.0))


# Of the official code: a circle of radius 4 and a standard deviation of 0.5, all divided by 1.414.
CENTRES = 4.0 / 1.414 * np.exp(1j * np.pi * (np.arange(8) / 4 + 1 / 8))
STD = 0.5 / 1.414


def eight_density(x: Array, y: Array) -> Array:
    parts = [norm.pdf(x, c.real, STD) * norm.pdf(y, c.imag, STD) for c in CENTRES]
    return np.mean(parts, axis=0)


def test_eight_gaussians_have_an_entropy_of_2_8319_nats() -> None:
    side = np.linspace(-6.0, 6.0, 601)
    p = eight_density(side[:, None], side[None])
    area = (side[1] - side[0]) ** 2
    assert p.sum() * area == pytest.approx(1.0, abs=1e-9)
    entropy = float(-(p * np.log(p)).sum() * area)
    assert entropy == pytest.approx(2.8319, abs=5e-5)  # half of the last digit
    n = 100_000
    x = survae.eight_gaussians(n, random(0)).double().numpy()
    cost = -np.log(eight_density(x[:, 0], x[:, 1]))
    assert cost.mean() == pytest.approx(entropy, abs=4 * cost.std() / math.sqrt(n))
    # Almost log 8 more than one of them, as they hardly overlap.
    alone = math.log(2 * math.pi * math.e * STD**2)
    assert 0 < alone + math.log(8) - entropy < 0.02


def test_eight_gaussians_have_their_centres_their_spread_and_equal_weights() -> None:
    n = 100_000
    x = survae.eight_gaussians(n, random(0))
    assert x.shape == (n, 2)
    assert torch.equal(x, survae.eight_gaussians(n, random(0)))
    edges = np.concatenate([[-np.inf], np.linspace(-3.6, 3.6, 19), [np.inf]])
    counts = np.histogram2d(*x.double().numpy().T, bins=(edges, edges))[0]
    parts = [
        np.outer(np.diff(norm.cdf(edges, c.real, STD)), np.diff(norm.cdf(edges, c.imag, STD)))
        for c in CENTRES
    ]
    expected = n * np.mean(parts, axis=0)
    often = expected > 10
    evenly(
        torch.tensor([*counts[often], counts[~often].sum()]),
        torch.tensor([*expected[often], expected[~often].sum()]),
    )
    # By the nearest centre; further than half a gap, 3.06 s.d., are 0.2 %.
    z = x[:, 0].double().numpy() + 1j * x[:, 1].double().numpy()
    nearest = np.abs(z[:, None] - CENTRES).argmin(axis=1)
    for k, centre in enumerate(CENTRES):
        own = z[nearest == k] - centre
        assert len(own) == pytest.approx(n / 8, abs=5 * math.sqrt(n / 8))
        assert abs(own.mean()) < 5 * STD * math.sqrt(2 / len(own))
        assert np.sqrt((np.abs(own) ** 2).mean() / 2) == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_those_of_the_generator_of_random_numbers(kind: str) -> None:
    flow = made(kind, "exp")[0].float()
    before = torch.get_rng_state()
    assert torch.equal(flow.sample(50, random(5)), flow.sample(50, random(5)))
    assert not torch.equal(flow.sample(50, random(5)), flow.sample(50, random(6)))
    survae.checkerboard(5, random(0))
    survae.eight_gaussians(5, random(0))
    assert torch.equal(torch.get_rng_state(), before)
