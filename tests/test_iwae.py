"""The bounds, the two-layer model, the activity statistic and the recipe of genbook.iwae."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Independent, Normal

from genbook import iwae
from genbook.aevb import Gaussian, LinearGaussian, gaussian_kl
from genbook.training import Training

TINY_ONE = iwae.Architecture(latents=(3,), hidden=(5,))
TINY_TWO = iwae.Architecture(latents=(4, 2), hidden=(6, 5))


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def tiny(architecture: iwae.Architecture, *, pixels: int = 6, seed: int = 1) -> iwae.IWAE:
    """A double-precision model with every parameter at random, biases too."""
    model = iwae.IWAE(pixels=pixels, architecture=architecture).double()
    noise = rng(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=noise, dtype=torch.float64))
    return model


def gentle() -> iwae.IWAE:
    """A two-layer model whose q and p are close: importance weights of finite variance."""
    model = tiny(TINY_TWO)
    with torch.no_grad():
        for p in (*model.q.parameters(), *model.p.parameters()):
            p.mul_(0.4)
    return model


def bits(n: int, pixels: int = 6) -> Tensor:
    return iwae.binarize(torch.full((n, pixels), 0.4, dtype=torch.float64), generator=rng(7))


@dataclass(frozen=True)
class LinearModel:
    """A linear-Gaussian p with a diagonal Gaussian q that misses the posterior by `widen`."""

    p: LinearGaussian
    widen: float

    def q(self, x: Tensor) -> Gaussian:
        mean, cov = self.p.posterior(x)
        return Gaussian(mean, (self.widen * cov.diagonal()).log().expand_as(mean))

    def log_weights(self, x: Tensor, *, k: int, generator: Generator | None) -> Tensor:
        q = self.q(x)
        z = q.rsample(generator, (k,))
        return self.p.log_joint(x, z) - q.log_prob(z)


def linear(widen: float, *, orthogonal: bool = False) -> tuple[LinearModel, Tensor]:
    W = torch.randn(5, 2, generator=rng(2), dtype=torch.float64)
    if orthogonal:
        W = torch.linalg.qr(W).Q * torch.tensor([1.5, 0.7], dtype=torch.float64)
    p = LinearGaussian(W, torch.linspace(-1, 1, 5, dtype=torch.float64), 0.8)
    return LinearModel(p, widen), torch.randn(4, 5, generator=rng(3), dtype=torch.float64)


def test_the_bound_grows_with_k_to_the_closed_form() -> None:
    model, x = linear(1.5)
    log_p = model.p.log_marginal(x)
    log_w = model.log_weights(x, k=2**16, generator=rng(4))
    bounds = []
    for k in (1, 4, 16, 256, 4096):
        blocks = log_w.reshape(-1, k, len(x)).transpose(0, 1).flatten(1)
        bounds.append(iwae.iwae_objective(blocks).reshape(-1, len(x)).mean(dim=0))
    # Nested blocks of the same draws: Jensen makes the order exact, not only in expectation.
    for low, high in itertools.pairwise(bounds):
        assert (high > low).all()
    # L_1 has a closed form: log w has a standard deviation of 0.55, so that the mean of 2^16
    # draws has a standard error of 0.0022; 0.012 is five of them.
    q = model.q(x)
    exact = model.p.expected_log_likelihood(x, q) - gaussian_kl(q.mu, q.log_var)
    torch.testing.assert_close(bounds[0], exact, atol=0.012, rtol=0)
    # Var(w / p) is 0.135: L_4096 is 2e-5 below log p(x), with a standard error of 0.0014; the
    # estimate with 20,000 draws has 0.0026.
    torch.testing.assert_close(bounds[-1], log_p, atol=0.008, rtol=0)
    estimate = iwae.log_likelihood(model, x, k=20_000, generator=rng(5), chunk=3000)
    torch.testing.assert_close(estimate, log_p, atol=0.013, rtol=0)


def test_every_weight_is_p_x_under_the_true_posterior() -> None:
    model, x = linear(1.0, orthogonal=True)  # orthogonal columns: the posterior is diagonal
    log_w = model.log_weights(x, k=7, generator=rng())
    torch.testing.assert_close(log_w, model.p.log_marginal(x).expand_as(log_w))
    assert iwae.log_likelihood(model, x, k=1, generator=rng()).dtype == torch.float64


def test_one_draw_makes_the_two_objectives_equal() -> None:
    model, x = tiny(TINY_TWO), bits(3)
    vae = iwae.vae_objective(model.log_weights(x, k=1, generator=rng(8)))
    important = iwae.iwae_objective(model.log_weights(x, k=1, generator=rng(8)))
    assert torch.equal(vae, important)
    log_w = model.log_weights(x, k=9, generator=rng(8))
    assert (iwae.iwae_objective(log_w) > iwae.vae_objective(log_w)).all()


def test_the_gradient_is_equation_14() -> None:
    x, k = bits(3), 6
    model = tiny(TINY_TWO)
    log_w = model.log_weights(x, k=k, generator=rng(9))
    parameters = list(model.parameters())
    auto = torch.autograd.grad(iwae.iwae_objective(log_w).sum(), parameters, retain_graph=True)
    weighted = (log_w.softmax(dim=0).detach() * log_w).sum()
    for a, b in zip(auto, torch.autograd.grad(weighted, parameters), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("objective", [iwae.vae_objective, iwae.iwae_objective])
@pytest.mark.parametrize("architecture", [TINY_ONE, TINY_TWO])
def test_gradcheck(objective, architecture) -> None:
    model, x = tiny(architecture), bits(2)
    names = ["q.0.mu.weight", "q.0.log_var.weight", "visible.out.bias"]

    def value(*tensors: Tensor) -> Tensor:
        weights = dict(zip(names, tensors, strict=True))
        bound = torch.func.functional_call(model, weights, (x,), {"k": 3, "generator": rng(6)})
        return objective(bound)

    model.forward = model.log_weights  # functional_call calls the module
    inputs = [model.get_parameter(n).detach().clone().requires_grad_() for n in names]
    assert torch.autograd.gradcheck(value, inputs)


def conditional(layer: iwae.GaussianLayer, h: Tensor) -> Independent:
    """The same Gaussian by torch.distributions, its network written out."""
    for linear_layer in (layer.hidden[0], layer.hidden[2]):
        h = torch.tanh(h @ linear_layer.weight.T + linear_layer.bias)
    mean = h @ layer.mu.weight.T + layer.mu.bias
    variance = torch.exp(h @ layer.log_var.weight.T + layer.log_var.bias)
    return Independent(Normal(mean, variance.sqrt()), 1)


def test_two_layer_densities_against_torch_distributions() -> None:
    model, x = tiny(TINY_TWO), bits(3)
    draw = model.recognise(x, k=5, generator=rng())
    h_1, h_2 = draw.h
    assert h_1.shape == (5, 3, 4)
    assert h_2.shape == (5, 3, 2)
    net = model.visible
    features = torch.tanh(h_1 @ net.hidden[0].weight.T + net.hidden[0].bias)
    features = torch.tanh(features @ net.hidden[2].weight.T + net.hidden[2].bias)
    logits = features @ net.out.weight.T + net.out.bias
    log_p = (
        Independent(Normal(torch.zeros_like(h_2), torch.ones_like(h_2)), 1).log_prob(h_2)
        + conditional(model.p[0], h_2).log_prob(h_1)
        + Independent(Bernoulli(logits=logits), 1).log_prob(x.expand(5, 3, 6))
    )
    torch.testing.assert_close(model.log_joint(x, draw.h), log_p)
    log_q = conditional(model.q[0], x).log_prob(h_1) + conditional(model.q[1], h_1).log_prob(h_2)
    torch.testing.assert_close(draw.log_q, log_q)
    log_w = model.log_weights(x, k=5, generator=rng())
    torch.testing.assert_close(log_w, log_p - log_q)


@torch.no_grad()
def test_two_layer_marginal_where_pixels_ignore_the_latents() -> None:
    model, x = gentle(), bits(3)
    model.visible.out.weight.zero_()
    exact = Bernoulli(logits=model.visible.out.bias).log_prob(x).sum(dim=-1)
    estimate = iwae.log_likelihood(model, x, k=40_000, generator=rng(1), chunk=5000)
    # Half of the draws count (effective sample size): a standard error of 0.005, five are 0.025.
    torch.testing.assert_close(estimate, exact, atol=0.025, rtol=0)
    log_w = model.log_weights(x, k=1000, generator=rng(2))
    assert (iwae.vae_objective(log_w) < exact - 0.05).all()


class Fixed:
    """A model whose next log weights are the next rows of a table."""

    def __init__(self, log_w: Tensor):
        self.log_w, self.used = log_w, 0

    def log_weights(self, x: Tensor, *, k: int, generator: Generator | None) -> Tensor:
        self.used += k
        return self.log_w[self.used - k : self.used]


@pytest.mark.parametrize("chunk", [1, 7, 50, 64])
def test_chunks_and_float64(chunk: int) -> None:
    log_w = -3000.0 + 40.0 * torch.randn(50, 4, generator=rng())  # exp underflows even in float64
    model = Fixed(log_w)
    got = iwae.log_likelihood(model, torch.zeros(4, 1), k=50, generator=None, chunk=chunk)
    wide = log_w.numpy().astype(np.float64)
    top = wide.max(axis=0)
    want = top + np.log(np.exp(wide - top).mean(axis=0))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-14)
    assert model.used == 50


def test_activity_of_a_constructed_encoder() -> None:
    model = iwae.IWAE(pixels=2, architecture=iwae.Architecture((3,), (2,))).double()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.q[0].hidden[0].weight.copy_(torch.eye(2))
        model.q[0].hidden[2].weight.copy_(torch.eye(2))
        model.q[0].mu.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.1]]))
        model.q[0].mu.bias.copy_(torch.tensor([0.0, 5.0, -1.0]))
    x = iwae.binarize(torch.full((200, 2), 0.5, dtype=torch.float64), generator=rng())
    means = np.tanh(np.tanh(x.numpy())) * [1.0, 0.1]
    (a,) = iwae.activity(model, x, generator=rng(), draws=3)
    want = [means[:, 0].var(), 0.0, means[:, 1].var()]
    np.testing.assert_allclose(a.numpy(), want, atol=1e-15)
    assert iwae.active_units((a,)) == (1,)  # A is 0.10, 0 (though the mean is 5) and 0.001


def test_activity_of_the_second_layer_averages_over_the_first() -> None:
    model = tiny(iwae.Architecture(latents=(2, 3), hidden=(4, 4)), pixels=2)
    x = bits(30, pixels=2)
    torch.nn.init.zeros_(model.q[0].mu.weight)
    torch.nn.init.zeros_(model.q[0].log_var.weight)  # h_1 is noise that ignores x: nothing active
    few = iwae.activity(model, x, generator=rng(), draws=1)
    many = iwae.activity(model, x, generator=rng(), draws=4000)
    # One draw mistakes the noise of h_1 for dependence on x; the excess falls as 1 / draws.
    assert (few[0] < 1e-20).all()
    assert (few[1] > iwae.ACTIVE).all()
    assert (many[1] < few[1] / 500).all()
    assert iwae.active_units(many) == (0, 0)


def test_published_architectures() -> None:
    def shapes(layer: torch.nn.Module) -> list[tuple[int, ...]]:
        return [tuple(m.weight.shape[::-1]) for m in layer.modules() if hasattr(m, "weight")]

    one = iwae.IWAE(pixels=784, architecture=iwae.ONE_LAYER)
    assert shapes(one.q[0]) == [(784, 200), (200, 200), (200, 50), (200, 50)]
    assert shapes(one.visible) == [(50, 200), (200, 200), (200, 784)]
    assert len(one.p) == 0
    two = iwae.IWAE(pixels=784, architecture=iwae.TWO_LAYERS)
    assert shapes(two.q[0]) == [(784, 200), (200, 200), (200, 100), (200, 100)]
    assert shapes(two.q[1]) == [(100, 100), (100, 100), (100, 50), (100, 50)]
    assert shapes(two.p[0]) == [(50, 100), (100, 100), (100, 100), (100, 100)]
    assert shapes(two.visible) == [(100, 200), (200, 200), (200, 784)]


@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one_and_match_the_samples() -> None:
    model = gentle()
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 6)
    p = iwae.log_likelihood(model, x, k=4000, generator=rng(3), chunk=500).exp()
    # Effective sample sizes from 640 to 1300 an image: up to 4 % on each of 64 terms, and about
    # 0.4 % on their sum; 0.02 is five of those.
    assert p.sum().item() == pytest.approx(1.0, abs=0.02)
    pixel_means = model.sample_means(20_000, generator=rng(4)).mean(dim=0)
    # Pixel probabilities spread by 0.17 between samples: a standard error of 0.0012, beside the
    # error of p; seeds differ by 0.004 at most.
    torch.testing.assert_close(pixel_means, p @ x, atol=0.01, rtol=0)


def test_binarization() -> None:
    grey = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]).expand(20_000, 5)
    noise = rng()
    x = iwae.binarize(grey, generator=noise)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    # Five standard errors of a mean of 20,000 draws, at most 0.5 / 141 each.
    torch.testing.assert_close(x.mean(dim=0), grey[0], atol=0.018, rtol=0)
    assert (x[:, [0, 4]] == grey[:, [0, 4]]).all()
    assert not torch.equal(iwae.binarize(grey, generator=noise), x)


def test_initialisation() -> None:
    model = iwae.IWAE(pixels=784, architecture=iwae.ONE_LAYER)
    mean_image = torch.linspace(0, 1, 784)
    iwae.init_glorot(model, mean_image=mean_image, generator=rng())
    for layer in (model.q[0].hidden[0], model.q[0].mu, model.visible.out):
        bound = math.sqrt(6.0 / sum(layer.weight.shape))
        assert layer.weight.abs().max() <= bound
        # Uniform: 10,000 weights or more give the standard deviation to 1 %.
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert not model.q[0].mu.bias.any()
    assert not torch.equal(model.q[0].mu.weight, model.q[0].log_var.weight)
    pixel = torch.sigmoid(model.visible.out.bias)
    torch.testing.assert_close(pixel, mean_image.clamp(0.001, 0.999))


def test_two_steps_of_adam_with_the_constants_of_the_paper() -> None:
    layer = torch.nn.Linear(1, 1, bias=False).double()
    start, optimizer = layer.weight.item(), iwae.adam(layer, lr=0.01)
    m = v = moved = 0.0
    for t, g in ((1, 3e-4), (2, -1e-4)):  # gradients of the size of epsilon
        layer.weight.grad = torch.full((1, 1), g, dtype=torch.float64)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        moved -= 0.01 * m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-4)
    assert layer.weight.item() - start == pytest.approx(moved, rel=1e-5)


def test_the_schedule() -> None:
    plan = iwae.schedule()
    assert len(plan) == len({stage.lr for stage in plan}) == 8
    assert sum(stage.epochs for stage in plan) == 3280
    assert (plan[0].lr, plan[-1].lr) == (1e-3, pytest.approx(1e-4))
    official = [10.0, 7.2, 5.2, 3.7, 2.7, 1.9, 1.4, 1.0]
    assert [1e4 * stage.lr for stage in plan] == pytest.approx(official, rel=0.02)
    rates = [iwae.learning_rate(epoch) for epoch in range(3280)]
    assert rates == [stage.lr for stage in plan for _ in range(stage.epochs)]
    passes = [sum(stage.epochs for stage in iwae.schedule(stages=n)) for n in (3, 4, 5, 6)]
    assert passes == [13, 40, 121, 364]
    assert iwae.learning_rate(12, stages=3) == pytest.approx(1e-4)
    for outside in (-1, 3280):
        with pytest.raises(ValueError, match="pass"):
            iwae.learning_rate(outside)
    with pytest.raises(ValueError, match="stages"):
        iwae.schedule(stages=1)


def train(folder: Path, steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> iwae.IWAE:
    """The chapter's loop, broken off and begun again after each count in `steps`."""
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(folder))
    images = torch.rand(300, 6, generator=rng(11)).sqrt()
    for part, stop in enumerate(steps):
        model = iwae.IWAE(pixels=6, architecture=TINY_TWO)
        iwae.init_glorot(model, mean_image=images.mean(dim=0), generator=rng(0))
        noise = rng(part)  # a resumed run takes its random state from the checkpoint
        train = Training("iwae", model, iwae.adam(model), noise)
        for grey in train.batches(images, size=iwae.BATCH, steps=stop):
            epoch = train.count * iwae.BATCH // len(images)
            train.optimizer.param_groups[0]["lr"] = iwae.learning_rate(epoch, stages=3)
            x = iwae.binarize(grey, generator=noise)
            log_w = model.log_weights(x, k=5, generator=noise)
            train.step(-iwae.iwae_objective(log_w).sum())
    return model


def test_a_resumed_run_with_adam_is_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", (60,), monkeypatch)
    broken = train(tmp_path / "broken", (7, 31, 60), monkeypatch)
    for a, b in zip(whole.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)
    start = iwae.IWAE(pixels=6, architecture=TINY_TWO)
    iwae.init_glorot(start, mean_image=torch.full((6,), 0.5), generator=rng(0))
    moved = (start.q[0].mu.weight - whole.q[0].mu.weight).abs().max()
    assert moved > 0.005  # 60 steps of at most about 0.001 each: the equality is of trained models
