"""The diffusion chapter's own small functions, taken out of its source and run alone: its plane,
pictures, autoencoders, measures, deaf networks and tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from genbook import unet
from genbook.metrics import classifier

CHAPTER = "diffusion"
SETTINGS = ("profile", "device", "seed", "Profile", "PROFILES", "cfg", "claims")
DIGITS = (*SETTINGS, "mnist", "small", "order", "train_images", "centred")
NETS = ("process", "Averaged", "digit_net")
JUDGE = ("seen", "logits_of", "features_of", "confident", "Eye", "measures")

pytestmark = pytest.mark.usefixtures("run_folder")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_bit_equal(found: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert found.keys() == want.keys()
    assert not [key for key in want if not torch.equal(found[key], want[key])]


def test_grey_levels_are_the_nearest_of_256(taken: Any) -> None:
    grey_levels = taken("grey_levels")["grey_levels"]
    x = 1.2 * torch.randn(1_000, 2, generator=seeded(0))
    levels = np.linspace(-1.0, 1.0, 256)
    nearest = levels[np.abs(x.numpy()[..., None] - levels).argmin(axis=-1)]
    found = grey_levels(x)
    np.testing.assert_allclose(found, nearest, atol=1e-6)
    assert torch.equal(grey_levels(found), found)
    assert len(grey_levels(torch.linspace(-3, 3, 100_000)).unique()) == 256


def test_near_counts_points_by_their_distance_and_the_heaps_that_have_some(taken: Any) -> None:
    parts = taken("angle", "heaps", "near")
    heaps, near = parts["heaps"], parts["near"]
    outwards = heaps.means / heaps.means.norm(dim=1, keepdim=True)
    edge = heaps.means + 3 * heaps.std * outwards
    inside, outside = edge - 0.01 * heaps.std * outwards, edge + 0.01 * heaps.std * outwards
    share, found = near(
        torch.cat([inside[:3], inside[:1], outside[2:], outside[:2], torch.zeros(1, 2)])
    )
    assert (share, found) == (pytest.approx(0.4), 3)
    assert near(outside) == (0.0, 0)
    assert near(heaps.means) == (1.0, 5)


def test_near_finds_the_share_that_the_density_has_there(taken: Any) -> None:
    """Summed over a grid."""
    parts, n = taken("angle", "heaps", "near"), 200_000
    heaps = parts["heaps"]
    line = np.linspace(-1.5, 1.5, 601)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    square = scipy.spatial.distance.cdist(grid, heaps.means.numpy(), "sqeuclidean") / heaps.std**2
    density = np.exp(-square / 2).sum(axis=1)
    want = density[square.min(axis=1) < 9].sum() / density.sum()
    share, found = parts["near"](heaps.sample(n, seeded(10)))
    assert abs(share - want) < 5 * math.sqrt(want * (1 - want) / n)
    assert found == 5


def test_levels_and_centred_pictures_are_inverse(taken: Any) -> None:
    parts = taken("levels_of", "centred")
    levels_of, centred = parts["levels_of"], parts["centred"]
    levels = torch.arange(256, dtype=torch.uint8)
    x = centred(levels)
    np.testing.assert_allclose(x, np.linspace(-1.0, 1.0, 256), atol=1e-6)
    assert torch.equal(levels_of(x), levels)
    assert levels_of(torch.tensor([-7.0, -1.002, 1.002, 7.0])).tolist() == [0, 0, 255, 255]
    between = 2 * torch.rand(1_000, generator=seeded(1)) - 1
    assert (centred(levels_of(between)) - between).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("side", [14, 28])
def test_small_takes_means_and_seen_shows_them_at_full_size(
    on_digits: Any, pictures: Any, side: int
) -> None:
    parts = on_digits(*DIGITS, "seen")
    parts["cfg"] = dataclasses.replace(parts["cfg"], side=side)
    images, square = pictures(5, 2), 28 // side
    found = parts["small"](images)
    assert found.dtype == torch.uint8
    cut = images.double().numpy().reshape(5, side, square, side, square)
    np.testing.assert_array_equal(found[:, 0], np.rint(cut.mean(axis=(2, 4))))
    want = np.stack([np.kron(x, np.ones((square, square))) for x in found[:, 0].numpy()])
    np.testing.assert_allclose(parts["seen"](found), want.reshape(5, 784) / 255.0, atol=1e-7)


def test_half_a_picture_is_rounded(on_digits: Any) -> None:
    parts = on_digits(*DIGITS)
    assert parts["cfg"].side == 14, "the smoke profile takes means"
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, :2, :2] = torch.tensor([[255, 255], [255, 254]])  # 254.75
    image[0, 26:, 26:] = torch.tensor([[1, 0], [0, 0]])
    found = parts["small"](image)
    assert (found[0, 0, 0, 0].item(), found.sum().item()) == (255, 255)


def autoencoder(taken: Any, weight: float) -> Any:
    """One whose noise has deviations that differ, between 0.2 and 2."""
    parts = taken(*SETTINGS, "Autoencoder")
    torch.manual_seed(0)
    model = parts["Autoencoder"](weight)
    with torch.no_grad():
        model.encoder[-1].bias[10:] = 2 * torch.linspace(math.log(0.2), math.log(2.0), 10)
    return model


@pytest.mark.parametrize("weight", [0.5, 1])
@torch.no_grad()
def test_the_variational_code_has_noise_and_pays_for_it(taken: Any, weight: float) -> None:
    model, n = autoencoder(taken, weight), 4_000
    x = torch.rand(3, 1, 14, 14, generator=seeded(3)).repeat_interleave(n, dim=0)
    z, penalty = model.code(x, seeded(4))
    assert z.shape == (3 * n, 10)
    mu, log_var = model.encoder(x.flatten(1)).double().split(10, dim=1)
    q = Normal(mu, (0.5 * log_var).exp())
    want = weight * kl_divergence(q, Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(penalty.double(), want, rtol=1e-4, atol=1e-4)
    noise = ((z - q.mean) / q.stddev).view(3, n, 10)
    assert noise.mean(dim=1).abs().max() < 5 / math.sqrt(n)
    assert (noise.std(dim=1) - 1).abs().max() < 5 / math.sqrt(2 * n)


@torch.no_grad()
def test_the_plain_code_has_no_noise_and_no_penalty(taken: Any) -> None:
    model = autoencoder(taken, 0)
    x = torch.rand(5, 1, 14, 14, generator=seeded(3))
    (z, penalty), (again, _) = model.code(x, seeded(4)), model.code(x, seeded(5))
    assert torch.equal(z, again)
    assert torch.equal(z, model.encoder(x.flatten(1))[:, :10])
    assert torch.equal(penalty, torch.zeros(5))


@torch.no_grad()
def test_decoded_pictures_are_grey_levels(taken: Any) -> None:
    model = autoencoder(taken, 0)
    z = torch.randn(6, 10, generator=seeded(6))
    model.decoder[-1].weight *= 30.0
    found = model.decode(z)
    assert (found.shape, found.dtype) == ((6, 1, 14, 14), torch.uint8)
    logits = model.decoder(z).double().numpy()
    np.testing.assert_allclose(found.flatten(1), 255 / (1 + np.exp(-logits)), atol=0.501)
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize("weight", [0, 1])
def test_random_codes_are_spread_as_the_codes_or_as_the_prior(taken: Any, weight: int) -> None:
    """A model whose codes are known and whose pictures are the codes themselves."""
    n = 4_000
    codes = torch.tensor([5.0, -2.0]) + torch.tensor([0.1, 3.0]) * torch.randn(
        n + 1_000, 2, generator=seeded(7)
    )
    parts = taken(*SETTINGS, "decoded")
    parts |= {"test_images": codes, "cfg": SimpleNamespace(judged=n)}
    model = SimpleNamespace(weight=weight, code=lambda x, _: (255 * x, 0.0), decode=lambda z: z)
    back, made = parts["decoded"]("ae", model)
    torch.testing.assert_close(back, codes[:n])
    mean, std = ([0.0, 0.0], [1.0, 1.0]) if weight else ([5.0, -2.0], [0.1, 3.0])
    noise = (made - torch.tensor(mean)) / torch.tensor(std)
    assert noise.mean(dim=0).abs().max() < 7 / math.sqrt(n)  # codes have an error of their own
    assert (noise.std(dim=0) - 1).abs().max() < 7 / math.sqrt(2 * n)


def judged(take: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The measures, with a classifier that has not learnt but is sure."""
    parts = take(*DIGITS, *JUDGE)
    torch.manual_seed(0)
    parts["judge"] = classifier.Classifier()
    with torch.no_grad():
        parts["judge"].out.weight *= 200.0
    return parts


def test_the_judge_sees_every_picture_of_many_blocks(on_digits: Any, pictures: Any) -> None:
    parts = judged(on_digits)
    images = parts["small"](pictures(1_030, 3))
    with torch.no_grad():
        want = parts["judge"](parts["seen"](images))
    assert not parts["logits_of"](images).requires_grad
    torch.testing.assert_close(parts["logits_of"](images), want, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        parts["judge"].out(parts["features_of"](images)), want, rtol=1e-4, atol=1e-3
    )


def test_confident_is_the_share_with_one_class_above_nine_tenths(taken: Any) -> None:
    parts = taken("confident")
    highest = torch.tensor([0.2, 0.5, 0.89, 0.91, 0.99])
    rest = (1 - highest)[:, None] / 9
    parts["logits_of"] = lambda _: torch.cat([rest.expand(-1, 9), highest[:, None]], 1).log() + 3.0
    assert parts["confident"](None) == pytest.approx(40.0)


def test_measures_are_those_of_numpy(on_digits: Any, pictures: Any) -> None:
    """Of pictures that are few of the real ones, sharp and blurred, and too dark."""
    parts = judged(on_digits)
    real = parts["small"](pictures(300, 4))
    blurred = torch.from_numpy(ndimage.uniform_filter(real[:60].numpy(), (0, 0, 3, 3)))
    made = torch.cat([real[:60], blurred, real[:40] // 2])
    parts["eye"] = parts["Eye"].of(real)
    found = parts["measures"](made)
    assert list(found) == ["score", "distance", "precision", "recall", "coverage"]

    a, b = (parts["features_of"](x).double().numpy() for x in (real, made))
    _, _, directions = np.linalg.svd(a - a.mean(axis=0), full_matrices=False)
    low_a, low_b = ((f - a.mean(axis=0)) @ directions[:32].T for f in (a, b))
    cov_a, cov_b = np.cov(low_a.T), np.cov(low_b.T)
    want = np.square(low_b.mean(axis=0) - low_a.mean(axis=0)).sum()
    want += np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    assert found["distance"] == pytest.approx(want, rel=1e-6)

    def inside(points: np.ndarray, balls: np.ndarray) -> np.ndarray:
        """[points, balls]: which point lies in which ball, that reaches to a third neighbour."""
        radius = np.sort(scipy.spatial.distance.cdist(balls, balls), axis=1)[:, 3]
        return scipy.spatial.distance.cdist(points, balls) < radius

    shares = inside(b, a).any(axis=1), inside(a, b).any(axis=1), inside(b, a).any(axis=0)
    want = [100 * share.mean() for share in shares]
    assert [found[k] for k in ("precision", "recall", "coverage")] == pytest.approx(want)
    assert np.diff(np.sort(want)).min() > 5.0  # so that none stands for another
    p = np.exp(logits := parts["logits_of"](made).double().numpy())
    p /= np.exp(logits).sum(axis=1, keepdims=True)
    kl = (p * np.log(p / p.mean(axis=0))).sum(axis=1)
    assert found["score"] == pytest.approx(np.exp(kl.mean()), rel=1e-6)
    assert found["score"] > 1.1


def test_a_set_has_no_distance_to_itself_and_blur_has_one(on_digits: Any, pictures: Any) -> None:
    parts = judged(on_digits)
    real, other = (parts["small"](pictures(400, seed)) for seed in (5, 6))
    eye = parts["eye"] = parts["Eye"].of(real)
    blurred = torch.from_numpy(ndimage.uniform_filter(other.numpy(), (0, 0, 3, 3)))
    size = eye.features.var(dim=0).sum().item()
    assert abs(eye.distance(real)) < 1e-9 * size
    assert 1e-3 * size < eye.distance(other) < 0.5 * eye.distance(blurred)
    own = parts["measures"](real)
    assert (own["precision"], own["recall"]) == (100.0, 100.0)


def test_kept_measures_are_in_the_record(taken: Any) -> None:
    parts, found = taken(*SETTINGS, "keep_measures"), {"score": 2.0, "recall": 3.0}
    parts |= {"confident": lambda _: 87.5, "measures": lambda _: found}
    assert parts["keep_measures"]("main", None) == found
    values = {name: row["value"] for name, row in parts["claims"].record["values"].items()}
    assert values == {"confident-main": 87.5, "score-main": 2.0, "recall-main": 3.0}


def loud(net: nn.Module) -> nn.Module:
    """With random weights in place of those that start at 0."""
    torch.manual_seed(3)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
    return net


@torch.no_grad()
def test_the_deaf_networks_do_not_react_to_the_time(on_digits: Any) -> None:
    parts = on_digits(*DIGITS, *NETS, "deaf", "Nothing", "untimed")
    x = torch.randn(4, 1, 14, 14, generator=seeded(9))
    early, late = torch.tensor([1, 2, 10, 30]), torch.tensor([50, 45, 40, 31])
    for make, deaf in (("deaf", True), ("untimed", True), ("digit_net", False)):
        net = loud(parts[make]()).eval()
        change = (net(x, early) - net(x, late)).flatten(1).norm(dim=1)
        size = net(x, early).flatten(1).norm(dim=1)
        assert (change < 1e-4 * size).all() if deaf else (change > 1e-2 * size).all()
        assert (net(x, early) - net(x.flip(0), early)).abs().max() > 0.1


def test_the_deaf_network_is_else_the_plain_one(on_digits: Any) -> None:
    parts = on_digits(*DIGITS, *NETS, "deaf")
    torch.manual_seed(1)
    plain = parts["digit_net"]()
    torch.manual_seed(2)
    assert_bit_equal(parts["deaf"]().state_dict(), plain.state_dict())
    dropped = parts["digit_net"](dropout=0.3, outputs=2)
    assert {layer.p for layer in dropped.modules() if isinstance(layer, nn.Dropout)} == {0.3}
    assert dropped.leave.out_channels == 2 * plain.leave.out_channels
    assert isinstance(plain, unet.UNet)


def test_a_cell_has_the_spread_of_several_seeds_and_nothing_for_what_is_not_there(
    taken: Any,
) -> None:
    cell = taken("of", "cell")["cell"]
    records = [{"values": {"rate": {"value": v}}} for v in (1.0, 2.0, 6.0)]
    assert cell(records, "rate", ".2f") == f"3.00 ± {np.std([1, 2, 6], ddof=1):.2f}"
    assert cell(records[:1], "rate") == "1.0"
    assert cell(records, "bound") == ""


def test_the_table_of_six_is_judged_where_the_six_are_trained(taken: Any) -> None:
    parts = taken(*SETTINGS, "of", "table_2")
    for name, number in (("eps-bound", 3.0), ("eps-simple", 4.0)):
        parts["claims"].value(f"table-bits-{name}", number, unit="", format=".1f")
    assert parts["cfg"].table_updates
    assert parts["table_2"]("bits", "eps-simple", "eps-bound") == [4.0, 3.0]
    parts["cfg"] = dataclasses.replace(parts["cfg"], table_updates=0)
    assert parts["table_2"]("bits", "eps-simple", "eps-bound") is None
