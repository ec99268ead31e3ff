"""Networks that read and write an image pixel by pixel, in raster order: x is [M, C, H, W].

The delta-VAE's encoder and decoder (Razavi et al. 2019) are causal networks of this kind.  Here:
gated convolutions in two stacks, so that nothing before a pixel is hidden from it (van den Oord et
al. 2016, Conditional Image Generation with PixelCNN Decoders), causal attention as in PixelSNAIL
(Chen et al. 2018), and the mixture of logistics of PixelCNN++ (Salimans et al. 2017).  Sizes are
the caller's; how the blocks are put together is ours.  Values of x are in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional


def gate(x: Tensor) -> Tensor:
    """tanh(a) sigmoid(b), a and b the two halves of the channels."""
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


def padded(x: Tensor, *, left: int = 0, right: int = 0, top: int = 0) -> Tensor:
    return functional.pad(x, (left, right, top, 0))


class Enter(nn.Module):
    """From x to the two stacks: v knows the rows above, h also what is to the left.

    With `strict` a pixel does not see itself (decoder), otherwise h does (encoder).
    """

    def __init__(self, values: int, channels: int, *, strict: bool):
        super().__init__()
        self.strict = strict
        self.vertical = nn.Conv2d(values, channels, (2, 3))
        self.horizontal = nn.Conv2d(values, channels, (1, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v = self.vertical(padded(x, left=1, right=1, top=2))[:, :, :-1]  # rows r - 2 and r - 1
        if self.strict:
            h = self.horizontal(padded(x, left=2))[:, :, :, :-1]
        else:
            h = self.horizontal(padded(x, left=1))
        return v, v + h


class GatedPixels(nn.Module):
    """One layer of both stacks; `condition` [M, 2 channels, H, 1] or nothing is added to h."""

    def __init__(self, channels: int):
        super().__init__()
        self.vertical = nn.Conv2d(channels, 2 * channels, (2, 3))
        self.horizontal = nn.Conv2d(channels, 2 * channels, (2, 2))
        self.down = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, v: Tensor, h: Tensor, condition: Tensor | float) -> tuple[Tensor, Tensor]:
        above = self.vertical(padded(v, left=1, right=1, top=1))
        before = self.horizontal(padded(h, left=1, top=1))
        v = v + gate(above)
        return v, h + gate(before + self.down(v) + condition)


class Attention(nn.Module):
    """Every pixel attends to all pixels before it: to their features h and their values x.

    With `strict` the features of a pixel do not know its own value, so it may only look at earlier
    pixels; the first has a key of zeros to look at.  Otherwise it looks at itself, too.  Without
    `causal` it looks at all.
    """

    def __init__(
        self, values: int, channels: int, *, strict: bool, causal: bool = True, heads: int = 4
    ):
        super().__init__()
        if strict and not causal:
            raise ValueError("attention to all pixels cannot keep a pixel from seeing itself")
        self.heads, self.strict, self.causal = heads, strict, causal
        self.ask = nn.Conv2d(channels, channels, 1)
        self.answer = nn.Conv2d(channels + values, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        q = self.ask(h)
        k, v = self.answer(torch.cat([h, x], dim=1)).chunk(2, dim=1)
        q, k, v = (  # [M, heads, pixels, channels of a head]
            part.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3) for part in (q, k, v)
        )
        if self.strict:
            k, v = (functional.pad(part, (0, 0, 1, 0))[:, :, :-1] for part in (k, v))
        found = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return h + self.out(found.transpose(2, 3).reshape(h.shape))


def spaced(attention: int, layers: int) -> list[str]:
    """The layers behind which blocks of attention stand, evenly spaced, the last one included."""
    if layers < 1 or not 0 <= attention <= layers:
        raise ValueError(f"{attention} blocks of attention behind {layers} layers")
    return [str((i + 1) * layers // attention - 1) for i in range(attention)]


class CausalPixels(nn.Module):
    """A causal network: x [M, C, H, W] -> features [M, channels, H, W].

    `attention` blocks stand behind evenly spaced layers.  Features see layers + 2 rows up (strict)
    and attention the rest.  With `latents` the features of row t also know
    z_t, z [M, H, latents], and the z of those rows above whose features they see.
    """

    def __init__(
        self, *, values: int, channels: int, layers: int, attention: int, strict: bool,
        latents: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.enter = Enter(values, channels, strict=strict)
        self.layers = nn.ModuleList(GatedPixels(channels) for _ in range(layers))
        self.conditions = nn.ModuleList(
            nn.Linear(latents, 2 * channels) for _ in range(layers if latents else 0)
        )
        self.attention = nn.ModuleDict(
            {i: Attention(values, channels, strict=strict) for i in spaced(attention, layers)}
        )

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        assert (z is not None) == (len(self.conditions) > 0), "latents without z, or the reverse"
        v, h = self.enter(x)
        for i, layer in enumerate(self.layers):
            condition: Tensor | float = 0.0
            if z is not None:
                condition = self.conditions[i](z).transpose(1, 2)[..., None]
            v, h = layer(v, h, condition)
            if str(i) in self.attention:
                h = self.attention[str(i)](h, x)
        return h


class AntiCausalPixels(nn.Module):
    """mu_t and log_var_t of a row from this row and all below it: the image reversed, a causal
    network, reversed back, and the mean over every row.  x [M, C, H, W] -> [M, H, K] twice."""

    def __init__(self, *, values: int, channels: int, layers: int, attention: int, latents: int):
        super().__init__()
        self.latents = latents
        self.causal = CausalPixels(
            values=values, channels=channels, layers=layers, attention=attention, strict=False
        )
        self.out = nn.Linear(channels, 2 * latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.causal(x.flip(2, 3)).flip(2, 3).mean(dim=3).transpose(1, 2)
        mu, log_var = self.out(rows).chunk(2, dim=-1)
        return mu, log_var


class NonCausalPixels(nn.Module):
    """mu_t and log_var_t from the whole image: gated 3 x 3 convolutions and attention, no mask."""

    def __init__(self, *, values: int, channels: int, layers: int, attention: int, latents: int):
        super().__init__()
        self.latents = latents
        self.enter = nn.Conv2d(values, channels, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Conv2d(channels, 2 * channels, 3, padding=1) for _ in range(layers)
        )
        self.attention = nn.ModuleDict(
            {
                i: Attention(values, channels, strict=False, causal=False)
                for i in spaced(attention, layers)
            }
        )
        self.out = nn.Linear(channels, 2 * latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.enter(x)
        for i, layer in enumerate(self.layers):
            h = h + gate(layer(h))
            if str(i) in self.attention:
                h = self.attention[str(i)](h, x)
        mu, log_var = self.out(h.mean(dim=3).transpose(1, 2)).chunk(2, dim=-1)
        return mu, log_var


@dataclass(frozen=True)
class LogisticMixture:
    """PixelCNN++'s distribution of a pixel: a mixture of logistics, cut into `levels` values.

    Salimans et al. 2017, equations (1) to (3): within a component the mean of channel c moves with
    the channels before it, mean_c + sum_{d < c} coupling_cd x_d.  The outermost values have the
    tails.  weight (logits) [M, K, H, W]; mean, log_scale [M, K, C, H, W]; coupling
    [M, K, C, C, H, W], of which only d < c counts.
    """

    weight: Tensor
    mean: Tensor
    log_scale: Tensor
    coupling: Tensor
    levels: int

    def log_prob(self, x: Tensor) -> Tensor:
        """log P(x) of every pixel, all channels together: x [M, C, H, W] -> [M, H, W], nats."""
        channels = x.shape[1]
        before = torch.ones(channels, channels, device=x.device).tril(-1)[..., None, None]
        moved = self.mean + (self.coupling * before * x[:, None, None]).sum(dim=3)
        half = 1.0 / (self.levels - 1)
        scale = self.log_scale.exp()
        upper = (x[:, None] + half - moved) / scale
        lower = (x[:, None] - half - moved) / scale
        # s(u) - s(l) = s(u) s(-l) (1 - exp(l - u)): no difference of two numbers close to 1
        inner = torch.log(-torch.expm1(-2.0 * half / scale))
        inner = functional.logsigmoid(upper) + functional.logsigmoid(-lower) + inner
        value = x[:, None]
        inner = torch.where(value < half - 1.0, functional.logsigmoid(upper), inner)
        inner = torch.where(value > 1.0 - half, functional.logsigmoid(-lower), inner)
        return torch.logsumexp(functional.log_softmax(self.weight, dim=1) + inner.sum(dim=2), dim=1)

    def sample(self, random: Generator | None = None) -> Tensor:
        """One x [M, C, H, W]."""
        uniform = torch.rand(self.weight.shape, generator=random, device=self.weight.device)
        uniform = uniform.clamp(1e-6, 1.0 - 1e-6)
        k = (self.weight - torch.log(-torch.log(uniform))).argmax(dim=1)  # Gumbel's way
        chosen = functional.one_hot(k, self.weight.shape[1]).movedim(-1, 1)[:, :, None]
        mean, log_scale = (self.mean * chosen).sum(1), (self.log_scale * chosen).sum(1)
        coupling = (self.coupling * chosen[:, :, None]).sum(1)
        uniform = torch.rand(mean.shape, generator=random, device=mean.device)
        noise = torch.logit(uniform.clamp(1e-6, 1.0 - 1e-6)) * log_scale.exp()
        x = torch.zeros_like(mean)
        for c in range(mean.shape[1]):
            moved = mean[:, c] + (coupling[:, c, :c] * x[:, :c]).sum(dim=1)
            value = (moved + noise[:, c]).clamp(-1.0, 1.0)
            steps = self.levels - 1
            x[:, c] = (0.5 * (value + 1.0) * steps).round() / steps * 2.0 - 1.0
        return x


class PixelDecoder(nn.Module):
    """p(x|z) = prod over pixels of a logistic mixture that sees pixels before and no later latents.

    log_scale is kept above -7, as in PixelCNN++'s code.
    """

    def __init__(
        self, *, values: int, channels: int, layers: int, attention: int, latents: int,
        mixtures: int = 10, levels: int = 256,
    ):  # fmt: skip
        super().__init__()
        self.values, self.mixtures, self.levels = values, mixtures, levels
        self.causal = CausalPixels(
            values=values, channels=channels, layers=layers, attention=attention, strict=True,
            latents=latents,
        )  # fmt: skip
        self.out = nn.Conv2d(channels, mixtures * (1 + 2 * values + values * values), 1)

    def forward(self, x: Tensor, z: Tensor) -> LogisticMixture:
        parts = self.out(functional.elu(self.causal(x, z))).unflatten(1, (self.mixtures, -1))
        c = self.values
        weight, mean, log_scale, coupling = parts.split((1, c, c, c * c), dim=2)
        return LogisticMixture(
            weight.squeeze(2),
            mean,
            log_scale.clamp(min=-7.0),
            torch.tanh(coupling).unflatten(2, (c, c)),
            self.levels,
        )

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z), [M, C, H, W] -> [M], nats, summed over all pixels and channels."""
        return self(x, z).log_prob(x).sum(dim=(-2, -1))

    @torch.no_grad()
    def sample(
        self, z: Tensor, *, width: int | None = None, random: Generator | None = None
    ) -> Tensor:
        """x [M, C, H, W] given z [M, H, K], pixel by pixel; as wide as high unless told."""
        examples, height, _ = z.shape
        x = z.new_zeros(examples, self.values, height, width or height)
        for t in range(height):
            for c in range(x.shape[3]):
                until = x[:, :, : t + 1]  # rows below have no say
                x[:, :, t, c] = self(until, z[:, : t + 1]).sample(random)[:, :, t, c]
        return x
