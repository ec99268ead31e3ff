"""The networks of delta-VAEs: what sees what, likelihoods that sum to one, samples, the bound."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from genbook import delta_vae, rows


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=random(seed), dtype=torch.float64)


def spread(net: nn.Module, std: float = 0.5) -> None:
    """Weights large enough that what is seen matters."""
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=std)


def decoder(
    values: int = 3, latents: int = 2, *, units: int = 7, layers: int = 2
) -> rows.RowDecoder:
    net = rows.RowDecoder(
        values=values, hidden=4, latents=latents, units=units, layers=layers
    ).double()
    spread(net)
    return net.requires_grad_(False)


def binary_images(n: int, values: int) -> Tensor:
    """All of them, [2^(n values), n, values]."""
    bits = list(itertools.product([0.0, 1.0], repeat=n * values))
    return torch.tensor(bits, dtype=torch.float64).reshape(-1, n, values)


def seen(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Which entries of which input have a gradient: [*outputs, *inputs], batches of one dropped."""
    gradients = [
        torch.autograd.grad(o, inputs, retain_graph=True, allow_unused=True)[0]
        for o in outputs.flatten()
    ]
    found = torch.stack([torch.zeros_like(inputs) if g is None else g for g in gradients])
    return (found != 0).reshape(*outputs.shape[1:], *inputs.shape[1:])


def test_anti_causal_latents_see_their_row_and_all_that_follow() -> None:
    net, x = (
        rows.AntiCausalEncoder(values=3, hidden=6, latents=2).double(),
        drawn(0, 1, 4, 3).requires_grad_(),
    )
    spread(net)
    t = torch.arange(4)
    expected = (t[None] >= t[:, None])[:, None, :, None].expand(4, 2, 4, 3)
    assert net.latents == 2
    for said in net(x):
        assert torch.equal(seen(said, x), expected)


def test_non_causal_latents_see_every_row() -> None:
    net, x = (
        rows.NonCausalEncoder(values=3, hidden=6, latents=2).double(),
        drawn(0, 1, 4, 3).requires_grad_(),
    )
    spread(net)
    assert net.latents == 2
    for said in net(x):
        assert said.shape == (1, 4, 2)
        assert seen(said, x).all()


@pytest.mark.parametrize("causal", [True, False])
def test_encoders_are_grus_stepped_by_hand(causal: bool) -> None:
    """Against GRU cells that read one row at a time, from the last to the first (and back)."""
    net = (rows.AntiCausalEncoder if causal else rows.NonCausalEncoder)(
        values=3, hidden=6, latents=2
    ).double()
    spread(net)
    x, n, states = drawn(1, 5, 4, 3), 4, []
    for suffix in ("_l0",) if causal else ("_l0", "_l0_reverse"):
        cell = nn.GRUCell(3, 6).double()
        weights = net.gru.state_dict()
        cell.load_state_dict({k: weights[k + suffix] for k in cell.state_dict()})
        h, by_row = None, [torch.empty(0)] * n
        for t in range(n) if suffix == "_l0" and not causal else reversed(range(n)):
            h = cell(x[:, t], h)
            by_row[t] = h
        states.append(torch.stack(by_row, dim=1))
    out = torch.cat(states, dim=-1) @ net.out.weight.T + net.out.bias
    mu, log_var = net(x)
    torch.testing.assert_close(mu, out[..., :2])
    torch.testing.assert_close(log_var, out[..., 2:])


def test_a_non_causal_encoder_can_be_any_anti_causal_one() -> None:
    anti, non = (
        e(values=3, hidden=6, latents=2).double()
        for e in (rows.AntiCausalEncoder, rows.NonCausalEncoder)
    )
    spread(anti)
    spread(non)
    backward = {f"{k}_reverse": v for k, v in anti.gru.state_dict().items()}
    non.gru.load_state_dict(non.gru.state_dict() | backward)
    deaf = torch.zeros(4, 6).double()  # to the rows before
    non.out.load_state_dict(
        {"weight": torch.cat([deaf, anti.out.weight], dim=1), "bias": anti.out.bias}
    )
    x = drawn(1, 5, 4, 3)
    torch.testing.assert_close(non(x), anti(x))


@pytest.mark.parametrize("units", [3, 7, 12])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_logit_sees_what_comes_before_it_and_all_of_that(units: int, layers: int) -> None:
    """Rows above, values to the left, and z up to its row: no more, and no less."""
    n, values, latents = 3, 3, 2
    net = decoder(units=units, layers=layers)
    x = drawn(1, 1, n, values).requires_grad_()
    z = drawn(2, 1, n, latents).requires_grad_()
    logits = net(x, z)
    order = torch.arange(n * values)
    before = (order[None] < order[:, None]).reshape(n, values, n, values)
    assert torch.equal(seen(logits, x), before)
    t = torch.arange(n)
    up_to = (t[None] <= t[:, None])[:, None, :, None].expand(n, values, n, latents)
    assert torch.equal(seen(logits, z), up_to)


def test_masked_weights_stay_out_of_value_and_gradient() -> None:
    mask = torch.tensor([[True, False, True], [False, False, True]])
    layer, x = rows.MaskedLinear(mask).double(), drawn(0, 4, 3)
    by_hand = layer.weight.detach().clone()
    by_hand[~mask] = 0.0
    torch.testing.assert_close(layer(x), x @ by_hand.T + layer.bias)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad != 0, mask)


def test_a_gated_row_is_its_formula() -> None:
    mask = torch.tril(torch.ones(3, 3))
    layer, u, h = rows.GatedRow(mask, 2).double(), drawn(0, 5, 3), drawn(1, 5, 2)
    weight, bias = layer.units.weight * torch.cat([mask, mask]), layer.units.bias
    both = u @ weight.T + bias + h @ layer.above.weight.T
    torch.testing.assert_close(layer(u, h), u + both[:, :3].tanh() * both[:, 3:].sigmoid())


def test_units_hear_all_units_that_know_no_more() -> None:
    """Degrees of 7 units in a row of 3 values, as the docstring of RowDecoder gives them."""
    degree = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    u, h = drawn(0, 1, 7).requires_grad_(), drawn(1, 1, 4)
    for layer in decoder(units=7).layers:
        assert torch.equal(seen(layer(u, h), u), degree[None] <= degree[:, None])


@pytest.mark.parametrize(("n", "values"), [(1, 4), (2, 3), (4, 2), (6, 1)])
def test_the_probabilities_of_all_binary_images_sum_to_one(n: int, values: int) -> None:
    net, x = decoder(values), binary_images(n, values)
    for seed in range(3):
        z = drawn(seed, 1, n, 2).expand(len(x), n, 2)
        log_likelihood = net.log_likelihood(x, z)
        assert log_likelihood.shape == (len(x),)
        # float64 and at most 256 terms.
        assert log_likelihood.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
        assert log_likelihood.std() > 0.1  # not the uniform distribution, which sums to one too
        by_hand = Bernoulli(logits=net(x, z)).log_prob(x).flatten(1).sum(-1)
        torch.testing.assert_close(log_likelihood, by_hand)


def test_log_likelihood_is_finite_for_sure_decoders_and_has_its_gradient() -> None:
    net = decoder()
    x, z = binary_images(2, 3)[::7], drawn(0, 10, 2, 2)
    net.out.bias.fill_(-800.0)
    assert net.log_likelihood(x, z).isfinite().all()
    net = decoder()
    assert torch.autograd.gradcheck(lambda z: net.log_likelihood(x[:2], z), z[:2].requires_grad_())


def test_sample_draws_as_full_passes_would() -> None:
    """Every probability from a full pass over what is drawn so far, with the same random bits."""
    net, z = decoder(), drawn(3, 40, 4, 2)
    fast, slow, bits = net.sample(z, random=random(5)), torch.zeros(40, 4, 3).double(), random(5)
    for t, c in itertools.product(range(4), range(3)):
        p = torch.sigmoid(net(slow, z)[:, t, c])
        slow[:, t, c] = torch.bernoulli(p, generator=bits)
    assert torch.equal(fast, slow)
    assert not torch.equal(fast, net.sample(z, random=random(6)))


def test_samples_have_the_probabilities_of_log_likelihood() -> None:
    net, x, draws = decoder(2), binary_images(2, 2), 20_000
    z = drawn(4, 1, 2, 2)
    p = net.log_likelihood(x, z.expand(16, 2, 2)).exp()
    made = net.sample(z.expand(draws, 2, 2), random=random(7))
    share = (made[:, None] == x).all(-1).all(-1).double().mean(0)
    assert ((share - p).abs() / (p * (1 - p) / draws).sqrt()).max() < 5  # standard errors


class Says(nn.Module):
    """An encoder that says the same of every x."""

    def __init__(self, mu: Tensor, log_var: Tensor):
        super().__init__()
        self.mu, self.log_var = mu, log_var

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu.expand(len(x), -1, -1), self.log_var.expand(len(x), -1, -1)


ALPHA = torch.tensor([0.8], dtype=torch.float64)
FAMILIES: dict[str, tuple[delta_vae.Families, float]] = {  # and the correlation of the prior
    "standard": (delta_vae.StandardNormal(), 0.0),
    "slow": (delta_vae.SlowFeatures(ALPHA), 0.8),
    "far": (delta_vae.FarMeans(0.5), 0.0),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_bound_is_the_elbo_and_below_the_likelihood(name: str) -> None:
    """n = 2 and K = 1: p(x) and the expected bound by sums over a plane of z."""
    families, correlation = FAMILIES[name]
    net, draws = decoder(2, 1), 40_000
    spread(net, std=1.0)
    encoder = Says(drawn(8, 1, 2, 1), torch.tensor([[-2.0], [-0.5]]).double())
    model = delta_vae.DeltaVAE(encoder, net, families)
    x = binary_images(2, 2)[6:7]

    axis = torch.linspace(-10, 10, 301, dtype=torch.float64)
    z, area = torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2
    r = correlation
    prior = MultivariateNormal(torch.zeros(2).double(), torch.tensor([[1, r], [r, 1]]).double())
    log_joint = prior.log_prob(z) + net.log_likelihood(x.expand(len(z), 2, 2), z[..., None])
    log_p = (log_joint.exp().sum() * area).log()

    mu, log_var = model.posterior(x)
    q = MultivariateNormal(mu[0, :, 0], log_var[0, :, 0].exp().diag())
    log_q = q.log_prob(z)
    elbo = (log_q.exp() * (log_joint - log_q)).sum() * area

    many = x.expand(draws, 2, 2)
    bound = model.bound(many, random(10))
    z = delta_vae.draw(*model.posterior(many), random(10))
    assert torch.equal(bound.distortion, -net.log_likelihood(many, z))
    value, error = bound.value().mean(), bound.value().std() / math.sqrt(draws)
    assert abs(value - elbo) < 5 * error
    assert value + 5 * error < log_p
    # The rate is exact: the divergence of the two Gaussians, the same for every draw.
    rate = torch.distributions.kl_divergence(q, prior)
    torch.testing.assert_close(bound.rate, rate.expand(draws))
    assert rate >= families.committed(n=2, latents=1)


@pytest.mark.parametrize("name", FAMILIES)
def test_who_ignores_the_latents_pays_the_committed_rate(name: str) -> None:
    """The collapsed solution: log p(x) is reached by the VAE, and missed by delta otherwise."""
    families, _ = FAMILIES[name]
    net = decoder(2, 1)
    weight = dict(net.gru.named_parameters())["weight_ih_l0"]
    weight[:, 2:] = 0.0  # x has two values a row, then comes z
    nothing = torch.zeros(2, 1).double()
    closest = nothing - 40.0 if name == "far" else nothing  # softplus(-42) = 6e-19
    model = delta_vae.DeltaVAE(Says(closest, nothing), net, families)
    x = binary_images(2, 2)
    log_p = net.log_likelihood(x, torch.zeros(16, 2, 1).double())
    lost = log_p - model.bound(x, random(0)).value()
    committed = families.committed(n=2, latents=1)
    assert (name == "standard") == (committed == 0.0)
    # Rounding, and the 1e-12 under the root of FarMeans.
    torch.testing.assert_close(lost, torch.full_like(lost, committed), rtol=0, atol=1e-11)


def test_the_bound_has_the_gradient_of_its_draw() -> None:
    net, x = decoder(2, 1), binary_images(2, 2)[:3]

    def draw(mu: Tensor, log_var: Tensor) -> Tensor:
        model = delta_vae.DeltaVAE(Says(mu, log_var), net, delta_vae.SlowFeatures(ALPHA))
        return model.bound(x, random(1)).value()

    start = (drawn(0, 1, 2, 1).requires_grad_(), drawn(1, 1, 2, 1).requires_grad_())
    assert torch.autograd.gradcheck(draw, start)


def auxiliary(latents: int) -> delta_vae.AuxiliaryPrior:
    prior = delta_vae.AuxiliaryPrior(latents=latents, hidden=5).double()
    spread(prior, std=0.7)
    return prior.requires_grad_(False)


def test_auxiliary_prior_is_the_product_of_its_conditionals() -> None:
    """Against an LSTM cell that is fed one z at a time."""
    prior, z = auxiliary(2), drawn(1, 3, 4, 2)
    cell = nn.LSTMCell(2, 5).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in prior.lstm.state_dict().items()})
    before, state, expected = torch.zeros(3, 2).double(), None, torch.zeros(3).double()
    for t in range(4):
        state = cell(before, state)
        out = prior.out(state[0])
        before = z[:, t]
        q = Independent(Normal(out[:, :2], (0.5 * out[:, 2:]).exp()), 1)
        expected = expected + q.log_prob(before)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_auxiliary_prior_is_a_density_and_samples_come_from_it() -> None:
    prior, draws = auxiliary(1), 50_000
    axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    # The rectangle rule on a smooth function that is 0 at the border is exact to rounding.
    p = prior.log_prob(z[..., None]).exp() * (axis[1] - axis[0]) ** 2
    assert p.sum().item() == pytest.approx(1.0, abs=1e-9)

    sample = prior.sample(examples=draws, n=2, random=random(2))
    assert sample.shape == (draws, 2, 1)
    assert torch.equal(prior.sample(examples=draws, n=2, random=random(2)), sample)

    def moments(z: Tensor) -> Tensor:
        a, b = z[:, 0], z[:, 1]
        return torch.stack([a, b, a * a, a * b, b * b, a.square() * b, (b - a).abs()])

    drawn_moments = moments(sample[..., 0])
    error = drawn_moments.mean(-1) - moments(z) @ p
    assert (error.abs() / (drawn_moments.std(-1) / math.sqrt(draws))).max() < 5  # standard errors


def test_a_row_needs_a_unit_for_every_value() -> None:
    with pytest.raises(ValueError, match="3 units for 4 values"):
        rows.RowDecoder(values=4, hidden=2, latents=1, units=3)
