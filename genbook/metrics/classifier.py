"""A small convolutional classifier that judges samples; its features are ours, not Inception's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Classifier(nn.Module):
    """Convolutions 5 x 5 and 3 x 3, each of stride 2, then 128 features, then class logits.

    Images [M, C, S, S] in [0, 1] with S divisible by 4.  The sizes are ours.  Trained in the
    chapter that uses it, which states its accuracy on test images.
    """

    def __init__(self, *, channels: int = 1, size: int = 28, classes: int = 10, width: int = 16):
        super().__init__()
        self.shape = (channels, size, size)
        self.first = nn.Conv2d(channels, width, 5, stride=2, padding=2)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.hidden = nn.Linear(2 * width * (size // 4) ** 2, 128)
        self.out = nn.Linear(128, classes)

    def features(self, x: Tensor) -> Tensor:
        """[M, D] or [M, C, S, S] -> [M, 128], what the last layer sees."""
        h = x.reshape(-1, *self.shape)
        for convolution in (self.first, self.second):
            h = functional.relu(convolution(h))
        return functional.relu(self.hidden(h.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x))


@torch.no_grad()
def features_of(model: Classifier, images: Tensor, *, block: int = 1_000) -> Tensor:
    """The features of many images [N, ...], block by block: [N, 128]."""
    return torch.cat([model.features(x) for x in images.split(block)])


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor, *, block: int = 1_000) -> float:
    """The share of images [N, ...] whose most probable class is their label [N]."""
    right = [
        model(x).argmax(dim=1) == y
        for x, y in zip(images.split(block), labels.split(block), strict=True)
    ]
    return torch.cat(right).double().mean().item()
