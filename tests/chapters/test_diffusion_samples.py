"""The diffusion chapter's chains of fewer steps, and the samples and codes that it keeps in
blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from genbook import diffusion

CHAPTER = "diffusion"
SETTINGS = ("profile", "device", "seed", "Profile", "PROFILES", "cfg", "claims")
DIGITS = (*SETTINGS, "mnist", "small", "order", "train_images", "centred")

pytestmark = pytest.mark.usefixtures("run_folder")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_bit_equal(found: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert found.keys() == want.keys()
    assert not [key for key in want if not torch.equal(found[key], want[key])]


@pytest.mark.parametrize("T", [50, 1_000])
def test_spaced_times_rise_evenly_to_the_last_and_keep_alpha_bar(taken: Any, T: int) -> None:
    parts = taken(*SETTINGS, "process", "spaced")
    process = parts["process"] = diffusion.GaussianDiffusion(diffusion.linear_betas(T))
    for steps in [*range(2, 50), *((100, 250, 999) if T == 1_000 else ())]:
        reverse = parts["spaced"](None, steps, variance="small")
        assert reverse.variance == "small"
        assert (reverse.process.T, len(reverse.times)) == (steps, steps)
        assert reverse.times[-1] == T
        gaps = np.diff([0, *reverse.times.tolist()])
        assert min(gaps) >= 1
        assert max(gaps) - min(gaps) <= 1
        kept = np.cumprod(1 - process.beta.numpy())[reverse.times]
        np.testing.assert_allclose(reverse.process.alpha_bar[1:], kept, rtol=1e-9)


def test_a_chain_of_all_steps_is_the_process_itself(taken: Any) -> None:
    parts = taken(*SETTINGS, "process", "spaced")
    process, net = parts["process"], object()
    for reverse in (parts["spaced"](net), parts["spaced"](net, process.T)):
        assert reverse == diffusion.Reverse(net, process)
    every = process.respaced(torch.arange(1, process.T + 1))
    torch.testing.assert_close(every.beta, process.beta)


class StoppedError(Exception):
    """Stands for the end of a process."""


class Sampler:
    """Algorithm 2, which counts and can end in the middle of a block."""

    def __init__(self, stop: int | None = None):
        self.sizes: list[int] = []
        self.stop = stop

    def __call__(self, reverse: Any, x: Tensor, random: torch.Generator) -> Iterator[Any]:
        self.sizes.append(len(x))
        for step in diffusion.ancestral(reverse, x, random):
            if len(self.sizes) == self.stop and step[0] == 10:
                raise StoppedError
            yield step


@pytest.fixture
def draw(taken: Any) -> Callable[..., Tensor]:
    """600 samples by a network that has one number."""
    parts = taken(*SETTINGS, "process", "spaced", "levels_of", "sampled")
    reverse = parts["spaced"](lambda x, t: 0.3 * x)

    def run(sampler: Any, name: str = "digits") -> Tensor:
        return parts["sampled"](name, reverse, 600, sampler=sampler)

    return run


def test_samples_are_kept_in_blocks_and_reused(
    draw: Any, run_folder: Path, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = Sampler()
    images = draw(sampler)
    assert (images.shape, images.dtype) == ((600, 1, 14, 14), torch.uint8)
    assert sampler.sizes == [250, 250, 100]
    blocks = sorted(run_folder.glob("checkpoints/samples-digits-*"))
    assert [int(path.stem.split("-")[-1]) for path in blocks] == [0, 250, 500]
    assert len(images.flatten(1).unique(dim=0)) == 600

    assert torch.equal(draw(sampler), images)
    assert sampler.sizes == [250, 250, 100], "nothing is drawn twice"
    blocks[1].unlink()
    assert torch.equal(draw(sampler), images)
    assert sampler.sizes == [250, 250, 100, 250]
    assert not torch.equal(draw(sampler, "others"), images)

    other = tmp_path_factory.mktemp("other")
    (other / "checkpoints").mkdir()
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(other))
    torch.manual_seed(1)
    with pytest.raises(StoppedError):
        draw(Sampler(stop=2))
    assert [path.name for path in (other / "checkpoints").iterdir()] == [blocks[0].name]
    resumed = Sampler()
    assert torch.equal(draw(resumed), images)
    assert resumed.sizes == [250, 100]


def test_every_block_has_noise_of_its_own(draw: Any) -> None:
    """The start, and what is drawn on the way, as grey levels."""

    def start(_: Any, x: Tensor, random: Any) -> Any:
        yield 0, x, x

    def way(_: Any, x: Tensor, random: Any) -> Any:
        yield 1, x, x
        yield 0, torch.randn(x.shape, generator=random), x

    for name, sampler in (("start", start), ("way", way)):
        images = draw(sampler, name)
        assert len(images.flatten(1).unique(dim=0)) == 600
        for share, side in ((images == 0, -1.0), (images == 255, 1.0)):  # a sixth is cut
            want = Normal(0.0, 1.0).cdf(torch.tensor(-1.0 + 0.5 / 127.5)).item()
            assert share.double().mean().item() == pytest.approx(want, abs=0.006), (name, side)


def test_codes_are_kept_in_blocks_and_have_the_same_noise_for_every_coder(
    taken: Any, run_folder: Path
) -> None:
    parts = taken(*SETTINGS, "process", "coded")
    process = parts["process"]
    x = 2 * torch.rand(620, 1, 2, 2, generator=seeded(11)) - 1
    asked: list[Tensor] = []

    def net(x_t: Tensor, t: Tensor) -> Tensor:
        asked.append(x_t)
        return 0.3 * x_t

    def found(name: str) -> dict[str, Tensor]:
        return vars(parts["coded"](name, diffusion.Reverse(net, process), x))

    first = found("right")
    assert first["terms"].shape == first["square"].shape == (process.T, 620)
    variance = (1 - process.beta).prod()  # of L_T, what is left of the picture
    q = Normal(variance.sqrt() * x.double(), (1 - variance).sqrt())
    want = kl_divergence(q, Normal(0.0, 1.0)).flatten(1).sum(dim=1)
    torch.testing.assert_close(first["prior"], want)
    assert [len(x_t) for x_t in asked] == [500] * process.T + [120] * process.T
    assert_bit_equal(found("right"), first)
    assert len(asked) == 2 * process.T, "nothing is coded twice"
    second = run_folder / "checkpoints" / "code-right-500.safetensors"
    second.unlink()
    assert_bit_equal(found("right"), first)
    assert len(asked) == 3 * process.T
    assert_bit_equal(found("other"), first)
    noise = [x_t[:120] - x_t[:120].mean() for x_t in (asked[0], asked[process.T])]
    assert (noise[0] - noise[1]).abs().mean() > 0.5  # blocks have noise of their own


@pytest.mark.parametrize(("share", "matters"), [(0.0, "a"), (0.5, "ab"), (1.0, "b")])
def test_mixed_is_of_one_picture_at_the_ends_and_of_both_between(
    on_digits: Any, pictures: Any, share: float, matters: str
) -> None:
    parts = on_digits(*DIGITS, "process", "levels_of", "mixed")
    pair = [parts["centred"](pictures(6, seed, 14)[:, None]) for seed in (12, 13)]
    parts |= {"main": SimpleNamespace(average=lambda x, t: 0.5 * x)}
    parts |= dict(zip("ab", pair, strict=True))
    found = parts["mixed"](25, share, 4)
    assert (found.shape, found.dtype) == ((4, 1, 14, 14), torch.uint8)
    assert torch.equal(parts["mixed"](25, share, 4), found)
    for name, x in zip("ab", pair, strict=True):
        parts[name] = x.flip(0)
        assert torch.equal(parts["mixed"](25, share, 4), found) == (name not in matters)
        parts[name] = x
