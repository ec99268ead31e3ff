"""The network of Ho et al. 2020 (Denoising Diffusion Probabilistic Models, appendix B): a U-Net
whose weights all times share.

After the official code, hojonathanho/diffusion at 1e0dceb (models/unet.py and nn.py): residual
blocks with group normalisation and swish, self-attention at the resolutions named, the time added
to every block, nearest-neighbour upsampling, weights uniform with variance 2 / (fan in + fan out),
and convolutions that end a branch started at 0.  x is [M, C, S, S], t [M] counts from 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def time_embedding(t: Tensor, dim: int) -> Tensor:
    """sin and cos of (t - 1) at dim / 2 frequencies from 1 down to 1/10000: [M] -> [M, dim].

    The official code counts times from 0, we from 1: hence the -1.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    frequency = torch.exp(-math.log(10_000.0) / (half - 1) * steps)
    angle = (t.float() - 1.0)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def scaled(layer: nn.Conv2d | nn.Linear, scale: float = 1.0) -> nn.Conv2d | nn.Linear:
    """Weights uniform, variance scale * 2 / (fan in + fan out), bias 0 (nn.py, default_init)."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


SILENT = 1e-10  # of the official code: an ending convolution starts at (nearly) 0


def conv(inputs: int, outputs: int, size: int = 3, *, scale: float = 1.0) -> nn.Module:
    return scaled(nn.Conv2d(inputs, outputs, size, padding=size // 2), scale)


class GroupNorm(nn.GroupNorm):
    """Group normalisation with epsilon 1e-6, as tf.contrib has it.

    Raises ValueError with fewer than two channels a group: what the time adds to a channel would be
    the group's mean, and be subtracted again.
    """

    def __init__(self, groups: int, channels: int):
        if channels % groups or channels < 2 * groups:
            raise ValueError(f"{channels} channels cannot form {groups} groups of two or more")
        super().__init__(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """x + conv(drop(act(norm(conv(act(norm(x))) + W act(time))))), act(x) = x sigmoid(x)."""

    def __init__(self, inputs: int, outputs: int, time: int, *, groups: int, dropout: float):
        super().__init__()
        self.norm_1 = GroupNorm(groups, inputs)
        self.conv_1 = conv(inputs, outputs)
        self.time = scaled(nn.Linear(time, outputs))
        self.norm_2 = GroupNorm(groups, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = conv(outputs, outputs, scale=SILENT)
        self.shortcut = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv_1(functional.silu(self.norm_1(x)))
        h = h + self.time(functional.silu(time))[:, :, None, None]
        h = self.conv_2(self.dropout(functional.silu(self.norm_2(h))))
        return self.shortcut(x) + h


class Attention(nn.Module):
    """x + W softmax(q k' / sqrt(C)) v over all places, one head.

    The formula as it stands: on a processor torch's `scaled_dot_product_attention` is no faster in
    bfloat16 than in single precision.
    """

    def __init__(self, channels: int, *, groups: int):
        super().__init__()
        self.norm = GroupNorm(groups, channels)
        self.q, self.k, self.v = (scaled(nn.Linear(channels, channels)) for _ in range(3))
        self.out = scaled(nn.Linear(channels, channels), SILENT)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2).contiguous()  # [M, L, C]
        q, k, v = self.q(places), self.k(places), self.v(places)
        seen = (q / math.sqrt(q.shape[2]) @ k.transpose(1, 2)).softmax(dim=2) @ v
        return x + self.out(seen).transpose(1, 2).reshape(x.shape)


class Layer(nn.Module):
    """A residual block, followed by attention where that is asked for."""

    def __init__(
        self, inputs: int, outputs: int, time: int, *, attention: bool, groups: int, dropout: float
    ):
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, time, groups=groups, dropout=dropout)
        self.attention = Attention(outputs, groups=groups) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.attention(self.block(x, time))


class Downsample(nn.Module):
    """Convolution of stride 2, padded below and to the right as TensorFlow's SAME does."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = scaled(nn.Conv2d(channels, channels, 3, stride=2))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Every place four times, then a convolution; done as one transposed convolution.

    Of the 3 x 3 places under the weights only 2 x 2 differ.  A row of weights (a, b, c) after the
    repetition is a row (c, b + c, a + b, a) of a transposed convolution of stride 2, on the places
    as they were: the same numbers with 4/9 of the arithmetic.
    """

    spread: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        scaled(self.conv)
        row = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        self.register_buffer("spread", torch.kron(row, row).T, persistent=False)  # [9, 16]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        weight = (self.conv.weight.transpose(0, 1).flatten(2) @ self.spread).unflatten(2, (4, 4))
        return functional.conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)


class UNet(nn.Module):
    """What the net says of noise x_t [M, C, S, S] and time t [M]: [M, outputs C, S, S].

    The defaults are those of CIFAR-10 in appendix B: 35 746 307 weights.  `patch` is ours: squares
    of patch x patch values are folded into channels first and unfolded last, so that a small net
    works at a lower resolution; `attention` names resolutions after folding.  Raises ValueError
    when a size cannot be halved often enough or groups are too small (see `GroupNorm`).
    """

    def __init__(
        self, *, values: int = 3, size: int = 32, channels: int = 128,
        multipliers: tuple[int, ...] = (1, 2, 2, 2), blocks: int = 2,
        attention: tuple[int, ...] = (16,), dropout: float = 0.1, groups: int = 32,
        outputs: int = 1, patch: int = 1,
    ):  # fmt: skip
        super().__init__()
        side, odd = divmod(size, patch)
        if odd or side % 2 ** (len(multipliers) - 1):
            raise ValueError(f"{size} / {patch} cannot be halved {len(multipliers) - 1} times")
        self.patch, self.channels, time = patch, channels, 4 * channels
        self.time = nn.Sequential(
            scaled(nn.Linear(channels, time)), nn.SiLU(), scaled(nn.Linear(time, time))
        )

        def layer(inputs: int, level: int) -> Layer:
            return Layer(
                inputs, channels * multipliers[level], time,
                attention=side >> level in attention, groups=groups, dropout=dropout,
            )  # fmt: skip

        folded, width, kept = values * patch**2, channels, [channels]
        self.enter = conv(folded, channels)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level in range(len(multipliers)):
            for _ in range(blocks):
                self.down.append(layer(width, level))
                width = channels * multipliers[level]
                kept.append(width)
            if level < len(multipliers) - 1:
                self.down.append(Downsample(width))
                kept.append(width)
        self.before = ResidualBlock(width, width, time, groups=groups, dropout=dropout)
        self.middle = Attention(width, groups=groups)
        self.after = ResidualBlock(width, width, time, groups=groups, dropout=dropout)
        for level in reversed(range(len(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(layer(width + kept.pop(), level))
                width = channels * multipliers[level]
            if level:
                self.up.append(Upsample(width))
        self.norm = GroupNorm(groups, width)
        self.leave = conv(width, folded * outputs, scale=SILENT)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(time_embedding(t, self.channels).to(x.dtype))
        h = self.enter(functional.pixel_unshuffle(x, self.patch))
        kept = [h]
        for stage in self.down:
            h = stage(h, time)
            kept.append(h)
        h = self.after(self.middle(self.before(h, time)), time)
        for stage in self.up:
            if isinstance(stage, Layer):
                h = torch.cat([h, kept.pop()], dim=1)
            h = stage(h, time)
        h = self.leave(functional.silu(self.norm(h)))
        return functional.pixel_shuffle(h, self.patch)
