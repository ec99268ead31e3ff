"""The games of the mode coverage chapter: the players of each recipe, their losses by hand, and
the terms and estimates of entropy that some recipes add."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from comparing import normal, same, seeded
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import digamma
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from genbook import nn as nets

CHAPTER = "mode_coverage"
SETTINGS = ("profile", "device", "seed", "Profile", "PROFILES", "cfg", "S")
GAME = (*SETTINGS, "streams", "NOISE", "Sines", "Recipe", "RECIPES", "Game")
TERMS = (*GAME, "RATE", "losses", "after_steps", "terms")
Array = NDArray[np.float64]
S, M = 2, 8  # runs of the smoke profile, points of each in these tests

pytestmark = pytest.mark.usefixtures("run_folder")


@pytest.fixture(scope="module")
def games(taken: Any) -> dict[str, Any]:
    """What games and their losses are made of."""
    return taken(*TERMS)


def game_of(parts: dict[str, Any], recipe: Any) -> Any:
    """A game in float64."""
    game = parts["Game"](recipe).double()
    if recipe.spectral:  # the power iteration at its end
        for _ in range(1_000):
            game.tell(torch.zeros(S, 1, 2, dtype=torch.float64))
    return game


def linears(net: nn.Module) -> list[nets.Linear]:
    return [layer for layer in net.modules() if isinstance(layer, nets.Linear)]


def through(net: nn.Module, s: int, x: Tensor, leak: float = 0.0) -> Tensor:
    """x [N, I] through the layers of run s."""
    layers = linears(net)
    for layer in layers:
        weight = layer.weight[s]
        if hasattr(layer, "parametrizations"):
            weight = layer.parametrizations.weight.original[s]
            weight = weight / torch.linalg.matrix_norm(weight, ord=2)
        x = x @ weight + layer.bias[s]
        if layer is not layers[-1]:
            x = torch.where(x > 0, x, leak * x)
    return x


PACKED = {"packed-2": 2, "packed-4": 4}
NAMES = (
    *("plain", *PACKED, "diversity", "seeking", "unrolled", "slope", "wgan-gp", "spectral"),
    *("bound", "veegan", "sharp"),
)
TOGETHER = "sharp-slope"  # no recipe of the chapter: the slope is taken through the sines


def logits(name: str, net: nn.Module, s: int, rows: Tensor) -> Tensor:
    """D of run s for inputs [N, m D] in which m samples stand side by side."""
    if name.startswith("sharp"):
        turns = torch.stack([2.0**k * v for v in rows.unbind(dim=1) for k in range(6)], dim=1)
        rows = torch.cat([rows, turns.sin(), turns.cos()], dim=1)
    return through(net, s, rows, leak=0.01)[:, 0]


def packed(name: str, points: Tensor) -> Tensor:
    m = PACKED.get(name, 1)
    return torch.stack([torch.cat([*points[i : i + m]]) for i in range(0, len(points), m)])


def slopes(name: str, net: nn.Module, s: int, rows: Tensor) -> Tensor:
    """Length of the gradient of D at each input, one input after the other."""
    found = []
    for row in rows.detach():
        v = row[None].requires_grad_()
        (slope,) = torch.autograd.grad(logits(name, net, s, v)[0], v, create_graph=True)
        found.append(slope.square().sum().sqrt())
    return torch.stack(found)


def log_sigmoid(v: Tensor) -> Tensor:
    return (1 / (1 + (-v).exp())).log()


def losses_by_hand(
    name: str, game: Any, x: Tensor, z: Tensor, made: Tensor, further: nn.Module, places: Tensor
) -> tuple[Tensor, Tensor]:
    """What either player lowers, [S], run by run; `further` is D after its own steps."""
    judges, makers = [], []
    for s in range(S):
        real, fake = x[s], made[s]
        if name == "veegan":
            real = torch.cat([real, through(game.encode, s, real).detach()], 1)
            fake = torch.cat([fake, z[s]], 1)
        real, fake = packed(name, real), packed(name, fake)
        told, lie = (logits(name, game.tell, s, rows) for rows in (real, fake))
        judge, maker = (-log_sigmoid(told) - log_sigmoid(-lie)).mean(), -log_sigmoid(lie).mean()
        if name == "wgan-gp":
            between = places[s] * fake + (1 - places[s]) * real
            lengths = slopes(name, game.tell, s, between)
            judge = lie.mean() - told.mean() + 10 * (lengths - 1).square().mean()
            maker = -lie.mean()
        if "slope" in name:
            judge = judge + 0.5 * slopes(name, game.tell, s, real).square().mean()
        if name == "unrolled":
            maker = -log_sigmoid(logits(name, further, s, fake)).mean()
        judges.append(judge)
        makers.append(maker)
    return torch.stack(judges), torch.stack(makers)


def batch(game: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, z = 2 * normal(1, S, M, 2), normal(2, S, M, 2)
    return x, z, game.make(z)


def adam_of(parts: dict[str, Any], tell: nn.Module, rate: float = 0.01) -> torch.optim.Adam:
    return torch.optim.Adam(tell.parameters(), lr=rate, betas=parts["BETAS"])


def lower(tell: nn.Module, adam: torch.optim.Adam, x: Tensor, made: Tensor, steps: int) -> None:
    """Steps of torch's own Adam on the loss of the discriminator."""
    for _ in range(steps):
        adam.zero_grad()
        loss = -log_sigmoid(tell(x)).mean(dim=1) - log_sigmoid(-tell(made.detach())).mean(dim=1)
        loss.sum().backward()
        adam.step()


def test_every_recipe_is_tested_here(taken: Any) -> None:
    assert set(taken("Recipe", "RECIPES")["RECIPES"]) == set(NAMES)


@pytest.mark.parametrize("name", [*NAMES, TOGETHER])
def test_the_losses_of_a_recipe_are_those_of_its_paper(games: Any, name: str) -> None:
    """Values, and the gradient of each player in its own weights."""
    recipes = games["RECIPES"] | {TOGETHER: games["Recipe"](octaves=6, slope=0.5)}
    game = game_of(games, recipe := recipes[name])
    x, z, made = batch(game)
    further, adam = copy.deepcopy(game.tell), adam_of(games, game.tell)
    if name == "unrolled":
        lower(further, adam_of(games, further), x, made, 5)
    places = torch.rand(S, M, 1, generator=seeded(3), dtype=torch.float64)
    t = SimpleNamespace(generator=seeded(3), optimizer=adam)
    found = games["losses"](game, recipe, x, z, made, t)
    want = losses_by_hand(name, game, x, z, made, further, places)
    # torch's Adam adds its epsilon beside the root, not under it.
    tolerance = 1e-5 if name == "unrolled" else 1e-10
    players = [*game.tell.parameters()], [*game.make.parameters()]
    for ours, theirs, weights in zip(found, want, players, strict=True):
        assert ours.shape == (S,)
        same(ours, theirs, tolerance)
        if name != "unrolled":
            grads = [
                torch.autograd.grad(v.sum(), weights, retain_graph=True) for v in (ours, theirs)
            ]
            same(*grads, 1e-8)
            assert all(g.abs().max() > 1e-5 for g in grads[0][:-1])
    if hasattr(game, "encode"):  # it learns by its reconstruction alone
        for loss in found:
            inside = torch.autograd.grad(
                loss.sum(), [*game.encode.parameters()], retain_graph=True, allow_unused=True
            )
            assert inside == (None,) * len(inside)


@pytest.mark.parametrize("before", [0, 3])
def test_after_steps_is_where_torchs_adam_would_be(games: Any, before: int) -> None:
    game = game_of(games, games["Recipe"]())
    x, _, made = batch(game)
    adam = adam_of(games, game.tell)
    lower(game.tell, adam, x, made, before)
    kept = copy.deepcopy((game.tell.state_dict(), adam.state_dict()))
    found = games["after_steps"](game.tell, 4, x, made, adam)
    after = [found(v) for v in (x, made.detach())]
    for now, then in zip((game.tell.state_dict(), adam.state_dict()), kept, strict=True):
        torch.testing.assert_close(now, then, rtol=0.0, atol=0.0)  # it only looks ahead
    start = [game.tell(v) for v in (x, made)]
    lower(game.tell, adam, x, made, 4)
    for v, ahead, at_start in zip((x, made), after, start, strict=True):
        same(ahead, game.tell(v), 1e-5)  # the two places of epsilon
        assert (ahead - at_start).abs().max() > 1e-2


def test_the_unrolled_generator_sees_how_the_discriminator_will_answer(games: Any) -> None:
    """Its gradient in one sample by differences of two trainings of a copy."""
    game = game_of(games, games["Recipe"]())
    x, z, made = batch(game)
    adam = adam_of(games, game.tell)
    lower(game.tell, adam, x, made, 2)
    recipe, t = games["Recipe"](unrolled=3), SimpleNamespace(optimizer=adam)
    made = made.detach().requires_grad_()
    _, maker = games["losses"](game, recipe, x, z, made, t)
    (found,) = torch.autograd.grad(maker.sum(), made)

    def answer(moved: Tensor) -> float:
        tell = copy.deepcopy(game.tell)
        own = adam_of(games, tell)
        own.load_state_dict(copy.deepcopy(adam.state_dict()))
        lower(tell, own, x, moved, 3)
        return -log_sigmoid(tell(moved)).mean(dim=1).sum().item()

    for s, i, d in ((0, 0, 0), (1, 3, 1)):
        off = torch.zeros_like(made)
        off[s, i, d] = 1e-4
        want = (answer(made.detach() + off) - answer(made.detach() - off)) / 2e-4
        assert found[s, i, d].item() == pytest.approx(want, rel=1e-3)
    held = -log_sigmoid(game.tell(made)).mean(dim=1).sum()
    (held,) = torch.autograd.grad(held, made)
    assert (held - found).abs().max() > 0.02 * held.abs().max()


def term(
    parts: dict[str, Any], share: float = 0.0, **changes: Any
) -> tuple[Any, Any, Tensor, Tensor]:
    """A term by the chapter, in one of its games, and x, z and samples of that."""
    recipe = parts["Recipe"](**changes)
    game = game_of(parts, recipe)
    x, z, _ = batch(game)
    made = (3 * normal(4, S, M, 2)).requires_grad_()
    t = SimpleNamespace(generator=seeded(5))
    return game, parts["terms"](game, recipe, x, z, made, t, share), x, made


@pytest.mark.parametrize(("share", "left"), [(0.0, 1.0), (0.2, 0.75), (0.6, 0.25), (0.79, 0.0125)])
def test_diversity_raises_distances_with_a_weight_that_falls(
    games: Any, share: float, left: float
) -> None:
    _, found, _, made = term(games, share, diversity=2.0)
    gaps = (made[:, : M // 2] - made[:, M // 2 :]).detach().numpy()
    same(found, torch.from_numpy(-2.0 * left * np.abs(gaps).mean(axis=(1, 2))))
    # The second half is held still, as in the official code.
    (slope,) = torch.autograd.grad(found.sum(), made)
    same(slope[:, : M // 2], torch.from_numpy(-2.0 * left * np.sign(gaps) / M))
    assert not slope[:, M // 2 :].any()


@pytest.mark.parametrize("share", [0.8, 0.9, 1.0])
def test_diversity_is_gone_at_four_fifths_of_the_training(games: Any, share: float) -> None:
    assert not term(games, share, diversity=2.0)[1].any()


def test_no_recipe_adds_nothing(games: Any) -> None:
    assert term(games)[1] == 0.0


def test_seeking_is_one_over_the_ratio_of_distances(games: Any) -> None:
    _, found, _, made = term(games, 0.9, seeking=0.5)
    z, ratios = normal(2, S, M, 2), []
    for s in range(S):
        a, b = (v[s].detach().numpy().reshape(2, -1) for v in (made, z))
        ratios.append(np.abs(a[0] - a[1]).sum() / np.abs(b[0] - b[1]).sum())
    same(found, torch.tensor([0.5 / (r + 1e-5) for r in ratios], dtype=torch.float64))
    (slope,) = torch.autograd.grad(found.sum(), made)
    assert slope.abs().amin() > 0  # of both halves


def test_the_bound_is_the_negative_elbo_with_the_generator_as_decoder(games: Any) -> None:
    """But for the constant of the decoder's density."""
    game, found, x, _ = term(games, 0.3, bound=0.7)
    eps, want = torch.randn(S, M, 2, generator=seeded(5)), []
    for s in range(S):
        mean, log_var = through(game.encode, s, x[s]).split(2, dim=1)
        q = Normal(mean, (0.5 * log_var).exp())
        decoder = Normal(through(game.make, s, q.mean + q.stddev * eps[s]), 0.2)
        density = decoder.log_prob(x[s]) + math.log(0.2 * math.sqrt(2 * math.pi))
        rate = kl_divergence(q, Normal(torch.zeros(2).double(), 1.0))
        want.append(0.7 * (rate - density).sum(dim=1).mean())
    same(found, torch.stack(want))
    weights = game.makers()
    slopes = [torch.autograd.grad(v.sum(), weights) for v in (found, torch.stack(want))]
    same(*slopes, 1e-8)


def test_veegans_encoder_is_to_give_the_noise_back(games: Any) -> None:
    game, found, _, made = term(games, 0.3, veegan=True)
    z = normal(2, S, M, 2)
    errors = [(z[s] - through(game.encode, s, made[s])).pow(2).sum() / M for s in range(S)]
    same(found, torch.stack(errors))
    inputs = [made, *game.encode.parameters()]
    same(*(torch.autograd.grad(v.sum(), inputs) for v in (found, torch.stack(errors))), 1e-8)


def slow_entropy(x: Array, others: int, log_kernel: Callable[[Array], float]) -> float:
    """The estimate over `others` following samples, two loops."""
    n, total = len(x), 0.0
    for i in range(n):
        near = [math.exp(log_kernel(x[i] - x[(i + j) % n])) for j in range(1, others + 1)]
        total -= math.log(sum(near) / others) / n
    return total


def laplace(width: float) -> Callable[[Array], float]:
    return lambda gap: float(scipy.stats.laplace.logpdf(gap, scale=width).sum())


def gaussian(width: float) -> Callable[[Array], float]:
    return lambda gap: float(scipy.stats.norm.logpdf(gap, scale=width).sum())


def nearest_entropy(x: Array) -> float:
    """Kozachenko and Leonenko's, in the plane, by scipy's neighbours."""
    n, (distance, _) = len(x), cKDTree(x).query(x, k=2)
    return digamma(n) - digamma(1) + math.log(math.pi) + 2 * np.log(distance[:, 1]).mean()


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"kernel": "laplace", "width": 0.5}, lambda x: slow_entropy(x, 1, laplace(0.5))),
        ({"others": 3, "width": 1.5}, lambda x: slow_entropy(x, 3, gaussian(1.5))),
        ({"others": M - 1}, lambda x: slow_entropy(x, M - 1, gaussian(1.0))),
        ({"kernel": "nearest", "width": 0.0}, nearest_entropy),
    ],
)
def test_an_entropy_term_raises_its_estimate(games: Any, changes: Any, want: Any) -> None:
    _, found, _, made = term(games, 0.9, entropy=0.3, **changes)
    slow = [-0.3 * want(x) for x in made.detach().numpy()]
    same(found, torch.tensor(slow, dtype=torch.float64))


def test_estimates_of_the_three_settings(taken: Any) -> None:
    parts = taken("SETTINGS", "estimated")
    x = 0.3 * normal(7, 2, 12, 2)
    slow = {
        "diversity": lambda v: slow_entropy(v, 1, laplace(1.0)),
        "contrast": lambda v: slow_entropy(v, 11, gaussian(1.0)),
        "entropy": lambda v: slow_entropy(v, 11, gaussian(0.1)),
    }
    assert set(parts["SETTINGS"]) == set(slow)
    for key, setting in parts["SETTINGS"].items():
        before = dict(setting)
        want = np.array([slow[key](v) for v in x.numpy()])
        same(parts["estimated"](x, setting), torch.from_numpy(want))
        assert setting == before


def test_terms_of_one_recipe_are_added(games: Any) -> None:
    single = [{"diversity": 1.0}, {"seeking": 2.0}, {"bound": 0.1}, {"entropy": 0.3}]
    alone = [term(games, 0.4, **changes)[1] for changes in single]
    same(term(games, 0.4, **{k: v for c in single for k, v in c.items()})[1], sum(alone))


@pytest.mark.parametrize("name", NAMES)
def test_the_makers_have_all_weights_but_the_discriminators(
    games: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    game = games["Game"](games["RECIPES"][name])
    makers = {id(p) for p in game.makers()}
    tells = {id(p) for p in game.tell.parameters()}
    assert not makers & tells
    assert makers | tells == {id(p) for p in game.parameters()}
    inside = {id(p) for p in game.make.parameters()}
    if name in ("bound", "veegan"):
        inside |= {id(p) for p in game.encode.parameters()}
    else:
        assert not hasattr(game, "encode")
    assert makers == inside
    # All games start from one generator, and a run from the same weights beside any others.
    plain = games["Game"](games["Recipe"]())
    torch.testing.assert_close(game.make.state_dict(), plain.make.state_dict(), rtol=0, atol=0)
    monkeypatch.setitem(games, "S", S + 1)
    wider = games["Game"](games["RECIPES"][name])
    for narrow, wide in zip(game.make.parameters(), wider.make.parameters(), strict=True):
        assert torch.equal(narrow, wide[:S])
        assert not torch.equal(wide[0], wide[1])


def test_only_the_spectral_game_has_layers_of_norm_one(games: Any) -> None:
    for name in ("spectral", "plain"):
        game = game_of(games, games["RECIPES"][name])
        for net, normed in ((game.tell, name == "spectral"), (game.make, False)):
            norms = torch.stack([torch.linalg.matrix_norm(v.weight, ord=2) for v in linears(net)])
            assert ((norms - 1).abs().max() < 1e-6) == normed
