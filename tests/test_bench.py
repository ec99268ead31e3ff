"""The benchmark: both ways do the same work, and what it finds has its form."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from genbook import aevb, bench, data


@pytest.fixture
def mnist() -> data.ImageData:
    """Five blurred squares on black, many times over, in the form of MNIST."""
    g = torch.Generator().manual_seed(0)
    images = torch.zeros(300, 28, 28, dtype=torch.uint8)
    for i, image in enumerate(images):
        left = 3 * (i % 5)
        image[left : left + 9, 8:18] = torch.randint(150, 256, (9, 10), generator=g).byte()
    return data.ImageData("squares", images, torch.arange(300) % 5, images[:50], None)


def test_an_item_of_the_textbook_is_the_picture_over_255(mnist):
    items = bench.MNIST(mnist.train_images, mnist.train_labels)
    x, label = items[7]
    assert x.shape == (1, 28, 28)
    assert x.dtype == torch.float32
    assert torch.equal(x[0], mnist.train_images[7].float().div(255))
    assert (label, len(items)) == (2, 300)


@pytest.fixture
def shared_noise(monkeypatch):
    """Both ways draw their noise from the same seed."""

    def randn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(0))

    monkeypatch.setattr(torch, "randn_like", randn)
    return lambda: torch.Generator().manual_seed(0)


def test_both_ways_have_one_loss_and_take_one_step(mnist, shared_noise, monkeypatch, tmp_path):
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path))
    # At 0.01 the first steps of 0.02 on every weight do not blow rounding up, as they do at 0.1.
    monkeypatch.setattr(bench, "STD", 0.01)
    ours, textbook = bench.Ours(mnist, bench.new_vae()), bench.Textbook(mnist, bench.new_vae())
    for start in range(0, 180, 60):
        x = mnist.train_images[start : start + 60].flatten(1).float() / 255.0
        bound = aevb.elbo(ours.vae, x, generator=shared_noise())
        recon_x, mu, logvar = textbook.model(x)
        loss = bench.textbook_loss(recon_x, x, mu, logvar)
        # float32, and a logarithm of a sigmoid in the textbook, over three steps.
        assert loss.item() == pytest.approx(-bound.sum().item(), rel=1e-4)
        ours.training.step(-bound.mean())
        textbook.optimizer.zero_grad()
        loss.backward()
        textbook.optimizer.step()
    ends = bench.TextbookVAE()
    ends.start_as(ours.vae)
    for a, b in zip(ends.parameters(), textbook.model.parameters(), strict=True):
        # Adagrad does not see that one loss is a mean and the other a sum.  A step is 0.02, and
        # the sign of a tiny first gradient may differ by rounding in a few weights.
        assert ((a - b).abs() < 1e-3).float().mean() > 0.999


def short_runs(monkeypatch) -> None:
    """A few steps only, after which the bounds of two runs are still far apart."""
    monkeypatch.setattr(bench, "WARM_UP", 1)
    monkeypatch.setattr(bench, "NATS_APART", float("inf"))


def test_a_tiny_benchmark_has_its_keys_and_leaves_no_trace(mnist, monkeypatch, tmp_path):
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path))
    short_runs(monkeypatch)
    threads = torch.get_num_threads()
    other = 2 if threads == 1 else 1
    found = bench.bench(mnist, threads=[other], turns=3, steps=4)
    assert json.loads(json.dumps(found)) == found
    assert set(found) >= {"what", "networks", "batch", "optimizer", "turns", "steps", "machine"}
    assert set(found["machine"]) >= {"processor", "cores", "torch", "python"}
    (row,) = found["comparisons"]
    assert row["threads"] == other
    assert set(row) == {"threads", "ours", "textbook", "ratio", "lowest", "highest"}
    for way in ("ours", "textbook"):
        assert len(row[way]["turns"]) == 3
        assert min(row[way]["turns"]) <= row[way]["images_per_second"] <= max(row[way]["turns"])
        assert row[way]["bound"] < 0
    turns = zip(row["ours"]["turns"], row["textbook"]["turns"], strict=True)
    ratios = sorted(fast / slow for fast, slow in turns)
    assert [row["lowest"], row["ratio"], row["highest"]] == pytest.approx(ratios)
    assert torch.get_num_threads() == threads
    assert not list(tmp_path.iterdir())


def test_unequal_work_is_refused(mnist, monkeypatch):
    monkeypatch.setattr(bench, "WARM_UP", 1)
    monkeypatch.setattr(bench.Textbook, "train", lambda self, steps: None)
    with pytest.raises(RuntimeError, match="not equal work: bounds -"):
        bench.bench(mnist, threads=[1], turns=1, steps=8)


def test_the_command_prints_json_or_a_table(mnist, monkeypatch, capsys):
    short_runs(monkeypatch)
    monkeypatch.setattr(bench.data, "load", lambda name: mnist)
    options = ["--threads", "1", "--turns", "1", "--steps", "2"]
    bench.main([*options, "--json"])
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["threads"] == 1
    bench.main(options)
    assert "textbook" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--threads", "many"], ["--threads", "0"], ["--turns", "0"]])
def test_a_wrong_option_is_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(wrong)
    assert stop.value.code == 2
    assert "genbook bench: error:" in capsys.readouterr().err


def test_both_ways_start_from_one_model():
    first, second = bench.new_vae(), bench.new_vae()
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert first.encoder.hidden.weight.std().item() == pytest.approx(bench.STD, rel=0.01)
