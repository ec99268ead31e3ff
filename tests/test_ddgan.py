"""Denoising Diffusion GANs: schedule, pairs, posterior and sampler against closed forms."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import quad
from torch import Tensor, nn

from genbook import ddgan
from genbook.ddgan import Discriminator, Generator
from genbook.diffusion import GaussianDiffusion
from genbook.nn import Linear, init

# float64 against float64, of sums of a few terms.
same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
Array = NDArray[np.float64]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=random(seed), dtype=torch.float64)


def steps(T: int) -> GaussianDiffusion:
    return GaussianDiffusion(ddgan.vp_betas(T))


def all_times(T: int, nets: int, m: int) -> Tensor:
    """Each of 1 ... T equally often in every row, in no order: [nets, m]."""
    rows = [torch.randperm(m, generator=random(s)) % T + 1 for s in range(nets)]
    return torch.stack(rows)


class Law:
    """The process from its betas, entry t is t: what Bayes' rule says of its normal densities."""

    def __init__(self, T: int):
        self.beta = np.concatenate([[0.0], ddgan.vp_betas(T).numpy()])
        self.abar = np.cumprod(1.0 - self.beta)

    def pair(self, t: int) -> tuple[Array, Array]:
        """Factors of x_0 in the means of x_{t-1} and x_t, and their covariance given x_0."""
        mean = np.sqrt(self.abar[[t - 1, t]])
        between = math.sqrt(1.0 - self.beta[t]) * (1.0 - self.abar[t - 1])
        cov = np.array([[1.0 - self.abar[t - 1], between], [between, 1.0 - self.abar[t]]])
        return mean, cov

    def posterior(self, t: int) -> tuple[float, float, float]:
        """q(x_{t-1}|x_t, x_0) by the conditional of a normal pair: the mean's factors of x_0 and
        of x_t, and the variance."""
        mean, cov = self.pair(t)
        slope = cov[0, 1] / cov[1, 1]
        return mean[0] - slope * mean[1], slope, cov[0, 0] - slope * cov[0, 1]


def has_moments(found: Tensor, cov: Array) -> None:
    """Normal rows [n, K] around 0 have this covariance: no entry, and no mean, is 5 s.e. off."""
    rows = found.numpy()
    n = len(rows)
    # Products of normals: var(ab) = C_aa C_bb + C_ab^2.
    error = np.sqrt((np.outer(cov.diagonal(), cov.diagonal()) + cov**2) / n)
    assert (np.abs(rows.T @ rows / n - cov) <= 5 * error + 1e-12).all()
    assert (np.abs(rows.mean(axis=0)) <= 5 * np.sqrt(cov.diagonal() / n) + 1e-12).all()


def test_four_steps_have_the_betas_of_the_official_code() -> None:
    betas = ddgan.vp_betas(4)
    assert betas.dtype == torch.float64
    # As many digits as are written down.
    assert betas.tolist() == pytest.approx([0.4783, 0.8492, 0.9564, 0.9874], abs=5e-5)
    abar = steps(4).alpha_bar.tolist()
    assert abar == pytest.approx([1.0, 0.522, 0.0787, 0.00343, 4.3e-5], rel=5e-3)


@pytest.mark.parametrize("T", [1, 2, 4, 1000])
@pytest.mark.parametrize(
    ("low", "high", "offset"), [(0.1, 20.0, 1e-3), (0.5, 3.0, 0.2), (0.1, 20.0, 0.0)]
)
def test_betas_are_what_a_linear_rate_adds_up_to(
    T: int, low: float, high: float, offset: float
) -> None:
    """1 - exp(-integral of low + (high - low) s), over each of T equal parts of offset ... 1."""
    ends = np.linspace(offset, 1.0, T + 1)
    parts = itertools.pairwise(ends)
    paid = [quad(lambda s: low + (high - low) * s, a, b)[0] for a, b in parts]
    found = ddgan.vp_betas(T, low=low, high=high, offset=offset)
    # Differences of logarithms of 10, of 1e-4 when T is 1000: 1e-15 / 1e-4.
    np.testing.assert_allclose(found.numpy(), -np.expm1(-np.array(paid)), rtol=1e-10)
    if offset == 0.0:
        t = np.arange(1, T + 1)
        closed = 1.0 - np.exp(-low / T - (high - low) * (2 * t - 1) / (2 * T**2))
        np.testing.assert_allclose(found.numpy(), closed, rtol=1e-10)
    if (low, high, offset) == (0.1, 20.0, 1e-3):
        assert torch.equal(found, ddgan.vp_betas(T))


def test_a_cut_into_more_steps_ends_in_the_same_noise() -> None:
    """alpha_bar at the times that two cuts share is one number, exp of the rate's integral."""
    end = math.exp(-(0.1 * (1.0 - 1e-3) + 9.95 * (1.0 - 1e-6)))
    coarse = steps(2).alpha_bar
    for T in (2, 4, 8, 64):
        abar, betas = steps(T).alpha_bar, ddgan.vp_betas(T)
        # 64 factors, the smallest product 4e-5.
        torch.testing.assert_close(abar[:: T // 2], coarse, rtol=1e-11, atol=0.0)
        assert (betas.diff() > 0).all()
        assert 0.0 < betas[0] < betas[-1] < 1.0
    assert steps(1).alpha_bar[1].item() == pytest.approx(end, rel=1e-11)


def test_pairs_have_the_moments_of_one_path() -> None:
    T, m = 4, 80_000
    x_0, t = drawn(0, 2, m, 2, scale=10.0), all_times(T, 2, m)
    before, after = ddgan.pairs(steps(T), x_0, t, random(1))
    assert before.shape == after.shape == x_0.shape
    # x_0 by itself, not 1 x_0 and no noise.
    assert torch.equal(before[t == 1], x_0[t == 1])
    for step in range(1, T + 1):
        mean, cov = Law(T).pair(step)
        chosen = t == step
        rests = (before[chosen] - mean[0] * x_0[chosen], after[chosen] - mean[1] * x_0[chosen])
        # Four numbers: the coordinates of x_{t-1}, and those of x_t, each independent of the other.
        has_moments(torch.cat(rests, dim=1), np.kron(cov, np.eye(2)))


@pytest.mark.parametrize("T", [1, 2, 4])
def test_a_draw_from_the_posterior_has_the_moments_of_bayes_rule(T: int) -> None:
    m, law = 80_000, Law(T)
    x_0, x_t = drawn(0, 2, m, 2, scale=10.0), drawn(1, 2, m, 2, scale=10.0)
    t = all_times(T, 2, m)
    found = ddgan.posterior_sample(steps(T), x_0, x_t, t, random(2))
    assert found.shape == x_0.shape
    for step in range(1, T + 1):
        of_x_0, of_x_t, var = law.posterior(step)
        chosen = t == step
        rest = found[chosen] - of_x_0 * x_0[chosen] - of_x_t * x_t[chosen]
        has_moments(rest, var * np.eye(2))
        if step > 1:
            # Bayes' rule once more, by precisions.
            a, b, before = 1 - law.beta[step], law.beta[step], law.abar[step - 1]
            precision = 1 / (1 - before) + a / b
            assert var == pytest.approx(1 / precision, rel=1e-9)
            assert of_x_0 == pytest.approx(math.sqrt(before) / (1 - before) / precision, rel=1e-9)
            assert of_x_t == pytest.approx(math.sqrt(a) / b / precision, rel=1e-9)
            assert var < law.beta[step]
    # One unit in the last place of the factor of x_0, and no noise.
    torch.testing.assert_close(found[t == 1], x_0[t == 1], rtol=1e-15, atol=0.0)


def test_the_last_step_gives_the_generators_x_0_itself() -> None:
    for T in (1, 2, 4, 8):
        x_0, x_t = drawn(0, 2, 50, 2).float(), drawn(1, 2, 50, 2).float()
        t = torch.ones(2, 50, dtype=torch.int64)
        assert torch.equal(ddgan.posterior_sample(steps(T), x_0, x_t, t, random(2)), x_0)


def test_a_new_draw_from_the_posterior_does_not_change_the_law_of_a_pair() -> None:
    """What is left for the discriminator to see when the generator's x_0 is right: nothing."""
    T, m = 4, 80_000
    x_0, t = drawn(0, 1, m, 2), all_times(T, 1, m)
    _, after = ddgan.pairs(steps(T), x_0, t, random(1))
    fake = ddgan.posterior_sample(steps(T), x_0, after, t, random(2))
    for step in range(1, T + 1):
        mean, cov = Law(T).pair(step)
        chosen = t == step
        rests = (fake[chosen] - mean[0] * x_0[chosen], after[chosen] - mean[1] * x_0[chosen])
        has_moments(torch.cat(rests, dim=1), np.kron(cov, np.eye(2)))


def test_noise_is_each_models_own() -> None:
    m, law, process = 60_000, Law(4), steps(4)
    zero, t = torch.zeros(2, m, 2).double(), torch.full((2, m), 3)
    before, after = ddgan.pairs(process, zero, t, random(1))
    has_moments(torch.cat([*before, *after], dim=1), np.kron(law.pair(3)[1], np.eye(4)))
    found = ddgan.posterior_sample(process, zero, zero, t, random(2))
    has_moments(torch.cat([*found], dim=1), law.posterior(3)[2] * np.eye(4))


def test_the_generator_learns_through_the_mean_of_the_posterior() -> None:
    T, t = 4, torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    x_0, x_t = drawn(0, 2, 4, 2).requires_grad_(), drawn(1, 2, 4, 2).requires_grad_()

    def draw(x_0: Tensor, x_t: Tensor) -> Tensor:
        return ddgan.posterior_sample(steps(T), x_0, x_t, t, random(2))

    weights = drawn(3, 2, 4, 2)
    by_x_0, by_x_t = torch.autograd.grad((weights * draw(x_0, x_t)).sum(), (x_0, x_t))
    factors = torch.from_numpy(np.array([Law(T).posterior(s)[:2] for s in range(1, T + 1)]))
    same(by_x_0, weights * factors[t - 1, 0, None])
    same(by_x_t, weights * factors[t - 1, 1, None])
    assert torch.autograd.gradcheck(draw, (x_0, x_t))


def test_draws_are_those_of_the_generator_of_random_numbers() -> None:
    process, x_0, t = steps(4), drawn(0, 2, 9, 2), all_times(4, 2, 9)
    before = torch.get_rng_state()
    for draw in (
        lambda s: torch.stack(ddgan.pairs(process, x_0, t, random(s))),
        lambda s: ddgan.posterior_sample(process, x_0, x_0, t, random(s)),
        lambda s: ddgan.sample(process, Truth(x_0), drawn(1, 2, 9, 2), random(s)),
    ):
        assert torch.equal(draw(5), draw(5))
    for draw in (
        lambda s: torch.stack(ddgan.pairs(process, x_0, t, random(s))),
        lambda s: ddgan.posterior_sample(process, x_0, x_0, t, random(s)),
    ):
        assert not torch.equal(draw(5), draw(6))
    assert torch.equal(torch.get_rng_state(), before)


class Truth(nn.Module):
    """A generator that knows the only x_0 there is, and keeps what it is asked."""

    def __init__(self, x_0: Tensor, noise: int = 3):
        super().__init__()
        self.noise, self.x_0 = noise, nn.Parameter(x_0)
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x_t: Tensor, z: Tensor, t: Tensor) -> Tensor:
        self.asked.append((x_t, z, t))
        return self.x_0


@pytest.mark.parametrize("T", [1, 2, 4])
def test_sampling_walks_back_from_the_last_time_with_a_new_z_each_time(T: int) -> None:
    m, law = 20_000, Law(T)
    x_0 = torch.tensor([[[3.0, -7.0]], [[0.5, 40.0]]]).double().expand(2, m, 2)
    x_T = math.sqrt(law.abar[T]) * x_0 + math.sqrt(1 - law.abar[T]) * drawn(0, 2, m, 2)
    truth = Truth(x_0)
    found = ddgan.sample(steps(T), truth, x_T, random(1))
    torch.testing.assert_close(found, x_0, rtol=1e-15, atol=0.0)
    assert not found.requires_grad
    assert len(truth.asked) == T
    assert torch.equal(truth.asked[0][0], x_T)
    for step, (x_t, z, t) in zip(range(T, 0, -1), truth.asked, strict=True):
        assert torch.equal(t, torch.full((2, m), step))
        # A path of q all the way down, as it started as one.
        rest = x_t - math.sqrt(law.abar[step]) * x_0
        has_moments(torch.cat([*rest], dim=1), (1 - law.abar[step]) * np.eye(4))
        assert z.shape == (2, m, 3)
    # Every z is N(0, I), new, and each net's own: all together have a unit matrix as covariance.
    zs = torch.cat([net for _, z, _ in truth.asked for net in z], dim=1)
    has_moments(zs, np.eye(2 * 3 * T))


class Linear2(nn.Module):
    """The x_0 of data N(2, v I): its posterior mean given x_t, and z times its standard deviation
    when `told` is 1; for nets that ignore z it is 0."""

    noise = 2

    def __init__(self, law: Law, v: float, told: float):
        super().__init__()
        self.law, self.v, self.told = law, v, told

    def slope(self, step: int) -> float:
        abar = self.law.abar[step]
        return math.sqrt(abar) * self.v / (abar * self.v + 1 - abar)

    def var(self, step: int) -> float:
        abar = self.law.abar[step]
        return self.told * self.v * (1 - abar) / (abar * self.v + 1 - abar)

    def forward(self, x_t: Tensor, z: Tensor, t: Tensor) -> Tensor:
        step = int(t[0, 0])
        mean = 2 + self.slope(step) * (x_t - 2 * math.sqrt(self.law.abar[step]))
        return mean + math.sqrt(self.var(step)) * z


@pytest.mark.parametrize("T", [1, 2, 4])
@pytest.mark.parametrize("told", [0.0, 1.0])
def test_the_true_law_of_x_0_gives_the_data_and_its_mean_alone_does_not(
    T: int, told: float
) -> None:
    m, v, law = 100_000, 0.5, Law(T)
    generator = Linear2(law, v, told)
    var = law.abar[T] * v + 1 - law.abar[T]
    x_T = 2 * math.sqrt(law.abar[T]) + math.sqrt(var) * drawn(0, 2, m, 2)
    found = ddgan.sample(steps(T), generator, x_T, random(1))
    for step in range(T, 0, -1):
        of_x_0, of_x_t, left = law.posterior(step)
        var *= (of_x_0 * generator.slope(step) + of_x_t) ** 2
        var += of_x_0**2 * generator.var(step) + left
    # Without z 2e-5 of the variance is left after one step, 0.04 after two and 0.25 after four.
    assert var == pytest.approx(v, rel=1e-9) if told else var < 0.26 * v
    has_moments(found.flatten(0, 1) - 2, var * np.eye(2))


def random_nets(net: nn.Module, nets: int) -> nn.Module:
    """In float64, biases and all."""
    init(net, [random(100 + s) for s in range(nets)])
    return net.double()


def by_hand(net: nn.Module, x: Array, slope: float) -> Array:
    """What a network with these weights says of x [S, M, I], one row after the other."""
    layers = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy()[:, 0])
        for layer in net.modules()
        if isinstance(layer, Linear)
    ]
    rows = []
    for s in range(len(x)):
        for v in x[s]:
            for i, (weight, bias) in enumerate(layers):
                if i > 0:
                    v = np.where(v > 0, v, slope * v)
                v = v @ weight[s] + bias[s]
            rows.append(v)
    return np.array(rows).reshape(*x.shape[:2], -1)


def told(points: Tensor, t: Tensor, T: int, octaves: int) -> tuple[Array, Array]:
    """The coordinates with all their sines, then all their cosines; t as one of T."""
    x = points.numpy()
    turns = [2**i * x[..., d] for d in range(x.shape[-1]) for i in range(octaves)]
    parts = [*np.moveaxis(x, -1, 0), *np.sin(turns), *np.cos(turns)]
    return np.stack(parts, axis=-1), np.eye(T)[t.numpy() - 1]


@pytest.mark.parametrize("octaves", [0, 3])
def test_generator_is_a_net_of_x_t_and_z_and_of_the_time(octaves: int) -> None:
    T, net = 4, random_nets(Generator(3, 4, noise=5, units=6, octaves=octaves), 3)
    x_t, z, t = drawn(0, 3, 8, 2), drawn(1, 3, 8, 5), all_times(T, 3, 8)
    found = net(x_t, z, t)
    seen, time = told(x_t, t, T, octaves)
    expected = by_hand(net, np.concatenate([seen, z, time], axis=2), slope=0.0)
    assert found.shape == (3, 8, 2)
    same(found, torch.from_numpy(expected))
    inputs = (x_t.requires_grad_(), z.requires_grad_())
    assert torch.autograd.gradcheck(lambda x_t, z: net(x_t, z, t), inputs)


@pytest.mark.parametrize("octaves", [0, 3])
def test_discriminator_is_a_net_of_both_points_and_of_the_time(octaves: int) -> None:
    T, net = 4, random_nets(Discriminator(3, 4, units=6, octaves=octaves), 3)
    before, after, t = drawn(0, 3, 8, 2), drawn(1, 3, 8, 2), all_times(T, 3, 8)
    found = net(before, after, t)
    seen, time = told(torch.cat([before, after], dim=2), t, T, octaves)
    expected = by_hand(net, np.concatenate([seen, time], axis=2), slope=0.01)
    assert found.shape == (3, 8)
    same(found, torch.from_numpy(expected[..., 0]))
    inputs = (before.requires_grad_(), after.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: net(a, b, t), inputs)


def test_nets_of_the_paper_have_three_layers_of_512() -> None:
    """Three matrices: 512 units twice and the output."""
    for net, inputs, outputs in (
        (Generator(2, 4, noise=2), 2 + 2 + 4, 2),
        (Discriminator(2, 4), 2 + 2 + 4, 1),
    ):
        shapes = [tuple(m.weight.shape) for m in net.modules() if isinstance(m, Linear)]
        assert shapes == [(2, inputs, 512), (2, 512, 512), (2, 512, outputs)]
    for net, units in (
        (Generator(1, 2, noise=1, units=3, layers=4), [3, 3, 3, 2]),
        (Discriminator(1, 2, units=3, layers=5), [3, 3, 3, 3, 1]),
    ):
        assert [m.weight.shape[2] for m in net.modules() if isinstance(m, Linear)] == units


def test_models_side_by_side_are_those_trained_alone() -> None:
    """Samples, logits and gradients of net s do not depend on its neighbours."""
    T, S, m = 2, 3, 7
    process, x_0, t = steps(T), drawn(0, S, m, 2), all_times(T, S, m)
    x_T, z = drawn(1, S, m, 2), drawn(2, S, m, 3)

    def run(rows: list[int]) -> list[Tensor]:
        nets = len(rows)
        generator = Generator(nets, T, noise=3, units=5, octaves=2)
        judge = Discriminator(nets, T, units=5, octaves=1)
        for net in (generator, judge):
            init(net, [random(s) for s in rows])
            net.double()
        believed = generator(x_T[rows], z[rows], t[rows])
        mean = process.posterior_mean(
            believed.flatten(0, 1), x_T[rows].flatten(0, 1), t[rows].flatten()
        ).view_as(believed)
        logits = judge(mean, x_T[rows], t[rows]) + judge(x_0[rows], x_T[rows], t[rows])
        weights = [*generator.parameters(), *judge.parameters()]
        return [believed, logits, *torch.autograd.grad(logits.square().sum(), weights)]

    together = run([0, 1, 2])
    assert all(found.abs().sum() > 0 for found in together)
    for s in range(S):
        for found, alone in zip(together, run([s]), strict=True):
            same(found[s], alone[0])
