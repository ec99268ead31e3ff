"""The conditional GAN: networks, losses, schedule, and the step that both players take at once."""

import math

import pytest
import torch
from torch.nn import functional

from genbook import cgan


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def players(seed: int = 0) -> cgan.GAN:
    gan = cgan.GAN(cgan.Generator(), cgan.Discriminator())
    cgan.init_uniform(gan, mean_image=torch.full((784,), 0.3), random=random(seed))
    return gan


def weights(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.ndim == 2)


def test_the_networks_have_the_published_sizes() -> None:
    """Section 4.1, layer by layer."""
    gan = players()
    assert weights(gan.generator) == 100 * 200 + 10 * 1000 + 1200 * 1200 + 1200 * 784
    assert weights(gan.discriminator) == (784 * 240 * 5 + 10 * 50 * 5 + (240 + 50) * 240 * 4 + 240)
    x, y = torch.rand(3, 784), torch.eye(10)[:3]
    made = gan.generator(torch.rand(3, 100), y)
    assert made.shape == (3, 784)
    assert made.min() >= 0.0
    assert made.max() <= 1.0
    assert gan.discriminator(x, y).shape == (3,)


def test_the_unconditional_networks_ignore_the_label() -> None:
    gan = cgan.GAN(cgan.UnconditionalGenerator(), cgan.UnconditionalDiscriminator())
    cgan.init_uniform(gan, mean_image=torch.full((784,), 0.3), random=random(0))
    assert weights(gan.generator) == 100 * 1200 + 1200 * 1200 + 1200 * 784
    assert weights(gan.discriminator) == 784 * 240 * 5 + 240 * 240 * 5 + 240
    z, x, labels = torch.rand(4, 100), torch.rand(4, 784), torch.eye(10)
    assert torch.equal(gan.generator(z, labels[:4]), gan.generator(z, labels[4:8]))
    assert torch.equal(gan.discriminator(x, labels[:4]), gan.discriminator(x, labels[4:8]))


def test_the_conditional_networks_use_the_label() -> None:
    gan = players()
    z, x, labels = torch.rand(4, 100), torch.rand(4, 784), torch.eye(10)
    assert not torch.allclose(gan.generator(z, labels[:4]), gan.generator(z, labels[4:8]))
    assert not torch.allclose(gan.discriminator(x, labels[:4]), gan.discriminator(x, labels[4:8]))


def test_maxout_is_the_largest_of_its_pieces() -> None:
    layer = cgan.Maxout(3, units=4, pieces=5)
    x = torch.randn(6, 3)
    maps = x @ layer.linear.weight.T + layer.linear.bias  # [6, 20]
    expected = torch.stack([maps[:, piece * 4 : (piece + 1) * 4] for piece in range(5)]).amax(dim=0)
    torch.testing.assert_close(layer(x), expected)


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    h = torch.ones(1_000, 200)
    dropped = cgan.dropout(h, 0.2, random(1))
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert (dropped == 0).double().mean().item() == pytest.approx(0.2, abs=0.005)  # s.e. 0.0009
    assert torch.equal(cgan.dropout(h, 0.2, None), h)
    assert torch.equal(cgan.dropout(h, 0.2, random(1)), dropped)


def test_initial_weights_and_output_bias() -> None:
    gan, mean = players(), torch.full((784,), 0.3)
    assert gan.generator.joint.weight.abs().max().item() == pytest.approx(0.05, rel=0.01)
    assert gan.discriminator.joint.linear.weight.abs().max().item() == pytest.approx(
        0.005, rel=0.01
    )
    torch.testing.assert_close(torch.sigmoid(gan.generator.out.bias), mean)
    assert not gan.generator.z_layer.bias.any()
    assert torch.equal(players(3).generator.out.weight, players(3).generator.out.weight)


def test_losses_are_the_formulas_of_the_game() -> None:
    real, made = torch.randn(2, 50, dtype=torch.float64, generator=random(2))
    d_real, d_made = torch.sigmoid(real), torch.sigmoid(made)
    torch.testing.assert_close(
        cgan.discriminator_loss(real, made), -0.5 * (d_real.log() + (1 - d_made).log())
    )
    torch.testing.assert_close(cgan.saturating_loss(made), (1 - d_made).log())
    torch.testing.assert_close(cgan.non_saturating_loss(made), -d_made.log())


def test_losses_stay_finite_for_a_sure_discriminator() -> None:
    made = torch.tensor([-500.0, 500.0], requires_grad=True)
    for loss in (cgan.saturating_loss, cgan.non_saturating_loss):
        value = loss(made).sum()
        assert value.isfinite()
        assert torch.autograd.grad(value, made)[0].isfinite().all()


def test_each_player_gets_the_gradient_of_its_own_loss() -> None:
    """Against two separate backward passes over the same dropped units."""
    gan = players()
    x, y, z = torch.rand(5, 784), torch.eye(10)[:5], torch.rand(5, 100)

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        drop = random(7)
        made = gan.generator(z, y, drop)
        real, fake = gan.discriminator(x, y, drop), gan.discriminator(made, y, drop)
        return (
            cgan.non_saturating_loss(fake).mean(),
            cgan.discriminator_loss(real, fake).mean(),
        )

    expected = []
    for player, loss in zip((gan.generator, gan.discriminator), losses(), strict=True):
        gan.zero_grad()
        loss.backward(retain_graph=True)
        expected += [p.grad.clone() for p in player.parameters()]
    gan.zero_grad()
    cgan.set_gradients(gan, *losses())
    found = [p.grad for net in (gan.generator, gan.discriminator) for p in net.parameters()]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_saturating_gradient_is_the_smaller_one_by_d_over_one_minus_d() -> None:
    made = torch.randn(50, dtype=torch.float64, generator=random(3), requires_grad=True)
    saturating = torch.autograd.grad(cgan.saturating_loss(made).sum(), made)[0]
    other = torch.autograd.grad(cgan.non_saturating_loss(made).sum(), made)[0]
    d = torch.sigmoid(made.detach())
    torch.testing.assert_close(saturating / other, d / (1 - d))


def test_schedule_at_both_ends() -> None:
    schedule = cgan.Schedule()
    assert schedule.learning_rate(0) == 0.1
    assert schedule.learning_rate(1) == pytest.approx(0.1 / 1.00004, rel=1e-12)
    end = schedule.updates_to_floor()
    assert end == pytest.approx(287_829, abs=1)
    assert schedule.learning_rate(math.ceil(end)) == 1e-6
    assert schedule.learning_rate(math.floor(end) - 1) > 1e-6
    assert schedule.learning_rate(10 * math.ceil(end)) == 1e-6
    assert [schedule.momentum_at(n) for n in (0, 500, 125_000, 10**7)] == [0.5, 0.5, 0.7, 0.7]
    assert schedule.momentum_at((500 + 125_000) // 2) == pytest.approx(0.6)


def test_schedule_is_set_on_the_optimiser() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=1.0, momentum=0.9)
    cgan.Schedule().apply(optimizer, 125_000)
    group = optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(0.1 * 1.00004**-125_000)
    assert group["momentum"] == 0.7


def test_uniform_noise_fills_the_unit_hypercube() -> None:
    z = cgan.uniform_noise(10_000, 3, random(4), "cpu")
    assert z.shape == (10_000, 3)
    assert z.min() >= 0.0
    assert z.max() < 1.0
    torch.testing.assert_close(z.mean(dim=0), torch.full((3,), 0.5), atol=0.015, rtol=0)  # 5 s.e.


def test_the_discriminator_learns_to_tell_data_from_samples() -> None:
    gan = players()
    x, y = torch.ones(50, 784), functional.one_hot(torch.arange(50) % 10, 10).float()
    optimizer = torch.optim.SGD(gan.discriminator.parameters(), lr=0.1)
    z = torch.rand(50, 100, generator=random(5))
    for _ in range(200):
        made = gan.generator(z, y)
        real, fake = gan.discriminator(x, y), gan.discriminator(made, y)
        cgan.set_gradients(
            gan,
            cgan.non_saturating_loss(fake).mean(),
            cgan.discriminator_loss(real, fake).mean(),
        )
        optimizer.step()
    assert real.mean() > 1.0
    assert fake.mean() < -1.0


def test_centred_noise_has_variance_one() -> None:
    z = cgan.centred_noise(20_000, 3, random(6), "cpu")
    assert z.abs().max().item() == pytest.approx(math.sqrt(3.0), abs=0.001)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(3), atol=0.035, rtol=0)  # 5 s.e.
    torch.testing.assert_close(z.var(dim=0), torch.ones(3), atol=0.035, rtol=0)  # 5 s.e.
