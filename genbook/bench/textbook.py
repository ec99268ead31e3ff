"""AEVB training two ways, ours and the textbook's.

The networks of section 5, 784-500 and as many latent variables as asked for, with the same first
weights, batches of 100 MNIST images, one draw of z, Adagrad with a step of 0.02.  Several models
train side by side in our way, one after another in the textbook's.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from genbook import aevb, data, precision, training
from genbook import nn as nets

PIXELS, HIDDEN = 784, 500  # paper, section 5
BATCH, STEP_SIZE, STD = 100, 0.02, 0.1  # paper; 0.02 is one of its three steps


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

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(PIXELS, HIDDEN)
        self.fc21 = nn.Linear(HIDDEN, latents)
        self.fc22 = nn.Linear(HIDDEN, latents)
        self.fc3 = nn.Linear(latents, HIDDEN)
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

    dtype = "float32"  # of its products

    def __init__(self, mnist: data.ImageData, starts: Sequence[aevb.VAE]):
        self.models = [TextbookVAE(start.latents) for start in starts]
        for model, start in zip(self.models, starts, strict=True):
            model.start_as(start)
        self.optimizers = [torch.optim.Adagrad(m.parameters(), lr=STEP_SIZE) for m in self.models]
        assert mnist.train_labels is not None
        items = MNIST(mnist.train_images, mnist.train_labels)
        self.loader = DataLoader(items, batch_size=BATCH, shuffle=True, num_workers=0)
        self.epochs = itertools.chain.from_iterable(itertools.repeat(self.loader))

    def train(self, steps: int) -> None:
        torch.set_flush_denormal(False)  # the default, which our way changes
        for model, optimizer in zip(self.models, self.optimizers, strict=True):
            train_loss = 0.0
            for x, _ in itertools.islice(self.epochs, steps):
                optimizer.zero_grad()
                recon_batch, mu, logvar = model(x)
                loss = textbook_loss(recon_batch, x, mu, logvar)
                loss.backward()
                train_loss += loss.item()
                optimizer.step()

    @torch.no_grad()
    def bound(self, x: Tensor) -> float:
        """The mean over images and models."""
        losses = [textbook_loss(m(x)[0], x, *m.encode(x)).item() / len(x) for m in self.models]
        return -sum(losses) / len(losses)


class Ours:
    """The loop of the chapter: batches from a resident tensor, products in bfloat16 where that is
    fast, estimator B, one fused step, all models at once."""

    def __init__(self, mnist: data.ImageData, starts: Sequence[aevb.VAE]):
        self.images, self.vaes = mnist.train_images.flatten(1), starts
        self.stacked = nets.side_by_side(starts, halves={"encoder.out"})
        precision.single_results(self.stacked.encoder.out, self.stacked.decoder.out)
        self.dtype = "bfloat16" if precision.is_fast("cpu") else "float32"
        self.training = training.Training(
            f"bench-{time.monotonic_ns()}",
            self.stacked,
            training.adagrad(self.stacked.parameters(), lr=STEP_SIZE),
            training.stream(0, "bench"),
        )
        self.batches = self.training.batches(self.images, size=BATCH, steps=sys.maxsize)

    def train(self, steps: int) -> None:
        torch.set_flush_denormal(True)  # as `batches` does; the other way's turn took it back
        t, products = self.training, precision.products("cpu", half=True)
        for x in itertools.islice(self.batches, steps):
            with products:
                loss = -aevb.elbo(self.stacked, x, generator=t.generator).mean(dim=-1).sum()
            t.step(loss)

    def bound(self, x: Tensor) -> float:
        """The mean over images and models."""
        nets.apart(self.stacked, self.vaes)
        g = training.stream(0, "bound")
        bounds = [aevb.mean_bound(vae, x, generator=g) for vae in self.vaes]
        return sum(bounds) / len(bounds)


def new_vae(latents: int) -> aevb.VAE:
    """The model that both ways start from."""
    vae = aevb.VAE(pixels=PIXELS, hidden=HIDDEN, latents=latents)
    aevb.init_normal(vae, std=STD, generator=training.stream(0, "init"))
    return vae
