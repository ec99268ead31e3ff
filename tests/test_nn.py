"""Nets side by side against torch's own layers, one net at a time, and against numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm, uniform
from torch import Tensor, nn

from genbook import aevb, training
from genbook.nn import BatchNorm, Linear, Maxout, apart, init, mlp, side_by_side

# float64 against float64, of sums of a few dozen terms.
same = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)
S, M = 3, 6


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randoms(*seeds: int) -> list[torch.Generator]:
    return [random(seed) for seed in seeds]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=random(seed), dtype=torch.float64)


def wanted(seed: int, *shape: int) -> Tensor:
    return drawn(seed, *shape).requires_grad_()


def filled(net: Any, seed: int = 9) -> Any:
    """Every parameter N(0, 1), biases and scales too, in float64."""
    values = random(seed)
    with torch.no_grad():
        for p in net.double().parameters():
            p.copy_(torch.randn(p.shape, generator=values, dtype=torch.float64))
    return net


def alone(net: nn.Module, s: int) -> nn.Sequential:
    """Net s out of those side by side, in torch's own layers."""
    layers: list[Any] = []
    for layer in net.modules():
        if isinstance(layer, Linear):
            inputs, outputs = layer.weight.shape[1:]
            mine = nn.Linear(inputs, outputs, bias=layer.bias is not None).double()
            values = [layer.weight[s].T, *([] if layer.bias is None else [layer.bias[s, 0]])]
        elif isinstance(layer, BatchNorm):
            mine = nn.BatchNorm1d(layer.weight.shape[2], layer.eps, layer.momentum).double()
            values = [layer.weight[s, 0], layer.bias[s, 0]]
        elif isinstance(layer, nn.ReLU | nn.Tanh):
            mine, values = type(layer)(), []
        else:
            continue
        with torch.no_grad():
            for p, value in zip(mine.parameters(), values, strict=True):
                p.copy_(value)
        layers.append(mine)
    return nn.Sequential(*layers)


def gradients_of(net: nn.Module, s: int) -> list[Tensor]:
    """The gradient of net s, in the order and the shapes of torch's own layers."""
    found = []
    for p in net.parameters():
        assert p.grad is not None
        one = p.grad[s]
        found.append(one[0] if one.shape[0] == 1 and p.shape[1] == 1 else one.T)
    return found


@pytest.mark.parametrize("outputs", [5, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_torchs_linear_net_by_net(bias: bool, outputs: int) -> None:
    net, x = filled(Linear(S, 4, outputs, bias=bias)), wanted(0, S, M, 4)
    c = drawn(1, S, M, outputs)
    (net(x) * c).sum().backward()
    assert x.grad is not None
    for s in range(S):
        mine, x_s = alone(net, s), x[s].detach().requires_grad_()
        same(net(x)[s], mine(x_s))
        (mine(x_s) * c[s]).sum().backward()
        same(x.grad[s], x_s.grad)
        for found, p in zip(gradients_of(net, s), mine.parameters(), strict=True):
            same(found, p.grad)
    assert len(list(net.parameters())) == 1 + bias
    # Before it is filled it is 0, whatever x is.
    assert not Linear(S, 4, outputs, bias=bias).double()(x).any()


def test_maxout_is_the_largest_of_its_pieces() -> None:
    units, pieces = 2, 5
    net, x = filled(Maxout(S, 4, units, pieces)), wanted(0, S, M, 4)
    weight, bias = (p.detach().numpy() for p in (net.linear.weight, net.linear.bias))
    assert weight.shape == (S, 4, units * pieces)
    slow = np.full((S, M, units), -np.inf)
    for s, m, u, k in itertools.product(range(S), range(M), range(units), range(pieces)):
        column = k * units + u
        value = bias[s, 0, column]
        for i in range(4):
            value += x[s, m, i].item() * weight[s, i, column]
        slow[s, m, u] = max(slow[s, m, u], value)
    same(net(x), torch.from_numpy(slow))
    assert torch.autograd.gradcheck(net, x)
    # The gradient reaches one piece a unit: the bias of each is moved by its share of the rows.
    net(x).sum().backward()
    shares = net.linear.bias.grad.view(S, pieces, units)
    same(shares.sum(dim=1), torch.full((S, units), float(M)).double())
    assert (shares == shares.round()).all()


def test_maxout_of_one_piece_is_linear_and_of_two_opposite_ones_a_modulus() -> None:
    one, x = filled(Maxout(S, 4, 3, 1)), drawn(0, S, M, 4)
    same(one(x), one.linear(x))
    two = Maxout(S, 4, 3, 2).double()
    with torch.no_grad():
        weight, bias = one.linear.weight, one.linear.bias
        two.linear.weight.copy_(torch.cat([weight, -weight], dim=2))
        two.linear.bias.copy_(torch.cat([bias, -bias], dim=2))
    same(two(x), one(x).abs())


@pytest.mark.parametrize(("momentum", "eps"), [(0.1, 1e-5), (0.05, 0.3)])
def test_batch_norm_is_torchs_net_by_net(momentum: float, eps: float) -> None:
    net = filled(BatchNorm(S, 4, momentum=momentum, eps=eps))
    others, c = [alone(net, s) for s in range(S)], drawn(1, S, M, 4)
    mean, var = np.zeros((S, 4)), np.ones((S, 4))
    for batch in range(3):
        x = (3.0 * drawn(batch, S, M, 4) + 2.0).requires_grad_()
        net.zero_grad()
        y = net(x)
        (y * c).sum().backward()
        assert x.grad is not None
        mean += momentum * (x.detach().numpy().mean(axis=1) - mean)
        var += momentum * (x.detach().numpy().var(axis=1) - var)
        for s, other in enumerate(others):
            other.zero_grad()
            x_s = x[s].detach().requires_grad_()
            same(y[s], other(x_s))
            (other(x_s.detach()) * c[s]).sum().backward()
            for found, p in zip(gradients_of(net, s), other.parameters(), strict=True):
                same(found, p.grad)
            # Torch has now seen the batch twice, which the running values below leave out.
            (of_x,) = torch.autograd.grad((other(x_s) * c[s]).sum(), x_s)
            same(x.grad[s], of_x)
        same(net.mean[:, 0], torch.from_numpy(mean))
        same(net.var[:, 0], torch.from_numpy(var))
    assert not net.mean.requires_grad
    assert not net.var.requires_grad
    # Evaluation mode: with these running values in torch's own layer.
    before = [net.mean.clone(), net.var.clone()]
    net.eval()
    x = drawn(7, S, M, 4)
    for s, other in enumerate(others):
        other.eval()
        other[0].running_mean.copy_(net.mean[s, 0])
        other[0].running_var.copy_(net.var[s, 0])
        same(net(x)[s], other(x[s]))
    same(net(x[:, :1]), net(x)[:, :1])  # of one row, which no batch has a variance of
    assert torch.equal(net.mean, before[0])
    assert torch.equal(net.var, before[1])
    assert {"mean", "var"} < set(net.state_dict())


def test_batch_norm_has_torchs_defaults_but_for_its_unbiased_running_variance() -> None:
    net, other = BatchNorm(1, 4).double(), nn.BatchNorm1d(4).double()
    for batch in range(4):
        x = 2.0 * drawn(batch, 1, M, 4) + 1.0
        same(net(x)[0], other(x[0]))
    assert other.running_mean is not None
    assert other.running_var is not None
    same(net.mean[0, 0], other.running_mean)
    left = 0.9**4  # of the 1 at the start
    same(net.var[0, 0] - left, (other.running_var - left) * (M - 1) / M)


def test_normalised_batches_have_mean_and_variance_of_their_own() -> None:
    net, x = BatchNorm(S, 4, eps=1e-5).double(), 5.0 * drawn(0, S, 50, 4) - 3.0
    y = net(x)
    same(y.mean(dim=1), torch.zeros(S, 4).double())
    var = x.var(dim=1, correction=0)
    same(y.var(dim=1, correction=0), var / (var + 1e-5))
    # A shift and a change of scale are not seen but through eps, 1e-5 of a variance of 25.
    torch.testing.assert_close(net(7.0 * x + 1.0), y, rtol=1e-6, atol=1e-6)
    net = filled(BatchNorm(S, 4))
    assert torch.autograd.gradcheck(net, wanted(1, S, M, 4))
    # The batch of each net is its own.
    x[1:] *= 100.0
    same(net(x)[0], net(x[:1].expand(S, -1, -1))[0])


@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)])
@pytest.mark.parametrize(("act", "slow"), [(nn.ReLU, lambda v: np.maximum(v, 0)),
                                           (nn.Tanh, np.tanh)])  # fmt: skip
def test_mlp_is_layers_with_activations_between_them(
    hidden: Sequence[int], act: type[nn.Module], slow: Any
) -> None:
    net = mlp(S, 5, hidden, 2, act)
    x = drawn(0, S, M, 5)
    assert not net.double()(x).any()
    filled(net)
    linear = [layer for layer in net if isinstance(layer, Linear)]
    assert [tuple(layer.weight.shape) for layer in linear] == [
        (S, a, b) for a, b in itertools.pairwise([5, *hidden, 2])
    ]
    assert len(net) == 2 * len(hidden) + 1
    for s in range(S):
        h = x[s].numpy()
        for i, layer in enumerate(linear):
            assert layer.bias is not None
            h = h @ layer.weight[s].detach().numpy() + layer.bias[s].detach().numpy()
            h = h if i == len(hidden) else slow(h)
        same(net(x)[s], torch.from_numpy(h))
    if len(hidden) == 1:
        assert isinstance(mlp(S, 5, hidden, 2)[1], nn.ReLU)


def test_nets_side_by_side_learn_what_each_learns_alone() -> None:
    """Five steps of Adam on a loss summed over nets, batch normalisation between the layers."""
    net = filled(nn.Sequential(Linear(S, 3, 4, bias=False), BatchNorm(S, 4), nn.Tanh(),
                               Linear(S, 4, 2)))  # fmt: skip
    others = [alone(net, s) for s in range(S)]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for step in range(5):
        x, y = drawn(step, S, M, 3), drawn(100 + step, S, M, 2)
        optimizer.zero_grad()
        (net(x) - y).square().mean(dim=(1, 2)).sum().backward()
        optimizer.step()
    for s, other in enumerate(others):
        optimizer = torch.optim.Adam(other.parameters(), lr=0.1)
        for step in range(5):
            x, y = drawn(step, S, M, 3), drawn(100 + step, S, M, 2)
            optimizer.zero_grad()
            (other(x[s]) - y[s]).square().mean().backward()
            optimizer.step()
        moved = alone(net, s)
        for found, p in zip(moved.parameters(), other.parameters(), strict=True):
            # Adam divides rounding errors of 1e-15 by gradients that may be small.
            torch.testing.assert_close(found, p, rtol=1e-8, atol=1e-8)


def several(nets: int) -> nn.Sequential:
    return nn.Sequential(Linear(nets, 4, 5, bias=False), BatchNorm(nets, 5),
                         Maxout(nets, 5, 3, 2), Linear(nets, 3, 1))  # fmt: skip


@pytest.mark.parametrize("std", [None, 0.02])
def test_init_of_a_net_does_not_depend_on_its_neighbours(std: float | None) -> None:
    three, one, two = several(3), several(1), several(2)
    before = torch.get_rng_state()
    init(three, randoms(5, 6, 7), std=std)
    init(one, randoms(6), std=std)
    init(two, randoms(8, 6), std=std)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(three.parameters(), one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a[1], b[0])
        assert torch.equal(a[1], c[1])
    weights = [p for p in three.parameters() if p.shape[1] > 1]
    assert len(weights) == 3
    for p in weights:
        assert p.unique().numel() == p.numel()  # no two alike, in a net or in two
    assert not set(weights[0].flatten().tolist()) & set(weights[1].flatten().tolist())
    # Scales and shifts of batch normalisation stay 1 and 0.
    norms = [m for m in three if isinstance(m, BatchNorm)]
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)


def test_init_is_uniform_as_in_torchs_own_layers() -> None:
    inputs, outputs = 16, 3_000
    net = Linear(2, inputs, outputs)
    init(net, randoms(0, 1))
    bound = 1.0 / math.sqrt(inputs)
    assert net.bias is not None
    for p in (*net.weight, *net.bias):
        values = p.detach().numpy().ravel()
        assert kstest(values, uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
        assert np.abs(values).max() < bound
    # Torch's own, whose 48 000 weights reach to within 1e-4 of the bound.
    torch.manual_seed(0)
    theirs = nn.Linear(inputs, outputs)
    for ours, p in ((net.weight, theirs.weight), (net.bias, theirs.bias)):
        assert ours.abs().max().item() == pytest.approx(p.abs().max().item(), abs=1e-3)


def test_init_with_a_deviation_is_normal_without_biases() -> None:
    net = nn.Sequential(Linear(2, 16, 3_000), Linear(2, 3_000, 2))
    init(net, randoms(0, 1), std=0.02)
    for layer in net:
        for p in layer.weight:
            assert kstest(p.detach().numpy().ravel(), norm(0, 0.02).cdf).pvalue > 1e-3
        assert not layer.bias.any()


def test_init_with_a_deviation_sets_biases_to_zero() -> None:
    net = Linear(2, 4, 3)
    init(net, randoms(0, 1))
    assert net.bias is not None
    assert net.bias.all()
    init(net, randoms(0, 1), std=0.02)
    assert not net.bias.any()


@pytest.mark.parametrize("seeds", [(), (0,), (0, 1, 2, 3)])
def test_init_needs_a_generator_for_each_net(seeds: Sequence[int]) -> None:
    with pytest.raises(ValueError, match=f"3 nets need as many generators: {len(seeds)}"):
        init(several(3), randoms(*seeds))


# Models side by side: the VAEs of chapter 1, whose sizes differ in the number of latent variables.

SIZES = (3, 7, 1)
HALVES = {"encoder.out"}


def vaes(decoder: str) -> list[aevb.VAE]:
    models = [aevb.VAE(pixels=9, hidden=5, latents=j, decoder=decoder) for j in SIZES]
    return [filled(model, seed) for seed, model in enumerate(models)]


def elbo_of(vae: aevb.VAE, x: Tensor) -> Tensor:
    return -aevb.elbo(vae, x, generator=None).mean(dim=-1).sum()


def wake_sleep_of(vae: aevb.VAE, x: Tensor) -> Tensor:
    phases = aevb.wake_sleep(vae, x, generator=None)
    return -(phases.wake + phases.sleep).mean(dim=-1).sum()


class Noise:
    """The same draws for models side by side and for one of them alone, which needs fewer."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.calls = 0
        patch.setattr(torch, "randn", self.randn)
        patch.setattr(torch, "bernoulli", lambda p, generator: (p > 0.5).to(p.dtype))

    def randn(self, *shape: Any, **_: Any) -> Tensor:
        shape = shape[0] if isinstance(shape[0], tuple) else shape
        self.calls += 1
        draws = torch.empty(M, 9, dtype=torch.float64)
        draws.normal_(generator=random(self.calls))
        return draws[:, : shape[-1]].expand(shape)


def trained(model: aevb.VAE, objective: Any, patch: pytest.MonkeyPatch) -> None:
    """Four steps of Adagrad, with decay of the decoder's weights."""
    groups = [
        {"params": model.encoder.parameters()},
        {"params": model.decoder.parameters(), "weight_decay": 0.1},
    ]
    optimizer = training.adagrad(groups, lr=0.02)
    for step in range(4):
        with patch.context() as inner:
            x = drawn(50 + step, M, 9).sigmoid()
            Noise(inner)
            optimizer.zero_grad()
            objective(model, x).backward()
            optimizer.step()


@pytest.mark.parametrize("objective", [elbo_of, wake_sleep_of])
@pytest.mark.parametrize("decoder", ["bernoulli", "gaussian"])
def test_models_side_by_side_learn_what_each_learns_alone(
    monkeypatch: pytest.MonkeyPatch, decoder: str, objective: Any
) -> None:
    alone, together = vaes(decoder), vaes(decoder)
    joint = side_by_side(together, halves=HALVES)
    used = {name: p.detach() != 0.0 for name, p in joint.named_parameters()}
    trained(joint, objective, monkeypatch)
    apart(joint, together)
    for mine, other, untrained in zip(alone, together, vaes(decoder), strict=True):
        trained(mine, objective, monkeypatch)
        for p, q, start in zip(
            mine.parameters(), other.parameters(), untrained.parameters(), strict=True
        ):
            same(q, p)
            assert not torch.equal(p, start)
    for name, p in joint.named_parameters():
        assert torch.equal(p.detach() != 0.0, used[name]), f"{name}: padding has changed"
    padded = {name for name, mask in used.items() if not mask.all()}
    assert padded == {"encoder.out.weight", "encoder.out.bias", "decoder.hidden.weight"}


def test_models_of_one_size_are_not_padded_and_keep_their_place() -> None:
    models = [filled(mlp_of_torch(), seed) for seed in range(S)]
    joint, x = side_by_side(models), drawn(0, M, 4)
    same(joint(x), torch.stack([model(x) for model in models]))
    same(joint(x.expand(S, M, 4)), joint(x))
    assert all(layer.mask is None for layer in joint if isinstance(layer, Linear))
    with torch.no_grad():
        for p in joint.parameters():
            p[1] += 1.0
    before = [model(x) for model in models]
    apart(joint, models)
    same(torch.stack([model(x) for model in models]), joint(x))
    same(models[0](x), before[0])
    assert not torch.allclose(models[1](x), before[1])


def test_one_model_alone_stays_as_it_is() -> None:
    model, before = filled(mlp_of_torch()), filled(mlp_of_torch())
    joint = side_by_side([model])
    assert joint is model
    apart(joint, [model])
    for p, q in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q)


def mlp_of_torch() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def test_a_checkpoint_of_models_side_by_side_has_no_padding_masks() -> None:
    joint = side_by_side(vaes("bernoulli"), halves=HALVES)
    assert set(joint.state_dict()) == {name for name, _ in joint.named_parameters()}


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "0 models side by side must have the same modules"),
        (
            [nn.Sequential(nn.Linear(4, 5)), nn.Sequential(nn.ReLU())],
            "2 models .* the same modules",
        ),
        ([nn.Sequential(nn.Tanh()), nn.Sequential(nn.ReLU())], "the same modules"),
        ([*vaes("bernoulli"), *vaes("gaussian")], "the same modules"),
        ([nn.Sequential(nn.Linear(4, 5, bias=False))], "with biases and no others"),
        ([nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5))], "with biases and no others"),
    ],
)
def test_models_that_cannot_be_stacked_are_refused(models: list[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        side_by_side(models)


def test_halves_must_be_layers() -> None:
    with pytest.raises(ValueError, match=r"no linear layers of these models: encoder\.hiden, out"):
        side_by_side(vaes("bernoulli"), halves={"out", "encoder.hiden"})
