"""`genbook bench --growth`: how the cost of the book's code grows with seeds, samples, image size.

Each measure is taken at several sizes in turns, so that a busy machine slows all of them; a point
is the median over turns, one thread.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator

Work = Callable[[], object]
TURNS = 7


def seeds(number: int) -> Work:
    """One update of `number` GANs of the essay's size side by side: 100 points, two networks."""
    from genbook import coverage

    make, tell = coverage.generator(number), coverage.discriminator(number)
    adam = torch.optim.Adam([*make.parameters(), *tell.parameters()], fused=True)
    real, z = torch.randn(2, number, 100, 2, generator=Generator().manual_seed(0))

    def update() -> None:
        adam.zero_grad()
        made = make(z)
        loss = coverage.discriminator_loss(tell(real), tell(made.detach())).sum()
        (loss + coverage.generator_loss(tell(made)).sum()).backward()
        adam.step()

    return update


def parzen_samples(number: int) -> Work:
    """The Parzen log-likelihood of 100 images with `number` samples of 784 values."""
    from genbook.metrics import parzen

    g = Generator().manual_seed(0)
    test, samples = (torch.rand(n, 784, generator=g) for n in (100, number))
    return lambda: parzen.log_likelihood(test, samples, sigma=0.2)


def neighbour_points(number: int) -> Work:
    """Precision, recall, density and coverage of two sets of `number` points in 64 dimensions."""
    from genbook.metrics import neighbours

    g = Generator().manual_seed(0)
    real, made = (torch.randn(number, 64, generator=g) for _ in range(2))
    return lambda: neighbours.neighbours(real, made)


def image_side(side: int) -> Work:
    """A training step of a U-Net, 32 channels wide, on two pictures of `side` x `side`."""
    from genbook import unet

    net = unet.UNet(size=side, channels=32, groups=8, dropout=0.0)
    adam = torch.optim.Adam(net.parameters(), fused=True)
    x, t = torch.randn(2, 3, side, side, generator=Generator().manual_seed(0)), torch.tensor([1, 9])

    def update() -> None:
        adam.zero_grad()
        net(x, t).square().mean().backward()
        adam.step()

    return update


MEASURES: dict[str, tuple[str, str, Callable[[int], Work], tuple[int, ...]]] = {
    "seeds": ("an update of GANs side by side", "seeds", seeds, (1, 2, 4, 8, 16)),
    "parzen": (
        "Parzen window of 100 images", "samples", parzen_samples, (1_250, 2_500, 5_000, 10_000),
    ),
    "neighbours": (
        "shares of nearest neighbours", "points", neighbour_points, (500, 1_000, 2_000, 4_000),
    ),
    "size": ("a training step of the U-Net", "pixels a side", image_side, (8, 16, 32, 64)),
}  # fmt: skip


def measure(*, turns: int = TURNS, sizes: int | None = None) -> dict[str, Any]:
    """Every measure at its first `sizes` sizes: what, the quantity that grows, the sizes, seconds,
    and the exponent of the power law through the first and the last point."""
    torch.set_num_threads(1)
    found = {}
    for name, (what, quantity, make, several) in MEASURES.items():
        chosen = several[:sizes]
        works = [make(size) for size in chosen]
        for work in works:
            work()
        taken = [[_seconds(work) for work in works] for _ in range(turns)]
        seconds = [statistics.median(column) for column in zip(*taken, strict=True)]
        growth = math.log(seconds[-1] / seconds[0]) / math.log(chosen[-1] / chosen[0])
        found[name] = {
            "what": what, "quantity": quantity, "sizes": list(chosen), "seconds": seconds,
            "exponent": growth,
        }  # fmt: skip
    return found


def _seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
