"""AEVB training, ours and the textbook's: one loss, one step, one start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genbook import aevb, data
from genbook import nn as nets
from genbook.bench import textbook as bench


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


def noise(random: torch.Generator) -> Tensor:
    """What our way draws for two models, of which the larger has 20 latent variables."""
    return torch.randn(2, 60, 20, generator=random)


def test_both_ways_have_one_loss_and_take_one_step(mnist, monkeypatch, tmp_path):
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path))
    # At 0.01 the first steps of 0.02 on every weight do not blow rounding up, as they do at 0.1.
    monkeypatch.setattr(bench, "STD", 0.01)
    ours = bench.Ours(mnist, [bench.new_vae(20), bench.new_vae(7)])
    textbook = bench.Textbook(mnist, [bench.new_vae(20), bench.new_vae(7)])
    for start in range(0, 180, 60):
        x = mnist.train_images[start : start + 60].flatten(1).float() / 255.0
        bounds = aevb.elbo(ours.stacked, x, generator=torch.Generator().manual_seed(start))
        eps = noise(torch.Generator().manual_seed(start))
        for s, (model, optimizer) in enumerate(
            zip(textbook.models, textbook.optimizers, strict=True)
        ):
            mine = eps[s, :, : ours.vaes[s].latents]
            monkeypatch.setattr(torch, "randn_like", lambda like, mine=mine: mine)
            recon_x, mu, logvar = model(x)
            loss = bench.textbook_loss(recon_x, x, mu, logvar)
            # float32, and a logarithm of a sigmoid in the textbook, over three steps.
            assert loss.item() == pytest.approx(-bounds[s].sum().item(), rel=1e-4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ours.training.step(-bounds.mean(dim=-1).sum())
    nets.apart(ours.stacked, ours.vaes)
    for vae, model in zip(ours.vaes, textbook.models, strict=True):
        ends = bench.TextbookVAE(vae.latents)
        ends.start_as(vae)
        for a, b in zip(ends.parameters(), model.parameters(), strict=True):
            # Adagrad does not see that one loss is a mean and the other a sum.  A step is 0.02,
            # and the sign of a tiny first gradient may differ by rounding in a few weights.
            assert ((a - b).abs() < 1e-3).float().mean() > 0.999


def test_both_ways_start_from_one_model():
    first, second = bench.new_vae(20), bench.new_vae(20)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert first.encoder.hidden.weight.std().item() == pytest.approx(bench.STD, rel=0.01)


def test_both_ways_train_every_model_and_know_one_bound(mnist, monkeypatch, tmp_path):
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path))
    x = mnist.test_images.flatten(1).float() / 255.0
    ways = [
        way(mnist, [bench.new_vae(3), bench.new_vae(7)]) for way in (bench.Ours, bench.Textbook)
    ]
    torch.manual_seed(0)  # of the textbook's noise
    ours, textbook = (way.bound(x) for way in ways)
    # The mean of 2 x 50 bounds with a draw each.
    assert ours == pytest.approx(textbook, rel=0.02)
    for way in ways:
        way.train(2)
    ours_then, textbook_then = (way.bound(x) for way in ways)
    assert ours_then != ours
    assert textbook_then != textbook
    starts = [bench.new_vae(3), bench.new_vae(7)]
    for vae, model, start in zip(ways[0].vaes, ways[1].models, starts, strict=True):
        assert not torch.equal(vae.decoder.out.weight, start.decoder.out.weight)
        assert not torch.equal(model.fc4.weight, start.decoder.out.weight)
