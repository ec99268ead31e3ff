"""The mode coverage chapter's own small functions, taken out of its source and run alone: its
counts, divergences, pictures, styles, comparison of entropies, flows and their exact values."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from comparing import normal, same, seeded
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.integrate import quad
from scipy.spatial import cKDTree
from scipy.special import digamma
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from genbook import coverage, survae, training
from genbook import nn as nets
from genbook.metrics import modes

CHAPTER = "mode_coverage"
SETTINGS = ("profile", "device", "seed", "Profile", "PROFILES", "cfg", "S")
STYLE = (*SETTINGS, "STYLE", "centres", "offsets", "STYLE_STD")
SURVAE = ("profile", "seed", "one", "HIDDEN", "EIGHT")
REVERSE = (
    *SURVAE,
    "device",
    "Profile",
    "PROFILES",
    "cfg",
    "falling",
    "turned_back",
    "eight_log_prob",
)
Array = NDArray[np.float64]
S = 2  # runs of the smoke profile

pytestmark = pytest.mark.usefixtures("run_folder")


def mixture(means: Tensor, weights: Tensor, std: float) -> MixtureSameFamily:
    parts = Independent(Normal(means.double(), std), 1)
    return MixtureSameFamily(Categorical(probs=weights.double()), parts)


# Counting


def test_a_run_without_good_samples_counts_as_one_with_a_single_mode(taken: Any) -> None:
    mix = coverage.ring(radius=2.0, std=0.05)
    uneven = torch.cat([mix.means[:3], mix.means[:1]]) + 0.1
    made = torch.stack([uneven, uneven + 9.0, mix.means[[4, 4, 4, 4]]])
    uneven, nowhere, single = taken("tally")["tally"](made, mix)
    assert (uneven.captured, nowhere.captured, single.captured) == (3, 0, 1)
    assert (uneven.high_quality, nowhere.high_quality, single.high_quality) == (1.0, 0.0, 1.0)
    want = scipy.stats.entropy([2, 1, 1, 0, 0, 0, 0, 0], np.ones(8))
    assert uneven.reverse_kl == pytest.approx(want)
    assert nowhere.reverse_kl == single.reverse_kl == pytest.approx(math.log(8))


def test_kept_counts_are_means_over_runs_with_their_standard_errors(taken: Any) -> None:
    parts = taken(*SETTINGS, "claims", "UNITS", "FORMS", "keep")
    rows = {"modes": [3, 5, 4], "quality": [0.5, 0.25, 0.9], "kl": [0.2, 0.7, 0.1]}
    counted = [
        SimpleNamespace(captured=c, high_quality=q, reverse_kl=k)
        for c, q, k in zip(*rows.values(), strict=True)
    ]
    found = parts["keep"]("three", counted, K=8)
    values = {name: row["value"] for name, row in parts["claims"].record["values"].items()}
    assert len(values) == 8
    good = [max(1, round(q * parts["cfg"].judged)) for q in rows["quality"]]
    rows["even"] = [modes.expected_kl(8, n) for n in good]
    for measure, numbers in rows.items():
        scaled = np.array(numbers) * (100.0 if measure == "quality" else 1.0)
        assert found[measure] == values[f"{measure}-three"] == pytest.approx(scaled.mean())
        error = scipy.stats.sem(scaled)
        assert values[f"{measure}-three-error"] == pytest.approx(error)


def test_a_cell_has_a_mean_and_its_error_or_is_empty(taken: Any) -> None:
    parts = taken("of", "cell", "rows_of", "FORMS")
    numbers = {"modes-a": 23.44, "quality-a": 9.0, "kl-a": 0.5, "even-a": 0.25}
    numbers |= {"modes-a-error": 0.16, "quality-a-error": 1.0, "kl-a-error": 0.02}
    numbers |= {"even-a-error": 0.001}
    record = {"values": {name: {"value": v} for name, v in numbers.items()}}
    assert parts["cell"](record, "modes-a", ".1f") == "23.4 ± 0.2"
    assert parts["cell"](record, "modes-b", ".1f") == ""
    parts["NAMES"] = {"a": "a name"}
    row = ["a name", "23.4 ± 0.2", "9.0 ± 1.0", "0.500 ± 0.020", "0.250 ± 0.001"]
    assert parts["rows_of"](record, ["a", "b"]) == [row]
    assert parts["rows_of"](record, ["a"], prefix="ring-") == []
    ring = {name.replace("-a", "-ring-a"): v for name, v in record["values"].items()}
    assert parts["rows_of"]({"values": ring}, ["a"], prefix="ring-") == [row]


def test_every_run_has_points_and_weights_of_its_own(taken: Any) -> None:
    parts, n = taken(*SETTINGS, "streams", "points", "table_of"), 20_000
    grid = coverage.grid()
    rows = parts["table_of"](grid, n)
    assert parts["table_of"](grid).shape == (100_000, S, 2)
    assert rows.shape == (n, S, 2)
    for points in (rows.transpose(0, 1), parts["points"](grid, n, seeded(0))):
        assert points.shape == (S, n, 2)
        assert not np.intersect1d(points[0, :, 0], points[1, :, 0]).size > n / 100  # float32
        for own in points:
            at = (own / 2).round()
            counts = ((at + 2) @ torch.tensor([5.0, 1.0])).long().bincount(minlength=25)
            assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4
            off = (own - 2 * at) / 0.05
            assert off.std() == pytest.approx(1.0, abs=5 / math.sqrt(4 * n))
    randoms = parts["streams"]("one name")
    first, second = (torch.rand(4, generator=g) for g in randoms)
    assert len(randoms) == S
    assert not torch.equal(first, second)
    assert torch.equal(torch.rand(4, generator=parts["streams"]("one name")[1]), second)
    assert not torch.equal(torch.rand(4, generator=parts["streams"]("other")[1]), second)
    parts["seed"] = 1
    assert not torch.equal(torch.rand(4, generator=parts["streams"]("one name")[1]), second)


# Why a GAN may leave modes out


def test_the_best_discriminator_answers_by_two_densities(taken: Any) -> None:
    parts = taken("circle", "one", "answer_loss")
    # What stands in the chapter: log 3 where the half circle has twice the density, else nearly 0.
    weights = torch.tensor([0.5, 0.0] * 4) / 2.0 + 1e-12
    parts["half"] = replace(parts["circle"], weights=weights)
    found = parts["answer_loss"](parts["circle"].means)
    same(found, torch.tensor([math.log(3), 0.0] * 4), 1e-5)
    # Overlapping heaps, by the densities of torch in float64.
    wide = replace(parts["circle"], std=0.8)
    uneven = torch.tensor([0.3, 0.1, 0.05, 0.05, 0.1, 0.2, 0.15, 0.05])
    parts |= {"circle": wide, "half": replace(wide, weights=uneven, std=0.6)}
    x = 2 * normal(0, 50, 2)
    p = mixture(wide.means, wide.weights, 0.8).log_prob(x).exp()
    q = mixture(wide.means, uneven, 0.6).log_prob(x).exp()
    same(parts["answer_loss"](x.float()).double(), -(p / (p + q)).log(), 1e-4)  # float32


@pytest.fixture(scope="module")
def line(taken: Any) -> dict[str, Any]:
    """Densities on the chapter's line, with heaps that are not the chapter's."""
    parts = taken("normal", "kl", "fitted")
    x = torch.linspace(-12.0, 12.0, 20_001, dtype=torch.float64)
    parts |= {"line": x, "dx": 24.0 / 20_000}
    parts["heaps"] = 0.3 * parts["normal"](-2.0, 0.5) + 0.7 * parts["normal"](1.5, 0.8)
    return parts


def heaps_at(x: float) -> float:
    pdf = scipy.stats.norm.pdf
    return 0.3 * float(pdf(x, -2.0, 0.5)) + 0.7 * float(pdf(x, 1.5, 0.8))


def test_densities_and_divergences_on_a_line(line: dict[str, Any]) -> None:
    found = line["normal"](0.5, 1.7)
    np.testing.assert_allclose(found, scipy.stats.norm.pdf(line["line"], 0.5, 1.7), atol=1e-14)
    want = kl_divergence(Normal(0.5, 0.6), Normal(-0.2, 0.9)).item()
    pair = line["normal"](0.5, 0.6), line["normal"](-0.2, 0.9)
    assert line["kl"](*pair).item() == pytest.approx(want, abs=1e-6)  # torch's number is float32
    assert line["kl"](*reversed(pair)).item() != pytest.approx(want, abs=0.1)
    half = torch.where(line["line"] > 0, 2 * line["normal"](0.0, 1.0), 0.0)  # 0 log 0 is 0
    assert line["kl"](half, line["normal"](0.0, 1.0)).item() == pytest.approx(math.log(2), abs=1e-3)


def test_the_fit_with_the_data_in_front_has_their_moments(line: dict[str, Any]) -> None:
    value, mean, std = line["fitted"](lambda q: line["kl"](line["heaps"], q), (0.3, 1.0))
    centre = 0.3 * -2.0 + 0.7 * 1.5
    second = 0.3 * (0.5**2 + 2.0**2) + 0.7 * (0.8**2 + 1.5**2)
    assert (mean, std**2) == (
        pytest.approx(centre, abs=1e-6),
        pytest.approx(second - centre**2, abs=1e-6),
    )
    best = scipy.stats.norm(mean, std)
    want = quad(lambda x: heaps_at(x) * math.log(heaps_at(x) / best.pdf(x)), -8, 8, limit=200)[0]
    assert value == pytest.approx(want, abs=1e-6)


def test_the_fit_with_the_model_in_front_sits_on_a_heap(line: dict[str, Any]) -> None:
    """Against a search without gradients on another grid."""
    x = np.linspace(-10, 10, 4_001)
    log_p = np.log([heaps_at(v) for v in x])

    def divergence(theta: Array) -> float:
        log_q = scipy.stats.norm.logpdf(x, theta[0], math.exp(theta[1]))
        return float((np.exp(log_q) * (log_q - log_p)).sum() * (x[1] - x[0]))

    for start in ((-2.0, -0.5), (1.5, 0.0)):
        value, mean, std = line["fitted"](lambda q: line["kl"](q, line["heaps"]), start)
        options = {"xatol": 1e-7, "fatol": 1e-12}
        best = scipy.optimize.minimize(divergence, start, method="Nelder-Mead", options=options)
        assert value == pytest.approx(best.fun, abs=1e-6)
        assert (mean, math.log(std)) == pytest.approx(tuple(best.x), abs=1e-4)
        assert abs(mean - start[0]) < 0.3


def test_variations_are_those_of_all_tuples(taken: Any) -> None:
    parts = taken("variation_uneven", "variation_dropped")

    def enumerated(q: list[float], m: int) -> float:
        """Half of the sum of |q^m - p^m| over all tuples of m modes, p even."""
        p = 1 / len(q)
        tuples = itertools.product(q, repeat=m)
        return 0.5 * sum(abs(math.prod(weights) - p**m) for weights in tuples)

    uneven, dropped = parts["variation_uneven"], parts["variation_dropped"]
    for m in (1, 2, 3, 4):
        assert uneven(m) == pytest.approx(enumerated([0.14] * 5 + [0.06] * 5, m), abs=1e-12)
        assert dropped(m) == pytest.approx(enumerated([1 / 8] * 8 + [0.0] * 2, m), abs=1e-12)
        assert uneven(m, eps=0.9) == pytest.approx(enumerated([0.95, 0.05], m), abs=1e-12)
        few = dropped(m, delta=0.75, modes=4)
        assert few == pytest.approx(enumerated([1.0, 0.0, 0.0, 0.0], m), abs=1e-12)


# A thousand modes


def test_stacked_pictures_are_three_of_the_data(taken: Any) -> None:
    """Ten pictures, each of one grey: all thousand triples are equally likely."""
    greys = 20 * torch.arange(10, dtype=torch.uint8)
    images = greys[:, None, None].expand(10, 28, 28)
    found = taken("stacked")["stacked"](images, 20_000, seeded(0))
    assert (found.shape, found.dtype) == ((20_000, 3, 28, 28), torch.float32)
    assert torch.equal(found.amin(dim=(2, 3)), found.amax(dim=(2, 3)))
    digits = 255 * found[:, :, 0, 0] / 20
    same(digits, digits.round(), 1e-5)
    counts = (digits.round().long() @ torch.tensor([100, 10, 1])).bincount(minlength=1_000)
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_a_stack_is_read_as_a_number_of_three_digits(taken: Any) -> None:
    parts, n = taken("device", "read_stack"), 1_203
    digits = torch.randint(10, (n, 3), generator=seeded(0))
    pictures = torch.zeros(n, 3, 28, 28)
    pictures[..., 0, 0], pictures[..., 5, 5] = digits.float(), 50.0

    def reader(x: Tensor) -> Tensor:
        assert x.shape[1:] == (784,)
        return -(x[:, :1] - torch.arange(10)).abs()

    parts["reader"] = reader
    want = [int(f"{a}{b}{c}") for a, b, c in digits.tolist()]
    assert parts["read_stack"](pictures).tolist() == want


# Styles


def test_pairs_are_conditions_with_one_of_four_answers(taken: Any) -> None:
    parts, n = taken(*STYLE, "pairs_of"), 20_000
    found = parts["pairs_of"](n, seeded(0))
    assert found.shape == (n, S, 10)
    told, x = found.double().numpy()[..., :8], found.double().numpy()[..., 8:]
    assert np.array_equal(np.sort(told, axis=2), np.eye(8)[-1:].repeat(n * S, 0).reshape(n, S, 8))
    turn = np.exp(2j * np.pi * np.arange(8) / 8)
    for s in range(S):
        c = told[:, s].argmax(axis=1)
        off = x[:, s, 0] + 1j * x[:, s, 1] - 2.0 * turn[c]  # the plane as complex numbers
        right = 0.4 * turn[::2]
        answer = np.abs(off[:, None] - right).argmin(axis=1)
        counts = np.bincount(4 * c + answer, minlength=32)
        assert scipy.stats.chisquare(counts).pvalue > 1e-4
        rest = (off - right[answer]) / 0.03
        assert np.std([rest.real, rest.imag]) == pytest.approx(1.0, abs=5 / math.sqrt(4 * n))
        assert abs(rest.mean()) < 5 * math.sqrt(2 / n)
    assert not np.array_equal(told[:, 0], told[:, 1])


def test_answers_are_counted_for_each_condition_and_styles_are_compared(taken: Any) -> None:
    """One run has as many answers as the condition has number, to four; the other is deaf to its
    style, and just as far from an answer as counts, or not quite."""
    parts = taken(*STYLE, "answers_found")
    right = parts["centres"][:, None] + parts["offsets"]
    for off, counts in ((4.9, 1.0), (5.1, 0.0)):

        def make(told: Tensor, off: float = off) -> Tensor:
            c, style = told[..., :8].argmax(dim=2), told[..., 8:]
            quarter = 2 * (style[..., 0] > 0) + (style[..., 1] > 0)  # each as likely
            first = right[c[0], torch.minimum(quarter[0], c[0])]
            second = right[c[1], 0] + 0.03 * off * torch.tensor([0.6, 0.8])
            return torch.stack([first, second])

        captured, spread = parts["answers_found"](SimpleNamespace(make=make))
        assert captured.tolist() == [np.mean([1, 2, 3, 4, 4, 4, 4, 4]), counts]
        # Answers 0 to 3 with these probabilities, at the corners of a square.
        corners = 0.4 * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
        apart = np.linalg.norm(corners[:, None] - corners, axis=2)
        laws = [np.bincount(np.minimum(range(4), k), minlength=4) / 4 for k in range(8)]
        want = np.mean([law @ apart @ law for law in laws])
        # 200 distances a condition, with a deviation below 0.35.
        assert spread.tolist() == pytest.approx([want, 0.0], abs=5 * 0.35 / math.sqrt(1_600))
        assert spread[1] == pytest.approx(0.0, abs=1e-6)


# Entropies


def test_some_modes_are_equally_likely_and_the_others_impossible(taken: Any) -> None:
    parts = taken("grid", "some_modes")
    law = parts["some_modes"]([24, 3, 7])
    found = law.sample(3_000, seeded(0))
    at = torch.cdist(found, parts["grid"].means).argmin(dim=1)
    counts = at.bincount(minlength=25)
    assert counts.nonzero().flatten().tolist() == [3, 7, 24]
    assert scipy.stats.chisquare(counts[[3, 7, 24]].numpy()).pvalue > 1e-4
    assert law.weights.sum().item() == pytest.approx(1.0)
    assert law.std == 0.05


def test_terms_are_compared_where_quality_is_kept(taken: Any) -> None:
    parts = taken("ENTROPY_WEIGHTS", "at_equal_quality")
    low, high = (f"{w:g}" for w in parts["ENTROPY_WEIGHTS"])

    def found(*rows: tuple[float, float]) -> float:
        names = ("bare", f"a-{low}", f"a-{high}")
        table = {k: {"quality": q, "kl": v} for k, (q, v) in zip(names, rows, strict=True)}
        parts["found"] = table | {"b-0.3": {"quality": 100.0, "kl": 0.0}}
        return parts["at_equal_quality"]("a")

    assert found((50.0, 1.0), (45.0, 0.7), (60.0, 0.4)) == 0.4
    assert found((50.0, 1.0), (45.0, 0.3), (60.0, 0.4)) == 0.3
    assert found((50.0, 1.0), (41.0, 0.7), (39.0, 0.4)) == 0.7
    assert found((50.0, 1.0), (20.0, 0.7), (39.0, 0.4)) == pytest.approx(math.log(25))


# Half and half


def test_total_mass_is_a_sum_over_the_cells_of_a_square(taken: Any) -> None:
    total_mass, seen = taken("total_mass")["total_mass"], []
    cdf, mean = scipy.stats.norm.cdf, torch.tensor([1.0, -0.8])

    def log_prob(x: Tensor) -> Tensor:
        seen.append(x)
        return Normal(mean, 1.0).log_prob(x).sum(dim=1)

    for reach, gap in ((2.0, 0.05), (1.5, 0.008)):
        seen.clear()
        # The second coordinate is a fifth of a cell too high, so that no point is on the diagonal.
        want = cdf(reach - 1) - cdf(-reach - 1)
        want *= cdf(reach + 0.2 * gap + 0.8) - cdf(-reach + 0.2 * gap + 0.8)
        assert total_mass(log_prob, reach, gap) == pytest.approx(want, abs=1e-4)
        points = torch.cat(seen)
        assert len(points) == round(2 * reach / gap) ** 2
        assert (points[:, 0] - points[:, 1]).abs().min() > 0.1 * gap
        assert points.abs().max() < reach


def eight_heaps(first: float) -> MixtureSameFamily:
    """The target as a mixture of torch: eight heaps from this many degrees on."""
    degrees = torch.tensor([first + 45.0 * k for k in range(8)], dtype=torch.float64)
    angle = torch.deg2rad(degrees)
    means = 4.0 / 1.414 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return mixture(means, torch.ones(8), 0.5 / 1.414)


def test_the_density_of_eight_heaps_is_that_of_the_turned_mixture(taken: Any) -> None:
    data = survae.eight_gaussians(500, seeded(0))
    x = torch.cat([data, 3 * normal(8, 500, 2).float()])
    found = taken(*SURVAE, "turned_back", "eight_log_prob")["eight_log_prob"](x).double()
    same(found, eight_heaps(22.5).log_prob(x.double()), 1e-4)  # float32
    # The data are turned; heaps that are not have another density there.
    assert (found[:500] - eight_heaps(0.0).log_prob(data.double())).mean() > 1.0


def unfolded(flow: survae.Flow, z: Tensor) -> tuple[Tensor, Tensor]:
    """x from z, and log q(x) by the determinant of the Jacobian of that map."""
    z = z.double().requires_grad_()
    x = z
    for layer in reversed(flow.double().layers):
        x = layer.inverse(x, None)
    rows = [torch.autograd.grad(v.sum(), z, create_graph=True)[0] for v in x.unbind(dim=1)]
    volume = torch.linalg.det(torch.stack(rows, dim=1)).abs().log()
    return x, Normal(0.0, 1.0).log_prob(z).sum(dim=1) - volume


def plain_flow() -> survae.Flow:
    return survae.Flow(survae.couplings((8, 8), scale="softplus"))


def nearest_entropy(x: Array) -> float:
    """Kozachenko and Leonenko's, in the plane, by scipy's neighbours."""
    n, (distance, _) = len(x), cKDTree(x).query(x, k=2)
    return digamma(n) - digamma(1) + math.log(math.pi) + 2 * np.log(distance[:, 1]).mean()


@pytest.mark.parametrize("name", ["analytic", "practical"])
def test_the_exact_value_is_the_divergence_of_the_trained_flow(
    taken: Any, run_folder: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With the weights of the checkpoint; and the first loss, exact or estimated."""
    parts, law = taken(*REVERSE, "fit_reverse"), eight_heaps(22.5)
    parts["cfg"] = replace(parts["cfg"], surjection_updates=30)
    losses, step = [], training.Training.step
    monkeypatch.setattr(
        training.Training, "step", lambda t, loss: losses.append(loss.item()) or step(t, loss)
    )
    found, exact = parts["fit_reverse"](name)
    flow = plain_flow()
    weights = load_file(run_folder / "checkpoints" / f"{name}.safetensors")
    flow.load_state_dict({k[6:]: v for k, v in weights.items() if k.startswith("model.")})
    z = torch.randn(4_000, 2, generator=training.stream(0, "noise of the test"))
    x, log_q = unfolded(flow, z)
    same(found.double(), x.detach(), 1e-4)  # float32
    log_p = law.log_prob(x)
    assert exact == pytest.approx((log_q - log_p).mean().item(), abs=1e-3)

    noise = torch.randn(50_000, 2, generator=training.stream(0, "noise"))
    rows = torch.randint(50_000, (256,), generator=training.stream(0, name))
    torch.manual_seed(0)
    x, log_q = unfolded(plain_flow(), noise[rows])
    h = -log_q.mean().item() if name == "analytic" else nearest_entropy(x.detach().numpy())
    assert losses[0] == pytest.approx(-h - law.log_prob(x).mean().item(), abs=1e-3)
    assert len(losses) == 30
    assert abs(losses[0] - losses[-1]) > 0.01


def test_a_network_without_a_density_has_no_exact_value(taken: Any) -> None:
    parts = taken(*REVERSE, "fit_reverse")
    parts["cfg"] = replace(parts["cfg"], surjection_updates=1)
    found, exact = parts["fit_reverse"]("practical-implicit")
    assert exact is None
    net = coverage.generator(1, units=parts["cfg"].units)
    nets.init(net, [training.stream(0, "implicit")])
    z = torch.randn(1, 4_000, 2, generator=training.stream(0, "noise of the test"))
    assert (net(z)[0] - found).abs().max() < 0.1  # but for one step
    assert not torch.equal(net(z)[0], found)


def unit_mass(flow: survae.Flow, kind: str) -> float:
    """The mass by a sum over a grid, in coordinates in which the density has no cusp and no end:
    the square of the folded flow by its logits, half of the plane by the logarithm of a gap."""
    side = torch.linspace(-24.0, 24.0, 321, dtype=torch.float64)
    u, v = torch.cartesian_prod(side, side).unbind(dim=1)
    x, y, size = u, v, torch.ones_like(u)
    if kind == "abs":  # a quarter of it
        x, y = 4 / (1 + (-u).exp()), 4 / (1 + (-v).exp())
        size = 4 * x * (1 - x / 4) * y * (1 - y / 4)
    if kind == "sort":
        y = u + (1 + v.exp()).log()
        size = 2 / (1 + (-v).exp())
    with torch.no_grad():
        density = flow.log_prob(torch.stack([x, y], dim=1)).exp()
    return float((density * size).sum()) * (side[1] - side[0]).item() ** 2


@pytest.mark.parametrize("data_name", ["checkerboard", "eight"])
def test_flows_fold_as_the_data_do_and_have_the_mass_one(taken: Any, data_name: str) -> None:
    parts = taken(*SURVAE, "survae_flows")
    torch.manual_seed(1)
    flows = {k: v.double() for k, v in parts["survae_flows"](data_name).items()}
    assert list(flows) == ["flow", "abs", "sort"]
    x = 7.8 * torch.rand(200, 2, generator=seeded(0), dtype=torch.float64) - 3.9
    density = {k: flow.log_prob(x).exp() for k, flow in flows.items()}
    swapped = flows["sort"].log_prob(x.flip(1)).exp()
    mirrored = [flows["abs"].log_prob(x * x.new_tensor(v)).exp() for v in ((-1, 1), (1, -1))]
    same(swapped, density["sort"])
    if data_name == "eight":  # symmetric in both coordinates
        same(mirrored, [density["abs"]] * 2)
    else:  # uniform but for the sign of the first, of which it has to decide
        same(mirrored[0] + density["abs"], torch.full((200,), 1 / 32).double())
        assert (mirrored[0] - density["abs"]).abs().max() > 1e-4
        outside = x.new_tensor([[4.1, 0.0], [-4.1, 0.0], [0.0, 4.1], [0.0, -4.1]])
        assert not flows["abs"].log_prob(outside).exp().any()
    for other in (x * x.new_tensor([-1, 1]), x * x.new_tensor([1, -1]), x.flip(1)):
        assert (flows["flow"].log_prob(other).exp() - density["flow"]).abs().max() > 1e-4
    for kind in flows if data_name == "eight" else ("flow", "sort"):  # that of the other is above
        assert unit_mass(flows[kind], kind) == pytest.approx(1.0, abs=1e-4)
    scale = "exp" if data_name == "checkerboard" else "softplus"
    layers = [
        v for flow in flows.values() for v in flow.modules() if isinstance(v, survae.Coupling)
    ]
    assert {v.scale for v in layers} == {scale}
    assert len(layers) == (8 if data_name == "checkerboard" else 12)
