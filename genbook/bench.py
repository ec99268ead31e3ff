"""`genbook bench`: AEVB training speed, our way against the textbook way, on this machine.

Equal work: the 784-500-20 networks of section 5 with the same first weights, batches of 100 MNIST
images, one draw of z, Adagrad with a step of 0.02; both must arrive at a similar bound.  The two
take turns in one process, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from genbook import aevb, data, training

PIXELS, HIDDEN, LATENTS = 784, 500, 20  # paper, section 5
BATCH, STEP_SIZE, STD = 100, 0.02, 0.1  # paper; 0.02 is one of its three steps
NATS_APART = 15.0  # ours: twice the distance of two seeds after some hundred steps
BOUND_IMAGES = 2000
WARM_UP = 20  # steps before the first turn is timed


def to_tensor(picture: Image.Image) -> Tensor:
    """The steps of torchvision's ToTensor: bytes -> [H,W,C] -> [C,H,W] -> floats in [0, 1]."""
    image = torch.from_numpy(np.array(picture, np.uint8, copy=True))
    image = image.view(picture.size[1], picture.size[0], len(picture.getbands()))
    image = image.permute((2, 0, 1)).contiguous()
    return image.to(dtype=torch.get_default_dtype()).div(255)


class MNIST(Dataset[tuple[Tensor, int]]):
    """One item at a time, as torchvision's data set of this name: a picture, then its tensor."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.data, self.targets, self.transform = images, labels, to_tensor

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        img, target = self.data[index], int(self.targets[index])
        return self.transform(Image.fromarray(img.numpy(), mode="L")), target


class TextbookVAE(nn.Module):
    """Laid out as the VAE among PyTorch's own examples: a sigmoid inside, two encoder heads."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(PIXELS, HIDDEN)
        self.fc21 = nn.Linear(HIDDEN, LATENTS)
        self.fc22 = nn.Linear(HIDDEN, LATENTS)
        self.fc3 = nn.Linear(LATENTS, HIDDEN)
        self.fc4 = nn.Linear(HIDDEN, PIXELS)

    def start_as(self, vae: aevb.VAE) -> None:
        """Copy the weights of our model."""
        out, decoder = vae.encoder.out, vae.decoder
        with torch.no_grad():
            for name in ("weight", "bias"):
                mu, log_var = getattr(out, name).chunk(2)
                getattr(self.fc1, name).copy_(getattr(vae.encoder.hidden, name))
                getattr(self.fc21, name).copy_(mu)
                getattr(self.fc22, name).copy_(log_var)
                getattr(self.fc3, name).copy_(getattr(decoder.hidden, name))
                getattr(self.fc4, name).copy_(getattr(decoder.out, name))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h1 = torch.tanh(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(torch.tanh(self.fc3(z))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x.view(-1, PIXELS))
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar


def textbook_loss(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Minus the bound, summed over the batch as there (Adagrad does not see the factor)."""
    bce = functional.binary_cross_entropy(recon_x, x.view(-1, PIXELS), reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return bce + kld


class Textbook:
    """The loop of the example: a DataLoader, the default optimiser, the loss read every step."""

    def __init__(self, mnist: data.ImageData, start: aevb.VAE):
        self.model = TextbookVAE()
        self.model.start_as(start)
        self.optimizer = torch.optim.Adagrad(self.model.parameters(), lr=STEP_SIZE)
        assert mnist.train_labels is not None
        items = MNIST(mnist.train_images, mnist.train_labels)
        self.loader = DataLoader(items, batch_size=BATCH, shuffle=True, num_workers=0)
        self.epochs = itertools.chain.from_iterable(itertools.repeat(self.loader))

    def train(self, steps: int) -> None:
        torch.set_flush_denormal(False)  # the default, which our way changes
        train_loss = 0.0
        for x, _ in itertools.islice(self.epochs, steps):
            self.optimizer.zero_grad()
            recon_batch, mu, logvar = self.model(x)
            loss = textbook_loss(recon_batch, x, mu, logvar)
            loss.backward()
            train_loss += loss.item()
            self.optimizer.step()

    @torch.no_grad()
    def bound(self, x: Tensor) -> float:
        return -textbook_loss(self.model(x)[0], x, *self.model.encode(x)).item() / len(x)


class Ours:
    """The loop of the chapter: batches from a resident tensor, estimator B, one fused step."""

    def __init__(self, mnist: data.ImageData, start: aevb.VAE):
        self.images, self.vae = mnist.train_images.flatten(1), start
        self.training = training.Training(
            f"bench-{time.monotonic_ns()}",
            start,
            training.adagrad(start.parameters(), lr=STEP_SIZE),
            training.stream(0, "bench"),
        )
        self.batches = self.training.batches(self.images, size=BATCH, steps=sys.maxsize)

    def train(self, steps: int) -> None:
        torch.set_flush_denormal(True)  # as `batches` does; the other way's turn took it back
        t = self.training
        for x in itertools.islice(self.batches, steps):
            t.step(-aevb.elbo(self.vae, x, generator=t.generator).mean())

    def bound(self, x: Tensor) -> float:
        return aevb.mean_bound(self.vae, x, generator=training.stream(0, "bound"))


@dataclass(frozen=True)
class Speed:
    """Images a second of every turn, their median, and the bound on test images at the end."""

    images_per_second: float
    turns: list[float]
    bound: float

    @classmethod
    def of(cls, turns: list[float], bound: float) -> Speed:
        return cls(statistics.median(turns), turns, bound)


@dataclass(frozen=True)
class Comparison:
    """Both ways with equally many threads; `ratio` is the median of the turns' ratios, and
    `lowest` and `highest` are the spread of these."""

    threads: int
    ours: Speed
    textbook: Speed
    ratio: float
    lowest: float
    highest: float


def new_vae() -> aevb.VAE:
    """The model that both ways start from."""
    vae = aevb.VAE(pixels=PIXELS, hidden=HIDDEN, latents=LATENTS)
    aevb.init_normal(vae, std=STD, generator=training.stream(0, "init"))
    return vae


def compare(mnist: data.ImageData, *, threads: int, turns: int, steps: int) -> Comparison:
    """Train both ways turn by turn; raises if they do not arrive at a similar bound."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, textbook = Ours(mnist, new_vae()), Textbook(mnist, new_vae())
    seconds: list[tuple[float, float]] = []
    ours.train(WARM_UP)
    textbook.train(WARM_UP)
    for _ in range(turns):
        seconds.append((_timed(ours.train, steps), _timed(textbook.train, steps)))
    x = mnist.test_images[:BOUND_IMAGES].flatten(1).float() / 255.0
    bounds = ours.bound(x), textbook.bound(x)
    if not abs(bounds[0] - bounds[1]) < NATS_APART:
        raise RuntimeError(f"not equal work: bounds {bounds[0]:.1f} and {bounds[1]:.1f} nats")
    ratios = [slow / fast for fast, slow in seconds]
    return Comparison(
        threads,
        Speed.of([steps * BATCH / fast for fast, _ in seconds], bounds[0]),
        Speed.of([steps * BATCH / slow for _, slow in seconds], bounds[1]),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
    )


def _timed(train: Callable[[int], None], steps: int) -> float:
    started = time.perf_counter()
    train(steps)
    return time.perf_counter() - started


@contextmanager
def scratch() -> Iterator[None]:
    """A run folder of our own, and torch's settings as they were afterwards."""
    before, threads = os.environ.get("GENBOOK_RUN_DIR"), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GENBOOK_RUN_DIR"] = folder
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(False)
            if before is None:
                del os.environ["GENBOOK_RUN_DIR"]
            else:
                os.environ["GENBOOK_RUN_DIR"] = before


def bench(
    mnist: data.ImageData, *, threads: list[int], turns: int = 40, steps: int = 25
) -> dict[str, Any]:
    """Compare with each number of threads; returns what was found as a JSON object."""
    from genbook.runs.provenance import processor

    with scratch():
        found = [compare(mnist, threads=n, turns=turns, steps=steps) for n in threads]
    return {
        "what": "AEVB training, images a second",
        "networks": [PIXELS, HIDDEN, LATENTS],
        "batch": BATCH,
        "optimizer": f"Adagrad, step {STEP_SIZE}",
        "turns": turns,
        "steps": steps,
        "machine": {**processor(), "python": platform.python_version(), "torch": torch.__version__},
        "comparisons": [asdict(comparison) for comparison in found],
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    machine = found["machine"]
    table = Table(
        title="AEVB training on MNIST, 784-500-20",
        caption=f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"Python {machine['python']}; median of {found['turns']} turns of {found['steps']} steps",
    )
    for column in ("threads", "ours, images/s", "textbook, images/s", "ratio", "spread"):
        table.add_column(column, justify="right")
    table.add_column("bound, nats: ours / textbook", justify="right")
    for row in found["comparisons"]:
        ours, textbook = row["ours"], row["textbook"]
        table.add_row(
            str(row["threads"]),
            f"{ours['images_per_second']:,.0f}",
            f"{textbook['images_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['lowest']:.2f} to {row['highest']:.2f}",
            f"{ours['bound']:.1f} / {textbook['bound']:.1f}",
        )
    Console().print(table)


def main(argv: list[str] | None = None) -> None:
    """The command line of `genbook bench`."""
    parser = argparse.ArgumentParser(prog="genbook bench", description=__doc__)
    parser.add_argument("--threads", default="1,all", help="default: 1,all")
    parser.add_argument("--turns", type=int, default=40, help="turns of each way (default 40)")
    parser.add_argument("--steps", type=int, default=25, help="steps a turn (default 25)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(argv)
    cores = os.cpu_count() or 1
    try:
        threads = [cores if n == "all" else int(n) for n in chosen.threads.split(",")]
    except ValueError:
        parser.error(f"--threads {chosen.threads}: write 1, all or 1,all")
    if min(*threads, chosen.turns, chosen.steps) < 1:
        parser.error("threads, turns and steps are 1 or more")
    found = bench(
        data.load("mnist"),
        threads=list(dict.fromkeys(threads)),
        turns=chosen.turns,
        steps=chosen.steps,
    )
    if chosen.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)
