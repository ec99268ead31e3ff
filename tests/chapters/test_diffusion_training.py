"""The diffusion chapter's training, stopped, killed and by hand, and the loss by which it
compares mistakes."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from genbook import diffusion, ledger, training

CHAPTER = "diffusion"
SETTINGS = ("profile", "device", "seed", "Profile", "PROFILES", "cfg", "claims")
DIGITS = (*SETTINGS, "mnist", "small", "order", "train_images", "centred")
NETS = ("process", "Averaged", "digit_net")
UPDATES, IMAGES, BATCH = 12, 40, 8  # of the trainings below: five batches make a pass

pytestmark = pytest.mark.usefixtures("run_folder")


class StoppedError(Exception):
    """Stands for the end of a process."""


def training_parts(take: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return take(*DIGITS, *NETS, "train")


def learnt(
    parts: dict[str, Any],
    before: Callable[[int], None] = lambda updates: None,
    *,
    net: nn.Module | None = None,
    updates: int = UPDATES,
    **changes: Any,
) -> Any:
    """A small training with all that is random in it: passes, mirrored pictures, times, noise and
    dropout; `before` is told at every update how many this process has made."""
    made = itertools.count()

    def read(images: Tensor) -> Tensor:
        before(next(made))
        return parts["centred"](images)

    net = net or parts["digit_net"](dropout=0.1)
    settings = {"size": BATCH, "read": read, "flip": True, "warmup": 4, "lr": 0.01, "decay": 0.8}
    return parts["train"]("digits", net, updates, **settings | changes)


def checkpoint(folder: Path) -> dict[str, Tensor]:
    """Weights, average, optimiser and random state at the end."""
    tensors = load_file(folder / "checkpoints" / "digits.safetensors")
    assert {key.split(".")[0] for key in tensors} == {"model", "optimizer", "generator"}
    assert any(key.startswith("model.average.") for key in tensors)
    return tensors


def assert_bit_equal(found: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert found.keys() == want.keys()
    assert not [key for key in want if not torch.equal(found[key], want[key])]


def test_a_stopped_training_ends_like_an_unbroken_one(
    on_digits: Any, run_folder: Path, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after 1, 5 and 8 updates: at the first, between two passes, and within one."""
    unbroken_parts = training_parts(on_digits)
    unbroken = learnt(unbroken_parts)
    want = checkpoint(run_folder)

    other = tmp_path_factory.mktemp("other")
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(other))
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)  # one after every update
    for made in (1, 4, 3):

        def before(updates: int, made: int = made) -> None:
            if updates == made:
                raise StoppedError

        torch.manual_seed(made)
        with pytest.raises(StoppedError):
            learnt(training_parts(on_digits), before)
    parts, left = training_parts(on_digits), []
    resumed = learnt(parts, left.append)
    assert len(left) == UPDATES - 8
    assert_bit_equal(checkpoint(other), want)
    assert_bit_equal(resumed.state_dict(), unbroken.state_dict())
    assert parts["claims"].record["series"] == unbroken_parts["claims"].record["series"]


def train_until_killed(take: Callable[..., dict[str, Any]]) -> None:
    """In a process of its own: the last checkpoint is that of update 5, the end is in update 9."""

    def before(updates: int) -> None:
        training.SECONDS_BETWEEN_CHECKPOINTS = -1.0 if updates < 5 else math.inf
        if updates == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    learnt(training_parts(take), before)


KILLED = """
import functools, importlib, sys
sys.path.insert(0, sys.argv[1])
import conftest
module = importlib.import_module(sys.argv[2])
module.train_until_killed(functools.partial(conftest.statements_on_digits, module.CHAPTER))
"""


def test_a_killed_training_ends_like_an_unbroken_one(
    on_digits: Any, run_folder: Path, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(__file__)
    command = [sys.executable, "-c", KILLED, str(here.parent), here.stem]
    done = subprocess.run(command, cwd=ledger.ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with safe_open(run_folder / "checkpoints" / "digits.safetensors", "pt") as file:
        assert json.loads(file.metadata()["notes"])["count"] == 5
    left: list[int] = []
    learnt(training_parts(on_digits), left.append)
    assert len(left) == UPDATES - 5
    resumed = checkpoint(run_folder)

    other = tmp_path_factory.mktemp("other")
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(other))
    learnt(training_parts(on_digits))
    assert_bit_equal(resumed, checkpoint(other))


def test_what_was_drawn_before_does_not_change_a_training(on_digits: Any, run_folder: Path) -> None:
    found = []
    for state in (1, 2):
        parts = training_parts(on_digits)
        net = parts["digit_net"](dropout=0.1)
        torch.manual_seed(state)
        learnt(parts, net=net, updates=4)
        found.append(checkpoint(run_folder))
        (run_folder / "checkpoints" / "digits.safetensors").unlink()
    assert_bit_equal(*found)


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[float, Tensor]]]:
    """The rate and the gradient of every update, as the optimiser gets them."""
    seen: list[tuple[float, Tensor]] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        (group,) = optimizer.param_groups
        grads = [p.grad.flatten() for p in group["params"] if p.grad is not None]
        seen.append((group["lr"], torch.cat(grads).clone()))

    hook = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("warmup", "cool", "shares"),
    [
        (4, 0.0, [0.25, 0.5, 0.75, 1, 1, 1]),
        (1, 0.0, [1] * 6),
        (1, 0.5, [1, 1, 1, 1, 2 / 3, 1 / 3]),
        (3, 1.0, [1 / 3, 2 / 3, 2 / 3, 1 / 2, 1 / 3, 1 / 6]),
    ],
)
def test_the_rate_grows_to_its_value_and_falls_at_the_end(
    on_digits: Any, warmup: int, cool: float, shares: list[float]
) -> None:
    with watched() as seen:
        learnt(training_parts(on_digits), updates=6, warmup=warmup, cool=cool)
    assert [lr for lr, _ in seen] == pytest.approx([0.01 * share for share in shares])


class Scale(nn.Module):
    """A network of one weight, w x, that keeps what it was asked."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.asked: list[tuple[Tensor, Tensor, float]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.asked.append((x.detach(), t, self.weight.item()))
        return self.weight * x


def test_the_gradient_is_cut_to_a_norm(on_digits: Any) -> None:
    def gradients(**changes: Any) -> list[Tensor]:
        with watched() as seen:
            learnt(training_parts(on_digits), updates=3, **changes)
        (training.run_folder() / "checkpoints" / "digits.safetensors").unlink()
        return [gradient for _, gradient in seen]

    whole, *_ = gradients(clip=math.inf)
    norm = whole.norm().item()
    assert norm > 0.1
    cut = gradients(clip=norm / 4)
    torch.testing.assert_close(cut[0], whole / 4, rtol=1e-4, atol=1e-8)
    assert all(gradient.norm() <= norm / 4 * (1 + 1e-5) for gradient in cut)
    assert torch.equal(gradients(clip=4 * norm)[0], whole)
    for gradient in gradients(net=Scale(100.0)):  # the official code cuts to 1
        assert gradient.item() == pytest.approx(1.0, abs=1e-4)


def test_the_average_follows_the_weights(on_digits: Any) -> None:
    """An exponential moving average by a loop over what the weights were after every update."""
    parts, history = training_parts(on_digits), []
    net = parts["digit_net"]()

    def weights() -> np.ndarray:
        return nn.utils.parameters_to_vector(net.parameters()).detach().double().numpy()

    model = learnt(parts, lambda _: history.append(weights()), net=net)
    history = [*history[1:], weights()]
    assert len(history) == UPDATES
    average = history[0]
    for new in history[1:]:
        average = 0.8 * average + 0.2 * new
    found = nn.utils.parameters_to_vector(model.average.parameters()).detach()
    np.testing.assert_allclose(found, average, atol=1e-6)
    assert np.abs(average - history[-1]).max() > 1e-3
    assert model.net is net
    assert not model.average.training


def test_training_is_algorithm_1(on_digits: Any) -> None:
    """The gradient of |eps - w x_t|^2 by hand, and eps and t as they should be drawn."""
    parts, read = training_parts(on_digits), []
    net, process, T = Scale(0.5), parts["process"], parts["process"].T

    def centred(images: Tensor) -> Tensor:
        read.append(images.double() / 127.5 - 1)
        return read[-1].float()

    with watched() as seen:
        learnt(parts, net=net, updates=20, size=IMAGES, read=centred, flip=False, clip=math.inf)
    alpha_bar = torch.from_numpy(np.cumprod(1 - process.beta.numpy()))
    noise = []
    for x_0, (x_t, t, weight), (_, gradient) in zip(read, net.asked, seen, strict=True):
        kept = alpha_bar[t].reshape(-1, 1, 1, 1)
        eps = (x_t - kept.sqrt() * x_0) / (1 - kept).sqrt()
        want = (2 * (weight * x_t - eps) * x_t).mean()
        assert gradient.item() == pytest.approx(want.item(), rel=1e-3, abs=1e-5)
        noise.append(eps)
    eps, t = torch.cat(noise), torch.cat([t for _, t, _ in net.asked])
    assert abs(eps.mean()) < 5 / math.sqrt(eps.numel())
    assert abs(eps.var() - 1) < 5 * math.sqrt(2 / eps.numel())
    assert len(eps.flatten(1).round(decimals=3).unique(dim=0)) == 20 * IMAGES
    assert (t.min(), t.max(), len(t.unique())) == (1, T, T)  # 800 draws of 50 times
    assert (t.double().mean() - (T + 1) / 2).abs() < 5 * T / math.sqrt(12 * len(t))
    for x_0 in read:  # every update here is one pass
        assert torch.equal(x_0.flatten(1).sum(dim=1).sort()[0], read[0].flatten(1).sum(1).sort()[0])


def test_training_on_a_mean_or_on_the_bound(on_digits: Any) -> None:
    """By equations 7 and 12, in bits; the first time has another term and is left out."""
    for kind in ({"predicts": "mu"}, {"simple": False}):
        parts, read = training_parts(on_digits), []
        net, process = Scale(0.5), parts["process"]
        kept = {"net": net, "size": 3, "flip": False, "clip": math.inf}

        def centred(images: Tensor, read: list[Tensor] = read) -> Tensor:
            read.append(images.double() / 127.5 - 1)
            return read[-1].float()

        with watched() as seen:
            learnt(parts, read=centred, **kept, **kind)
        (training.run_folder() / "checkpoints" / "digits.safetensors").unlink()
        table, checked = torch.from_numpy(np.cumprod(1 - process.beta.numpy())), 0
        for x_0, (x_t, t, weight), (_, gradient) in zip(read, net.asked, seen, strict=True):
            if (t == 1).any():
                continue
            checked += 1
            now, before = (table[times].reshape(-1, 1, 1, 1) for times in (t, t - 1))
            beta = 1 - now / before
            mean = before.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - before) * x_t
            eps = (x_t - now.sqrt() * x_0) / (1 - now).sqrt()
            if "predicts" in kind:
                want = (2 * (weight * x_t - mean / (1 - now)) * x_t).mean()
            else:
                factor = beta / (2 * (1 - beta) * (1 - now))
                want = (factor * 2 * (weight * x_t - eps) * x_t).mean() / math.log(2)
            assert gradient.item() == pytest.approx(want.item(), rel=1e-3, abs=1e-5)
        assert checked > 3


@pytest.mark.parametrize("seed", [0, 1])
def test_the_noise_of_a_training_depends_on_its_seed_and_name(on_digits: Any, seed: int) -> None:
    parts, nets = training_parts(on_digits), (Scale(0.0), Scale(0.0), Scale(0.0))
    for net, name, own in zip(nets, "aba", (0, 0, seed), strict=True):
        parts["seed"] = own
        parts["train"](name, net, 2, size=BATCH)
        (training.run_folder() / "checkpoints" / f"{name}.safetensors").unlink()
        parts["claims"].record["series"].clear()
    first, other, third = (net.asked[0][0] for net in nets)
    assert not torch.equal(first, other)
    assert torch.equal(first, third) == (seed == 0)


@pytest.mark.parametrize("flip", [False, True])
def test_half_of_the_pictures_are_mirrored_left_to_right(on_digits: Any, flip: bool) -> None:
    """With a noise so weak that the network sees the pictures."""
    parts, net = training_parts(on_digits), Scale(0.0)
    parts["process"] = diffusion.GaussianDiffusion(torch.full((2,), 1e-8))
    learnt(parts, net=net, size=IMAGES, flip=flip, lr=0.0)
    images = parts["train_images"].float() / 127.5 - 1
    seen = torch.cat([x for x, _, _ in net.asked]).flatten(1)
    straight, mirrored = (
        torch.cdist(seen, x.flatten(1)).min(dim=1).values < 0.1 for x in (images, images.flip(3))
    )
    assert (straight ^ mirrored).all()
    share = mirrored.double().mean().item()
    assert (mirrored.view(UPDATES, IMAGES).any(dim=1) == flip).all()
    assert not mirrored.view(UPDATES, IMAGES).all(dim=1).any()
    assert abs(share - 0.5) < 2.5 / math.sqrt(len(seen)) if flip else share == 0.0


@pytest.mark.parametrize("half", [False, True])
def test_half_precision_is_for_the_products_and_not_for_the_weights(
    on_digits: Any, half: bool
) -> None:
    class Told(nn.Conv2d):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            said = super().forward(x)
            kinds.add((x.dtype, said.dtype, self.weight.dtype))
            return said

    kinds: set[Any] = set()
    model = learnt(training_parts(on_digits), net=Told(1, 1, 3, padding=1), updates=2, half=half)
    said = torch.bfloat16 if half else torch.float32
    assert kinds == {(torch.float32, said, torch.float32)}
    assert all(p.dtype == torch.float32 for p in model.average.parameters())


def test_the_loss_that_is_noted_is_that_of_the_last_update(on_digits: Any) -> None:
    parts, net = training_parts(on_digits), Scale(0.0)  # which says that there is no noise
    learnt(parts, net=net, updates=51, lr=0.0)
    series = parts["claims"].record["series"]["digits"]
    assert series["update"] == [50.0, 51.0]
    assert series["loss"] == pytest.approx([1.0, 1.0], abs=5 * math.sqrt(2 / (BATCH * 196)))


def test_noise_loss_is_a_mean_squared_error_with_the_same_noise_for_all(
    on_digits: Any, pictures: Any
) -> None:
    parts = on_digits(*DIGITS, *NETS, "noise_loss")
    test_images = parts["test_images"] = parts["small"](pictures(600, 8))
    net, other = Scale(0.4), Scale(0.1)
    torch.manual_seed(1)
    found = parts["noise_loss"](net, parts["centred"])
    torch.manual_seed(2)
    assert parts["noise_loss"](Scale(0.4), parts["centred"]) == found
    assert parts["noise_loss"](other, parts["centred"]) != found
    for (x_t, t, _), (other_x_t, other_t, _) in zip(net.asked, other.asked, strict=True):
        assert torch.equal(x_t, other_x_t)
        assert torch.equal(t, other_t)

    x_t, t = (torch.cat([asked[i] for asked in net.asked]) for i in range(2))
    assert (len(t), t.min(), t.max()) == (500, 1, parts["process"].T)
    x_0 = test_images[:500].double() / 127.5 - 1
    kept = torch.from_numpy(np.cumprod(1 - parts["process"].beta.numpy()))[t].reshape(-1, 1, 1, 1)
    eps = (x_t - kept.sqrt() * x_0) / (1 - kept).sqrt()
    assert abs(eps.mean()) < 5 / math.sqrt(eps.numel())
    assert abs(eps.var() - 1) < 5 * math.sqrt(2 / eps.numel())
    assert len(eps.flatten(1).round(decimals=3).unique(dim=0)) == 500
    assert found == pytest.approx((0.4 * x_t - eps).square().mean().item(), rel=1e-5)


def test_noise_loss_takes_the_pictures_as_they_are_read(on_digits: Any) -> None:
    parts = on_digits(*DIGITS, *NETS, "noise_loss", "zero_one")
    parts["test_images"] = torch.full((20, 1, 14, 14), 255, dtype=torch.uint8)
    net = Scale(0.0)
    for read in ("centred", "zero_one"):
        parts["noise_loss"](net, parts[read])
    (centred, _, _), (zero_one, _, _) = net.asked
    torch.testing.assert_close(centred, zero_one)  # white is 1 in both
    parts["test_images"].zero_()
    parts["noise_loss"](net, parts["zero_one"])
    x_t, t, _ = net.asked[-1]
    kept = parts["process"].alpha_bar[t].sqrt().float().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(zero_one - x_t, kept.expand_as(x_t))  # black is 0
