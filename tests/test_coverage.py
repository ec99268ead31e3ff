"""Packing, diversity, penalties, spectral normalisation and unrolling: each against numpy, hand
values or torch's own, its gradient too."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import kstest
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from genbook import coverage
from genbook.coverage import SpectralNorm
from genbook.metrics import modes
from genbook.nn import BatchNorm, Linear, Maxout, mlp

# float64 against float64, of sums of a few hundred terms.
same = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)
Array = NDArray[np.float64]
S, M = 3, 6


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=random(seed), dtype=torch.float64)


def wanted(seed: int, *shape: int) -> Tensor:
    return drawn(seed, *shape).requires_grad_()


def constant(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def filled(net: Any, seed: int = 9, scale: float = 0.5) -> Any:
    """Every parameter N(0, scale^2), biases and scales too, in float64."""
    values = random(seed)
    with torch.no_grad():
        for p in net.double().parameters():
            p.copy_(scale * torch.randn(p.shape, generator=values, dtype=torch.float64))
    return net


def tanh_net(nets: int, inputs: int = 2, units: int = 5) -> nn.Sequential:
    """A smooth discriminator, for derivatives."""
    return filled(nn.Sequential(*mlp(nets, inputs, [units], 1, nn.Tanh), nn.Flatten(1)))


def arrays(net: nn.Module, s: int) -> list[Array]:
    return [p[s].detach().numpy() for p in net.parameters()]


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_ring_and_grid_are_those_of_pacgans_configuration() -> None:
    ring, grid = coverage.ring(), coverage.grid()
    angles = [2 * math.pi * k / 8 for k in range(8)]
    by_hand = [[math.cos(a), math.sin(a)] for a in angles]
    torch.testing.assert_close(ring.means, torch.tensor(by_hand), rtol=0, atol=1e-6)  # float32
    places = list(itertools.product(range(-4, 5, 2), repeat=2))
    assert grid.means.tolist() == [list(place) for place in places]
    assert (ring.std, grid.std) == (0.01, 0.05)
    for mixture, k in ((ring, 8), (grid, 25)):
        torch.testing.assert_close(mixture.weights, torch.full((k,), 1 / k))
        # 20 000 samples: a standard error of 0.07 % of the share.
        found = modes.count(mixture.sample(20_000, random(0)), mixture.means, mixture.std)
        assert found.captured == k
        assert found.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.003)
        assert found.reverse_kl < 3 * modes.expected_kl(k, 20_000)


def test_ring_and_grid_of_other_sizes() -> None:
    ring = coverage.ring(modes=5, radius=3.0, std=0.2)
    assert ring.std == 0.2
    radii = ring.means.norm(dim=1)
    torch.testing.assert_close(radii, torch.full((5,), 3.0))
    # Even: every neighbour is as far as every other.
    gaps = (ring.means - ring.means.roll(1, dims=0)).norm(dim=1)
    torch.testing.assert_close(gaps, torch.full((5,), 6 * math.sin(math.pi / 5)))
    grid = coverage.grid(side=4, gap=3.0, std=0.1)
    places = itertools.product((-4.5, -1.5, 1.5, 4.5), repeat=2)
    assert grid.means.tolist() == [list(place) for place in places]
    assert grid.std == 0.1
    torch.testing.assert_close(grid.weights, torch.full((16,), 1 / 16))


def test_pacgan_generator_is_that_of_its_code() -> None:
    # Per net: 2 x 400, three times 400 x 400, scale and shift four times, 400 x 2 and 2 biases.
    assert size(coverage.pacgan_generator(3)) == 3 * (800 + 480_000 + 3_200 + 802)
    net = filled(coverage.pacgan_generator(S, noise=3, units=5))
    z = drawn(0, S, M, 3)
    found = net(z)
    assert found.shape == (S, M, 2)
    for s in range(S):
        *hidden, weight, bias = arrays(net, s)
        h = z[s].numpy()
        for w, scale, shift in zip(*(hidden[i::3] for i in range(3)), strict=True):
            h = h @ w
            h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-4) * scale + shift
            h = np.maximum(h, 0)
        same(found[s], torch.from_numpy(h @ weight + bias))
    norms = [layer for layer in net if isinstance(layer, BatchNorm)]
    assert len(norms) == 4
    # Populations move by 0.05 (bn_updates in the official code).
    same(norms[0].mean, 0.05 * (z @ net[0].weight).mean(dim=1, keepdim=True))


@pytest.mark.parametrize("packed", [1, 2, 4])
def test_pacgan_discriminator_is_that_of_its_code(packed: int) -> None:
    # Per net: maxout layers of 200 x 5 columns with biases from 2 m, 200 and 200, then 201.
    by_hand = (2 * packed + 1) * 1000 + 2 * 201 * 1000 + 201
    assert size(coverage.pacgan_discriminator(3, packed=packed)) == 3 * by_hand
    if packed == 1:  # unless it is said
        assert size(coverage.pacgan_discriminator(3)) == 3 * by_hand
    net = filled(coverage.pacgan_discriminator(S, packed=packed, units=4, pieces=3))
    x = drawn(0, S, M, 2 * packed)
    found = net(x)
    assert found.shape == (S, M)
    for s in range(S):
        *hidden, weight, bias = arrays(net, s)
        h = x[s].numpy()
        for w, b in zip(hidden[::2], hidden[1::2], strict=True):
            h = (h @ w + b).reshape(M, 3, 4).max(axis=1)
        same(found[s], torch.from_numpy((h @ weight + bias)[:, 0]))
    assert sum(isinstance(layer, Maxout) for layer in net) == 3


def test_the_small_nets_are_two_layers_of_128_units() -> None:
    assert size(coverage.generator(2)) == 2 * (3 * 128 + 129 * 128 + 129 * 2)
    assert size(coverage.discriminator(2)) == 2 * (3 * 128 + 129 * 128 + 129)
    g = filled(coverage.generator(S, noise=4, units=5))
    d = filled(coverage.discriminator(S, inputs=3, units=5))
    z, x = drawn(0, S, M, 4), drawn(1, S, M, 3)
    made, logit = g(z), d(x)
    assert (made.shape, logit.shape) == ((S, M, 2), (S, M))
    acts: tuple[Callable[[Array], Array], ...] = (
        lambda v: np.maximum(v, 0), lambda v: np.where(v > 0, v, 0.01 * v)
    )  # fmt: skip
    for s in range(S):
        for net, h, act, found in zip((g, d), (z[s], x[s]), acts, (made[s], logit[s, :, None]),
                                      strict=True):  # fmt: skip
            w1, b1, w2, b2, w3, b3 = arrays(net, s)
            slow = act(act(h.numpy() @ w1 + b1) @ w2 + b2) @ w3 + b3
            same(found, torch.from_numpy(slow))


def test_losses_are_mean_negative_logarithms() -> None:
    real, made = 3.0 * drawn(0, S, M), 3.0 * drawn(1, S, M)

    def sigmoid(x: Array) -> Array:
        return 1 / (1 + np.exp(-x))

    r, m = real.numpy(), made.numpy()
    slow = (-np.log(sigmoid(r)) - np.log(1 - sigmoid(m))).mean(axis=1)
    same(coverage.discriminator_loss(real, made), torch.from_numpy(slow))
    same(coverage.generator_loss(made), torch.from_numpy(-np.log(sigmoid(m)).mean(axis=1)))
    zero = constant(0.0, S, M)
    same(coverage.discriminator_loss(zero, zero), constant(math.log(4), S))
    same(coverage.generator_loss(zero), constant(math.log(2), S))
    # Finite for a certain discriminator, right or wrong, in single precision as well.
    far = torch.full((1, 2), 1e4)
    assert coverage.discriminator_loss(far, -far).item() == 0.0
    assert coverage.discriminator_loss(-far, far).item() == 2e4
    assert coverage.generator_loss(-far).item() == 1e4


def test_losses_have_the_gradients_that_the_papers_speak_of() -> None:
    real, made = wanted(0, S, M), wanted(1, S, M)
    assert torch.autograd.gradcheck(coverage.discriminator_loss, (real, made))
    assert torch.autograd.gradcheck(coverage.generator_loss, made)
    # The generator's does not vanish where the discriminator is sure: -1 / M at every logit.
    sure = torch.full((S, M), -50.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(coverage.generator_loss(sure).sum(), sure)
    same(gradient, constant(-1 / M, S, M))
    # The best logit for two laws is the logarithm of their ratio: there the mean gradient is 0.
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    q = torch.tensor([0.5, 0.4, 0.1], dtype=torch.float64)
    best = (p / q).log().requires_grad_()
    real, made = (best.repeat_interleave((10 * w).round().long())[None] for w in (p, q))
    (gradient,) = torch.autograd.grad(coverage.discriminator_loss(real, made).sum(), best)
    same(gradient, constant(0.0, 3))


@pytest.mark.parametrize("m", [1, 2, 3, 6])
def test_pack_puts_neighbours_in_a_row(m: int) -> None:
    x = drawn(0, S, M, 2)
    found = coverage.pack(x, m)
    assert found.shape == (S, M // m, 2 * m)
    for s, i, j in itertools.product(range(S), range(M // m), range(m)):
        assert torch.equal(found[s, i, 2 * j : 2 * j + 2], x[s, i * m + j])
    # Of parts of a larger batch as well, and with a gradient.
    wide = wanted(0, S, 2 * M, 2)
    same(coverage.pack(wide[:, ::2], m), coverage.pack(wide[:, ::2].contiguous(), m))
    weight = drawn(1, S, M // m, 2 * m)
    (gradient,) = torch.autograd.grad((coverage.pack(wide[:, :M], m) * weight).sum(), wide)
    same(gradient[:, :M].reshape(weight.shape), weight)
    assert not gradient[:, M:].any()


def test_pack_needs_a_number_that_divides() -> None:
    with pytest.raises(ValueError, match="6 samples cannot be packed by 4"):
        coverage.pack(drawn(0, S, M, 2), 4)


def test_diversity_is_a_mean_absolute_difference() -> None:
    a = torch.tensor([[[1.0, -2.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    b = torch.tensor([[[0.0, 1.0], [2.0, 4.0]], [[8.0, 0.0], [0.0, 0.0]]])
    assert coverage.diversity(a, b).tolist() == [(1 + 3 + 2 + 0) / 4, 2.0]
    a, b = drawn(0, S, M, 4), drawn(1, S, M, 4)
    same(coverage.diversity(a, b), torch.from_numpy(np.abs((a - b).numpy()).mean(axis=(1, 2))))
    same(coverage.diversity(b, a), coverage.diversity(a, b))
    assert not coverage.diversity(a, a).any()
    # No upper bound: twice as far apart is twice as good.
    same(coverage.diversity(2 * a, 2 * b), 2 * coverage.diversity(a, b))
    a, b = wanted(2, S, M, 4), wanted(3, S, M, 4)
    gradients = torch.autograd.grad(coverage.diversity(a, b).sum(), (a, b))
    same(gradients[0], (a - b).sign().detach() / (4 * M))
    same(gradients[1], -gradients[0])


def test_mode_seeking_is_one_over_a_ratio_of_distances() -> None:
    a, b = torch.tensor([[[1.0, -2.0], [0.0, 4.0]]]), torch.tensor([[[0.0, 1.0], [2.0, 4.0]]])
    z_a, z_b = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [-2.0]]])
    # Means of 1.5 in samples and of 3 in noise.
    found = coverage.mode_seeking(a, b, z_a, z_b)
    torch.testing.assert_close(found, torch.tensor([1 / (0.5 + 1e-5)]), rtol=1e-6, atol=0)
    a, b, z_a, z_b = drawn(0, S, M, 4), drawn(1, S, M, 4), drawn(2, S, M, 3), drawn(3, S, M, 3)
    found = coverage.mode_seeking(a, b, z_a, z_b)
    for s in range(S):
        far = sum(abs(x - y) for x, y in zip(a[s].flatten(), b[s].flatten(), strict=True))
        near = sum(abs(x - y) for x, y in zip(z_a[s].flatten(), z_b[s].flatten(), strict=True))
        ratio = far.item() / (4 * M) / (near.item() / (3 * M))
        assert found[s].item() == pytest.approx(1 / (ratio + 1e-5), rel=1e-12)
    # A collapsed generator pays 1e5; one that spreads its samples pays less.
    same(coverage.mode_seeking(a, a, z_a, z_b), constant(1e5, S))
    assert (coverage.mode_seeking(2 * a, 2 * b, z_a, z_b) < found).all()
    same(coverage.mode_seeking(2 * a, 2 * b, 2 * z_a, 2 * z_b), found)
    assert torch.autograd.gradcheck(
        coverage.mode_seeking, (wanted(4, 2, 3, 2), wanted(5, 2, 3, 2), z_a[:2, :3], z_b[:2, :3])
    )


def linear(w: Tensor) -> Callable[[Tensor], Tensor]:
    """x -> w_s x + 7: its slope is |w_s| everywhere."""
    return lambda x: torch.einsum("smd,sd->sm", x, w) + 7.0


def quadratic(a: Tensor) -> Callable[[Tensor], Tensor]:
    """x -> x^T a_s x / 2 with a symmetric a_s: its gradient is a_s x."""
    return lambda x: 0.5 * torch.einsum("smi,sij,smj->sm", x, a, x)


def symmetric(seed: int, dim: int) -> Tensor:
    a = drawn(seed, S, dim, dim)
    return a + a.mT


def test_slopes_are_norms_of_known_gradients() -> None:
    x, w, a = drawn(0, S, M, 3), drawn(1, S, 3), symmetric(2, 3)
    same(coverage.slopes(linear(w), x), w.norm(dim=1)[:, None].expand(S, M))
    slow = np.stack([np.linalg.norm(x[s].numpy() @ a[s].numpy(), axis=1) for s in range(S)])
    same(coverage.slopes(quadratic(a), x), torch.from_numpy(slow))
    # x itself is left alone, and what was behind it as well.
    behind = wanted(3, S, M, 3)
    coverage.slopes(quadratic(a.requires_grad_()), 2 * behind).sum().backward()
    assert behind.grad is None
    assert a.grad is not None
    assert not x.requires_grad


def test_gradient_penalty_of_a_linear_critic_is_exact() -> None:
    w, real, made = wanted(0, S, 3), drawn(1, S, M, 3), drawn(2, S, M, 3)
    found = coverage.gradient_penalty(linear(w), real, made, random(0))
    norm = w.detach().norm(dim=1)
    same(found, (norm - 1).square())
    (gradient,) = torch.autograd.grad(found.sum(), w)
    same(gradient, (2 * (norm - 1) / norm)[:, None] * w.detach())
    unit = w.detach() / norm[:, None]
    same(coverage.gradient_penalty(linear(unit), real, made, None), constant(0.0, S))


def seen_by(critic: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], Any]:
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return critic(x)

    return seen, watched


def test_gradient_penalty_is_taken_at_one_uniform_place_on_each_segment() -> None:
    n, a = 4_000, symmetric(0, 3)
    real = drawn(1, S, n, 3)
    made = real + 1.0 + drawn(2, S, n, 3).abs()
    seen, critic = seen_by(quadratic(a))
    before = torch.get_rng_state()
    found = coverage.gradient_penalty(critic, real, made, random(3))
    assert torch.equal(torch.get_rng_state(), before)
    (x,) = seen
    place = ((x - real) / (made - real)).numpy()  # the same in each dimension: on the segment
    np.testing.assert_allclose(place, place[..., :1].repeat(3, axis=2), rtol=0, atol=1e-12)
    place = place[..., 0]
    assert kstest(place.ravel(), "uniform").pvalue > 1e-3
    assert np.unique(place.round(9)).size > 0.99 * place.size  # of its own for each pair
    slow = (np.linalg.norm(np.einsum("sij,snj->sni", a.numpy(), x.numpy()), axis=2) - 1) ** 2
    same(found, torch.from_numpy(slow.mean(axis=1)))
    # Of |x|^2 / 2 from 0 to a point 2 away: the mean of (2 u - 1)^2 is 1 / 3, its s.e. 0.005.
    bowl = quadratic(torch.eye(3).double().expand(S, 3, 3))
    ends = torch.tensor([2.0, 0.0, 0.0]).double().expand(S, n, 3)
    found = coverage.gradient_penalty(bowl, torch.zeros_like(ends), ends, random(4))
    assert found.tolist() == pytest.approx([1 / 3] * S, abs=0.02)


def test_r1_penalty_is_a_mean_square_at_real_points() -> None:
    w, real, a = wanted(0, S, 3), drawn(1, S, M, 3), symmetric(2, 3)
    found = coverage.r1_penalty(linear(w), real)
    same(found, w.detach().square().sum(dim=1))
    (gradient,) = torch.autograd.grad(found.sum(), w)
    same(gradient, 2 * w.detach())
    seen, net = seen_by(quadratic(a))
    slow = (np.einsum("sij,smj->smi", a.numpy(), real.numpy()) ** 2).sum(axis=2).mean(axis=1)
    same(coverage.r1_penalty(net, real), torch.from_numpy(slow))
    assert torch.equal(seen[0], real)
    # At its minimum, a constant net, it has a finite gradient.
    flat = torch.zeros(S, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(coverage.r1_penalty(linear(flat), real).sum(), flat)
    assert not gradient.any()


@pytest.mark.parametrize("penalty", ["gradient", "r1"])
def test_penalties_are_differentiable_a_second_time(penalty: str) -> None:
    """By finite differences in the weights, and of each net by its own weights alone."""
    net, real, made = tanh_net(2), drawn(0, 2, 3, 2), drawn(1, 2, 3, 2)
    names = [name for name, _ in net.named_parameters()]

    def of(*weights: Tensor) -> Tensor:
        def critic(x: Tensor) -> Tensor:
            values = dict(zip(names, weights, strict=True))
            return torch.func.functional_call(net, values, (x,))

        if penalty == "r1":
            return coverage.r1_penalty(critic, real)
        return coverage.gradient_penalty(critic, real, made, random(2))

    weights = [p.detach().clone().requires_grad_() for p in net.parameters()]
    assert torch.autograd.gradcheck(of, weights)
    one, other = (torch.autograd.grad(of(*weights)[s], weights[0])[0] for s in range(2))
    assert not one[1].any()
    assert not other[0].any()


def test_sigma_is_a_step_of_power_iteration_and_converges_to_svdvals() -> None:
    weight, norm = drawn(0, S, 4, 6), SpectralNorm(drawn(0, S, 4, 6), random(1)).double()
    assert norm.u.shape == (S, 6)
    same(norm.u.norm(dim=1), constant(1.0, S), atol=1e-6, rtol=0)  # drawn in float32
    exact = torch.linalg.svdvals(weight)[:, 0]
    u, found = norm.u.numpy().copy(), []
    for _ in range(3):
        found.append(norm.sigma(weight))
        for s in range(S):
            w = weight[s].numpy()
            v = w @ u[s] / np.linalg.norm(w @ u[s])
            u[s] = v @ w / np.linalg.norm(v @ w)
            assert found[-1][s].item() == pytest.approx(v @ w @ u[s], rel=1e-12)
        same(norm.u, torch.from_numpy(u))
    for _ in range(300):
        found.append(norm.sigma(weight))
    grows = torch.stack(found).diff(dim=0)
    assert grows.min() > -1e-12  # from below
    assert (exact - found[0]).min() > 1e-3
    same(found[-1], exact)
    normed = norm(weight)
    same(normed, weight / exact[:, None, None])
    same(torch.linalg.svdvals(normed)[:, 0], constant(1.0, S))
    same(norm(1e-3 * weight), normed)  # a small matrix is scaled up


def test_spectral_norm_has_a_generator_of_its_own_and_keeps_u() -> None:
    weight, before = drawn(0, S, 4, 6), torch.get_rng_state()
    norms = [SpectralNorm(weight, random(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(norms[0].u, norms[1].u)
    assert not torch.equal(norms[0].u, norms[2].u)
    assert len(norms[0].u.unique(dim=0)) == S
    assert norms[0].u.min() < 0 < norms[0].u.max()
    assert set(norms[0].state_dict()) == {"u"}
    assert not list(norms[0].parameters())


def test_spectral_norm_does_not_move_in_evaluation_mode() -> None:
    weight = drawn(0, S, 4, 6)
    norm = SpectralNorm(weight, random(1)).double()
    norm(weight)
    norm.eval()
    before = norm.u.clone()
    first = norm(weight)
    assert torch.equal(norm(weight), first)
    assert torch.equal(norm.u, before)
    # It estimates with the u that it has: |W u|.
    slow = np.stack([w / np.linalg.norm(w @ u) for w, u in zip(weight.numpy(), before.numpy(),
                                                              strict=True)])  # fmt: skip
    same(first, torch.from_numpy(slow))
    # With u held, |W u| is what the gradient is of.
    assert torch.autograd.gradcheck(norm, wanted(0, S, 4, 6))
    norm.train()
    norm(weight)
    assert not torch.equal(norm.u, before)


def test_spectral_norm_has_the_values_and_gradients_of_torchs() -> None:
    """Side by side, in training: u of this one is v of torch's for the same matrix."""
    start, norm = drawn(0, S, 4, 6), SpectralNorm(drawn(0, S, 4, 6), random(1)).double()
    others = [spectral_norm(nn.Linear(6, 4, bias=False).double()) for _ in range(S)]
    for s, other in enumerate(others):
        other.parametrizations.weight[0]._v.copy_(norm.u[s])
    for step in range(4):
        weight = (start + 0.1 * drawn(step, S, 4, 6)).requires_grad_()
        c = drawn(50 + step, S, 4, 6)
        found = norm(weight)
        (gradient,) = torch.autograd.grad((found * c).sum(), weight)
        for s, other in enumerate(others):
            original = other.parametrizations.weight.original
            with torch.no_grad():
                original.copy_(weight[s])
            theirs = other.weight
            same(found[s], theirs)
            same(gradient[s], torch.autograd.grad((theirs * c[s]).sum(), original)[0])


def test_unit_rows_have_length_one() -> None:
    x = drawn(0, 4, 3)
    same(coverage.unit(x), x / x.square().sum(dim=1).sqrt()[:, None])
    assert not coverage.unit(torch.zeros(2, 3)).any()


def normed_discriminator() -> Any:
    """After so many power iterations that one more changes nothing to 7 digits."""
    net = filled(coverage.discriminator(S, units=7), scale=2.0)
    assert coverage.spectrally_normed(net, random(1)) is net
    net.double()
    for _ in range(200):
        net(drawn(0, S, 1, 2))
    return net


def test_a_spectrally_normed_net_has_layers_of_norm_one() -> None:
    plain, net = filled(coverage.discriminator(S, units=7), scale=2.0), normed_discriminator()
    assert size(net) == size(plain)
    layers = [(a, b) for a, b in zip(plain, net, strict=True) if isinstance(a, Linear)]
    assert len(layers) == 3
    net.eval()
    for a, b in layers:
        # Ratios of singular values near 1 are slow to be told apart.
        top = torch.linalg.svdvals(b.weight)[:, 0]
        torch.testing.assert_close(top, constant(1.0, S), rtol=0, atol=1e-6)
        exact = torch.linalg.svdvals(a.weight)[:, 0]
        torch.testing.assert_close(b.weight, a.weight / exact[:, None, None], rtol=1e-6, atol=1e-6)
        assert torch.equal(a.bias, b.bias)
    # No slope is above 1, and without the norm they are.
    x = 3.0 * drawn(2, S, 200, 2)
    assert coverage.slopes(net, x).max() < 1.0 + 1e-6
    assert coverage.slopes(plain, x).max() > 10.0
    # No two nets share a vector.
    before = [m.u.clone() for m in net.modules() if isinstance(m, SpectralNorm)]
    assert len(before) == 3
    assert (before[0][0] - before[0][1]).abs().max() > 0.01
    net(x)
    after = [m.u for m in net.modules() if isinstance(m, SpectralNorm)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_spectrally_normed_net_learns() -> None:
    net = normed_discriminator()
    coverage.generator_loss(net(drawn(3, S, M, 2))).sum().backward()
    originals = [p for name, p in net.named_parameters() if name.endswith("original")]
    assert len(originals) == 3
    for p in originals:
        assert p.grad is not None
        assert p.grad.abs().amax(dim=(1, 2)).min() > 0
        # A scale of W does not matter to W / sigma: the gradient has no part along W.
        part = (p.grad * p).sum(dim=(1, 2)) / (p.grad.norm(dim=(1, 2)) * p.norm(dim=(1, 2)))
        assert part.abs().max() < 1e-6


def test_layers_inside_layers_are_normed_with_vectors_from_one_generator() -> None:
    before = torch.get_rng_state()
    plain = [coverage.pacgan_discriminator(2, units=4) for _ in range(2)]
    first, again = (coverage.spectrally_normed(net, random(0)) for net in plain)
    assert torch.equal(torch.get_rng_state(), before)
    norms = [[m for m in net.modules() if isinstance(m, SpectralNorm)] for net in (first, again)]
    assert len(norms[0]) == 4  # three of maxout layers
    assert all(torch.equal(a.u, b.u) for a, b in zip(*norms, strict=True))
    assert not torch.equal(norms[0][1].u, norms[0][2].u)


def test_a_spectrally_normed_discriminator_can_see_real_and_made_samples_before_backward() -> None:
    """Two calls in training mode, one graph: the second step of u must not spoil the first."""
    net, real, made = normed_discriminator(), drawn(3, S, M, 2), drawn(4, S, M, 2)
    coverage.discriminator_loss(net(real), net(made)).sum().backward()
    found = [p.grad.clone() for p in net.parameters()]
    # u has converged, so that another step of it changes nothing.
    net.eval()
    net.zero_grad()
    loss = coverage.discriminator_loss(net(real), net(made)).sum()
    net.train()(made)  # between the two, as when another batch is looked at
    loss.backward()
    for a, b in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad, rtol=1e-5, atol=1e-7)


def losses(real: Tensor, made: Tensor) -> Callable[[Any], Tensor]:
    return lambda net: coverage.discriminator_loss(net(real), net(made))


def adam_on(
    net: nn.Module, loss: Callable[[Any], Tensor], steps: int, rate: float, **how: Any
) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(net.parameters(), lr=rate, **how)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net).sum().backward()
        optimizer.step()
    return optimizer


def moments_of(net: nn.Module, optimizer: torch.optim.Adam) -> dict[str, Any]:
    states = {name: optimizer.state[p] for name, p in net.named_parameters()}
    return {
        name: (state["exp_avg"].clone(), state["exp_avg_sq"].clone(), float(state["step"]))
        for name, state in states.items()
    }


@pytest.mark.parametrize(
    ("how", "rtol"),
    # eps beside the root or under it is eps / |gradient| of a step, of gradients of 1e-3 and more.
    [({}, 1e-4), ({"betas": (0.9, 0.8), "eps": 1e-12}, 1e-8)],
)
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_unrolled_steps_are_those_of_torchs_adam(
    steps: int, before: int, how: dict[str, Any], rtol: float
) -> None:
    """`before` steps of its own, after which its moments are handed over."""
    net, x, rate = tanh_net(S), drawn(2, S, 20, 2), 0.05
    loss = losses(drawn(0, S, M, 2), drawn(1, S, M, 2))
    said: dict[str, Any] = {"betas": (0.5, 0.999), "eps": 1e-8, **how}
    optimizer = adam_on(net, loss, before, rate, **said)
    other, moments = copy.deepcopy(net), moments_of(net, optimizer) if before else None
    theirs = torch.optim.Adam(other.parameters(), lr=rate, **said)
    if before:
        theirs.load_state_dict(optimizer.state_dict())
    for _ in range(steps):
        theirs.zero_grad()
        loss(other).sum().backward()
        theirs.step()
    found = coverage.unrolled(net, loss, steps=steps, rate=rate, moments=moments, **how)
    torch.testing.assert_close(found(x), other(x), rtol=0, atol=rtol * rate * steps + 1e-15)
    if steps:
        assert (found(x) - net(x)).abs().max() > rate
        assert (loss(found) < loss(net)).all()


def slow_adam(w: Array, target: Array, steps: int, m: Array, v: Array, taken: float) -> Array:
    """Of |w - target|^2 / 2, with eps^2 under the root: rate 0.3, betas 0.5 and 0.9, eps 0.2."""
    for k in range(1, steps + 1):
        g = w - target
        m, v = 0.5 * m + 0.5 * g, 0.9 * v + 0.1 * g**2
        m_hat, v_hat = m / (1 - 0.5 ** (taken + k)), v / (1 - 0.9 ** (taken + k))
        w = w - 0.3 * m_hat / np.sqrt(v_hat + 0.2**2)
    return w


@pytest.mark.parametrize("with_moments", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_unrolled_has_the_square_of_eps_under_the_root(steps: int, with_moments: bool) -> None:
    """A discriminator that is its weights: D(e_i) = w_i."""
    net = filled(nn.Sequential(Linear(S, 2, 1, bias=False), nn.Flatten(1)))
    eye, w = torch.eye(2).double().expand(S, 2, 2), net[0].weight.detach().clone()
    m, v, taken = 0 * w, 0 * w, 0.0
    if with_moments:
        m, v, taken = 0.3 * drawn(1, S, 2, 1), drawn(2, S, 2, 1).square(), 7.0

    def after(target: Tensor) -> Tensor:
        found = coverage.unrolled(
            net, lambda d: 0.5 * (d(eye) - target).square().sum(dim=1), steps=steps, rate=0.3,
            moments={"0.weight": (m, v, taken)} if with_moments else None,
            betas=(0.5, 0.9), eps=0.2,
        )  # fmt: skip
        return found(eye)

    # By default, a gradient of 1e-8, which is eps, moves a weight by the rate over sqrt 2.
    tiny = net(eye).detach() - 1e-8
    found = coverage.unrolled(
        net, lambda d: 0.5 * (d(eye) - tiny).square().sum(dim=1), steps=1, rate=0.3
    )
    moved = found(eye) - net(eye)
    torch.testing.assert_close(moved, constant(-0.3 / math.sqrt(2), S, 2), rtol=1e-6, atol=0)

    target = wanted(0, S, 2)
    arguments = [x[..., 0].numpy() for x in (w, m, v)]
    slow = slow_adam(arguments[0], target.detach().numpy(), steps, *arguments[1:], taken)
    same(after(target), torch.from_numpy(slow))
    assert torch.autograd.gradcheck(after, target)


@pytest.mark.parametrize("before", [0, 3])
def test_a_gradient_through_unrolled_steps_agrees_with_finite_differences(before: int) -> None:
    """In the made samples, on which the steps and the last look at them depend."""
    net, real = tanh_net(2), drawn(0, 2, 4, 2)
    optimizer = adam_on(net, losses(real, drawn(1, 2, 4, 2)), before, 0.05, betas=(0.5, 0.999))
    moments = moments_of(net, optimizer) if before else None

    def loss(made: Tensor, seen: Tensor) -> Tensor:
        found = coverage.unrolled(net, losses(real, seen), steps=3, rate=0.1, moments=moments)
        return coverage.generator_loss(found(made))

    made = wanted(1, 2, 4, 2)
    assert torch.autograd.gradcheck(lambda x: loss(x, x), made)
    # What the discriminator's answer adds is not small.
    (whole,) = torch.autograd.grad(loss(made, made).sum(), made)
    (direct,) = torch.autograd.grad(loss(made, made.detach()).sum(), made)
    assert (whole - direct).norm() > 0.1 * direct.norm()


def test_unrolling_leaves_the_discriminator_and_its_moments_alone() -> None:
    net, real, made = tanh_net(S), drawn(0, S, M, 2), drawn(1, S, M, 2)
    moments = moments_of(net, adam_on(net, losses(real, made), 2, 0.05))
    net.zero_grad()
    weights, kept = copy.deepcopy(net.state_dict()), copy.deepcopy(moments)
    seen: list[Any] = []

    def loss(d: Any) -> Tensor:
        seen.append(d)
        return losses(real, made)(d)

    unrolled = partial(coverage.unrolled, net, loss, rate=0.1, moments=moments)
    found = unrolled(steps=3)
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(p, weights[name]) for name, p in net.state_dict().items())
    for name, (m, v, taken) in moments.items():
        assert torch.equal(m, kept[name][0])
        assert torch.equal(v, kept[name][1])
        assert taken == kept[name][2] == 2.0
    # What was handed out stays what it was when more is asked of the net, or of the loss.
    nets = [*seen, found]
    first = found(made)
    assert len(nets) == 4
    for steps, one in enumerate(nets):
        same(one(made), unrolled(steps=steps)(made))
    assert torch.equal(found(made), first)


def test_unrolled_nets_side_by_side_are_those_alone() -> None:
    net, real, made = tanh_net(S), drawn(0, S, M, 2), drawn(1, S, M, 2)
    found = coverage.unrolled(net, losses(real, made), steps=3, rate=0.1)(made)
    for s in range(S):
        one = tanh_net(1)
        with torch.no_grad():
            for p, every in zip(one.parameters(), net.parameters(), strict=True):
                p.copy_(every[s : s + 1])
        loss = losses(real[s : s + 1], made[s : s + 1])
        alone = coverage.unrolled(one, loss, steps=3, rate=0.1)(made[s : s + 1])
        torch.testing.assert_close(found[s], alone[0], rtol=1e-9, atol=1e-9)
