"""The delta-VAE chapter's own small functions, taken out of its source and run alone."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from genbook import delta_vae, rows

CHAPTER = "delta_vae"
SETTINGS = ("profile", "device", "seed", "Profile", "ONE", "ALL", "PROFILES", "cfg", "claims")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def test_heap_of_finds_the_heap_that_a_point_was_drawn_from(taken: Any) -> None:
    parts = taken("STEPS", "heaps", "heap_of")
    points = parts["heaps"](4_000, seeded(0))
    drawn_from = torch.randint(8, (4_000,), generator=seeded(0))  # what heaps draws first
    assert points.min() >= 0
    assert points.max() < parts["STEPS"]
    found = parts["heap_of"](points)
    assert (found == drawn_from).double().mean() > 0.995  # a heap is 5 of its widths from the next


def test_decode_again_repeats_one_draw_of_each_point(taken: Any) -> None:
    """A decoder that writes down the sign of z: all decodes of a point agree, points do not."""
    decode_again = taken("decode_again")["decode_again"]

    class Signs:
        def tables(self, x_1: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
            first = torch.where(z[:, 0, :1] > 0, 50.0, -50.0) * torch.tensor([1.0, -1.0])
            second = 50.0 * torch.nn.functional.one_hot(x_1, 2)  # the second value is the first
            return first, second

    vae = SimpleNamespace(
        decoder=Signs(), posterior=lambda x: (torch.zeros(len(x), 2, 1), torch.zeros(len(x), 2, 1))
    )
    again = decode_again(vae, torch.zeros(50, 2), 7, seeded(1))
    assert again.shape == (50, 7, 2)
    assert (again == again[:, :1]).all()
    assert torch.equal(again[..., 0], again[..., 1])
    assert 10 < again[:, 0, 0].sum() < 40  # the sign of a standard normal number, 50 times


def test_minimised_finds_the_least_value(taken: Any) -> None:
    start = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    goal = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    least = taken("minimised")["minimised"](lambda p: (p - goal).square().sum() + 4.0, start)
    assert least == pytest.approx(4.0, abs=1e-9)


@pytest.mark.parametrize("a", [-0.6, 0.8])
def test_linked_kl_is_that_of_torch(taken: Any, a: float) -> None:
    """The covariance of the linked posterior by multiplying out z = C z + noise."""
    n = 5
    c, log_var = drawn(2, n) / 2, drawn(3, n) / 2
    step = torch.eye(n, dtype=torch.float64)
    step[torch.arange(1, n), torch.arange(n - 1)] = -c[1:]
    back = torch.linalg.inv(step)
    mine = back @ log_var.exp().diag() @ back.T
    lags = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    signs = torch.tensor(a, dtype=torch.float64) ** lags
    zero = torch.zeros(n, dtype=torch.float64)
    expected = kl_divergence(MultivariateNormal(zero, mine), MultivariateNormal(zero, signs))
    ours = taken("linked_kl")["linked_kl"](torch.stack([c, log_var]), a)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-10)


def test_sight_says_which_entries_count(taken: Any) -> None:
    x = torch.ones(2, 3, requires_grad=True)
    outputs = torch.stack([x[0, 0] * x[1, 2], x[1].sum(), (0.0 * x).sum()])
    seen = taken("sight")["sight"](outputs, x)
    expected = torch.zeros(3, 2, 3, dtype=torch.bool)
    expected[0, 0, 0] = expected[0, 1, 2] = True
    expected[1, 1] = True
    assert torch.equal(seen, expected)


def test_coarse_and_fine_add_up_and_coarse_is_constant_in_a_patch(taken: Any) -> None:
    x = torch.rand(6, 28, 28, generator=seeded(4), dtype=torch.float64)
    parts = taken("coarse_and_fine")["coarse_and_fine"](x)
    coarse, fine = (parts[name].view(6, 28, 28) for name in ("coarse", "fine"))
    torch.testing.assert_close(coarse + fine, x - x.mean(dim=0))
    patches = coarse.view(6, 7, 4, 7, 4)
    torch.testing.assert_close(patches, patches[:, :, :1, :, :1].expand_as(patches))
    means = fine.view(6, 7, 4, 7, 4).mean(dim=(2, 4))
    torch.testing.assert_close(means, torch.zeros_like(means), rtol=0.0, atol=1e-12)


def sizes() -> dict[str, int]:
    return {"values": 6, "hidden": 8, "latents": 2}


def binary(seed: int, examples: int = 4) -> Tensor:
    return (torch.rand(examples, 5, 6, generator=seeded(seed)) < 0.5).float()


def test_the_blind_decoder_sees_latents_and_no_pixel(taken: Any) -> None:
    torch.manual_seed(0)
    blind = taken("Blind")["Blind"](**sizes(), units=12, layers=1)
    z = drawn(5, 4, 5, 2).float()
    torch.testing.assert_close(blind(binary(6), z), blind(binary(7), z), rtol=0.0, atol=0.0)
    assert (blind(binary(6), z) - blind(binary(6), -z)).abs().max() > 1e-4


def alone(taken: Any) -> Any:
    torch.manual_seed(0)
    decoder = rows.RowDecoder(**sizes(), units=12, layers=1)
    encoder = rows.AntiCausalEncoder(**sizes())
    return taken("Alone")["Alone"](encoder, decoder, delta_vae.StandardNormal())


def test_the_decoder_alone_pays_no_rate_and_knows_no_latents(taken: Any) -> None:
    model = alone(taken)
    bound = model.bound(binary(8), None)
    expected = -model.decoder.log_likelihood(binary(8), torch.zeros(4, 5, 2))
    torch.testing.assert_close(bound.distortion, expected)
    assert (bound.rate == 0.0).all()
    bound.value().sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())


def test_annealing_charges_nothing_at_first_and_all_from_the_middle_on(taken: Any) -> None:
    annealed = taken("annealed")["annealed"]
    bound = delta_vae.Bound(torch.tensor([5.0]), torch.tensor([2.0]))
    charged = [annealed(bound, share).item() for share in (0.0, 0.25, 0.5, 0.9, 1.0)]
    assert charged == pytest.approx([5.0, 6.0, 7.0, 7.0, 7.0])


def test_training_keeps_the_smallest_rate_of_an_image_and_the_largest_of_a_batch(
    taken: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bound that is written down beforehand; the weight moves all the same."""
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path))
    parts = taken(*SETTINGS, "Pictures", "watched", "plain", "train")
    rates = iter([[3.0, 5.0], [2.0, 12.0], [4.0, 4.0]])

    class Told(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def bound(self, x: Tensor, random: Any) -> delta_vae.Bound:
            assert torch.equal(x, 2.0 * torch.ones(2, 3) - 1.0)
            return delta_vae.Bound(self.weight * torch.ones(2), torch.tensor(next(rates)))

    model = parts["watched"](Told())
    pictures = parts["Pictures"](torch.ones(8, 3), torch.ones(1, 3), centred=True)
    parts["train"]("told", model, pictures, 3, size=2, lr=0.1)
    assert (model.lowest.item(), model.peak.item()) == (2.0, 7.0)
    assert model.weight.item() == pytest.approx(0.7, abs=1e-3)  # Adam: three steps of the rate
    assert parts["claims"].record["series"]["told"]["lowest"] == [2.0]


def planted(labels: Tensor, log_var: float) -> Any:
    """A posterior whose mean names the label, and whose noise hides it or not."""

    def posterior(places: Tensor) -> tuple[Tensor, Tensor]:
        mu = torch.nn.functional.one_hot(labels[places[:, 0].long()], 10).float()[:, None]
        return mu, torch.full_like(mu, log_var)

    return SimpleNamespace(posterior=posterior)


@pytest.mark.parametrize(("log_var", "read"), [(-9.0, True), (12.0, False)])
def test_a_probe_of_samples_sees_the_noise_and_a_probe_of_means_does_not(
    taken: Any, log_var: float, read: bool
) -> None:
    parts = taken(*SETTINGS, "latents_of", "probe")
    labels = torch.randint(10, (2_000,), generator=seeded(9))
    places = torch.arange(2_000)[:, None]  # the images of this test are their own numbers
    parts |= {
        "cfg": SimpleNamespace(probe_images=1_000),
        "train_images": places[:1_000],
        "mnist": SimpleNamespace(train_labels=labels[:1_000]),
        "digits": SimpleNamespace(test=places[1_000:]),
        "test_labels": labels[1_000:],
    }
    vae = planted(labels, log_var)
    assert parts["probe"](vae, means=True) == 100.0
    if read:
        assert parts["probe"](vae) == 100.0
    else:
        assert parts["probe"](vae) < 10.0 + 5 * 100 * math.sqrt(0.09 / 1_000)  # chance


def test_capped_variances_keep_their_promise_and_reach_it(taken: Any) -> None:
    families = taken("CappedVariance")["CappedVariance"](0.3)
    mu, log_var = families.posterior(3 * drawn(10, 500, 4, 2), 5 * drawn(11, 500, 4, 2))
    assert (log_var < math.log(0.3)).all()
    promised = families.committed(n=4, latents=2)
    assert (families.rate(mu, log_var) >= promised).all()
    one = kl_divergence(Normal(0.0, math.sqrt(0.3)), Normal(0.0, 1.0)).item()
    assert promised == pytest.approx(8 * one, abs=1e-6)  # float32 inside torch's own


def test_the_misread_prior_against_torch(taken: Any) -> None:
    a, n, noise = 0.7, 6, 0.4
    parts = taken("rate_of_any_noise")
    parts |= {"a": a, "wrong": noise}
    step = torch.eye(n, dtype=torch.float64)
    step[torch.arange(1, n), torch.arange(n - 1)] = -a
    back = torch.linalg.inv(step)
    variances = torch.full((n,), noise, dtype=torch.float64)
    variances[0] = 1.0
    prior = MultivariateNormal(torch.zeros(n).double(), back @ variances.diag() @ back.T)
    mu, log_var = drawn(12, n), drawn(13, n)
    posterior = MultivariateNormal(mu, log_var.exp().diag())
    ours = parts["rate_of_any_noise"](torch.stack([mu, log_var]))
    assert ours.item() == pytest.approx(kl_divergence(posterior, prior).item(), abs=1e-9)


def test_a_cell_has_the_spread_of_several_seeds_and_nothing_for_what_is_not_there(
    taken: Any,
) -> None:
    cell = taken("of", "cell")["cell"]
    records = [{"values": {"rate": {"value": v}}} for v in (1.0, 2.0, 6.0)]
    assert cell(records, "rate") == f"3.0 ± {np.std([1, 2, 6], ddof=1):.1f}"
    assert cell(records[:1], "rate") == "1.0"
    assert cell(records, "bound") == ""
