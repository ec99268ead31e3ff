"""Training: what a batch is, what a step does, and that a killed run ends like an unbroken one."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from genbook import training


class KilledError(Exception):
    """Stands for the end of a process in the middle of training."""


@pytest.fixture(autouse=True)
def run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def numbered(count: int) -> Tensor:
    """Images whose first pixel says which they are."""
    images = torch.zeros(count, 3, dtype=torch.uint8)
    images[:, 0] = torch.arange(count)
    images[:, 1] = 255
    return images


def model_and(optimizer: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator(1)))
    if optimizer == "adagrad":
        return model, training.adagrad(model.parameters(), lr=0.05)
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def train(optimizer: str, *, steps: int, killed_at: int | None = None) -> training.Training:
    """A denoiser: its noise comes from the generator of the batches, as a VAE's does."""
    model, rule = model_and(optimizer)
    t = training.Training("denoiser", model, rule, generator(2))
    for x in t.batches(numbered(40), size=5, steps=steps):
        noise = torch.randn(x.shape, generator=t.generator)
        if t.count == killed_at:
            raise KilledError
        loss = (model(x + 0.1 * noise) - x).square().mean()
        t.step(loss)
        t.note(loss=loss.item())
        if t.count % 4 == 0:
            t.note(fourth=loss.item())
    return t


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_a_killed_run_ends_with_the_weights_and_history_of_an_unbroken_one(
    optimizer, run_folder, monkeypatch
):
    unbroken = train(optimizer, steps=20)
    (run_folder / "checkpoints" / "denoiser.safetensors").unlink()

    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)  # one after every step
    for step in (7, 13):
        with pytest.raises(KilledError):
            train(optimizer, steps=20, killed_at=step)
    resumed = train(optimizer, steps=20)

    assert resumed.count == unbroken.count == 20
    assert resumed.history == unbroken.history
    assert {k: len(v) for k, v in resumed.history.items()} == {"loss": 20, "fourth": 5}
    pairs = zip(resumed.model.parameters(), unbroken.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(resumed.generator.get_state(), unbroken.generator.get_state())
    ours, theirs = (t.optimizer.state_dict()["state"] for t in (resumed, unbroken))
    for index, state in theirs.items():
        for field, value in state.items():
            assert torch.equal(torch.as_tensor(ours[index][field]), torch.as_tensor(value)), field


def test_a_run_killed_before_its_first_checkpoint_starts_anew(run_folder):
    with pytest.raises(KilledError):
        train("adagrad", steps=9, killed_at=3)
    assert not list(run_folder.rglob("*.safetensors"))
    again = train("adagrad", steps=9)
    assert again.count == len(again.history["loss"]) == 9


def test_a_finished_run_is_not_trained_again_but_can_go_on(run_folder):
    first = train("adagrad", steps=6)
    second = train("adagrad", steps=6)
    assert second.history == first.history
    assert second.seconds >= first.seconds > 0
    longer = train("adagrad", steps=8)
    assert longer.history["loss"][:6] == first.history["loss"]
    assert longer.count == 8
    assert {path.name for path in (run_folder / "checkpoints").iterdir()} == {
        "denoiser.safetensors"
    }


def test_a_save_that_fails_keeps_the_checkpoint_before_it(run_folder, monkeypatch):
    done = train("adagrad", steps=4)
    before = (run_folder / "checkpoints" / "denoiser.safetensors").read_bytes()

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(training, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        train("adagrad", steps=6)
    monkeypatch.undo()
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(run_folder))
    assert (run_folder / "checkpoints" / "denoiser.safetensors").read_bytes() == before
    assert train("adagrad", steps=4).history == done.history


FRESH = itertools.count()


def drawn(images: Tensor, *, seed: int, steps: int = 3, size: int = 50) -> list[Tensor]:
    model, rule = model_and("adagrad")
    t = training.Training(f"draw-{next(FRESH)}", model, rule, generator(seed))
    seen = []
    for x in t.batches(images, size=size, steps=steps):
        seen.append(x)
        t.count += 1
    return seen


def test_bytes_are_scaled_and_floats_are_left_alone():
    images = numbered(40)
    before = images.clone()
    for x in drawn(images, seed=0):
        assert x.dtype == torch.float32
        assert x.shape == (50, 3)
        rows = (x[:, 0] * 255).round().long()
        torch.testing.assert_close(x, images[rows].float() / 255, rtol=0, atol=0)
        assert (x[:, 1] == 1.0).all()
    assert torch.equal(images, before)
    for dtype in (torch.float32, torch.float64):
        for x in drawn(images.to(dtype), seed=0):
            assert x.dtype == dtype
            assert torch.equal(x, images.to(dtype)[x[:, 0].long()])
            assert (x[:, 1] == 255).all()


def test_a_batch_is_drawn_with_replacement_and_by_its_generator_alone():
    images = numbered(40)
    first, again, other = (drawn(images, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])
    # 50 rows out of 40 images must repeat one; 20 000 rows hit each 500 times, by chance +- 22.
    assert len(first[0].unique(dim=0)) < 40
    (many,) = drawn(images, seed=2, steps=1, size=20_000)
    counts = (many[:, 0] * 255).round().long().bincount(minlength=40)
    assert ((counts - 500).abs() < 5 * math.sqrt(500)).all()


def rows_of_passes(name: str, counts: list[int]) -> list[list[int]]:
    """The rows that passes over 11 images give, in a training that goes on from checkpoints."""
    rows: list[list[int]] = []
    for steps in counts:
        model, rule = model_and("adagrad")
        t = training.Training(name, model, rule, generator(3))
        for x in t.batches(numbered(11).float(), size=3, steps=steps, passes=True):
            rows.append([int(v) for v in x[:, 0]])
            t.step(model(x).square().mean())
    return rows


def test_a_pass_sees_every_image_once_and_drops_what_is_left():
    rows = rows_of_passes("passes", [6])
    first, second = (list(itertools.chain(*part)) for part in (rows[:3], rows[3:]))
    assert [len(set(part)) for part in (first, second)] == [9, 9]
    assert first != second


def test_passes_go_on_where_they_stopped_also_in_the_middle():
    assert rows_of_passes("broken", [2, 4, 8]) == rows_of_passes("unbroken", [8])


def test_adagrad_takes_the_very_steps_of_torch_and_leaves_out_what_has_no_gradient():
    def weights(optimizer_of):
        torch.manual_seed(0)
        net, idle = nn.Linear(3, 2), nn.Parameter(torch.ones(2))
        groups = [{"params": [net.weight], "weight_decay": 0.1}, {"params": [net.bias, idle]}]
        optimizer = optimizer_of(groups)
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
        return [net.weight, net.bias, idle, *(s["sum"] for s in optimizer.state.values())]

    ours = weights(lambda groups: training.adagrad(groups, lr=0.05))
    theirs = weights(lambda groups: torch.optim.Adagrad(groups, lr=0.05, fused=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_pass_without_a_whole_batch_is_refused():
    model, rule = model_and("adagrad")
    t = training.Training("short", model, rule, generator())
    with pytest.raises(ValueError, match="short: a pass over 3 images has no batch of 4"):
        next(t.batches(torch.zeros(3, 2), size=4, steps=1, passes=True))


def test_a_step_is_the_rule_of_adagrad():
    """Duchi et al. 2010: G += g^2, w -= lr g / (sqrt G + eps), g with the decay of the weights."""
    w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    kept = nn.Parameter(torch.tensor([3.0]))
    scale = torch.tensor([1.0, 10.0, 0.1])
    rule = training.adagrad([{"params": [w], "weight_decay": 0.3}, {"params": [kept]}], lr=0.05)
    model = nn.Module()
    model.w, model.kept = w, kept
    t = training.Training("rule", model, rule, generator())
    reference, total = w.detach().double().numpy(), np.zeros(3)
    for _ in range(10):
        t.step((scale * w.square()).sum() + 0.0 * kept.sum())
        g = 2 * scale.double().numpy() * reference + 0.3 * reference
        total = total + g**2
        reference = reference - 0.05 * g / (np.sqrt(total) + 1e-10)
    # float32 against float64 over ten steps.
    np.testing.assert_allclose(w.detach(), reference, rtol=1e-5)
    assert kept.item() == 3.0
    assert t.count == 10


def test_the_fused_rule_equals_torch_s_loop_and_is_used_on_the_processor():
    def trained(fused: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, rule = model_and("adagrad")
        if not fused:
            rule = torch.optim.Adagrad(model.parameters(), lr=0.05, foreach=False)
        for i in range(20):
            rule.zero_grad()
            model(torch.randn(5, 3, generator=generator(i))).square().mean().backward()
            rule.step()
        return model, rule

    (ours, rule), (theirs, _) = trained(True), trained(False)
    assert rule.param_groups[0]["fused"]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # float32, another order of work


def test_streams_are_named_and_independent():
    def first(seed: int, name: str) -> float:
        return torch.rand((), generator=training.stream(seed, name)).item()

    assert first(0, "init") == first(0, "init")
    assert len({first(s, n) for s in (0, 1, 11) for n in ("init", "noise", "1/init")}) == 9


def progress(run_folder: Path) -> list[tuple[str, str, float | None]]:
    lines = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    return [(x["event"], x["what"], x["done"]) for x in lines]


@pytest.fixture
def no_progress(monkeypatch):
    monkeypatch.setattr(training, "_seen", {})
    monkeypatch.setattr(training, "_expected", {"images": 0})


def test_progress_is_one_json_line_each(run_folder, no_progress):
    train("adagrad", steps=2)
    training.log_progress("a measurement")
    assert progress(run_folder) == [
        ("progress", "denoiser", None),
        ("progress", "a measurement", None),
    ]


def test_progress_is_the_share_of_the_images_of_the_run(run_folder, no_progress, monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    training.expect(images=50)  # batches of 5: ten steps
    train("adagrad", steps=4)
    train("adagrad", steps=6)  # goes on from the checkpoint, which is not counted twice
    train("adagrad", steps=10)
    done = [share for _, _, share in progress(run_folder)]
    first, second, third = [0.1, 0.2, 0.3, 0.4], [0.5, 0.6], [0.7, 0.8, 0.9, 0.99]
    # One line a checkpoint, and one at the end of each call; never 1 before the run is over.
    assert done == pytest.approx([*first, 0.4, *second, 0.6, *third, 0.99])


def test_remember_computes_once():
    calls = []

    def compute() -> list[float]:
        calls.append(1)
        return [0.1, 2.0]

    assert training.remember("slow", compute) == training.remember("slow", compute) == [0.1, 2.0]
    assert len(calls) == 1
    assert training.remember("other", lambda: 3) == 3


def test_without_a_run_folder_a_scratch_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.delenv("GENBOOK_RUN_DIR")
    monkeypatch.setattr(training, "ROOT", tmp_path)
    assert training.run_folder() == tmp_path / "_build" / "scratch" / "run"
    assert training.run_folder().is_dir()
