"""The cGAN chapter's own small functions, taken out of its source and run alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from genbook import cgan, tagging

CHAPTER = "cgan"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rounds", [1, 4])
def test_k_means_finds_the_means_of_three_clusters(taken: Any, rounds: int) -> None:
    """More images than the 2000 that it compares at once, in no order."""
    k_means = taken("k_means")["k_means"]
    centres = torch.tensor([[9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0], [9.0, 9.0, 9.0, 0.0]])
    cluster = torch.randint(3, (4_500,), generator=seeded(0))
    images = centres[cluster] + 0.5 * torch.randn(4_500, 4, generator=seeded(1))

    def covers(seed: int) -> bool:  # without rounds it gives the images that it starts from
        start = k_means(images, 3, 0, seeded(seed))
        assert all((images == x).all(dim=1).any() for x in start)
        return len(torch.cdist(start, centres).argmin(dim=1).unique()) == 3

    seed = next(seed for seed in range(100) if covers(seed))
    found = k_means(images, 3, rounds, seeded(seed))
    want = torch.stack([images[cluster == c].double().mean(dim=0) for c in range(3)])
    order = torch.cdist(found, centres).argmin(dim=1)  # the cluster of each centroid
    # float32 sums of 1500 numbers of about 10
    np.testing.assert_allclose(found, want[order], atol=1e-4)


def test_an_empty_cluster_keeps_its_centroid(taken: Any) -> None:
    """Of equal centroids one gets all images, and the others none."""
    picture = torch.tensor([3.0, 0.0, -2.0, 1.0])
    found = taken("k_means")["k_means"](picture.repeat(6, 1), 4, 2, seeded(0))
    assert torch.equal(found, picture.repeat(4, 1))


def pictures(n: int) -> Tensor:
    """Like digits: values in [0, 1], smooth, and a frame of two pixels without ink; [n, 784]."""
    noise = torch.rand(n, 28, 28, generator=seeded(2)).numpy()
    smooth = ndimage.uniform_filter(noise, (0, 3, 3))
    smooth[:, [0, 1, -2, -1], :] = smooth[:, :, [0, 1, -2, -1]] = 0.0
    return torch.from_numpy(smooth).flatten(1)


def test_blurred_is_the_mean_of_three_by_three_pixels(taken: Any) -> None:
    images = pictures(4)
    found = taken("blurred")["blurred"](images)
    assert found.shape == images.shape
    square = images.numpy().reshape(4, 28, 28)
    want = ndimage.uniform_filter(square, (0, 3, 3), mode="constant")
    np.testing.assert_allclose(found, want.reshape(4, 784), atol=1e-6)
    torch.testing.assert_close(found.mean(dim=1), images.mean(dim=1))  # no ink at the frame


@pytest.mark.parametrize("size", [20, 32, 56])
def test_resized_goes_by_straight_lines_between_the_centres_of_pixels(
    taken: Any, size: int
) -> None:
    images = pictures(4)
    found = taken("resized")["resized"](images, size)
    assert found.shape == images.shape

    def line(old: int, new: int) -> np.ndarray:
        """The weights [new, old] along a side; beyond the outer centres nothing changes."""
        at = (np.arange(new) + 0.5) * old / new - 0.5
        return np.stack([np.interp(at, np.arange(old), row) for row in np.eye(old)], axis=1)

    way = line(size, 28) @ line(28, size)
    want = way @ images.double().numpy().reshape(4, 28, 28) @ way.T
    np.testing.assert_allclose(found, want.reshape(4, 784), atol=1e-5)


def test_resized_blurs_and_keeps_the_ink(taken: Any) -> None:
    images, resized = pictures(4), taken("resized")["resized"]
    found = resized(images, 32)
    # A new pixel is a mean of old ones, but old ones do not all weigh the same: 1 % here.
    torch.testing.assert_close(found.mean(dim=1), images.mean(dim=1), rtol=0.02, atol=0.0)
    assert (found.var(dim=1) < images.var(dim=1)).all()
    assert (found - images).abs().max() > 0.01
    grey = torch.full((1, 784), 0.3)
    torch.testing.assert_close(resized(grey, 32), grey)


def test_inside_is_the_deviation_within_labels(taken: Any) -> None:
    inside = taken("inside")["inside"]
    labels = torch.arange(10).repeat_interleave(4)[:-3]  # one 9 only, which has no deviation
    means = 100.0 * torch.arange(10.0)[labels, None]  # between labels, which does not count
    images = means + labels[:, None] * torch.randn(len(labels), 6, generator=seeded(3))
    want = [np.std(images[labels == d].double().numpy(), axis=0, ddof=1) for d in range(9)]
    assert math.isclose(inside(images, labels), np.mean(want), rel_tol=1e-4)
    assert inside(means.expand(-1, 6), labels) == 0.0


def test_walks_move_one_thing_and_keep_the_other(taken: Any) -> None:
    """A net that shows what it is asked: z and y side by side."""

    class Shown:
        draw = staticmethod(cgan.centred_noise)

        def __call__(self, z: Tensor, y: Tensor) -> Tensor:
            return torch.cat([z, y], dim=1)

    in_z, in_y = taken("device", "walks")["walks"](Shown(), seeded(4))
    assert in_z.shape == in_y.shape == (100, 110)
    (z, still_y), (still_z, y) = (
        images.view(10, 10, 110).split([100, 10], dim=-1) for images in (in_z, in_y)
    )
    eye = torch.eye(10)
    torch.testing.assert_close(still_y, eye[:, None].expand(10, 10, 10))
    assert torch.equal(z[:-1, -1], z[1:, 0]), "a row goes on where the last one ended"
    assert (z[:, -1] - z[:, 0]).norm(dim=-1).min() > 1.0
    torch.testing.assert_close(still_z, z[0, 0].expand(10, 10, 100))
    torch.testing.assert_close(y[:, 0], eye)
    torch.testing.assert_close(y[:, -1], eye.roll(-1, dims=0))
    for moving in (z, y):  # in a straight line, with even steps
        steps = moving.diff(dim=1)
        torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-5, rtol=0.0)


def test_walks_of_the_generator_are_two_sheets_of_a_hundred(taken: Any) -> None:
    net = cgan.Generator()
    net.draw = cgan.centred_noise
    for images in taken("device", "walks")["walks"](net, seeded(5)):
        assert images.shape == (100, 784)
        assert not images.requires_grad
        assert images.min() >= 0.0
        assert images.max() <= 1.0


def test_noise_wins_one_measure_at_most_against_the_most_common_tags(taken: Any) -> None:
    """Users write the first five words, and a crowd would write all: what noise is like."""
    measures_won = taken("measures_won")["measures_won"]
    n, vocabulary, tags = 200, 40, 5
    own = torch.zeros(n, vocabulary, dtype=torch.bool)
    own[:, :tags] = torch.rand(n, tags, generator=seeded(6)) < 0.7
    even = torch.full((n, vocabulary), 1.0 / vocabulary, dtype=torch.float64)
    common = tagging.tag_by_frequency(own, images=n, tags=tags)
    order = torch.rand(n, vocabulary, generator=seeded(7)).argsort(dim=1)
    noise = tagging.Tagging(order[:, :tags], even)
    for truth, won in ((even, 1), (common.distribution, 0)):
        ours, rival = (tagging.score(one, own, truth) for one in (noise, common))
        assert measures_won(ours, rival) == won
        assert measures_won(rival, ours) == 3 - won
        assert measures_won(ours, ours) == 0, "a draw is no win"
