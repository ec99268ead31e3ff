"""Networks over pixels: what sees what, attention and mixtures by hand, samples, the bound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from genbook import delta_vae, pixels

Net = TypeVar("Net", bound=nn.Module)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=random(seed), dtype=torch.float64)


def spread(net: nn.Module, std: float = 0.4) -> None:
    """Weights large enough that what is seen matters."""
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=std)


def ready(net: Net) -> Net:
    net.double()
    spread(net)
    return net.requires_grad_(False)


def levels_of(count: int) -> Tensor:
    """The values that a channel can take."""
    return torch.tensor([2.0 * i / (count - 1) - 1.0 for i in range(count)], dtype=torch.float64)


def every(count: int, *shape: int) -> Tensor:
    """All x of this shape, [count^(size), *shape]."""
    size = math.prod(shape)
    x = list(itertools.product(levels_of(count).tolist(), repeat=size))
    return torch.tensor(x, dtype=torch.float64).reshape(-1, *shape)


def seen(f: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Which entries of which input have a gradient: [*output, *input] for each input.

    Copy i in a batch is asked about entry i of the output.
    """
    shape = f(*inputs).shape[1:]
    copies = [i.expand(math.prod(shape), *i.shape[1:]).clone().requires_grad_(True) for i in inputs]
    asked = f(*copies).flatten(1).diagonal().sum()
    found = torch.autograd.grad(asked, copies)
    return [(g != 0).reshape(*shape, *g.shape[1:]) for g in found]


def rows_and_columns(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row and column of who sees (at the front), row and column of what is seen."""
    r, c = torch.arange(height), torch.arange(width)
    return (
        r[:, None, None, None],
        c[None, :, None, None],
        r[None, None, :, None],
        c[None, None, None, :],
    )


BLOCKS = [(layers, blocks) for layers in (1, 2, 3) for blocks in range(layers + 1)]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("layers", "attention"), BLOCKS)
def test_features_see_all_pixels_before_and_latents_up_to_their_row(
    layers: int, attention: int, strict: bool
) -> None:
    """And nothing else.  The image is two rows too high for the layers: attention sees these too,
    and without it they end the sight of pixels (and of latents).  It is as wide as the layers
    reach, or three columns wider, of which attention sees all."""
    channels, values, latents = 4, 2, 2
    height, width = layers + 5, layers + (5 if attention else 2)
    net = ready(
        pixels.CausalPixels(
            values=values, channels=channels, layers=layers, attention=attention, strict=strict,
            latents=latents,
        )
    )  # fmt: skip
    assert len(net.attention) == attention
    of_x, of_z = seen(net, drawn(1, 1, values, height, width), drawn(2, 1, height, latents))

    r, c, i, j = rows_and_columns(height, width)
    order, other = r * width + c, i * width + j
    expected = (other < order) if strict else (other <= order)
    rows_above = height if attention else layers + 2
    expected = expected & (r - i <= rows_above)
    shape = (channels, height, width, values, height, width)
    assert torch.equal(of_x, expected[None, :, :, None].expand(shape))

    t, s = torch.arange(height)[:, None], torch.arange(height)[None]
    rows_above = height if attention else layers - 1
    up_to = (s <= t) & (t - s <= rows_above)
    shape = (channels, height, width, height, latents)
    assert torch.equal(of_z, up_to[None, :, None, :, None].expand(shape))


@pytest.mark.parametrize("attention", [0, 1, 3])
def test_nothing_in_a_square_image_hides_from_enough_layers(attention: int) -> None:
    """The right ends of the rows above too, which a stack of plain masked convolutions misses."""
    net = ready(
        pixels.CausalPixels(values=1, channels=4, layers=3, attention=attention, strict=True)
    )
    (of_x,) = seen(net, drawn(1, 1, 1, 5, 5))
    r, c, i, j = rows_and_columns(5, 5)
    before = i * 5 + j < r * 5 + c
    assert torch.equal(of_x, before[None, :, :, None].expand(of_x.shape))


@pytest.mark.parametrize(("layers", "attention"), [(3, 0), (1, 1), (3, 2)])
def test_anti_causal_latents_see_their_row_and_all_that_follow(layers: int, attention: int) -> None:
    height, width, values, latents = 5, 4, 2, 3
    net = ready(
        pixels.AntiCausalPixels(
            values=values, channels=4, layers=layers, attention=attention, latents=latents
        )
    )
    assert net.latents == latents
    x = drawn(0, 1, values, height, width)
    t = torch.arange(height)
    expected = (t[None] >= t[:, None])[:, None, None, :, None]
    expected = expected.expand(height, latents, values, height, width)
    for said in (0, 1):  # mu, log_var
        (of_x,) = seen(lambda x, said=said: net(x)[said], x)
        assert torch.equal(of_x, expected)

    # A causal network over the pixels in the opposite order; row t is its row 4 - t.
    features = net.causal(x.flatten(2)[:, :, torch.arange(height * width - 1, -1, -1)].view_as(x))
    mu, log_var = net(x)
    for t in range(height):
        mean = sum(features[0, :, height - 1 - t, c] for c in range(width)) / width
        out = net.out.weight @ mean + net.out.bias
        torch.testing.assert_close(mu[0, t], out[:latents])
        torch.testing.assert_close(log_var[0, t], out[latents:])


@pytest.mark.parametrize(("layers", "attention"), [(1, 0), (2, 0), (1, 1), (2, 1), (3, 2)])
def test_non_causal_latents_see_rows_above_and_below(layers: int, attention: int) -> None:
    """Entry and layers of 3 x 3: layers + 1 rows either way; with attention every pixel."""
    height, width = layers + 4, 3
    net = ready(
        pixels.NonCausalPixels(values=2, channels=4, layers=layers, attention=attention, latents=3)
    )
    assert net.latents == 3
    assert len(net.attention) == attention
    x = drawn(0, 1, 2, height, width)
    r = torch.arange(height)
    reach = height if attention else layers + 1
    expected = ((r[None] - r[:, None]).abs() <= reach)[:, None, None, :, None]
    for said in (0, 1):
        (of_x,) = seen(lambda x, said=said: net(x)[said], x)
        assert torch.equal(of_x, expected.expand(height, 3, 2, height, width))

    h = net.enter(x)
    for i, layer in enumerate(net.layers):
        a = layer(h)
        h = h + a[:, :4].tanh() * a[:, 4:].sigmoid()
        if str(i) in net.attention:
            every_pixel = range(height * width)
            h = attended(net.attention[str(i)], h, x, [every_pixel for _ in every_pixel])
    out = h.mean(dim=3).transpose(1, 2) @ net.out.weight.T + net.out.bias
    torch.testing.assert_close(torch.cat(net(x), dim=-1), out)


def tap(conv: nn.Conv2d, x: Tensor, r: int, c: int, offsets: list[list[tuple[int, int]]]) -> Tensor:
    """One entry of a convolution of x [C, H, W]; entry (a, b) of the kernel lies on
    (r, c) + offsets[a][b], and what is outside the image is 0."""
    out = conv.bias.clone()
    for a, b in itertools.product(*(range(k) for k in conv.kernel_size)):
        i, j = r + offsets[a][b][0], c + offsets[a][b][1]
        if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
            out = out + conv.weight[:, :, a, b] @ x[:, i, j]
    return out


def test_entry_and_layer_are_their_convolutions_and_gates() -> None:
    v, h, x, height, width = drawn(0, 3, 4, 5), drawn(1, 3, 4, 5), drawn(2, 2, 4, 5), 4, 5
    condition = drawn(3, 6, 4)
    layer = ready(pixels.GatedPixels(3))
    new_v, new_h = layer(v[None], h[None], condition[None, :, :, None])
    rows, columns, left = (-1, 0), (-1, 0, 1), (-1, 0)
    for strict in (True, False):
        enter = ready(pixels.Enter(2, 3, strict=strict))
        first_v, first_h = enter(x[None])
        for r, c in itertools.product(range(height), range(width)):
            above = tap(enter.vertical, x, r, c, [[(i - 1, j) for j in columns] for i in rows])
            step = 1 if strict else 0
            before = tap(enter.horizontal, x, r, c, [[(0, j - step) for j in left]])
            torch.testing.assert_close(first_v[0, :, r, c], above)
            torch.testing.assert_close(first_h[0, :, r, c], above + before)
    for r, c in itertools.product(range(height), range(width)):
        a = tap(layer.vertical, v, r, c, [[(i, j) for j in columns] for i in rows])
        by_hand = v[:, r, c] + a[:3].tanh() * a[3:].sigmoid()
        torch.testing.assert_close(new_v[0, :, r, c], by_hand)
        b = tap(layer.horizontal, h, r, c, [[(i, j) for j in left] for i in rows])
        b = b + layer.down.weight[:, :, 0, 0] @ by_hand + layer.down.bias + condition[:, r]
        by_hand = h[:, r, c] + b[:3].tanh() * b[3:].sigmoid()
        torch.testing.assert_close(new_h[0, :, r, c], by_hand)


def attended(
    net: pixels.Attention, h: Tensor, x: Tensor, looks: list[range], *, zeros: bool = False
) -> Tensor:
    """What attention makes of h, in loops: pixel p looks at looks[p] and, if told, at a key of
    zeros, which answers nothing."""
    channels, size, images = h.shape[1], h.shape[1] // net.heads, []
    for flat, values in zip(h.flatten(2), x.flatten(2), strict=True):
        known, out = torch.cat([flat, values]), []
        q = net.ask.weight[:, :, 0, 0] @ flat + net.ask.bias[:, None]
        k, v = (net.answer.weight[:, :, 0, 0] @ known + net.answer.bias[:, None]).split(channels)
        for p, others in enumerate(looks):
            found = torch.zeros(channels).double()
            for d in range(net.heads):
                of_head = slice(d * size, (d + 1) * size)
                weight = [
                    math.exp((q[of_head, p] @ k[of_head, s]).item() / math.sqrt(size))
                    for s in others
                ]
                total = sum(weight) + (1.0 if zeros else 0.0)
                for s, w in zip(others, weight, strict=True):
                    found[of_head] += w / total * v[of_head, s]
            out.append(flat[:, p] + net.out.weight[:, :, 0, 0] @ found + net.out.bias)
        images.append(torch.stack(out, dim=1))
    return torch.stack(images).reshape(h.shape)


@pytest.mark.parametrize(("strict", "causal"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_a_softmax_over_the_pixels_so_far(
    heads: int, strict: bool, causal: bool
) -> None:
    """Strict: over a key of zeros and the pixels before.  Without `causal`: over all pixels."""
    net = ready(pixels.Attention(3, 8, strict=strict, causal=causal, heads=heads))
    h, x = drawn(0, 2, 8, 2, 3), drawn(1, 2, 3, 2, 3)
    looks = [range((p if strict else p + 1) if causal else 6) for p in range(6)]
    torch.testing.assert_close(net(h, x), attended(net, h, x, looks, zeros=strict))
    if causal:  # unless told otherwise
        usual = ready(pixels.Attention(3, 8, strict=strict, heads=heads))
        assert torch.equal(usual(h, x), net(h, x))


@pytest.mark.parametrize(("layers", "attention"), [(0, 0), (0, 1), (2, 3), (2, -1)])
def test_there_are_no_more_blocks_of_attention_than_layers(layers: int, attention: int) -> None:
    size = {"values": 1, "channels": 4, "layers": layers, "attention": attention}
    for fails in (
        lambda: pixels.spaced(attention, layers),
        lambda: pixels.CausalPixels(**size, strict=True),
        lambda: pixels.NonCausalPixels(**size, latents=2),
    ):
        with pytest.raises(ValueError, match=f"{attention} blocks of attention behind {layers} l"):
            fails()


@pytest.mark.parametrize(
    ("layers", "attention", "order"),
    [
        (6, 2, "123a456a"),
        (6, 3, "12a34a56a"),
        (5, 2, "12a345a"),
        (3, 1, "123a"),
        (2, 2, "1a2a"),
        (2, 0, "12"),
    ],
)
def test_blocks_of_attention_stand_behind_evenly_spaced_layers(
    layers: int, attention: int, order: str
) -> None:
    size = {"values": 1, "channels": 4, "layers": layers, "attention": attention}
    for net in (
        pixels.CausalPixels(**size, strict=True),
        pixels.NonCausalPixels(**size, latents=2),
    ):
        called: list[str] = []
        names = dict.fromkeys(net.attention.values(), "a")
        names |= {layer: str(i + 1) for i, layer in enumerate(net.layers)}
        for module, name in names.items():
            module.register_forward_hook(lambda *_, name=name, called=called: called.append(name))
        net(torch.zeros(1, 1, 2, 2))
        assert "".join(called) == order
        assert list(net.attention) == pixels.spaced(attention, layers)


def mixture(
    seed: int, channels: int, levels: int, *, examples: int = 1, height: int = 1, width: int = 2,
    narrow: float = -1.0,
) -> pixels.LogisticMixture:  # fmt: skip
    """Three components, log scales around `narrow`."""
    first, size = (examples, 3), (height, width)
    return pixels.LogisticMixture(
        weight=drawn(seed, *first, *size),
        mean=drawn(seed + 1, *first, channels, *size, scale=0.7),
        log_scale=narrow + drawn(seed + 2, *first, channels, *size, scale=0.7),
        coupling=drawn(seed + 3, *first, channels, channels, *size),
        levels=levels,
    )


def expanded(p: pixels.LogisticMixture, examples: int) -> pixels.LogisticMixture:
    parts = (
        part.expand(examples, *part.shape[1:])
        for part in (p.weight, p.mean, p.log_scale, p.coupling)
    )
    return pixels.LogisticMixture(*parts, p.levels)


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def log_prob_by_hand(p: pixels.LogisticMixture, m: int, x: list[float], r: int, c: int) -> float:
    """Of the pixel (r, c) of example m with the channels x: nothing but differences of sigmoids."""
    total, weights, components = 0.0, 0.0, p.weight.shape[1]
    for k in range(components):
        inside = 1.0
        for channel, value in enumerate(x):
            mean = p.mean[m, k, channel, r, c].item()
            for d in range(channel):
                mean += p.coupling[m, k, channel, d, r, c].item() * x[d]
            scale = math.exp(p.log_scale[m, k, channel, r, c].item())
            half = 1.0 / (p.levels - 1)
            first, last = abs(value + 1.0) < 1e-9, abs(value - 1.0) < 1e-9
            upper = 1.0 if last else sigmoid((value + half - mean) / scale)
            lower = 0.0 if first else sigmoid((value - half - mean) / scale)
            inside *= upper - lower
        weight = math.exp(p.weight[m, k, r, c].item())
        total, weights = total + weight * inside, weights + weight
    return math.log(total / weights)


@pytest.mark.parametrize(
    ("channels", "levels"), [(1, 2), (1, 7), (1, 256), (2, 2), (2, 4), (2, 9), (3, 2), (3, 4)]
)
@pytest.mark.parametrize("narrow", [-4.0, -1.0, 1.0])
def test_the_probabilities_of_all_values_of_a_pixel_sum_to_one(
    channels: int, levels: int, narrow: float
) -> None:
    p, x = mixture(0, channels, levels, height=2, narrow=narrow), every(levels, channels)
    x = x[:, :, None, None].expand(-1, -1, 2, 2)
    log_prob = expanded(p, len(x)).log_prob(x)
    assert log_prob.shape == (len(x), 2, 2)
    # float64 and at most 256 terms.
    torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(2, 2).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (1, 256), (2, 4), (3, 3), (3, 8)])
def test_log_prob_is_the_log_of_differences_of_sigmoids(channels: int, levels: int) -> None:
    height, width, examples = 2, 3, 6
    p = mixture(0, channels, levels, examples=examples, height=height, width=width)
    index = torch.randint(levels, (examples, channels, height, width), generator=random(1))
    index[0], index[1] = 0, levels - 1  # both edges
    x = levels_of(levels)[index]
    log_prob = p.log_prob(x)
    for m, r, c in itertools.product(range(examples), range(height), range(width)):
        by_hand = log_prob_by_hand(p, m, x[m, :, r, c].tolist(), r, c)
        # Sigmoids close to 1 cost the reference some digits, not log_prob.
        assert log_prob[m, r, c].item() == pytest.approx(by_hand, abs=1e-8)


def parameters(p: pixels.LogisticMixture) -> tuple[Tensor, ...]:
    return p.weight, p.mean, p.log_scale, p.coupling


def test_log_prob_has_its_gradient_and_hears_only_channels_before() -> None:
    p, channels = mixture(0, 3, 4), 3
    x = levels_of(4)[torch.randint(4, (1, channels, 1, 2), generator=random(2))]

    def log_prob(*parts: Tensor) -> Tensor:
        return pixels.LogisticMixture(*parts, 4).log_prob(x)

    inputs = tuple(q.clone().requires_grad_(True) for q in parameters(p))
    assert torch.autograd.gradcheck(log_prob, inputs)
    gradients = torch.autograd.grad(log_prob(*inputs).sum(), inputs)
    before = torch.tensor([[False, False, False], [True, False, False], [True, True, False]])
    assert torch.equal(gradients[3] != 0, before[:, :, None, None].expand(1, 3, 3, 3, 1, 2))
    for gradient in gradients[:3]:
        assert (gradient != 0).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("log_scale", [-7.0, 0.0, 5.0])
def test_log_prob_is_finite_where_sigmoids_are_zero_or_one(channels: int, log_scale: float) -> None:
    """In float32, with means up to 3, all 256 values, and a component that has almost no weight."""
    x = levels_of(256).float()[:, None, None, None].expand(-1, channels, 1, 4)
    mean = torch.tensor([-3.0, -1.0, 0.3, 3.0]).expand(256, 2, channels, 1, 4)
    weight = torch.tensor([0.0, -200.0])[:, None, None].expand(256, 2, 1, 4)
    parts = (
        weight.clone(),
        mean.clone(),
        torch.full_like(mean, log_scale),
        torch.ones(256, 2, channels, channels, 1, 4),
    )
    for part in parts:
        part.requires_grad_(True)
    log_prob = pixels.LogisticMixture(*parts, 256).log_prob(x)
    assert log_prob.isfinite().all()
    assert (log_prob < 1e-5).all()  # rounding: an edge that is as good as sure
    for gradient in torch.autograd.grad(log_prob.sum(), parts):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (2, 4), (3, 3)])
def test_drawn_pixels_have_the_probabilities_of_log_prob(channels: int, levels: int) -> None:
    draws = 20_000
    p, x = mixture(5, channels, levels), every(levels, channels)
    made = expanded(p, draws).sample(random(0))
    assert made.shape == (draws, channels, 1, 2)
    index = (made + 1.0) * (levels - 1) / 2
    assert (index - index.round()).abs().max() < 1e-12  # rounding
    assert made.abs().max() == 1.0
    expected = expanded(p, len(x)).log_prob(x[:, :, None, None].expand(-1, -1, 1, 2)).exp()
    expected = expected.squeeze(1)  # [values, 2], the two pixels of the image
    same = (made[:, None] - x[None, :, :, None, None]).abs().amax(dim=2).squeeze(2) < 1e-9
    assert (same.sum(dim=1) == 1).all()
    # The two pixels are drawn apart: their shares multiply.
    product = expected[:, None, 0] * expected[None, :, 1]
    both = torch.einsum("ma,mb->ab", *same.double().unbind(-1)) / draws
    for share, of in ((same.double().mean(0), expected), (both, product)):
        error = (share - of).abs() / (of * (1 - of) / draws).sqrt()
        # Standard errors, where there are 10 draws to have one: up to 54 and 729 of them.
        assert error[of * draws > 10].max() < 4
    assert torch.equal(made, expanded(p, draws).sample(random(0)))
    assert not torch.equal(made, expanded(p, draws).sample(random(1)))


def decoder(
    *, values: int = 1, levels: int = 2, layers: int = 2, attention: int = 1, mixtures: int = 2
) -> pixels.PixelDecoder:
    return ready(
        pixels.PixelDecoder(
            values=values, channels=4, layers=layers, attention=attention, latents=2,
            mixtures=mixtures, levels=levels,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "levels", "height", "width", "layers", "attention"),
    [(1, 2, 2, 3, 1, 0), (1, 2, 3, 2, 2, 1), (1, 3, 2, 2, 1, 1), (2, 2, 2, 2, 2, 2)],
)
def test_the_probabilities_of_all_images_sum_to_one(
    values: int, levels: int, height: int, width: int, layers: int, attention: int
) -> None:
    net = decoder(values=values, levels=levels, layers=layers, attention=attention)
    x, of_z = every(levels, values, height, width), []
    for seed in range(3):
        z = drawn(seed, 1, height, 2)
        log_likelihood = net.log_likelihood(x, z.expand(len(x), -1, -1))
        assert log_likelihood.shape == (len(x),)
        # float64 and at most 256 terms.
        assert log_likelihood.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
        assert log_likelihood.std() > 0.1  # not the uniform distribution, which sums to one too
        of_z.append(log_likelihood)
    assert (of_z[0] - of_z[1]).abs().max() > 0.01  # z has a say
    p = net(x, z.expand(len(x), -1, -1))
    for m, r, c in itertools.product((0, 5, len(x) - 1), range(height), range(width)):
        by_hand = log_prob_by_hand(p, m, x[m, :, r, c].tolist(), r, c)
        # Sigmoids close to 1 cost the reference some digits.
        assert p.log_prob(x)[m, r, c].item() == pytest.approx(by_hand, abs=1e-8)


def test_a_mixture_sees_only_pixels_before_and_latents_up_to_its_row() -> None:
    """All four parameters of it, and all of that."""
    net, height, width = decoder(values=2, levels=4), 4, 3
    x, z = drawn(0, 1, 2, height, width), drawn(1, 1, height, 2)
    r, c, i, j = rows_and_columns(height, width)
    before = (i * width + j < r * width + c)[:, :, None]
    up_to = (torch.arange(height)[None] <= torch.arange(height)[:, None])[:, None, :, None]
    for part in range(4):
        of_x, of_z = seen(lambda x, z, part=part: parameters(net(x, z))[part].flatten(1, -3), x, z)
        assert torch.equal(of_x, before.expand(of_x.shape))
        assert torch.equal(of_z, up_to.expand(of_z.shape))


def test_scales_and_couplings_of_the_decoder_are_bounded() -> None:
    net = decoder(values=3)
    spread(net, std=30.0)
    p = net(drawn(0, 4, 3, 3, 3), drawn(1, 4, 3, 2))
    assert p.log_scale.min() == -7.0
    assert p.log_scale.max() > 1.0
    assert p.coupling.abs().max() == 1.0
    assert [tuple(part.shape) for part in parameters(p)] == [
        (4, 2, 3, 3), (4, 2, 3, 3, 3), (4, 2, 3, 3, 3), (4, 2, 3, 3, 3, 3)
    ]  # fmt: skip


@pytest.mark.parametrize(("values", "levels", "width"), [(1, 2, None), (2, 5, 4), (3, 256, 2)])
def test_sample_draws_as_full_passes_would(values: int, levels: int, width: int | None) -> None:
    """Every mixture from a pass over the full height, with noise where nothing is drawn yet; rows
    up to the pixel's own are drawn from, which takes the same random numbers."""
    height, examples, bits = 3, 20, random(5)
    net, z = decoder(values=values, levels=levels), drawn(3, examples, height, 2)
    fast = net.sample(z, width=width, random=random(5))
    slow = drawn(4, examples, values, height, width or height)
    for t, c in itertools.product(range(height), range(width or height)):
        rows = [part[..., : t + 1, :] for part in parameters(net(slow, z))]
        slow[:, :, t, c] = pixels.LogisticMixture(*rows, levels).sample(bits)[:, :, t, c]
    assert torch.equal(fast, slow)
    assert not torch.equal(fast, net.sample(z, width=width, random=random(6)))


@pytest.mark.parametrize(("values", "height", "width"), [(1, 2, 2), (2, 2, 1)])
def test_samples_have_the_probabilities_of_log_likelihood(
    values: int, height: int, width: int
) -> None:
    net, x, draws = decoder(values=values), every(2, values, height, width), 10_000
    z = drawn(4, 1, height, 2)
    p = net.log_likelihood(x, z.expand(len(x), -1, -1)).exp()
    made = net.sample(z.expand(draws, -1, -1), width=width, random=random(7))
    share = (made[:, None] == x).flatten(2).all(-1).double().mean(0)
    error = (p * (1 - p) / draws).sqrt()
    assert ((share - p).abs() / error).max() < 4  # standard errors, of 16 images at most


@pytest.mark.parametrize("encoder", [pixels.AntiCausalPixels, pixels.NonCausalPixels])
def test_a_delta_vae_of_pixels_learns_with_every_parameter(encoder: type[nn.Module]) -> None:
    torch.manual_seed(0)
    alpha = torch.linspace(0.3, 0.9, 3)
    families = delta_vae.SlowFeatures(alpha)
    model = delta_vae.DeltaVAE(
        encoder(values=2, channels=8, layers=2, attention=1, latents=3),
        pixels.PixelDecoder(values=2, channels=8, layers=2, attention=2, latents=3, levels=4),
        families,
    )
    x = levels_of(4).float()[torch.randint(4, (5, 2, 4, 4), generator=random(0))]
    bound = model.bound(x, random(1))
    assert bound.value().shape == (5,)
    assert (bound.distortion > 0).all()
    assert (bound.rate >= families.committed(n=4, latents=3) - 1e-5).all()  # float32
    names, weights = zip(*model.named_parameters(), strict=True)
    for of in (bound.distortion, bound.value()):
        gradients = torch.autograd.grad(of.sum(), weights, retain_graph=True)
        for name, gradient in zip(names, gradients, strict=True):
            assert gradient.isfinite().all(), name
            # The key's bias has no say in a softmax; in each of ten mixtures, 3 of 4 couplings.
            silent = (gradient == 0).flatten(1).all(1).sum() if gradient.dim() > 1 else 0
            assert silent == (30 if name == "decoder.out.weight" else 0), name

    # An encoder that says 0 pays nothing but what is committed.
    out = model.encoder.out.requires_grad_(False)
    out.weight.zero_()
    out.bias.zero_()
    for n in (2, 4):
        committed = torch.full((5,), families.committed(n=n, latents=3))
        rate = model.bound(x[:, :, :n], random(1)).rate
        torch.testing.assert_close(rate, committed, rtol=1e-5, atol=0)  # float32


def test_attention_to_all_pixels_is_refused_where_a_pixel_may_not_see_itself() -> None:
    with pytest.raises(ValueError, match="cannot keep a pixel from seeing itself"):
        pixels.Attention(1, 4, strict=True, causal=False)
