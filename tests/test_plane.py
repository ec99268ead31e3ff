"""The models of genbook.plane: densities that integrate to one, bounds, nets side by side."""

import math

import torch
from torch import Generator
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from genbook import nn, plane


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def autoregressive(nets: int = 2, parts: int = 5) -> plane.Autoregressive:
    model = plane.Autoregressive(nets, parts=parts, units=6, spread=2.0)
    nn.init(model, [rng(s) for s in range(nets)], std=0.3)
    return model.double()


def vae(nets: int = 2) -> plane.VAE:
    model = plane.VAE(nets, units=6)
    nn.init(model, [rng(s) for s in range(nets)], std=0.6)
    with torch.no_grad():
        model.log_std.copy_(torch.linspace(-0.5, 0.3, nets)[:, None])
    return model.double()


def square(reach: float, gap: float) -> torch.Tensor:
    side = torch.arange(-reach, reach, gap, dtype=torch.float64) + 0.5 * gap
    return torch.cartesian_prod(side, side)


def test_an_autoregressive_density_integrates_to_one_in_every_net() -> None:
    model, x = autoregressive(), square(12.0, 0.05)
    with torch.no_grad():
        mass = model.log_prob(x.expand(2, *x.shape)).exp().sum(dim=1) * 0.05**2
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-3)  # cells of 0.05


def test_before_training_the_parts_are_evenly_spread_normal_densities() -> None:
    model = plane.Autoregressive(1, parts=5, units=4, spread=2.0).double()
    x = torch.randn(1, 20, 2, generator=rng(), dtype=torch.float64)
    places = torch.linspace(-2.0, 2.0, 5, dtype=torch.float64)
    mixture = Normal(places, 1.0).log_prob(x[..., None]).logsumexp(dim=-1) - math.log(5)
    torch.testing.assert_close(model.log_prob(x), mixture.sum(dim=-1))


def test_the_second_coordinate_follows_the_first_and_not_the_reverse() -> None:
    model = autoregressive()
    x = torch.randn(2, 30, 2, generator=rng(1), dtype=torch.float64, requires_grad=True)
    first = model._unpack(model._densities(x[..., :1])[0])
    second = model._unpack(model._densities(x[..., :1])[1])
    assert all(part.std(dim=1).max() < 1e-12 for part in first)
    assert all(part.std(dim=1).min() > 1e-6 for part in second)


def test_samples_of_an_autoregressive_model_follow_its_density() -> None:
    model, n = autoregressive(), 40_000
    x = model.sample(n, rng(2))
    grid = square(12.0, 0.05)
    with torch.no_grad():
        density = model.log_prob(grid.expand(2, *grid.shape)).exp() * 0.05**2
    for quarter in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        sign = torch.tensor(quarter)
        inside = density[:, ((grid * sign) > 0).all(dim=1)].sum(dim=1)
        share = ((x * sign) > 0).all(dim=2).double().mean(dim=1)
        torch.testing.assert_close(share, inside, rtol=0, atol=0.011)  # four errors of 40 000


def test_nets_of_an_autoregressive_model_do_not_see_each_other() -> None:
    pair, x = autoregressive(2), torch.randn(2, 9, 2, generator=rng(3), dtype=torch.float64)
    alone = autoregressive(1)
    torch.testing.assert_close(pair.log_prob(x)[:1], alone.log_prob(x[:1]))


def test_the_bound_is_the_evidence_lower_bound() -> None:
    model = vae()
    x = torch.randn(2, 1, 2, generator=rng(4), dtype=torch.float64).expand(2, 200_000, 2)
    with torch.no_grad():
        ours = model.bound(x, rng(5)).mean(dim=1)
        mean, log_var = (v[:, 0] for v in model.encode(x[:, :1]))
        q = Normal(mean, (0.5 * log_var).exp())
        eps = torch.randn(100_000, 2, 2, generator=rng(6), dtype=torch.float64)
        z = (q.mean + q.stddev * eps).transpose(0, 1)  # [S, n, J]
        sigma = model.log_std.exp()[..., None]
        likelihood = Normal(model.decoder(z), sigma).log_prob(x[:, :1]).sum(dim=2).mean(dim=1)
        kl = kl_divergence(q, Normal(torch.zeros_like(mean), 1.0)).sum(dim=1)
    torch.testing.assert_close(ours, likelihood - kl, rtol=0, atol=0.05)  # four errors of both


def test_the_weight_of_the_entropy_counts_the_entropy_and_nothing_else() -> None:
    model = vae()
    x = torch.randn(2, 7, 2, generator=rng(7), dtype=torch.float64)
    whole, third, none = (model.bound(x, rng(8), entropy=w) for w in (1.0, 1.0 / 3.0, 0.0))
    _, log_var = model.encode(x)
    entropy = Normal(0.0, (0.5 * log_var).exp()).entropy().sum(dim=2)
    torch.testing.assert_close(whole - none, entropy)
    torch.testing.assert_close(third - none, entropy / 3.0)


def test_a_linear_decoder_gives_the_marginal_at_its_exact_posterior() -> None:
    # x = W z + b + s eps: the bound has no gap when q is the posterior of a linear model.
    model = plane.VAE(1, units=1).double()
    weight = torch.tensor([[1.2, 0.3], [-0.4, 0.8]], dtype=torch.float64)
    shift, std = torch.tensor([0.5, -1.0], dtype=torch.float64), 0.7
    linear = nn.Linear(1, 2, 2).double()
    with torch.no_grad():
        linear.weight[0], linear.bias[0, 0] = weight, shift
        model.log_std.fill_(math.log(std))
    model.decoder = torch.nn.Sequential(linear)
    precision = torch.eye(2, dtype=torch.float64) + weight @ weight.T / std**2
    x = torch.tensor([0.9, 0.1], dtype=torch.float64)
    mean = torch.linalg.solve(precision, weight @ (x - shift) / std**2)
    z = MultivariateNormal(mean, precision_matrix=precision).sample((20_000,))
    log_q = MultivariateNormal(mean, precision_matrix=precision).log_prob(z)
    log_prior = Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    joint = model.log_likelihood(x.expand(1, 20_000, 2), z[None])[0] + log_prior
    cov = weight.T @ weight + std**2 * torch.eye(2, dtype=torch.float64)
    exact = MultivariateNormal(shift, cov).log_prob(x)
    torch.testing.assert_close(joint - log_q, exact.expand(20_000), rtol=0, atol=1e-9)


def test_samples_of_a_vae_have_the_decoders_noise() -> None:
    model, n = vae(), 50_000
    with torch.no_grad():
        for layer in model.decoder:
            if isinstance(layer, nn.Linear):
                layer.weight.zero_()
        model.decoder[-1].bias.copy_(torch.tensor([1.0, -2.0]).expand(2, 1, 2))
    x = model.sample(n, rng(9))
    std = model.log_std.detach().exp().expand(2, 2)
    torch.testing.assert_close(
        x.mean(dim=1), torch.tensor([[1.0, -2.0]] * 2).double(), atol=0.03, rtol=0
    )
    torch.testing.assert_close(x.std(dim=1), std, rtol=0.02, atol=0)  # six errors of 50 000


def test_eps_nets_see_their_own_points_and_the_time() -> None:
    net = plane.EpsNet(2, 50, units=8, layers=2, octaves=3)
    nn.init(net, [rng(0), rng(1)])
    x, t = torch.randn(10, 2, generator=rng(2)), torch.randint(1, 51, (10,), generator=rng(3))
    both = net(x, t)
    alone = plane.EpsNet(1, 50, units=8, layers=2, octaves=3)
    nn.init(alone, [rng(1)])
    torch.testing.assert_close(both[5:], alone(x[5:], t[5:]))
    told = nn.sines(0.5 * math.pi * t[:, None] / 50, 10)
    by_hand = net.net(torch.cat([nn.sines(x, 3), told], dim=1).view(2, 5, -1)).flatten(0, 1)
    torch.testing.assert_close(both, by_hand)
    assert (net(x, torch.full_like(t, 7)) - net(x, torch.full_like(t, 8))).abs().max() > 1e-4
