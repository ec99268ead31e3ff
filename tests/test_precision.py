"""Products in bfloat16: what is rounded, and what is not."""

from __future__ import annotations

import pytest
import torch

from genbook import aevb, precision, training


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that has the instructions; torch computes the same on any."""
    monkeypatch.setattr(precision, "is_fast", lambda device: True)


def new_vae(*, single: bool) -> aevb.VAE:
    vae = aevb.VAE(pixels=784, hidden=500, latents=20)
    aevb.init_normal(vae, std=0.1, generator=training.stream(0, "init"))
    if single:
        precision.single_results(vae.encoder.out, vae.decoder.out)
    return vae


def digits(n: int = 50) -> torch.Tensor:
    return torch.rand(n, 784, generator=training.stream(0, "digits")).round()


@pytest.mark.usefixtures("fast")
def test_what_the_last_layers_give_is_their_rounded_product_in_single_precision() -> None:
    vae, x = new_vae(single=True), digits()
    with precision.products("cpu", half=True):
        q = vae.encoder(x)
    assert q.mu.dtype == q.log_var.dtype == torch.float32
    exact = new_vae(single=False).double().encoder(x.double())
    # A factor and a result of 8 bits: half of 2^-8 each, on a sum of 500 terms of order 0.1.
    assert 0 < (q.mu - exact.mu).abs().max() < 2**-8 * 0.1 * 500**0.5 * 4
    assert torch.equal(q.mu, q.mu.bfloat16().float())  # the result has 8 bits


@pytest.mark.usefixtures("fast")
def test_the_bound_and_its_gradient_are_those_of_single_precision_to_rounding() -> None:
    values, slopes = [], []
    for half in (False, True):
        vae = new_vae(single=True)
        with precision.products("cpu", half=half):
            bound = aevb.elbo(vae, digits(), generator=training.stream(0, "noise"))
        bound.mean().backward()
        assert bound.dtype == torch.float32
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in vae.parameters())
        values.append(bound.mean().item())
        slopes.append(torch.cat([p.grad.flatten() for p in vae.parameters() if p.grad is not None]))
    # Each of 784 logits is wrong by up to 2^-8 of itself, with either sign.
    assert values[1] == pytest.approx(values[0], rel=1e-2)
    assert values[1] != values[0]
    assert torch.cosine_similarity(*slopes, dim=0) > 0.999


@pytest.mark.usefixtures("fast")
def test_without_it_nothing_is_rounded() -> None:
    plain, x = new_vae(single=False).encoder(digits()), digits()
    with precision.products("cpu", half=False):
        q = new_vae(single=True).encoder(x)
    assert torch.equal(q.mu, plain.mu)
    assert torch.equal(new_vae(single=True).encoder(x).mu, plain.mu)


def test_a_machine_without_the_instructions_stays_with_single_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert not precision.is_fast("cpu")
    with precision.products("cpu", half=True):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_multiplies_in_bfloat16() -> None:
    vae = new_vae(single=True).cuda()
    with precision.products("cuda", half=precision.is_fast("cuda")):
        assert vae.encoder(digits().cuda()).mu.dtype == torch.float32
