"""DDPM's reverse process with nets that have not learnt: steps, terms of the bound, losses, and the
order and noise of samplers and of progressive coding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from genbook import diffusion
from genbook.diffusion import GaussianDiffusion, Reverse

# float64 against float64; abar_1000 = 4e-5 and 1 - abar_1 = 1e-4 cost some 5 digits.
same = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1.0
T = 12


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=random(seed), dtype=torch.float64)


def filled(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def full() -> GaussianDiffusion:
    """The process of section 4."""
    return GaussianDiffusion(diffusion.linear_betas())


def short(T: int = T) -> GaussianDiffusion:
    """Few steps that still end in noise: abar_12 = 0.004."""
    return GaussianDiffusion(diffusion.linear_betas(T, first=0.01, last=0.7))


class Curved(nn.Module):
    """A net that knows nothing, but whose answers depend on all that it is given."""

    def __init__(self, seed: int = 0, outputs: int = 1):
        super().__init__()
        self.weight = nn.Parameter(drawn(seed, outputs, 3))
        self.told: list[list[int]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.told.append(t.tolist())
        time = t.to(x).reshape(-1, *[1] * (x.ndim - 1))
        said = [a * x + b * (x + 0.1 * time).sin() + c for a, b, c in self.weight]
        return torch.cat(said, dim=1)


@pytest.mark.parametrize("variance", ["large", "small"])
def test_step_is_equation_11_and_the_same_from_mu(
    slow_tables: Any, variance: diffusion.Variance
) -> None:
    process, slow, net = full(), slow_tables(full()), Curved()
    t, x_t = torch.tensor([1, 2, 400, 1000]), drawn(1, 4, 2, 3)
    step = Reverse(net, process, variance=variance, clip=False).step(x_t, t)
    said = net(x_t, t).detach()
    assert net.told[0] == t.tolist()
    for i, s in enumerate(t.tolist()):
        expected = torch.from_numpy(slow.mean(x_t[i].numpy(), s, said[i].numpy()))
        same(step.mean[i], expected)
        same(step.log_var[i], filled(math.log(slow.sigma2(variance, s)), 2, 3))
        x_0 = (x_t[i] - math.sqrt(1 - slow.abar[s]) * said[i]) / math.sqrt(slow.abar[s])
        same(step.x_0[i], x_0)

    def converted(x: Tensor, t: Tensor) -> Tensor:
        rows = zip(x, t.tolist(), net(x, t).detach(), strict=True)
        return torch.stack(
            [torch.from_numpy(slow.mean(r.numpy(), s, e.numpy())) for r, s, e in rows]
        )

    other = Reverse(converted, process, predicts="mu", variance=variance, clip=False).step(x_t, t)
    for name in ("mean", "log_var", "x_0"):
        same(getattr(other, name), getattr(step, name))


def test_clipping_cuts_x_0_and_the_mean_that_comes_of_it() -> None:
    process, net = short(), Curved()
    t, x_t = torch.tensor([1, 2, T]), drawn(1, 3, 4, scale=2.0)
    free, cut = (Reverse(net, process, clip=c).step(x_t, t) for c in (False, True))
    outside = free.x_0.abs() > 1
    assert outside.any(dim=1).all()
    assert not outside.all()
    assert torch.equal(cut.x_0, free.x_0.clip(-1, 1))
    same(cut.mean, process.posterior_mean(free.x_0.clip(-1, 1), x_t, t))
    assert torch.equal(cut.log_var, free.log_var)
    # What is said of the mean itself stands, as in the official code.
    free, cut = (Reverse(net, process, predicts="mu", clip=c).step(x_t, t) for c in (False, True))
    assert torch.equal(cut.mean, free.mean)
    assert torch.equal(cut.mean, net(x_t, t))
    assert torch.equal(cut.x_0, free.x_0.clip(-1, 1))
    assert not torch.equal(cut.x_0, free.x_0)
    assert Reverse(net, process).clip


@pytest.mark.parametrize("predicts", ["eps", "mu"])
def test_learned_variances_are_the_second_half_of_the_channels(
    predicts: diffusion.Predicts,
) -> None:
    process, net = short(), Curved(outputs=2)
    t, x_t = torch.tensor([1, 5, T]), drawn(1, 3, 2, 4, 4)
    step = Reverse(net, process, predicts=predicts, variance="learned", clip=False).step(x_t, t)
    said = net(x_t, t)
    assert said.shape == (3, 4, 4, 4)
    assert torch.equal(step.log_var, said[:, 2:])
    alone = Reverse(lambda x, t: net(x, t)[:, :2], process, predicts=predicts, clip=False)
    assert torch.equal(step.mean, alone.step(x_t, t).mean)


def test_a_net_may_answer_in_another_type() -> None:
    half = Reverse(lambda x, t: x.bfloat16(), short()).step(
        drawn(0, 2, 3).float(), torch.tensor([1, 2])
    )
    for v in (half.mean, half.log_var, half.x_0):
        assert v.dtype == torch.float32


@pytest.mark.parametrize("variance", ["large", "small"])
def test_terms_of_the_bound_are_weighted_errors_of_eps(
    slow_tables: Any, mass: Any, variance: diffusion.Variance
) -> None:
    """Equations (8) and (12); the constant is 0 where p has the variance of the posterior."""
    process, slow, net = short(), slow_tables(short()), Curved()
    t = torch.arange(1, T + 1)
    x_0, eps = LEVELS[torch.randint(256, (T, 5), generator=random(0))], drawn(1, T, 5)
    x_t = process.q_sample(x_0, t, eps)
    reverse = Reverse(net, process, variance=variance, clip=False)
    terms, step = reverse.bound_term(x_0, x_t, t)
    assert terms.shape == (T,)
    same(step.mean, reverse.step(x_t, t).mean)
    error = (eps - net(x_t, t).detach()).square().sum(dim=1)
    for s in range(2, T + 1):
        sigma2 = slow.sigma2(variance, s)
        weight = slow.beta[s] ** 2 / (2 * sigma2 * slow.alpha[s] * (1 - slow.abar[s]))
        ratio = slow.beta_tilde[s] / sigma2
        constant = 5 * 0.5 * (ratio - 1 - math.log(ratio))
        expected = weight * error[s - 1].item() + constant
        assert terms[s - 1].item() == pytest.approx(expected, rel=1e-9)
        assert constant > 1e-5 if variance == "large" else constant == 0.0
    # t = 1: the decoder of equation (13), with beta_tilde_2 for its variance.
    mean = slow.mean(x_t[0].numpy(), 1, net(x_t, t)[0].detach().numpy())
    p = np.maximum(mass(x_0[0].numpy(), mean, math.sqrt(slow.beta_tilde[2])), 1e-12)
    assert terms[0].item() == pytest.approx(-np.log(p).sum(), rel=1e-6)  # 1 - 1e-16 in a tail


def test_terms_of_the_bound_with_learned_variances_are_divergences(slow_tables: Any) -> None:
    process, slow, net = short(), slow_tables(short()), Curved(outputs=2)
    t = torch.arange(1, T + 1)
    x_0, eps = drawn(0, T, 2, 3, scale=0.5), drawn(1, T, 2, 3)
    x_t = process.q_sample(x_0, t, eps)
    reverse = Reverse(net, process, variance="learned", clip=False)
    terms, step = reverse.bound_term(x_0, x_t, t)
    for s in range(2, T + 1):
        mean = torch.from_numpy(slow.mean(x_t[s - 1].numpy(), s, eps[s - 1].numpy()))
        q = Normal(mean, math.sqrt(slow.beta_tilde[s]))
        p = Normal(step.mean[s - 1], (0.5 * step.log_var[s - 1]).exp())
        same(terms[s - 1], kl_divergence(q, p).sum())
    first = diffusion.discretised_log_likelihood(x_0[:1], step.mean[:1], step.log_var[:1])
    same(terms[0], -first[0])
    # Both outputs are learned from, at t = 1 too.
    for rows in (terms[:1], terms[1:]):
        (gradient,) = torch.autograd.grad(rows.sum(), net.weight, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient != 0).all()


def test_losses_are_the_error_of_what_is_predicted_and_a_term_of_the_bound(
    slow_tables: Any,
) -> None:
    process, slow, net = short(), slow_tables(short()), Curved()
    t, x_0, eps = torch.tensor([1, 5, T]), drawn(0, 3, 2, 3, scale=0.5), drawn(1, 3, 2, 3)
    x_t = process.q_sample(x_0, t, eps)
    said = net(x_t, t).detach()
    loss = Reverse(net, process).loss(x_0, t, eps, simple=True)
    same(loss, (said - eps).square().sum(dim=(1, 2)) / 6)
    # Clipping and variances are no part of it.
    assert torch.equal(
        Reverse(net, process, variance="small", clip=False).loss(x_0, t, eps, simple=True), loss
    )
    rows = zip(x_t, t.tolist(), eps, strict=True)
    mean = torch.stack([torch.from_numpy(slow.mean(x.numpy(), s, e.numpy())) for x, s, e in rows])
    loss = Reverse(net, process, predicts="mu").loss(x_0, t, eps, simple=True)
    same(loss, (said - mean).square().sum(dim=(1, 2)) / 6)
    reverse = Reverse(net, process, clip=False)
    term, _ = reverse.bound_term(x_0, x_t, t)
    same(reverse.loss(x_0, t, eps, simple=False), term / (6 * math.log(2)))
    clipping = Reverse(net, process, clip=True)
    assert not torch.equal(clipping.bound_term(x_0, x_t, t)[0], term)
    assert torch.equal(
        clipping.loss(x_0, t, eps, simple=False), reverse.loss(x_0, t, eps, simple=False)
    )
    learned = Reverse(Curved(outputs=2), process, variance="learned", clip=False)
    with pytest.raises(ValueError, match="no gradient for a learned variance"):
        learned.loss(x_0, t, eps, simple=True)
    assert learned.loss(x_0, t, eps, simple=False).shape == (3,)


@pytest.mark.parametrize("simple", [True, False])
def test_losses_have_the_gradients_of_finite_differences(simple: bool) -> None:
    process, net = short(), Curved()
    t, x_0, eps = torch.tensor([1, 2, T]), drawn(0, 3, 2, scale=0.5), drawn(1, 3, 2)

    def loss(weight: Tensor) -> Tensor:
        def with_weight(x: Tensor, t: Tensor) -> Tensor:
            found: Tensor = torch.func.functional_call(net, {"weight": weight}, (x, t))
            return found

        return Reverse(with_weight, process, clip=False).loss(x_0, t, eps, simple=simple)

    weight = (0.1 * net.weight.detach()).requires_grad_()
    assert torch.autograd.gradcheck(loss, (weight,))


def test_the_bound_loss_averages_to_the_terms_of_progressive_coding() -> None:
    """Same noise: T times the mean over t of L_{t-1} is their sum; 32 values an image."""
    x_0 = LEVELS[torch.randint(256, (3, 2, 4, 4), generator=random(0))]
    reverse = Reverse(Curved(), short(), variance="small", clip=False)
    coding = diffusion.progressive_coding(reverse, x_0, random(1))
    noise, losses = random(1), []
    for t in range(T, 0, -1):
        eps = torch.randn(x_0.shape, generator=noise, dtype=torch.float64)
        losses.append(reverse.loss(x_0, torch.full((3,), t), eps, simple=False).detach())
    nats = 32 * math.log(2) * torch.stack(losses)
    same(T * nats.mean(dim=0), coding.bound() - coding.prior)
    same(nats, coding.terms)


@pytest.mark.parametrize("kind", [{"predicts": "mu"}, {"variance": "learned"}])
def test_what_a_single_step_knows_is_refused_for_a_longer_one(kind: dict[str, Any]) -> None:
    times = torch.tensor([2, T])
    with pytest.raises(ValueError, match="nothing about a longer one"):
        Reverse(Curved(), short().respaced(times), times=times, **kind)


def test_ancestral_order_generator_and_noiseless_last_step() -> None:
    process, net, x_T = short(), Curved(), drawn(0, 2, 3)
    reverse, noise, before = Reverse(net, process), random(1), torch.get_rng_state()
    found = list(diffusion.ancestral(reverse, x_T, noise))
    assert torch.equal(torch.get_rng_state(), before)
    assert [i for i, _, _ in found] == list(range(T - 1, -1, -1))
    assert net.told == [[t, t] for t in range(T, 0, -1)]
    last_but_one, final = found[-2][1], found[-1]
    step = reverse.step(last_but_one, torch.tensor([1, 1]))
    assert torch.equal(final[1], step.mean)
    assert torch.equal(final[2], step.x_0)
    # At t = 1 the posterior's mean is x_0.
    same(final[1], final[2])
    assert not any(v.requires_grad for _, *both in found for v in both)
    # T - 1 draws of noise, no more.
    other = random(1)
    for _ in range(T - 1):
        torch.randn(2, 3, generator=other, dtype=torch.float64)
    assert torch.equal(noise.get_state(), other.get_state())
    again = diffusion.last(diffusion.ancestral(reverse, x_T, random(1)))
    assert torch.equal(again, final[1])
    assert not torch.equal(diffusion.last(diffusion.ancestral(reverse, x_T, random(2))), again)
    free = [diffusion.last(diffusion.ancestral(reverse, x_T, None)) for _ in range(2)]
    assert not torch.equal(*free)


@pytest.mark.parametrize("start", [1, 2, 7, T])
def test_ancestral_can_start_at_any_time(start: int) -> None:
    net, x = Curved(), drawn(0, 2, 3)
    reverse = Reverse(net, short())
    found = list(diffusion.ancestral(reverse, x, random(1), start=start))
    assert net.told == [[t, t] for t in range(start, 0, -1)]
    assert [i for i, _, _ in found] == list(range(start - 1, -1, -1))
    if start == 1:
        assert torch.equal(found[0][1], reverse.step(x, torch.tensor([1, 1])).mean)
    if start == T:
        whole = list(diffusion.ancestral(reverse, x, random(1)))
        assert all(torch.equal(a, b) for (_, a, _), (_, b, _) in zip(found, whole, strict=True))


def test_samplers_take_images_in_float32() -> None:
    net = Curved().float()
    for sampler in (lambda r, x: diffusion.ancestral(r, x, random(0)), diffusion.ddim):
        for _, x, x_0 in sampler(Reverse(net, short()), drawn(1, 2, 3, 4, 4).float()):
            for v in (x, x_0):
                assert v.shape == (2, 3, 4, 4)
                assert v.dtype == torch.float32
            assert x_0.abs().max() <= 1.0


def test_ddim_goes_on_with_the_noise_that_belongs_to_a_clipped_belief(slow_tables: Any) -> None:
    process, x_T = short(), drawn(0, 4, 3, scale=2.0)
    slow, net = slow_tables(short()), Curved()
    _, x, x_0 = next(diffusion.ddim(Reverse(net, process), x_T))
    said = net(x_T, torch.full((4,), T)).detach()
    belief = (x_T - math.sqrt(1 - slow.abar[T]) * said) / math.sqrt(slow.abar[T])
    same(x_0, belief.clip(-1, 1))
    eps = (x_T - math.sqrt(slow.abar[T]) * x_0) / math.sqrt(1 - slow.abar[T])
    same(x, math.sqrt(slow.abar[T - 1]) * x_0 + math.sqrt(1 - slow.abar[T - 1]) * eps)


@pytest.mark.parametrize("sampler", [lambda r, x: diffusion.ancestral(r, x, None), diffusion.ddim])
def test_a_net_is_told_the_time_of_the_whole_process(
    sampler: Callable[[Reverse, Tensor], Iterator[tuple[int, Tensor, Tensor]]],
) -> None:
    process, times, net, x = full(), torch.tensor([1, 40, 1000]), Curved(), drawn(0, 2, 3)
    reverse = Reverse(net, process.respaced(times), times=times)
    assert len(list(sampler(reverse, x))) == 3
    assert net.told == [[1000, 1000], [40, 40], [1, 1]]
    loss = reverse.loss(x, torch.tensor([2, 3]), x, simple=True)
    assert net.told[-1] == [40, 1000]
    x_t = process.q_sample(x, torch.tensor([40, 1000]), x)
    same(loss, (net(x_t, torch.tensor([40, 1000])) - x).square().mean(dim=1))


def coded(reverse: Reverse, x_0: Tensor, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Terms and squares, largest t first, with one draw of noise a time."""
    noise, terms, squares = random(seed), [], []
    for t in range(reverse.process.T, 0, -1):
        eps = torch.randn(x_0.shape, generator=noise, dtype=x_0.dtype)
        times = torch.full((len(x_0),), t)
        x_t = reverse.process.q_sample(x_0, times, eps)
        term, step = reverse.bound_term(x_0, x_t, times)
        terms.append(term.detach())
        squares.append(
            torch.stack([((a - b) ** 2).mean() for a, b in zip(step.x_0, x_0, strict=True)])
        )
    return terms, squares


def test_progressive_coding_rows_and_their_order() -> None:
    x_0 = LEVELS[torch.randint(256, (5, 2, 3), generator=random(0))]
    net = Curved()
    reverse, before = Reverse(net, short()), torch.get_rng_state()
    coding = diffusion.progressive_coding(reverse, x_0, random(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert net.told == [[t] * 5 for t in range(T, 0, -1)]
    terms, squares = coded(reverse, x_0, 1)
    same(coding.terms, torch.stack(terms))
    same(coding.square, torch.stack(squares).detach())
    same(coding.prior, reverse.process.prior_kl(x_0))
    assert not coding.terms.requires_grad
    again = diffusion.progressive_coding(reverse, x_0, random(1))
    assert torch.equal(again.terms, coding.terms)
