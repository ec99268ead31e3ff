"""The Wasserstein auto-encoder chapter's objectives by hand, and its trainings: stopped, by their
rates, batches and gradients."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.optim.optimizer import register_optimizer_step_pre_hook

from genbook import training, wae

CHAPTER = "wae"
SETTINGS = ("profile", "device", "seed", "Profile", "PROFILES", "cfg", "claims")
MODEL = ("LATENTS", "BATCH", "Recipe", "Batched", "AutoEncoder", "noisy", "objective")
TRAIN = ("discriminator_objective", "pretrain", "mnist", "order", "train_images", "train")
SQUARES = ("squares", "SquareModel", "square_kernel", "START", "box", "train_squares")
UPDATES = 10

pytestmark = pytest.mark.usefixtures("run_folder")


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class StoppedError(Exception):
    """Stands for the end of a process."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(take: Callable[..., dict[str, Any]], *names: str) -> dict[str, Any]:
    """Networks of 8 units."""
    parts = take(*SETTINGS, *names)
    sizes = {"width": 0, "hidden": 8, "pretrain_updates": 3, "square_width": 8}
    parts["cfg"] = replace(parts["cfg"], square_updates=8, **sizes)
    return parts


def recipe(parts: dict[str, Any], **changes: Any) -> Any:
    return parts["Recipe"](**{"latents": 3, "batch": 8, "discriminator_width": 8} | changes)


def model_of(parts: dict[str, Any], **changes: Any) -> Any:
    """With PyTorch's initial weights, and log-variances around -1."""
    torch.manual_seed(0)
    model = parts["AutoEncoder"](recipe(parts, **changes))
    with torch.no_grad():
        list(model.encoder.parameters())[-1][3:] -= 1.0
    return model


def kernels(a: Tensor, b: Tensor, constants: list[float]) -> Tensor:
    squares = (a[:, None] - b).square().sum(dim=2)
    return torch.stack([c / (c + squares) for c in constants]).sum(dim=0)


def by_hand(model: Any, x: Tensor, random: torch.Generator) -> Tensor:
    """The objective by its formula; noise on pixels, on codes, draws of the prior in this order."""
    said = model.recipe
    noise = torch.randn(x.shape, generator=random) if said.pixel_noise else 0.0
    answer = model.encoder(x + said.pixel_noise * noise)
    mean, log_var = answer[:, :3], answer[:, 3:]
    codes = mean
    if said.law == "gaussian":
        codes = mean + (0.5 * log_var).exp() * torch.randn(mean.shape, generator=random)
    logits = model.decoder(codes).flatten(1)
    if said.cost == "bernoulli":
        law = Bernoulli(logits=logits, validate_args=False)  # grey levels
        loss = -law.log_prob(x.flatten(1)).sum() / len(x)
    else:
        loss = said.factor * (x.flatten(1) - 1 / (1 + (-logits).exp())).pow(2).sum() / len(x)
    if said.penalty == "vae":
        q = Normal(mean, (0.5 * log_var).exp())
        loss = loss + kl_divergence(q, Normal(0.0, 1.0)).sum() / len(x)
    if said.penalty == "mmd":
        z, n = torch.randn(codes.shape, generator=random), len(x)
        constants, off = [3 * said.base * s for s in said.scales], 1 - torch.eye(n)
        within = kernels(codes, codes, constants) + kernels(z, z, constants)
        across = kernels(codes, z, constants)
        across = across.mean() if said.cross == "all" else (off * across).sum() / (n * (n - 1))
        loss = loss + said.price * ((off * within).sum() / (n * (n - 1)) - 2 * across)
    if said.penalty == "gan":
        told = model.discriminator.net(codes)[:, 0]
        if said.adds_prior:
            told = told - 0.5 * codes.square().sum(dim=1)
        loss = loss - said.price * torch.sigmoid(told).log().mean()
    if said.log_variance:
        loss = loss + said.log_variance * log_var.abs().sum() / len(x)
    return loss


NORMAL = {"law": "gaussian", "pixel_noise": 0.0}
SECOND = {"cost": "bernoulli", "price": 400.0, "base": 1.0, "scales": wae.LATENT_SPACE_SCALES}
RECIPES = {
    "mmd": {"pixel_noise": 0.3},
    "mmd of random codes": {"law": "gaussian", "factor": 1.0, "scales": (1.0,)},
    "second paper": {**NORMAL, **SECOND, "cross": "off-diagonal", "log_variance": 50.0},
    "vae": {**NORMAL, "penalty": "vae", "cost": "bernoulli"},
    "vae of faces": {**NORMAL, "penalty": "vae", "factor": 4 / 0.6},
    "gan": {"penalty": "gan", "pixel_noise": 0.1},
    "gan with log p": {"penalty": "gan", "adds_prior": True, "law": "gaussian", "price": 2.0},
    "none": {"penalty": "none"},
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", RECIPES)
def test_the_objective_is_its_formula(taken: Any, name: str) -> None:
    """Value and gradient with the same draws, in float64."""
    parts = small(taken, *MODEL)
    model, x = model_of(parts, **RECIPES[name]), torch.rand(8, 1, 28, 28, generator=seeded(1))
    found, want = parts["objective"](model, x, seeded(2)), by_hand(model, x, seeded(2))
    torch.testing.assert_close(found, want, rtol=1e-10, atol=0.0)
    nets = [[*net.parameters()] for net in (model.encoder, model.decoder)]
    slopes, wanted = (torch.autograd.grad(loss, [*nets[0], *nets[1]]) for loss in (found, want))
    torch.testing.assert_close(slopes, wanted, rtol=1e-7, atol=1e-9)
    for slope in (slopes[0], slopes[len(nets[0]) - 1], slopes[len(nets[0])], slopes[-1]):
        assert slope.abs().max() > 1e-3  # both ends of both nets
    # The price is felt by the encoder, not by the decoder.
    model.recipe = replace(model.recipe, price=1_000.0)
    again = parts["objective"](model, x, seeded(2))
    dear = torch.autograd.grad(again, [*nets[0], *nets[1]])
    priced = model.recipe.penalty in ("mmd", "gan")
    assert ((dear[0] - slopes[0]).abs().max() > 1e-3) == priced
    torch.testing.assert_close(dear[-1], slopes[-1], rtol=1e-12, atol=0.0)


@pytest.mark.usefixtures("double")
def test_the_objective_in_two_currencies(taken: Any) -> None:
    parts, values = small(taken, *MODEL), []
    x = torch.rand(8, 1, 28, 28, generator=seeded(1))
    for changes in ({}, {"factor": 1.0, "price": 200.0}):
        values.append(parts["objective"](model_of(parts, **changes), x, seeded(2)).item())
    assert values[1] == pytest.approx(20.0 * values[0], rel=1e-12)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("changes", [{"pixel_noise": 0.3}, {"law": "gaussian"}])
def test_the_discriminator_alone_descends_its_objective(taken: Any, changes: Any) -> None:
    """Draws of the prior should be told as 1; codes are held."""
    parts = small(taken, *MODEL, "discriminator_objective")
    model = model_of(parts, penalty="gan", **changes)
    x, g = torch.rand(8, 1, 28, 28, generator=seeded(1)), seeded(2)
    found = parts["discriminator_objective"](model, x, seeded(2))
    found.backward()
    for net in (model.encoder, model.decoder):
        assert all(p.grad is None for p in net.parameters())
    assert all(p.grad.abs().max() > 0 for p in model.discriminator.parameters())
    x = x + model.recipe.pixel_noise * torch.randn(x.shape, generator=g)
    mean, log_var = model.encoder(x)[:, :3], model.encoder(x)[:, 3:]
    codes = mean
    if "law" in changes:
        codes = mean + (0.5 * log_var).exp() * torch.randn(mean.shape, generator=g)
    z = torch.randn(codes.shape, generator=g)
    real, made = (torch.sigmoid(model.discriminator(v)) for v in (z, codes))
    torch.testing.assert_close(found, -0.5 * (real.log() + (1 - made).log()).mean())


def test_deterministic_codes_ask_for_no_chance(taken: Any) -> None:
    model, random = model_of(small(taken, *MODEL)), seeded(3)
    mean, log_var, codes = model.code(torch.rand(8, 1, 28, 28, generator=seeded(1)), random)
    assert torch.equal(codes, mean)
    assert (log_var == -math.inf).all()
    assert torch.equal(random.get_state(), seeded(3).get_state())


def test_log_variances_are_cut(taken: Any) -> None:
    parts = small(taken, *MODEL)
    model = model_of(parts, law="gaussian")
    weight, bias = list(model.encoder.parameters())[-2:]
    with torch.no_grad():
        weight.zero_()
        bias.copy_(torch.tensor([50.0, -50.0, 0.0, 50.0, -50.0, -3.0]))
    mean, log_var, _ = model.code(torch.rand(8, 1, 28, 28, generator=seeded(1)), seeded(2))
    assert mean[0].tolist() == [50.0, -50.0, 0.0]
    assert log_var[0].tolist() == [5.0, -20.0, -3.0]


@contextlib.contextmanager
def watched() -> Iterator[list[list[tuple[float, list[bool]]]]]:
    """Of every step and group: the rate, and which parameters have a gradient."""
    seen: list[list[tuple[float, list[bool]]]] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        groups = optimizer.param_groups
        assert all(group["betas"] == (0.5, 0.999) for group in groups)
        seen.append([(g["lr"], [p.grad is not None for p in g["params"]]) for g in groups])

    hook = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


def learnt(
    parts: dict[str, Any], updates: int = UPDATES, *, number: int = 0, **changes: Any
) -> Any:
    parts["claims"].record["series"].clear()
    settings = {"pixel_noise": 0.1, "law": "gaussian"} | changes
    return parts["train"]("digits", recipe(parts, **settings), updates, number=number)


def saved() -> Path:
    return training.run_folder() / "checkpoints" / "digits.safetensors"


def assert_bit_equal(found: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert found.keys() == want.keys()
    assert not [key for key in want if not torch.equal(found[key], want[key])]


def counted(parts: dict[str, Any], stop: int | None, pretraining: Any) -> list[Any]:
    """The updates that are made, until they are `stop`; `pretraining` is told when it is done."""
    left, objective, pretrain = [], parts["objective"], parts["pretrain"]

    def stopping(*given: Any) -> Tensor:
        if len(left) == stop:
            raise StoppedError
        left.append(given)
        return objective(*given)

    def told(*given: Any) -> None:
        pretrain(*given)
        pretraining()

    parts |= {"objective": stopping, "pretrain": told}
    return left


@pytest.mark.parametrize("penalty", ["mmd", "gan"])
def test_a_stopped_training_ends_like_an_unbroken_one(
    on_digits: Any, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch, penalty: str
) -> None:
    """Stopped before the first checkpoint and after 1, 5 and 8 updates; pretrained twice, once
    in vain."""
    unbroken_parts = small(on_digits, *MODEL, *TRAIN)
    unbroken = learnt(unbroken_parts, penalty=penalty)
    want = load_file(saved())

    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path_factory.mktemp("other")))
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)  # one after every update
    pretrained: list[int] = []
    for number, stop in enumerate((0, 1, 4, 3, None)):
        parts = small(on_digits, *MODEL, *TRAIN)
        left = counted(parts, stop, lambda number=number: pretrained.append(number))
        torch.manual_seed(100 + number)
        with contextlib.nullcontext() if stop is None else pytest.raises(StoppedError):
            resumed = learnt(parts, penalty=penalty)
    assert pretrained == [0, 1]
    assert len(left) == UPDATES - 8
    assert_bit_equal(load_file(saved()), want)
    assert_bit_equal(resumed.state_dict(), unbroken.state_dict())
    assert parts["claims"].record["series"] == unbroken_parts["claims"].record["series"]
    assert not resumed.training


def test_a_seed_gives_the_same_weights_and_another_does_not(on_digits: Any) -> None:
    parts, found = small(on_digits, *MODEL, *TRAIN), []
    for state, number in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(state)
        found.append(learnt(parts, 3, number=number).state_dict())
        saved().unlink()
    assert_bit_equal(found[0], found[1])
    assert not torch.equal(found[0]["encoder.1.0.weight"], found[2]["encoder.1.0.weight"])


@pytest.mark.parametrize("pretrain", [False, True])
def test_a_seed_gives_the_same_batches_to_two_prices(on_digits: Any, pretrain: bool) -> None:
    """And the same noise and first weights."""
    parts, seen = small(on_digits, *MODEL, *TRAIN), []
    objective = parts["objective"]

    def told(model: Any, x: Tensor, random: Any) -> Tensor:
        seen.append((x.clone(), random.get_state(), model.encoder[1][0].weight.detach().clone()))
        return objective(model, x, random)

    parts["objective"] = told
    for number, price in ((0, 1.0), (0, 100.0), (1, 1.0)):
        learnt(parts, 4, number=number, price=price, pretrain=pretrain)
        saved().unlink()
    for first, second, third in zip(seen[:4], seen[4:8], seen[8:], strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert not torch.equal(first[0], third[0])
    pictures = parts["train_images"].float() / 255.0
    assert (seen[0][0][:, None] == pictures).flatten(2).all(dim=2).any(dim=1).all()
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][2], seen[4][2])
    assert not torch.equal(seen[1][2], seen[5][2])
    if not pretrain:  # N(0, 0.01^2): 6272 numbers
        assert seen[0][2].std().item() == pytest.approx(0.01, rel=5 / math.sqrt(2 * 6_272))


def test_the_rate_falls_by_epochs_stretched_to_the_updates(on_digits: Any) -> None:
    """Halves at 30 % of the way and is a tenth from the middle on."""
    shares = [1.0] * 6 + [0.5] * 4 + [0.1] * 10
    parts = small(on_digits, *MODEL, *TRAIN)
    for penalty, groups in (("mmd", 1), ("gan", 2)):
        with watched() as seen:
            learnt(parts, 20, penalty=penalty, pretrain=False, lr=0.02, discriminator_lr=0.03)
        saved().unlink()
        assert len(seen) == 20 * groups
        # Every player steps in its turn, with its own gradient alone.
        turns = [[{*given} for _, given in step] for step in seen]
        assert turns == 20 * ([[{True}]] if groups == 1 else [[{True}, {False}], [{False}, {True}]])
        for group in range(groups):
            rates = [step[group][0] for step in seen[::groups]]
            assert rates == pytest.approx([(0.02, 0.03)[group] * share for share in shares])
            assert [step[group][0] for step in seen[groups - 1 :: groups]] == rates
    assert parts["claims"].record["series"]["digits"]["update"] == [20.0]


def test_the_rate_of_faces_falls_to_a_hundredth(on_digits: Any) -> None:
    parts = small(on_digits, *MODEL, *TRAIN)
    parts["cfg"] = replace(parts["cfg"], width=16)
    images = torch.randint(256, (6, 3, 64, 64), generator=seeded(1), dtype=torch.uint8)
    face = recipe(parts, batch=2, faces=True, pretrain=False)
    with watched() as seen:
        parts["train"]("faces", face, 4, images=images)
    want = [10 ** (-3 - k / 2) for k in range(4)]
    assert [step[0][0] for step in seen] == pytest.approx(want, rel=1e-9)


def test_pretraining_stops_when_the_moments_match(taken: Any) -> None:
    """An encoder that draws from the prior, or three off, whatever its weight."""
    parts = small(taken, *MODEL, "pretrain")
    for off, looks, steps in ((0.0, 1, 0), (3.0, 3, 3)):
        encoder, asked = nn.Linear(1, 1), []

        def code(x: Tensor, random: Any, off: Any = off, weight: Any = encoder.weight) -> Any:
            asked.append(x)  # noqa: B023
            codes = torch.randn(len(x), 3, generator=random) + off
            return None, None, codes + 0 * weight.sum()

        model = SimpleNamespace(encoder=encoder, code=code, recipe=recipe(parts))
        with watched() as seen:
            parts["pretrain"](model, torch.full((5, 1, 2, 2), 255, dtype=torch.uint8), seeded(1))
        assert (len(asked), len(seen)) == (looks, steps)
        assert torch.equal(asked[0], torch.ones(1_000, 1, 2, 2))


def moments(model: Any, images: Tensor) -> float:
    """How far mean and covariance of all codes are from 0 and 1, by numpy."""
    codes = model.encoder(images.float() / 255.0).detach().double().numpy()
    return (codes.mean(0) ** 2).mean() + ((np.cov(codes.T) - np.eye(3)) ** 2).mean()


def test_pretraining_brings_the_moments_near(taken: Any, pictures: Any) -> None:
    parts, images = small(taken, *MODEL, "pretrain"), pictures(200, 2)[:, None]
    parts["cfg"] = replace(parts["cfg"], pretrain_updates=400)
    model = model_of(parts, lr=3e-3)
    decoder = [p.clone() for p in model.decoder.parameters()]
    before = moments(model, images)
    with watched() as seen:
        parts["pretrain"](model, images, seeded(3))
    assert 0 < len(seen) < 400
    assert before > 0.2
    # It stops below 0.1 on 1000 codes and 1000 draws.
    assert moments(model, images) < 0.12
    assert all(torch.equal(p, q) for p, q in zip(decoder, model.decoder.parameters(), strict=True))


@pytest.mark.usefixtures("double")
def test_a_square_model_descends_the_second_papers_objective(
    taken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first loss by hand, and the rates of the four quarters."""
    parts, losses = small(taken, *SQUARES), []
    step = training.Training.step

    def told(self: Any, loss: Tensor) -> None:
        losses.append((loss.item(), self.optimizer.param_groups[0]["lr"]))
        step(self, loss)

    monkeypatch.setattr(training.Training, "step", told)
    parts["train_squares"]("corner", 4, start=-1.0)
    assert [rate for _, rate in losses] == [v for v in (1e-3, 7e-4, 3e-4, 1e-4) for _ in range(2)]

    torch.manual_seed(4)
    model, g = parts["SquareModel"]("corner", -1.0), training.stream(4, "squares-corner-4--1")
    grey = torch.linspace(0, 1, 1_001)[torch.randint(1_001, (100,), generator=g)]
    x = torch.zeros(100, 32, 32)
    x[:, 8:24, 8:24] = grey[:, None, None]
    mean, log_side = model.encoder(x.flatten(1)).chunk(2, dim=1)
    codes = mean + (log_side - 1).exp() * torch.rand(100, 2, generator=g)
    z = 2 * torch.rand(100, 2, generator=g) - 1
    law = Bernoulli(logits=model.decoder(codes), validate_args=False)
    constants, off = [2 * scale for scale in wae.LATENT_SPACE_SCALES], 1 - torch.eye(100)
    pairs = [
        (off * kernels(*pair, constants)).sum() for pair in ((codes, codes), (z, z), (codes, z))
    ]
    mismatch = (pairs[0] + pairs[1] - 2 * pairs[2]) / 9_900
    want = 20 * mismatch - law.log_prob(x.flatten(1)).sum() / 100
    assert losses[0][0] == pytest.approx(want.item(), rel=1e-10)
