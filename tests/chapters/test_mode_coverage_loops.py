"""The trainings of the mode coverage chapter: their loop, its steps, what is left of one that was
stopped, and the models that remove noise."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from comparing import normal, same
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from genbook import coverage, ddgan, diffusion, plane, training

CHAPTER = "mode_coverage"
SETTINGS = ("profile", "device", "seed", "Profile", "PROFILES", "cfg", "S")
GAME = (*SETTINGS, "streams", "NOISE", "Sines", "Recipe", "RECIPES", "Game")
TERMS = (*GAME, "RATE", "losses", "after_steps", "terms")
PLAY = (*TERMS, "falling", "step", "play")
FITS = (
    *(
        "SCALE",
        "EMA",
        "Averaged",
        "StepGame",
        "one",
        "HIDDEN",
        "EIGHT",
        "turned_back",
        "eight_log_prob",
    ),
    *("fit_density", "fit_diffusion", "fit_flow", "fit_posterior", "fit_reverse", "play_steps"),
)
S = 2  # runs of the smoke profile

pytestmark = pytest.mark.usefixtures("run_folder")


class StoppedError(Exception):
    """Stands for the end of a process."""


# The loop


def test_a_step_moves_each_player_down_its_own_loss(taken: Any) -> None:
    """Both losses depend on the weights of both; the gradients by hand."""
    step = taken("step")["step"]
    a, b, c = (nn.Parameter(normal(seed, 3)) for seed in (1, 2, 3))
    adam = torch.optim.SGD([a, b, c], lr=0.1)
    before = [p.detach().clone() for p in (a, b, c)]
    a.grad = torch.full((3,), 1e3, dtype=torch.float64)  # what is left over is forgotten

    def losses() -> tuple[Tensor, Tensor]:
        return a.square() * b + c, a * b.square() * c  # [3] each: they are added up

    step(adam, ([a], [b, c]), losses())
    x, y, z = before
    want = [x - 0.1 * 2 * x * y, y - 0.1 * 2 * x * y * z, z - 0.1 * x * y**2]
    for found, wanted in zip((a, b, c), want, strict=True):
        same(found.detach(), wanted)


def test_a_player_without_a_loss_rests_with_its_moments(taken: Any) -> None:
    """Against an Adam for each player that steps only in its turn."""
    step = taken("step")["step"]
    ours = [nn.Parameter(normal(seed, 3)) for seed in (1, 2)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    adam = torch.optim.Adam(ours, lr=0.1, betas=(0.5, 0.9), fused=True)
    own = [torch.optim.Adam([p], lr=0.1, betas=(0.5, 0.9)) for p in theirs]
    for turn in range(6):
        losses = [p.square().square() for p in ours]
        rests = turn % 3 != 0
        step(adam, ([ours[0]], [ours[1]]), (losses[0], None if rests else losses[1]))
        for p, single in zip(theirs[: 1 if rests else 2], own, strict=False):
            single.zero_grad()
            p.pow(4).sum().backward()
            single.step()
        same([p.detach() for p in ours], [p.detach() for p in theirs])


def test_the_rate_falls_in_the_second_half(taken: Any) -> None:
    falling = taken("falling")["falling"]
    shares = [falling(SimpleNamespace(count=count), 40) for count in (0, 10, 20, 25, 30, 39, 40)]
    assert shares == pytest.approx([1.0, 1.0, 1.0, 0.75, 0.5, 0.05, 0.0])


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[float, list[bool]]]]:
    """Of every step: the rate, and which parameters have a gradient."""
    seen: list[tuple[float, list[bool]]] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        (group,) = optimizer.param_groups
        seen.append((group["lr"], [p.grad is not None for p in group["params"]]))

    hook = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def loops(taken: Any) -> dict[str, Any]:
    """The chapter's trainings, of ten updates each, on points that are only noise."""
    parts = taken(*PLAY, *FITS)
    names = ("density_updates", "denoise_updates", "few_updates", "style_updates")
    few = dict.fromkeys((*names, "surjection_updates"), 10)
    parts["cfg"] = replace(parts["cfg"], **few)
    parts["rows"] = normal(6, 100, S, 2).float()
    parts["tables"] = dict.fromkeys(("grid", "circle"), parts["rows"])
    return parts


def play(parts: dict[str, Any], name: str, updates: int) -> Any:
    return parts["play"](name, parts["RECIPES"][name], parts["rows"], updates)


def test_the_critic_takes_five_steps_for_one_of_the_generator(
    loops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares, terms = [], loops["terms"]

    def told(*given: Any) -> Any:
        shares.append(given[-1])
        return terms(*given)

    monkeypatch.setitem(loops, "terms", told)
    for name, every in (("wgan-gp", 5), ("plain", 1)):
        with watched() as seen:
            game = play(loops, name, 20)
        assert not game.training
        tells = len([*game.tell.parameters()])
        assert all(all(given[:tells]) for _, given in seen)
        for turn, (_, given) in enumerate(seen):
            assert {*given[tells:]} == {(turn + 1) % every == 0}
        # 0.001, then down to nearly 0.
        rates = [rate / 1e-3 for rate, _ in seen]
        assert rates == pytest.approx([min(1.0, 2 - k / 10) for k in range(20)], abs=0.11)
    assert shares == pytest.approx([k / 20 for k in range(20)] * 2)


def test_terms_are_added_to_the_loss_of_the_generator(
    loops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, stepped = (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])), []
    changes = {"losses": lambda *_: known, "terms": lambda *_: torch.tensor([0.5, 0.7])}
    for name, change in (changes | {"step": lambda *given: stepped.append(given)}).items():
        monkeypatch.setitem(loops, name, change)
    game = play(loops, "bound", 1)
    ((adam, players, losses),) = stepped
    assert [loss.tolist() for loss in losses] == [[1.0, 2.0], pytest.approx([3.5, 4.7])]
    for found, want in zip(players, (game.tell.parameters(), game.makers()), strict=True):
        assert [id(p) for p in found] == [id(p) for p in want]
    assert adam.param_groups[0]["betas"] == loops["BETAS"]


def test_a_game_is_watched_twenty_times(loops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, kept = [], {}

    def watch(game: Any, judge: Tensor, maker: Tensor) -> dict[str, float]:
        asked.append((judge.shape, maker.shape))
        return {"so far": float(len(asked))}

    series = SimpleNamespace(series=lambda name, **history: kept.update({name: history}))
    monkeypatch.setitem(loops, "claims", series)
    loops["play"]("seen", loops["Recipe"](), loops["rows"], 40, watch)
    assert asked == [((S,), (S,))] * 20
    whole = [*range(2, 41, 2)], [*range(1, 21)]
    assert kept == {"seen": dict(zip(("update", "so far"), whole, strict=True))}


def test_what_is_noted_of_a_game_are_means_over_runs(taken: Any) -> None:
    parts, mix = taken(*SETTINGS, "tally", "on_grid"), coverage.grid()
    made = torch.stack([mix.means[:4], torch.full((4, 2), 1.0)])
    made[0, 3] += 1.0
    parts |= {"grid": mix, "drawn": lambda game, n: made}
    found = parts["on_grid"](None, torch.tensor([1.0, 4.0]), torch.tensor([2.0, 3.0]))
    want = {"loss of D": 2.5, "loss of G": 2.5, "modes": 1.5, "quality": 37.5}
    assert found == pytest.approx(want | {"kl": (math.log(25 / 3) + math.log(25)) / 2})


def test_packed_games_see_as_many_inputs_as_plain_ones(
    loops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, losses = [], loops["losses"]

    def told(game: Any, recipe: Any, x: Tensor, *rest: Any) -> Any:
        sizes.append(tuple(x.shape))
        # Row by row the points of one table, of this run.
        table = loops["rows"].transpose(0, 1)
        assert ((x[:, :, None] == table[:, None]).all(dim=3).any(dim=2)).all()
        return losses(game, recipe, x, *rest)

    monkeypatch.setitem(loops, "losses", told)
    for name in ("plain", "packed-4"):
        play(loops, name, 1)
    batch = loops["cfg"].batch
    assert sizes == [(S, batch, 2), (S, 4 * batch, 2)]


@contextlib.contextmanager
def broken_off(after: int | None) -> Iterator[None]:
    """The process ends before the optimiser's next step."""
    steps = itertools.count()

    def look(*_: Any) -> None:
        if next(steps) == after:
            raise StoppedError

    hook = register_optimizer_step_pre_hook(look)
    try:
        with contextlib.nullcontext() if after is None else pytest.raises(StoppedError):
            yield
    finally:
        hook.remove()


def train(parts: dict[str, Any], what: str, name: str) -> Any:
    """What one of them ends with."""
    if what == "play":
        return play(parts, name, 10).state_dict()
    if what == "fit_density":
        kind = {"vae": plane.VAE, "autoregressive": plane.Autoregressive}[name]
        return parts[what](name, kind(S, units=8)).state_dict()
    if what == "fit_posterior":
        return parts[what](name, 1.0)[0].state_dict()
    if what == "fit_diffusion":
        return parts[what]().net.state_dict()
    if what == "fit_flow":
        return parts[what](1).state_dict()
    if what == "play_steps":
        return parts[what](2)[1].state_dict()
    return {"samples": parts[what](name)[0]}


LOOPS = [
    *(("play", n) for n in ("plain", "wgan-gp", "spectral", "unrolled")),
    *(("fit_reverse", n) for n in ("analytic", "practical-implicit")),
    *(("fit_density", n) for n in ("vae", "autoregressive")),
    *((n, "any") for n in ("fit_posterior", "fit_diffusion", "fit_flow", "play_steps")),
]


@pytest.mark.parametrize(("what", "name"), LOOPS)
def test_a_stopped_training_ends_like_an_unbroken_one(
    loops: Any, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch, what: str, name: str
) -> None:
    """Stopped before the first checkpoint and after 3 and 8 updates."""
    want = train(loops, what, name)
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path_factory.mktemp("other")))
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)  # one after every update
    for after in (0, 3, 5, None):
        with broken_off(after):
            found = train(loops, what, name)
    torch.testing.assert_close(found, want, rtol=0.0, atol=0.0)


# Models that remove noise


def test_choices_are_what_each_step_decides_of_the_mode(taken: Any) -> None:
    """Against draws of numpy and Bayes' rule with the densities of scipy."""
    parts = taken("seed", "grid", "SCALE", "shrunk", "choices")
    random, scale, n = np.random.default_rng(0), math.sqrt(8.0), 4_000
    means = np.array([*itertools.product(range(-4, 5, 2), repeat=2)]) / scale
    assert means.var(axis=0) == pytest.approx(1.0)
    for T in (1, 4):
        s = 1e-3 + (1 - 1e-3) * np.arange(T + 1) / T
        log_abar = -0.5 * 19.9 * s**2 - 0.1 * s
        open_yet, variance = [0.0], [0.0]
        for t in range(1, T + 1):
            abar = math.exp(log_abar[t] - log_abar[0])
            x_0 = means[random.integers(25, size=n)] + 0.05 / scale * random.normal(size=(n, 2))
            x_t = math.sqrt(abar) * x_0 + math.sqrt(1 - abar) * random.normal(size=(n, 2))
            std = math.sqrt(abar * (0.05 / scale) ** 2 + 1 - abar)
            gaps = x_t[:, None] - math.sqrt(abar) * means
            weights = scipy.stats.norm.pdf(gaps, scale=std).prod(axis=2)
            entropy = scipy.stats.entropy(weights, axis=1)
            open_yet.append(entropy.mean())
            variance.append(entropy.var() * (1 / n + 1 / 2_000))  # 2000 draws in the chapter
        found = np.log(parts["choices"](T))
        assert len(found) == T
        errors = 5 * np.sqrt(np.array(variance[1:]) + variance[:-1])
        assert (np.abs(found - np.diff(open_yet)) < errors + 1e-4).all()
        assert found.sum() == pytest.approx(math.log(25), abs=0.02)  # from nearly pure noise


def test_averaged_weights_move_by_a_two_hundredth(taken: Any) -> None:
    parts, net = taken("EMA", "Averaged"), nn.Linear(1, 1)
    model = parts["Averaged"](net)
    for number, want in ((2.0, 2.0), (4.0, 2.01), (0.0, 0.995 * 2.01)):
        net.weight.data.fill_(number)
        model.average.update_parameters(net)
        assert model.average.module.weight.item() == pytest.approx(want, rel=1e-6)
        assert net.weight.item() == number


@pytest.mark.parametrize(("steps", "n"), [(1_000, 2_000), (64, 4_000), (4, 4_000)])
def test_diffusion_draws_have_the_law_of_their_chain(taken: Any, steps: int, n: int) -> None:
    """Data N(m, 0.2^2) with an m for each run: a chain of normal densities, whose mean and variance
    are followed step by step."""
    draw = taken(*SETTINGS, "SCALE", "draw_diffusion")["draw_diffusion"]
    beta = np.concatenate([[0.0], np.linspace(1e-4, 0.02, 1_000)])
    abar, own = np.cumprod(1 - beta), torch.tensor([[-1.0, 0.5], [2.0, 1.0]])
    table, told = torch.from_numpy(abar).float(), []

    def net(x: Tensor, t: Tensor) -> Tensor:
        """The best answer: eps from x_t by the regression of normal numbers."""
        told.append(t.unique().tolist())
        a, m = table[t][:, None], own.repeat_interleave(n, dim=0)
        return (1 - a).sqrt() * (x - a.sqrt() * m) / (a * 0.04 + 1 - a)

    process = diffusion.GaussianDiffusion(diffusion.linear_betas(1_000))
    found = draw(diffusion.Reverse(net, process, clip=False), n, steps)
    assert found.shape == (S, n, 2)

    visited = [round(1 + 999 * k / steps) for k in range(1, steps + 1)]
    assert told[::-1] == [[t] for t in (visited if steps < 1_000 else range(1, 1_001))]
    a_t = np.concatenate([[1.0], abar[visited]]) if steps < 1_000 else abar
    mean, var = np.zeros((2, 2)), 1.0
    for t in range(steps, 0, -1):
        a, before = a_t[t], a_t[t - 1]
        gain = 1 - a / before  # beta of the longer step
        # x_0 = k x_t + rest, then the posterior mean of x_{t-1}.
        k = 0.04 * math.sqrt(a) / (a * 0.04 + 1 - a)
        of_x_0 = math.sqrt(before) * gain / (1 - a)
        of_x_t = math.sqrt(1 - gain) * (1 - before) / (1 - a)
        rest = own.double().numpy() * (1 - k * math.sqrt(a))
        mean = of_x_t * mean + of_x_0 * (k * mean + rest)
        var = (of_x_t + of_x_0 * k) ** 2 * var + (gain if t > 1 else 0.0)
    scale = math.sqrt(8.0)
    error = scale * math.sqrt(var / n)
    np.testing.assert_allclose(found.mean(dim=1), scale * mean, atol=5 * error)
    std = scale * math.sqrt(var)
    np.testing.assert_allclose(found.std(dim=1), std, rtol=5 / math.sqrt(2 * n))


def test_draws_in_steps_come_from_the_last_answer_of_the_generator(taken: Any) -> None:
    parts, seen, n = taken(*SETTINGS, "SCALE", "draw_steps"), [], 2_000
    own = torch.tensor([[-1.0, 0.5], [2.0, 1.0]])

    def make(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        seen.append((t.unique().tolist(), x.std().item()))
        return own[:, None] + 0.1 * z[..., :2]

    make.noise = 3
    parts["step_games"] = {3: (diffusion.GaussianDiffusion(ddgan.vp_betas(3)), make)}
    found = parts["draw_steps"](3, n)
    assert [times for times, _ in seen] == [[3], [2], [1]]
    assert seen[0][1] == pytest.approx(1.0, rel=5 / math.sqrt(8 * n))
    scale = math.sqrt(8.0)
    error = 0.1 * scale / math.sqrt(n)
    assert found.shape == (S, n, 2)
    np.testing.assert_allclose(found.mean(dim=1), scale * own, atol=5 * error)
    np.testing.assert_allclose(found.std(dim=1), 0.1 * scale, rtol=5 / math.sqrt(2 * n))


def test_the_players_of_a_step_know_the_step(taken: Any) -> None:
    parts = taken(*SETTINGS, "NOISE", "streams", "StepGame")
    game = parts["StepGame"](4)
    x, z = torch.zeros(S, 4, 2), torch.zeros(S, 4, 2)
    times = torch.arange(1, 5).expand(S, 4)
    made, told = game.make(x, z, times), game.tell(x, x, times)
    assert (made.shape, told.shape) == ((S, 4, 2), (S, 4))
    for found in (made[..., 0], told):
        assert all(len(row.unique()) == 4 for row in found)
