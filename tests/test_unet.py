"""The U-Net: its parts and the whole against plain formulas, its sizes, its start, its times."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from genbook import unet

Weights = dict[str, Tensor]
Net = TypeVar("Net", bound=nn.Module)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=random(seed))


def small(**changed: Any) -> unet.UNet:
    """Two levels of one block, attention at the lower one."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "values": 2, "size": 8, "channels": 8, "multipliers": (1, 2), "blocks": 1,
        "attention": (4,), "dropout": 0.0, "groups": 4,
    }  # fmt: skip
    return unet.UNet(**settings | changed)


def awake(net: Net, seed: int = 1) -> Net:
    """Every weight counts: those that start at 0 as well."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) / math.sqrt(max(1, p[0].numel())))
    return net


# A net in float64, from the official code's order of operations, by the names of the weights.


def slow_norm(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    parts = x.reshape(len(x), groups, -1)
    mean, var = parts.mean(dim=2, keepdim=True), parts.var(dim=2, keepdim=True, unbiased=False)
    x = ((parts - mean) / (var + 1e-6).sqrt()).reshape(x.shape)
    return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def slow_conv(w: Weights, name: str, x: Tensor, **how: Any) -> Tensor:
    """Conv2d of an odd size with zeros around."""
    kernel = w[f"{name}.weight"]
    return functional.conv2d(x, kernel, w[f"{name}.bias"], padding=kernel.shape[2] // 2, **how)


def slow_nin(w: Weights, name: str, x: Tensor) -> Tensor:
    """The official code's nin: one matrix for the channels of every place."""
    mapped = torch.einsum("bchw,dc->bdhw", x, w[f"{name}.weight"])
    return mapped + w[f"{name}.bias"][:, None, None]


def swish(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def slow_block(w: Weights, name: str, x: Tensor, time: Tensor, groups: int) -> Tensor:
    h = slow_conv(w, f"{name}.conv_1", swish(slow_norm(w, f"{name}.norm_1", x, groups)))
    added = swish(time) @ w[f"{name}.time.weight"].T + w[f"{name}.time.bias"]
    h = h + added[:, :, None, None]
    h = slow_conv(w, f"{name}.conv_2", swish(slow_norm(w, f"{name}.norm_2", h, groups)))
    if f"{name}.shortcut.weight" in w:
        x = slow_conv(w, f"{name}.shortcut", x)
    return x + h


def slow_attention(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    """The official code's einsum over all pairs of places."""
    h = slow_norm(w, f"{name}.norm", x, groups)
    q, k, v = (slow_nin(w, f"{name}.{part}", h) for part in "qkv")
    seen = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(x.shape[1])
    seen = seen.flatten(3).softmax(dim=3).reshape(seen.shape)
    return x + slow_nin(w, f"{name}.out", torch.einsum("bhwij,bcij->bchw", seen, v))


def slow_unet(
    w: Weights, x: Tensor, t: Tensor, *, levels: int, blocks: int, attention: int, groups: int
) -> Tensor:
    def layer(name: str, h: Tensor) -> Tensor:
        h = slow_block(w, f"{name}.block", h, time, groups)
        return slow_attention(w, f"{name}.attention", h, groups) if h.shape[2] == attention else h

    time = torch.from_numpy(slow_embedding(t.tolist(), w["enter.weight"].shape[0]))
    time = time @ w["time.0.weight"].T + w["time.0.bias"]
    time = swish(time) @ w["time.2.weight"].T + w["time.2.bias"]
    kept, stage = [slow_conv(w, "enter", x)], 0
    for level in range(levels):
        for _ in range(blocks):
            kept.append(layer(f"down.{stage}", kept[-1]))
            stage += 1
        if level < levels - 1:
            # TensorFlow's SAME with a stride of 2: zeros at the end alone.
            bigger = functional.pad(kept[-1], (0, 1, 0, 1))
            kernel = w[f"down.{stage}.conv.weight"]
            bias = w[f"down.{stage}.conv.bias"]
            kept.append(functional.conv2d(bigger, kernel, bias, stride=2))
            stage += 1
    h, stage = slow_block(w, "before", kept[-1], time, groups), 0
    h = slow_block(w, "after", slow_attention(w, "middle", h, groups), time, groups)
    for level in reversed(range(levels)):
        for _ in range(blocks + 1):
            h = layer(f"up.{stage}", torch.cat([h, kept.pop()], dim=1))
            stage += 1
        if level:
            h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            h = slow_conv(w, f"up.{stage}.conv", h)
            stage += 1
    assert not kept
    return slow_conv(w, "leave", swish(slow_norm(w, "norm", h, groups)))


def slow_embedding(t: list[int], dim: int) -> np.ndarray:
    half = dim // 2
    rows = []
    for s in t:
        angles = [(s - 1) * 10_000.0 ** (-i / (half - 1)) for i in range(half)]
        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    return np.array(rows)


@pytest.mark.parametrize(("multipliers", "blocks"), [((1, 2), 1), ((1, 1, 3), 2), ((2,), 1)])
def test_the_whole_net_is_the_official_one(multipliers: tuple[int, ...], blocks: int) -> None:
    net = awake(small(multipliers=multipliers, blocks=blocks, size=8))
    x, t = drawn(2, 3, 2, 8, 8), torch.tensor([1, 77, 1000])
    weights = {name: p.detach().double() for name, p in net.named_parameters()}
    expected = slow_unet(
        weights, x.double(), t, levels=len(multipliers), blocks=blocks, attention=4, groups=4
    )
    # Float32 through some thirty layers; values are of order 1.
    torch.testing.assert_close(net(x, t).double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dim", [4, 6, 128])
def test_time_embedding_counts_from_0_at_t_1(dim: int) -> None:
    t = [1, 2, 3, 500, 1000]
    found = unet.time_embedding(torch.tensor(t), dim)
    assert found.shape == (5, dim)
    # Angles up to 1000 in float32: 3e-5.
    np.testing.assert_allclose(found.numpy(), slow_embedding(t, dim), rtol=0, atol=2e-4)
    assert found[0].tolist() == [0.0] * (dim // 2) + [1.0] * (dim // 2)
    assert found[1, 0].item() == pytest.approx(math.sin(1.0), abs=1e-6)
    assert found[1, dim // 2 - 1].item() == pytest.approx(1e-4, rel=1e-4)


def test_all_times_look_different() -> None:
    every = unet.time_embedding(torch.arange(1, 1001), 32).double()
    apart = torch.cdist(every, every) + 10 * torch.eye(1000)
    assert apart.min() > 0.1


def test_the_net_of_the_paper_has_35_746_307_weights() -> None:
    with torch.device("meta"):
        net = unet.UNet()
    assert sum(p.numel() for p in net.parameters()) == 35_746_307
    places = {name for name, m in net.named_modules() if isinstance(m, unet.Attention)}
    # Two blocks down and three up at 16 x 16, and the middle.
    down, up = ("down.3", "down.4"), ("up.8", "up.9", "up.10")
    assert places == {f"{name}.attention" for name in down + up} | {"middle"}
    assert {m.eps for m in net.modules() if isinstance(m, nn.GroupNorm)} == {1e-6}
    assert {m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)} == {32}
    assert {m.p for m in net.modules() if isinstance(m, nn.Dropout)} == {0.1}
    x, t = torch.empty(2, 3, 32, 32, device="meta"), torch.empty(2, device="meta")
    assert net(x, t).shape == (2, 3, 32, 32)


def test_attention_is_at_the_resolutions_named_after_folding() -> None:
    def resolutions(net: unet.UNet, size: int) -> list[int]:
        seen: list[int] = []
        for m in net.modules():
            if isinstance(m, unet.Attention):
                m.register_forward_hook(lambda m, x, y: seen.append(y.shape[2]))
        net(drawn(0, 1, 2, size, size), torch.tensor([1]))
        return seen

    assert resolutions(small(attention=()), 8) == [4]  # the middle has it always
    assert resolutions(small(attention=(4,)), 8) == [4] * 4
    assert resolutions(small(attention=(8, 4)), 8) == [8, 4, 4, 4, 4, 8, 8]
    assert resolutions(small(size=16, patch=2, attention=(8,)), 16) == [8, 4, 8, 8]


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(("size", "patch"), [(8, 1), (8, 2), (16, 4), (28, 2)])
def test_shapes(size: int, patch: int, outputs: int) -> None:
    net = small(size=size, patch=patch, outputs=outputs)
    assert net(drawn(0, 3, 2, size, size), torch.tensor([1, 2, 3])).shape == (
        3, 2 * outputs, size, size,
    )  # fmt: skip


def test_folding_is_a_net_over_squares() -> None:
    whole = awake(small(values=1, size=8, patch=2, outputs=2))
    parts = small(values=4, size=4, outputs=2)
    parts.load_state_dict(whole.state_dict())
    x, t = drawn(0, 2, 1, 8, 8), torch.tensor([1, 900])
    folded = torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)
    found, said = whole(x, t), parts(folded, t)
    assert found.shape == (2, 2, 8, 8)
    for i in (0, 1):
        for j in (0, 1):
            # One matrix product or another: float32.
            for output in (0, 1):
                expected = said[:, 4 * output + 2 * i + j]
                torch.testing.assert_close(found[:, output, i::2, j::2], expected)


@pytest.mark.parametrize("patch", [1, 2])
def test_the_output_starts_at_nearly_0(patch: int) -> None:
    net = small(size=8, patch=patch)
    said = net(drawn(0, 4, 2, 8, 8), torch.tensor([1, 2, 500, 1000]))
    assert 0 < said.abs().max() < 1e-3  # weights of 1e-5 on 72 values of order 1
    silent = [name for name, p in net.named_parameters() if p.ndim > 1 and p.abs().max() < 1e-4]
    blocks = [f"{n}.conv_2.weight" for n, m in net.named_modules() if hasattr(m, "conv_2")]
    attentions = [f"{n}.out.weight" for n, m in net.named_modules() if hasattr(m, "out")]
    assert sorted(silent) == sorted([*blocks, *attentions, "leave.weight"])


def test_blocks_and_attention_start_as_shortcuts() -> None:
    torch.manual_seed(0)
    x, time = drawn(0, 2, 8, 4, 4), drawn(1, 2, 16)
    block = unet.ResidualBlock(8, 8, 16, groups=4, dropout=0.0)
    attention = unet.Attention(8, groups=4)
    for found in (block(x, time), attention(x)):
        assert not torch.equal(found, x)
        torch.testing.assert_close(found, x, rtol=0, atol=1e-3)
    wider = unet.ResidualBlock(8, 12, 16, groups=4, dropout=0.0)
    torch.testing.assert_close(wider(x, time), wider.shortcut(x), rtol=0, atol=1e-3)


def test_weights_start_uniform_with_variance_2_over_fan_in_and_fan_out() -> None:
    net, pooled = small(channels=16), []
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        weight = module.weight.detach()
        assert module.bias is not None
        assert (module.bias == 0).all()
        places = weight[0, 0].numel()
        var = 2 / (places * (weight.shape[0] + weight.shape[1]))
        if weight.abs().max() < 1e-4:
            var *= 1e-10
        unit = weight.flatten() / math.sqrt(3 * var)  # uniform on [-1, 1]
        # A square of it has the variance 4 / 45.
        assert unit.square().mean().item() == pytest.approx(
            1 / 3, abs=5 * math.sqrt(4 / 45 / len(unit))
        )
        assert unit.abs().max().item() <= 1 + 1e-6
        pooled.append(unit)
    every = torch.cat(pooled).double()
    # Moments 1/5 and 0 of a uniform; a normal has 1/3 in place of 1/5.
    assert (every**4).mean().item() == pytest.approx(0.2, abs=0.01)
    assert every.mean().item() == pytest.approx(0.0, abs=5 / math.sqrt(3 * len(every)))


def test_time_matters_and_rows_do_not_mix() -> None:
    net = awake(small())
    x, t = drawn(0, 1, 2, 8, 8).expand(4, -1, -1, -1), torch.tensor([1, 2, 500, 1000])
    said = net(x, t)
    apart = (said[:, None] - said[None]).flatten(2).abs().amax(dim=2) + 10 * torch.eye(4)
    assert apart.min() > 0.01  # outputs are of order 1
    for i in range(4):
        torch.testing.assert_close(net(x[:1], t[i : i + 1])[0], said[i])  # float32


def test_every_parameter_has_a_gradient() -> None:
    net = awake(small(attention=(8, 4), patch=2, size=16, outputs=2))
    said = net(drawn(0, 3, 2, 16, 16), torch.tensor([2, 50, 1000]))
    (said * drawn(1, *said.shape)).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        if name.endswith(".k.bias"):  # a constant in all scores, which softmax does not see
            assert p.grad.abs().max() < 1e-3, name
        else:
            assert p.grad.abs().max() > 1e-3, name


def test_the_gradient_is_that_of_finite_differences() -> None:
    net = awake(small())
    x, t, way = drawn(0, 2, 2, 8, 8).requires_grad_(), torch.tensor([3, 700]), drawn(1, 2, 2, 8, 8)
    target = drawn(2, 2, 2, 8, 8)
    (gradient,) = torch.autograd.grad((net(x, t) * target).sum(), x)
    step = 1e-2 * way
    with torch.no_grad():
        ahead, behind = (((net(x + s, t) * target).double()).sum() for s in (step, -step))
    # Third derivatives times 1e-4, and float32.
    slope = (gradient * way).sum().item()
    assert ((ahead - behind) / 2e-2).item() == pytest.approx(slope, rel=0.02, abs=0.05)


def test_downsampling_pads_at_the_end_and_upsampling_repeats() -> None:
    x, no_time = drawn(0, 2, 2, 4, 6), torch.empty(0)
    down, up = unet.Downsample(2), unet.Upsample(2)
    wide = functional.pad(x, (0, 1, 0, 1))
    for i in range(3):
        for j in range(3):
            with torch.no_grad():
                down.conv.weight.zero_()
                down.conv.weight[[0, 1], [0, 1], i, j] = 1.0
            assert torch.equal(down(x, no_time), wide[:, :, i : i + 4 : 2, j : j + 6 : 2])
    with torch.no_grad():
        up.conv.weight.zero_()
        up.conv.weight[[0, 1], [0, 1], 1, 1] = 1.0
    for i in (0, 1):
        for j in (0, 1):
            assert torch.equal(up(x, no_time)[:, :, i::2, j::2], x)


def test_upsampling_is_a_repetition_and_a_convolution() -> None:
    up, no_time = unet.Upsample(3).double(), torch.empty(0)
    nn.init.normal_(up.conv.bias, generator=torch.Generator().manual_seed(1))
    x = drawn(0, 2, 3, 4, 6).double().requires_grad_()
    plain = up.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    target = drawn(1, *plain.shape).double()
    wanted = torch.autograd.grad((plain * target).sum(), [x, *up.conv.parameters()])
    ours = up(x, no_time)
    found = torch.autograd.grad((ours * target).sum(), [x, *up.conv.parameters()])
    for ours_one, plain_one in zip([ours, *found], [plain, *wanted], strict=True):
        torch.testing.assert_close(ours_one, plain_one, rtol=1e-12, atol=1e-12)  # float64


def test_a_group_of_one_channel_forgets_the_time() -> None:
    """Which is why `GroupNorm` refuses it: what is added to a channel is the group's mean."""
    block = unet.ResidualBlock(8, 8, 16, groups=4, dropout=0.0)
    awake(block)
    x, time = drawn(0, 1, 8, 4, 4), drawn(1, 2, 16)
    heard = block(x.expand(2, -1, -1, -1), time)
    assert (heard[0] - heard[1]).abs().max() > 0.1
    block.norm_2 = nn.GroupNorm(8, 8, eps=1e-6)
    deaf = block(x.expand(2, -1, -1, -1), time)
    torch.testing.assert_close(deaf[0], deaf[1], rtol=0, atol=1e-4)  # float32
    for channels, groups in ((8, 8), (8, 3), (9, 6), (4, 8)):
        with pytest.raises(ValueError, match=f"{channels} channels cannot form {groups} groups"):
            unet.GroupNorm(groups, channels)
    with pytest.raises(ValueError, match="8 channels cannot form 8 groups of two or more"):
        small(groups=8)
    assert unet.GroupNorm(4, 8).num_groups == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"size": 7}, "7 / 1 cannot be halved 1 times"),
        ({"size": 28, "multipliers": (1, 1, 1, 1)}, "28 / 1 cannot be halved 3 times"),
        ({"size": 28, "patch": 2, "multipliers": (1, 1, 1)}, "28 / 2 cannot be halved 2 times"),
        ({"size": 8, "patch": 3}, "8 / 3 cannot be halved 1 times"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(**changed)
    assert small(size=28, multipliers=(1, 1, 1)).patch == 1


def test_dropout_is_for_training_only() -> None:
    net = awake(small(dropout=0.5))
    x, t = drawn(0, 2, 2, 8, 8), torch.tensor([1, 1000])
    torch.manual_seed(0)
    assert (net.train()(x, t) - net(x, t)).abs().max() > 0.01
    net.eval()
    assert torch.equal(net(x, t), net(x, t))
    none = small(dropout=0.0)
    none.load_state_dict(net.state_dict())
    assert torch.equal(none.train()(x, t), net(x, t))
