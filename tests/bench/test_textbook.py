"""AEVB training, ours and the textbook's: one loss, one step, one start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genbook import aevb, data
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


def test_both_ways_start_from_one_model():
    first, second = bench.new_vae(), bench.new_vae()
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert first.encoder.hidden.weight.std().item() == pytest.approx(bench.STD, rel=0.01)
