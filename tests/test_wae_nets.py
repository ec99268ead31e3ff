"""Wasserstein auto-encoders: costs, nets and measures against numpy, scipy and hand counts."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.signal import convolve2d
from scipy.stats import kstest, norm, truncnorm
from torch import Tensor, nn
from torch.nn import functional

from genbook import wae

# float64 against float64, of sums of a few hundred terms.
same = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)
Array = NDArray[np.float64]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=random(seed), dtype=torch.float64)


def wanted(seed: int, *shape: int) -> Tensor:
    return drawn(seed, *shape).requires_grad_()


def filled(net: Any) -> Any:
    """Every parameter N(0, 0.3^2), biases and scales too, in float64."""
    net, values = net.double(), random(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=values, dtype=torch.float64))
    return net


def test_log_variance_penalty_is_a_sum_over_latents() -> None:
    log_var = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert wae.log_variance_penalty(log_var).tolist() == [3.5, 0.0]
    assert torch.autograd.gradcheck(wae.log_variance_penalty, wanted(0, 3, 4))


def test_squared_error_is_a_sum_over_values() -> None:
    x, made = drawn(0, 4, 3, 5, 5), drawn(1, 4, 3, 5, 5)
    slow = [((a - b) ** 2).sum() for a, b in zip(x.numpy(), made.numpy(), strict=True)]
    same(wae.squared_error(x, made), torch.from_numpy(np.array(slow)))
    same(wae.squared_error(x[:, 0, 0], made[:, 0, 0]), (x - made)[:, 0, 0].square().sum(dim=1))
    assert torch.autograd.gradcheck(wae.squared_error, (wanted(0, 3, 2, 2), wanted(1, 3, 2, 2)))


def test_moment_loss_is_that_of_numpy() -> None:
    codes, z = drawn(0, 12, 3, scale=2.0) + 1.0, drawn(1, 20, 3)
    a, b = codes.numpy(), z.numpy()
    slow = ((a.mean(0) - b.mean(0)) ** 2).mean()
    slow += ((np.cov(a, rowvar=False) - np.cov(b, rowvar=False)) ** 2).mean()
    assert wae.moment_loss(codes, z).item() == pytest.approx(slow, rel=1e-12)
    assert wae.moment_loss(z, z) == 0
    assert wae.moment_loss(z, z.flip(0)).item() == pytest.approx(0.0, abs=1e-25)
    # A shift leaves covariances, and a sign means: each part is seen.
    assert wae.moment_loss(z + 2.0, z).item() == pytest.approx(4.0, rel=1e-12)
    centred = z - z.mean(dim=0)
    spread = wae.moment_loss(2.0 * centred, centred).item()
    assert spread == pytest.approx((9.0 * np.cov(b, rowvar=False) ** 2).mean(), rel=1e-12)
    assert torch.autograd.gradcheck(wae.moment_loss, (wanted(0, 5, 3), wanted(1, 6, 3)))


def test_mlp_has_its_layers() -> None:
    x = drawn(0, 6, 3)
    for act, by_hand in ((nn.ReLU, lambda v: np.maximum(v, 0)), (nn.Tanh, np.tanh)):
        net = filled(wae.mlp(3, [5, 4], 2, act))
        w = [p.detach().numpy() for p in net.parameters()]
        assert [v.shape for v in w] == [(5, 3), (5,), (4, 5), (4,), (2, 4), (2,)]
        h = by_hand(by_hand(x.numpy() @ w[0].T + w[1]) @ w[2].T + w[3])
        same(net(x).detach(), torch.from_numpy(h @ w[4].T + w[5]))


def test_discriminator_adds_the_density_of_the_prior() -> None:
    z = drawn(0, 9, 3)
    without = filled(wae.LatentDiscriminator(3, 5, adds_prior=False))
    adds = filled(wae.LatentDiscriminator(3, 5))
    sizes = [3 * 5 + 5, 3 * (5 * 5 + 5), 5 + 1]
    assert sum(p.numel() for p in adds.parameters()) == sum(sizes)
    assert len([m for m in adds.modules() if isinstance(m, nn.Linear)]) == 5
    deep = wae.LatentDiscriminator(3, 5, layers=2)
    assert len([m for m in deep.modules() if isinstance(m, nn.Linear)]) == 3
    assert adds(z).shape == (9,)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    same(adds(z) - without(z), log_p + 1.5 * math.log(2 * math.pi))
    same(without(z), without.net(z).flatten())


@pytest.mark.parametrize("adds_prior", [True, False])
def test_the_best_discriminator_is_the_log_ratio(adds_prior: bool) -> None:
    """Against codes N(0.7, 0.6^2), by the expected loss on a grid."""
    z = torch.linspace(-6, 6, 241)
    p, q = (norm.pdf(z.numpy(), m, s) / 20 for m, s in ((0.0, 1.0), (0.7, 0.6)))
    p, q = torch.from_numpy(p).float(), torch.from_numpy(q).float()
    net = wae.LatentDiscriminator(1, 32, layers=2, adds_prior=adds_prior)
    wae.init_weights(net, std=0.3, random=random(0))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 400)
        said = net(z[:, None])
        # Draws of the prior are the ones that are told as 1.
        loss = (p * functional.softplus(-said) + q * functional.softplus(said)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    both = (p > 1e-3) & (q > 1e-3)  # of a grid of 0.05: densities above 0.02
    with torch.no_grad():
        wrong = (net(z[:, None]) - (p / q).log())[both]
    assert both.sum() > 50
    assert (p / q).log()[both].max() - (p / q).log()[both].min() > 2
    # Piecewise linear functions with few pieces; a density or its prior left out would cost 1.
    assert wrong.abs().max() < 0.15
    assert wrong.square().mean().sqrt() < 0.05


def padding(n: int, kernel: int, stride: int) -> tuple[int, int]:
    """SAME by its definition: ceil(n / stride) answers, the odd zero after."""
    total = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
    return total // 2, total - total // 2


def conv_same(x: Array, w: Array, b: Array, stride: int) -> Array:
    """x [M, C, S, S], w [D, C, k, k] -> [M, D, ceil(S / stride), ...], answer by answer."""
    n, k = x.shape[-1], w.shape[-1]
    out = math.ceil(n / stride)
    x = np.pad(x, [(0, 0), (0, 0), padding(n, k, stride), padding(n, k, stride)])
    made = np.empty((len(x), len(w), out, out))
    for i, j in itertools.product(range(out), range(out)):
        seen = x[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
        made[:, :, i, j] = np.tensordot(seen, w, ([1, 2, 3], [1, 2, 3])) + b
    return made


def conv_same_transposed(h: Array, w: Array, b: Array, stride: int) -> Array:
    """h [M, D, S, S], w [D, C, k, k] -> [M, C, stride S, ...]: what `conv_same` read, written."""
    side, k = h.shape[-1] * stride, w.shape[-1]
    low, high = padding(side, k, stride)
    made = np.zeros((len(h), w.shape[1], side + low + high, side + low + high))
    for i, j in itertools.product(range(h.shape[-1]), repeat=2):
        spread = np.tensordot(h[:, :, i, j], w, ([1], [0]))
        made[:, :, i * stride : i * stride + k, j * stride : j * stride + k] += spread
    return made[:, :, low : low + side, low : low + side] + b[:, None, None]


def normed(x: Array, norm: nn.BatchNorm2d) -> Array:
    """Batch normalisation by this batch, and rectified."""
    mean, var = (v[:, None, None] for v in (x.mean((0, 2, 3)), x.var((0, 2, 3))))
    scale, shift = (p.detach().numpy()[:, None, None] for p in (norm.weight, norm.bias))
    return np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + shift, 0)


def parts(layer: nn.Module) -> tuple[Array, Array]:
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize("side", [1, 4, 7, 8])
def test_padding_is_that_of_same(side: int, kernel: int) -> None:
    x, w = drawn(0, 2, 3, side, side), drawn(1, 4, 3, kernel, kernel)
    padded = wae.pad_same(x, kernel)
    low, _ = padding(side, kernel, 2)
    assert torch.equal(padded[:, :, low : low + side, low : low + side], x)
    assert padded.count_nonzero() == x.numel()
    expected = conv_same(x.numpy(), w.numpy(), np.zeros(4), 2)
    assert expected.shape[-1] == (side + 1) // 2
    same(functional.conv2d(padded, w, stride=2), torch.from_numpy(expected))


@pytest.mark.parametrize(("side", "kernel"), [(14, 4), (11, 5)])
def test_encoder_is_that_of_numpy(side: int, kernel: int) -> None:
    net, x = filled(wae.ConvEncoder(2, side, 16, 3, kernel=kernel)), drawn(1, 4, 2, side, side)
    h = x.numpy()
    for conv, batch in zip(net.convs, net.norms, strict=True):
        h = conv_same(h, *parts(conv), 2)
        before, h = h, normed(h, batch)
    w, b = parts(net.out)
    found = net(x)
    same(found.detach(), torch.from_numpy(h.reshape(4, -1) @ w.T + b))
    # Running averages: nine parts of the old mean, 0, and one of the new.
    same(net.norms[3].running_mean, torch.from_numpy(0.1 * before.mean((0, 2, 3))))
    net.eval()
    same(net(x)[:1], net(x[:1]))


@pytest.mark.parametrize(("steps", "kernel"), [(2, 4), (1, 4), (0, 5), (2, 5)])
def test_decoder_is_that_of_numpy(steps: int, kernel: int) -> None:
    net, z = filled(wae.ConvDecoder(3, 2, 12, 8, steps=steps, kernel=kernel)), drawn(1, 4, 3)
    w, b = parts(net.enter)
    h = np.maximum(z.numpy() @ w.T + b, 0).reshape(4, 8, 12 >> steps, 12 >> steps)
    found = net(z)
    ups, norms = (
        [m for m in net.modules() if isinstance(m, kind)]
        for kind in (nn.ConvTranspose2d, nn.BatchNorm2d)
    )
    for up, batch in zip(ups[:-1], norms, strict=True):
        before = conv_same_transposed(h, *parts(up), 2)
        h = normed(before, batch)
        same(batch.running_mean, torch.from_numpy(0.1 * before.mean((0, 2, 3))))
    expected = conv_same_transposed(h, *parts(ups[-1]), 1)
    same(found.detach(), torch.from_numpy(expected))


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (4, 1), (5, 1), (5, 2)])
def test_transposed_convolutions_are_gradients_of_same_ones(kernel: int, stride: int) -> None:
    net = filled(wae.ConvDecoder(3, 2, 12, 8, steps=1, kernel=kernel))
    layer, h = (
        (net.body[0], drawn(1, 3, 8, 6, 6)) if stride == 2 else (net.leave, drawn(1, 3, 4, 12, 12))
    )
    x = wanted(2, 3, layer.weight.shape[1], 12, 12)
    padded = (
        functional.pad(x, padding(12, kernel, 1) * 2) if stride == 1 else wae.pad_same(x, kernel)
    )
    answers = functional.conv2d(padded, layer.weight, stride=stride)
    (expected,) = torch.autograd.grad(answers, x, h)
    same(layer(h)[:, :, :12, :12], expected + layer.bias[:, None, None])


@pytest.mark.parametrize(("values", "side", "kernel", "steps"), [(1, 28, 4, 2), (3, 64, 5, 3)])
def test_nets_go_from_images_to_codes_and_back(
    values: int, side: int, kernel: int, steps: int
) -> None:
    encoder = wae.ConvEncoder(values, side, 16, 6, kernel=kernel)
    decoder = wae.ConvDecoder(6, values, side, 32, steps=steps, kernel=kernel)
    x = torch.rand(2, values, side, side, generator=random(0), requires_grad=True)
    codes = encoder(x)
    assert codes.shape == (2, 6)
    assert [conv.out_channels for conv in encoder.convs] == [2, 4, 8, 16]
    made = decoder(codes)
    assert made.shape == x.shape
    assert decoder.leave.in_channels == 32 / 2**steps
    # Not squashed: logits of both signs, and the last layer is linear.
    (slope,) = torch.autograd.grad(made.sum(), decoder.leave.bias, retain_graph=True)
    assert slope.tolist() == [2 * side**2] * values
    (slope,) = torch.autograd.grad(made.square().sum(), x)
    assert (slope != 0).double().mean() > 0.9  # every pixel matters


def test_official_sizes_for_digits() -> None:
    with torch.device("meta"):
        encoder, decoder = wae.ConvEncoder(1, 28, 1024, 8), wae.ConvDecoder(8, 1, 28, 1024)

    def conv(a: int, b: int, *, normed: bool = True) -> int:
        return 4 * 4 * a * b + b + (2 * b if normed else 0)

    # 28, 14, 7, 4 and 2 on a side; 7, 14 and 28 on the way back.
    down = conv(1, 128) + conv(128, 256) + conv(256, 512) + conv(512, 1024) + (1024 * 4 + 1) * 8
    up = (8 + 1) * 1024 * 49 + conv(1024, 512) + conv(512, 256) + conv(256, 1, normed=False)
    assert [sum(p.numel() for p in net.parameters()) for net in (encoder, decoder)] == [down, up]


def test_a_side_must_be_halved_by_every_step() -> None:
    with pytest.raises(ValueError, match="28 or 16 cannot be halved 3 times"):
        wae.ConvDecoder(8, 1, 28, 16, steps=3)


def test_initial_weights_are_normal_and_cut_in_convolutions() -> None:
    layers = {
        "whole": nn.Linear(100, 300),
        "cut": nn.Conv2d(30, 60, 4),
        "open": nn.ConvTranspose2d(30, 60, 4),
        "unbiased": nn.Conv2d(30, 60, 4, bias=False),
        "norm": nn.BatchNorm2d(7),
    }
    net = nn.ModuleDict(layers)
    nn.init.constant_(layers["norm"].weight, 3.0)
    before = torch.get_rng_state()
    wae.init_weights(net, std=0.02, random=random(0))
    assert torch.equal(torch.get_rng_state(), before)
    w = {name: layer.weight.detach().flatten() / 0.02 for name, layer in layers.items()}
    assert (layers["norm"].weight == 3).all()
    for name, law in (
        ("whole", norm), ("open", norm), ("cut", truncnorm(-2, 2)), ("unbiased", truncnorm(-2, 2)),
    ):  # fmt: skip
        n, sd = len(w[name]), law.std()
        assert w[name].std().item() == pytest.approx(sd, rel=4 / math.sqrt(2 * n))
        assert abs(w[name].mean().item()) < 4 * sd / math.sqrt(n)
        assert kstest(w[name].numpy(), law.cdf).pvalue > 0.001
        assert (w[name].abs().max() <= 2 + 1e-6) == (law is not norm)  # float32
    for name in ("whole", "cut", "open"):
        assert (layers[name].bias == 0).all()
    assert not torch.equal(w["cut"], w["unbiased"])
    again = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    wae.init_weights(net, std=0.02, random=random(0))
    assert all(torch.equal(layers[name].weight, again[name]) for name in layers)
    wae.init_weights(net, random=random(0))  # the official 0.0099999
    torch.testing.assert_close(layers["open"].weight, 0.0099999 / 0.02 * again["open"])


def official_decay(epoch: int) -> float:
    """wae.py, train at 6351565: one factor that is divided again and again."""
    decay = 1.0
    for now in range(epoch + 1):
        decay /= {30: 2.0, 50: 5.0, 100: 10.0}.get(now, 1.0)
    return decay


@pytest.mark.parametrize("epoch", [0, 29, 30, 49, 50, 99, 100, 129])
def test_learning_rate_is_that_of_the_official_code(epoch: int) -> None:
    assert wae.learning_rate(epoch) == pytest.approx(official_decay(epoch), rel=1e-12)


def test_holes_are_far_from_every_code() -> None:
    z, codes = drawn(0, 40, 2, scale=2.0), drawn(1, 30, 2)
    slow = [min(math.dist(row, code) for code in codes.tolist()) > 0.7 for row in z.tolist()]
    assert 5 < sum(slow) < 35
    for block in (1, 7, 40, 1_000):
        found = wae.far_from_codes(z, codes, radius=0.7, block=block)
        assert found.dtype == torch.bool
        assert found.tolist() == slow
    # One at the radius itself is not further.
    at, codes = torch.tensor([[3.0, 4.0], [3.0, 4.1], [60.0, 0.0]]), torch.zeros(1, 2)
    assert wae.far_from_codes(at, codes, radius=5.0).tolist() == [False, True, True]


def test_sharpness_is_the_variance_of_a_laplace_filter() -> None:
    images = drawn(0, 5, 1, 9, 9)
    cross = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    slow = [convolve2d(image[0], cross, mode="valid").var() for image in images.numpy()]
    same(wae.sharpness(images), torch.from_numpy(np.array(slow)))
    same(wae.sharpness(255.0 * images), 255.0**2 * wae.sharpness(images))
    same(wae.sharpness(images + 3.0), wae.sharpness(images))
    assert torch.autograd.gradcheck(wae.sharpness, wanted(1, 2, 1, 5, 5))
    soft = images.numpy()
    for axis in (2, 3):
        soft = correlate1d(soft, [0.25, 0.5, 0.25], axis=axis)
    assert (wae.sharpness(torch.from_numpy(soft)) < 0.1 * wae.sharpness(images)).all()


def test_sharpness_by_hand() -> None:
    black, ramp = torch.zeros(1, 1, 8, 8), torch.arange(8.0)
    for smooth in (black + 0.7, (ramp[:, None] - 2 * ramp).expand_as(black)):
        assert wae.sharpness(smooth).item() == pytest.approx(0.0, abs=1e-10)
    # A bowl has the same answer, 2, everywhere: it is the variance, not the square.
    assert wae.sharpness((ramp**2).expand_as(black)).item() == pytest.approx(0.0, abs=1e-10)
    for at, expected in (
        ((3, 4), 20 / 36),  # -4 once and 1 four times among 36 answers, of mean 0
        ((1, 1), 18 / 36 - (2 / 36) ** 2),  # -4 and two neighbours: the filter stays inside
        ((0, 3), 1 / 36 - (1 / 36) ** 2),
        ((0, 0), 0.0),
    ):
        white = black.clone()
        white[0, 0, at[0], at[1]] = 1.0
        assert wae.sharpness(white).item() == pytest.approx(expected, abs=1e-6)
