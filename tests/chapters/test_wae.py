"""The Wasserstein auto-encoder chapter's own small functions, taken out of its source and run
alone: its plane, transport, the linear model, kernels, nets and fading squares."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance
from torch import Tensor, distributions, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from genbook import wae

CHAPTER = "wae"
SETTINGS = ("profile", "device", "seed", "Profile", "PROFILES", "cfg", "claims")
NETS = (*SETTINGS, "LATENTS", "BATCH", "Recipe", "Batched", "AutoEncoder")
SQUARES = (*SETTINGS, "squares", "SquareModel", "square_kernel", "START", "box", "look", "RADIUS")
Array = NDArray[np.float64]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def test_surgery_finds_the_two_parts_of_a_mixture(taken: Any) -> None:
    """Against the mixture density of torch."""
    surgery = taken("surgery")["surgery"]
    mean, log_var, eps = 2 * drawn(0, 30, 3), drawn(1, 30, 3), drawn(2, 30, 3)
    q = Independent(Normal(mean, (0.5 * log_var).exp()), 1)
    z = mean + (0.5 * log_var).exp() * eps
    even = distributions.Categorical(logits=torch.zeros(30).double())
    mixture = distributions.MixtureSameFamily(even, q).log_prob(z)
    told, away = surgery(mean, log_var, z)
    assert told == pytest.approx((q.log_prob(z) - mixture).mean().item(), abs=1e-12)
    prior = Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    assert away == pytest.approx((mixture - prior).mean().item(), abs=1e-12)


def test_surgery_of_codes_whose_two_parts_are_known(taken: Any) -> None:
    surgery = taken("surgery")["surgery"]
    same, eps = torch.zeros(40, 2, dtype=torch.float64), drawn(3, 40, 2)
    # All posteriors are the prior: nothing is told and nothing is away; float64.
    assert surgery(same, same, eps) == pytest.approx((0.0, 0.0), abs=1e-12)
    # All are one other law: the whole is away.
    told, away = surgery(same + 3, same, eps + 3)
    assert told == pytest.approx(0.0, abs=1e-12)
    assert away == pytest.approx((3 * eps + 4.5).sum(dim=1).mean().item(), abs=1e-12)
    # Far apart and narrow: every code is told, or the one of two of its heap.
    for apart, number in ((1, 40), (20, 2)):
        mean = same + 100.0 * (torch.arange(40) // apart)[:, None]
        told, _ = surgery(mean, same - 4, mean + math.exp(-2) * eps)
        assert told == pytest.approx(math.log(number), abs=1e-12)


def test_carried_is_the_best_permutation_of_every_set(taken: Any) -> None:
    carried = taken(*SETTINGS, "carried")["carried"]
    a, b = drawn(4, 12, 2), drawn(5, 12, 2) + 1.0
    best = []
    for part in (slice(0, 6), slice(6, 12)):
        costs = cdist(a[part], b[part], "sqeuclidean")
        ways = itertools.permutations(range(6))
        best.append(min(costs[range(6), list(way)].mean() for way in ways))
    # One matrix product in float64.
    assert carried(a, b, 6) == pytest.approx(np.mean(best), abs=1e-12)
    assert abs(best[0] - best[1]) > 0.1
    assert carried(a, b, 12) < np.mean(best)  # more freedom
    order = torch.randperm(12, generator=seeded(6))
    assert carried(a, a[order], 12) == pytest.approx(0.0, abs=1e-12)
    assert carried(a, a + torch.tensor([3.0, 4.0]), 12) == pytest.approx(25.0, abs=1e-12)


def assert_solved(found: Any, cost: Array, a: Array, b: Array) -> None:
    """Margins of the plan, and prices that earn as much as the plan costs; HiGHS solves to 1e-7."""
    value, plan, f, g = found
    assert plan.min() >= 0.0
    np.testing.assert_allclose(plan.sum(axis=1), a, atol=1e-7)
    np.testing.assert_allclose(plan.sum(axis=0), b, atol=1e-7)
    assert value == pytest.approx((plan * cost).sum(), abs=1e-7)
    assert (f[:, None] + g - cost).max() < 1e-7
    assert f @ a + g @ b == pytest.approx(value, abs=1e-7)


def test_transport_of_equal_weights_is_an_assignment(taken: Any) -> None:
    parts = taken("transport", "squared")
    x, y = drawn(7, 7, 3).numpy(), drawn(8, 7, 3).numpy()
    cost = parts["squared"](x, y)
    np.testing.assert_allclose(cost, cdist(x, y, "sqeuclidean"), atol=1e-12)
    even = np.full(7, 1 / 7)
    found = parts["transport"](cost, even, even)
    assert_solved(found, cost, even, even)
    assert found[0] == pytest.approx(cost[linear_sum_assignment(cost)].mean(), abs=1e-7)


def test_transport_of_uneven_weights_on_a_line(taken: Any) -> None:
    """Where the cost is the distance, scipy has the answer by sorting."""
    x, y = drawn(9, 6).numpy(), drawn(10, 4).numpy()
    random = np.random.default_rng(0)
    a, b = random.dirichlet(np.ones(6)), random.dirichlet(np.ones(4))
    cost = np.abs(x[:, None] - y)
    found = taken("transport")["transport"](cost, a, b)
    assert_solved(found, cost, a, b)
    assert found[0] == pytest.approx(wasserstein_distance(x, y, a, b), abs=1e-7)


def problem(taken: Any) -> dict[str, Any]:
    """Other points and another prior for `relaxed`; `W` is the transport cost."""
    parts = taken(*SETTINGS, "transport", "one_each", "relaxed", "gram", "atoms")
    random = np.random.default_rng(1)
    costs, p_z = random.exponential(size=(6, 8)), random.dirichlet(np.ones(8))
    cfg = replace(parts["cfg"], relax_steps=400)
    W = parts["transport"](costs, np.full(6, 1 / 6), p_z)[0]
    parts |= {"costs_z": costs, "p_z": p_z, "cfg": cfg, "W": W}
    return parts


def cheapest(parts: dict[str, Any], price: float) -> float:
    """The relaxed problem again, by accelerated projected gradient steps (FISTA)."""
    costs, p_z, gram = parts["costs_z"], parts["p_z"], parts["gram"]
    rate = 3 / (price * np.linalg.eigvalsh(gram).max())  # one over the largest curvature
    old = ahead = np.full((6, 8), 1 / 8)
    for k in range(2_000):
        slope = (costs + 2 * price * (gram @ (ahead.mean(axis=0) - p_z))) / 6
        q = ahead - rate * slope
        down = -np.sort(-q, axis=1)  # onto the simplex, row by row (Duchi et al. 2008)
        level = (down.cumsum(axis=1) - 1) / np.arange(1, 9)
        last = (down > level).sum(axis=1) - 1
        q = np.maximum(q - level[range(6), last][:, None], 0)
        old, ahead = q, q + k / (k + 3) * (q - old)
    off = old.mean(axis=0) - p_z
    return float((old * costs).sum() / 6 + price * (off @ gram @ off))


def test_relaxed_goes_from_the_nearest_place_to_the_transport_cost(taken: Any) -> None:
    parts = problem(taken)
    cost, _ = parts["relaxed"](0.0)
    assert cost == pytest.approx(parts["costs_z"].min(axis=1).mean(), abs=1e-6)  # of the solver
    prices = (0.1, 1.0, 10.0, 1_000.0)
    found = [parts["relaxed"](price) for price in prices]
    for price, (cost, mismatch) in zip(prices, found, strict=True):
        assert cost + price * mismatch <= parts["W"] + 1e-6
        # At the largest price the steps are short: 4e-7 are left after 2000.
        assert cost + price * mismatch == pytest.approx(cheapest(parts, price), abs=2e-6)
    costs, mismatches = zip(*found, strict=True)
    assert np.diff(costs).min() > 0 > np.diff(mismatches).max()
    assert costs[0] < 0.7 * parts["W"]
    assert costs[-1] == pytest.approx(parts["W"], rel=0.02)  # falls short as 1 / price


def linear(taken: Any) -> tuple[dict[str, Any], Tensor]:
    """Data of another covariance, and 20 points [20, 6 + 4], data and noise side by side, with
    exactly the mean and covariance of both: a mean of squares over them is the expectation."""
    parts = taken("linear_bound", "log_marginal")
    factor = drawn(11, 6, 6)
    parts["covariance"] = factor @ factor.T
    signs = math.sqrt(10) * torch.eye(10, dtype=torch.float64)
    points = torch.cat([signs, -signs])
    points[:, :6] = points[:, :6] @ factor.T
    return parts, points


def test_linear_bound_and_marginal_are_means_of_densities(taken: Any) -> None:
    parts, points = linear(taken)
    x, eps = points.split([6, 4], dim=1)
    for case, noise in ((20, 0.3), (30, 2.0)):
        W, V, log_var = drawn(case, 6, 4), 0.5 * drawn(case + 1, 4, 6), drawn(case + 2, 4)
        q = Normal(x @ V.T, (0.5 * log_var).exp())
        z = q.mean + q.stddev * eps
        prior = Normal(torch.zeros(4).double(), 1.0)
        inside = Normal(z @ W.T, math.sqrt(noise)).log_prob(x).sum(dim=1)
        want = (inside + (prior.log_prob(z) - q.log_prob(z)).sum(dim=1)).mean()
        bound, rate = parts["linear_bound"](W, V, log_var, noise)
        torch.testing.assert_close(bound, want, rtol=1e-10, atol=1e-10)  # float64
        # The rates without eps: points of the data alone.
        rates = kl_divergence(Normal(x @ V.T, q.stddev), prior).mean(dim=0)
        torch.testing.assert_close(rate, rates, rtol=1e-10, atol=1e-10)
        model = MultivariateNormal(
            torch.zeros(6).double(), W @ W.T + noise * torch.eye(6, dtype=torch.float64)
        )
        exact = parts["log_marginal"](W, noise)
        torch.testing.assert_close(exact, model.log_prob(x).mean(), rtol=1e-10, atol=1e-10)
        assert bound < exact


def test_linear_bound_has_no_gap_with_the_exact_posterior(taken: Any) -> None:
    """Columns that are orthogonal have a posterior without correlations."""
    parts, _ = linear(taken)
    columns, _ = torch.linalg.qr(drawn(12, 6, 4))
    lengths, noise = torch.tensor([3.0, 1.0, 0.5, 0.0], dtype=torch.float64), 0.7
    W, m = columns * lengths, lengths.square() + noise
    V, log_var = (W / m).T, (noise / m).log()
    exact = parts["log_marginal"](W, noise)
    bound, _ = parts["linear_bound"](W, V, log_var, noise)
    torch.testing.assert_close(bound, exact, rtol=1e-10, atol=1e-10)
    for off in range(20):
        other = V + 0.1 * drawn(off, 4, 6), log_var + 0.1 * drawn(50 + off, 4)
        assert parts["linear_bound"](W, *other, noise)[0] < exact


def test_mean_of_the_gaussian_kernel_is_its_integral(taken: Any) -> None:
    kernel = taken("Gaussian")["Gaussian"](3.0)
    mean, variance = np.array([0.5, -2.0, 1.0]), 1.7
    std = math.sqrt(variance)
    want = 1.0
    for m in mean:  # the kernel is a product over dimensions

        def inside(d: float, m: float = m) -> float:
            return math.exp(-d * d / 3.0 - 0.5 * ((d - m) / std) ** 2) / (std * math.tau**0.5)

        want *= quad(inside, -20, 20, epsabs=1e-12)[0]
    assert kernel.mean(mean @ mean, variance, latents=3) == pytest.approx(want, abs=1e-10)
    assert kernel(torch.tensor(6.0)).item() == pytest.approx(math.exp(-2.0), rel=1e-6)


def one_sample(random: Any, kernel: Any, std: float, mean: float) -> float:
    """MMD^2 of a batch of codes to one of the prior, by distances of scipy."""
    a, b = std * random.normal(size=(100, 8)) + mean, random.normal(size=(100, 8))

    def k(x: Array, y: Array) -> Array:
        return kernel(torch.from_numpy(cdist(x, y, "sqeuclidean"))).numpy()

    within = sum(v.sum() - np.trace(v) for v in (k(a, a), k(b, b))) / 9_900
    return within - 2.0 * k(a, b).mean()


def test_what_a_batch_hears_is_what_batches_say(taken: Any) -> None:
    parts = taken(*SETTINGS, "LATENTS", "BATCH", "Gaussian", "heard")
    parts["cfg"] = replace(parts["cfg"], trials=200)
    multiquadratics = wae.InverseMultiquadratics
    for kernel in (multiquadratics.of(16.0), parts["Gaussian"](8.0)):
        random = np.random.default_rng(0)
        null = [one_sample(random, kernel, 1.0, 0.0) for _ in range(300)]
        far = [one_sample(random, kernel, 1.2, 0.3) for _ in range(100)]
        # Deviations of 200 and 300 values are known to about 7 %, with tails that are not normal.
        assert parts["heard"](kernel) == pytest.approx(np.mean(far) / np.std(null), rel=0.2)
    # A factor on the kernel is not heard; a mismatch in more dimensions is heard better.
    eight, twice = (parts["heard"](multiquadratics((16.0,) * n)) for n in (1, 2))
    assert twice == pytest.approx(eight, rel=1e-4)  # float32
    for latents in (2, 32):
        parts["LATENTS"] = latents
        assert (parts["heard"](multiquadratics.of(2.0 * latents)) > eight) == (latents == 32)


@pytest.mark.parametrize("after", [False, True])
def test_batch_norm_stands_before_or_after_the_units(taken: Any, after: bool) -> None:
    torch.manual_seed(0)
    net = taken("Batched")["Batched"](3, [5, 4], 2, after=after).double()
    x = drawn(13, 20, 3)
    h = x.numpy()
    *hidden, last = [layer for layer in net if isinstance(layer, nn.Linear)]

    def normed(v: Array) -> Array:
        return (v - v.mean(axis=0)) / np.sqrt(v.var(axis=0) + 1e-5)

    for layer in hidden:
        h = h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        h = normed(np.maximum(h, 0)) if after else np.maximum(normed(h), 0)
    want = h @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(net(x).detach(), want, atol=1e-10)  # float64


@pytest.mark.parametrize("law", ["deterministic", "gaussian"])
def test_the_encoder_ends_rectified_and_the_decoder_normed(taken: Any, law: str) -> None:
    parts = taken(*NETS)
    parts["cfg"] = replace(parts["cfg"], width=0, hidden=6)
    torch.manual_seed(0)
    model, seen = parts["AutoEncoder"](parts["Recipe"](law=law, latents=3)), {}
    for name in ("encoder", "decoder"):
        last = [m for m in getattr(model, name).modules() if isinstance(m, nn.Linear)][-1]
        last.register_forward_hook(lambda _, given, __, name=name: seen.update({name: given[0]}))
    x = torch.rand(50, 1, 28, 28, generator=seeded(14))
    said = model.encoder(x)
    made = model.pictures(said[:, :3])
    assert (said.shape, made.shape) == ((50, 3 if law == "deterministic" else 6), x.shape)
    assert 0.0 < made.min() < made.max() < 1.0
    assert seen["encoder"].min() == 0.0
    assert seen["decoder"].mean(dim=0).abs().max() < 1e-5  # float32
    assert seen["decoder"].min() < -0.1


def code_of(taken: Any, law: str, bias: list[float], n: int = 4_000) -> Any:
    """What a model of fading squares says whose encoder answers the same to every picture."""
    parts = taken(*SQUARES)
    parts["cfg"] = replace(parts["cfg"], square_width=5)
    model = parts["SquareModel"](law, -2.0)
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.copy_(torch.tensor(bias))
        return model.code(torch.rand(n, 1024, generator=seeded(16)), seeded(17))


def test_a_square_is_grey_in_its_middle(taken: Any) -> None:
    grey = torch.tensor([0.0, 0.3, 1.0])
    found = taken("squares")["squares"](grey).view(3, 32, 32)
    middle = np.pad(np.ones((16, 16)), 8)
    np.testing.assert_array_equal(found, grey[:, None, None].numpy() * middle.astype("float32"))


@pytest.mark.parametrize(("law", "low", "high"), [("uniform", -0.5, 0.5), ("corner", 0.0, 1.0)])
def test_the_box_of_a_square_has_its_sides_and_its_place(
    taken: Any, law: str, low: float, high: float
) -> None:
    mean, sides, codes = code_of(taken, law, [0.4, -0.2, 1.0, 3.0])
    want = torch.tensor([math.exp(1.0 - 2.0), math.exp(3.0 - 2.0)])
    torch.testing.assert_close(sides, want.expand(4_000, 2))
    torch.testing.assert_close(mean, torch.tensor([0.4, -0.2]).expand(4_000, 2))
    unit = (codes - mean) / sides
    # Of 4000 draws the outermost are a 4000th from the ends: ten times that is rarer than 1e-4.
    assert unit.amin(dim=0).tolist() == pytest.approx([low, low], abs=2.5e-3)
    assert unit.amax(dim=0).tolist() == pytest.approx([high, high], abs=2.5e-3)
    assert unit.T.corrcoef()[0, 1].abs() < 5 / math.sqrt(4_000)
    _, ends, _ = code_of(taken, law, [0.0, 0.0, 100.0, -100.0], 1)
    assert ends[0].log().tolist() == pytest.approx([5.0, -20.0], abs=1e-5)
    # Without noise the draw is the mean.
    mean, sides, codes = code_of(taken, "deterministic", [0.4, -0.2])
    assert torch.equal(codes, mean)
    torch.testing.assert_close(codes, torch.tensor([0.4, -0.2]).expand(4_000, 2))
    assert (sides == 0).all()


def made_by_hand(parts: dict[str, Any], half: float, high: float, *, deaf: bool = False) -> Any:
    """Grey levels from -half to half, noise from -high to high; the decoder undoes the first and
    paints the ground white, or says 0.5."""

    def code(x: Tensor, random: Any) -> tuple[Tensor, Tensor, Tensor]:
        across = half * (2 * x[:, 528] - 1)
        up = high * (2 * torch.rand(len(x), generator=random) - 1)
        sides = torch.tensor([2 * high, 0.01]).expand(len(x), 2)
        return across, sides, torch.stack([across, up], dim=1)

    def decoder(z: Tensor) -> Tensor:
        grey = 0 * z[:, 0] + 0.5 if deaf else (z[:, 0] / half + 1) / 2
        logits = grey.clamp(0.0, 1.0).logit(eps=1e-6)
        inside = parts["squares"](torch.ones(1)) > 0
        return torch.where(inside, logits[:, None], 30.0)

    return SimpleNamespace(code=code, decoder=decoder)


def test_look_at_an_encoder_that_fills_the_box(taken: Any) -> None:
    parts = taken(*SQUARES)
    found, codes, grey = parts["look"](made_by_hand(parts, 1.0, 1.0), 3)
    # A place inside has no code near by with probability exp(-500 pi 0.01), a corner exp(-3.9).
    assert found["hole"] < 0.5
    assert found["square-error"] < 1e-4
    # Two sets of greys from 0 to 1: of 2000 the distribution function is 5 points off at 1e-4.
    assert 0.5 < found["grey-gap"] < 5.0
    assert (found["narrow"], found["wide"]) == (pytest.approx(0.01), pytest.approx(2.0))
    torch.testing.assert_close(codes[:, 0], 2 * grey - 1)
    # Around 0; a line is at 250 thousandths or more.
    assert abs(found["square-mmd"]) < 20.0


@pytest.mark.parametrize(("half", "radius"), [(1.0, 0.1), (0.5, 0.5)])
def test_look_at_an_encoder_that_draws_a_line(taken: Any, half: float, radius: float) -> None:
    """The share of the square further from a segment than the radius, by geometry."""
    parts = taken(*SQUARES)
    parts["RADIUS"] = radius
    found, codes, _ = parts["look"](made_by_hand(parts, half, 0.0), 4)
    ends = math.pi * radius**2 if half < 1 else 0.0  # two half discs, where they are inside
    hole = 1.0 - (2 * half * 2 * radius + ends) / 4.0
    assert found["hole"] / 100 == pytest.approx(hole, abs=5 * math.sqrt(hole * (1 - hole) / 2_000))
    # A decoder that reads half of the square says black or white to the rest; 5 points as above.
    assert found["grey-gap"] == pytest.approx(25.0 if half < 1 else 0.0, abs=5.0)
    square = 2 * torch.rand(1_000, 2, generator=seeded(18)) - 1
    constants = [2 * scale for scale in wae.LATENT_SPACE_SCALES]
    line = codes[:1_000]

    def k(a: Tensor, b: Tensor) -> Array:
        return sum(c / (c + cdist(a, b, "sqeuclidean")) for c in constants)

    within = sum(v.sum() - np.trace(v) for v in (k(line, line), k(square, square))) / 999_000
    want = 1_000 * (within - 2 * k(line, square).mean())
    assert found["square-mmd"] == pytest.approx(want, rel=0.1)  # other draws of the square


def test_look_sees_that_the_decoder_is_deaf(taken: Any) -> None:
    parts = taken(*SQUARES)
    found, *_ = parts["look"](made_by_hand(parts, 1.0, 1.0, deaf=True), 5)
    assert found["grey-gap"] == pytest.approx(50.0, abs=0.1)
    n = 2_000  # the error is the deviation of a uniform number; its square has one of 0.075
    assert found["square-error"] ** 2 == pytest.approx(1 / 12, abs=5 * 0.075 / math.sqrt(n))
