"""The lab of mode coverage: the page's games beside autograd, its counts beside the metric."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_labs import started
from torch import Tensor, nn

from genbook import coverage
from genbook import nn as nets
from genbook.metrics import modes

STEPS, BATCH = 6, 64


class Sharp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nets.sines(x, 6)


def flat(net: nn.Module) -> list[float]:
    """All weights as the page keeps them: layer by layer, [out, in], then biases."""
    layers = [layer for layer in net.modules() if isinstance(layer, nets.Linear)]
    parts = [p for layer in layers for p in (layer.weight[0].mT.flatten(), layer.bias.flatten())]
    return torch.cat(parts).tolist()


def trained(
    make: nn.Module, tell: nn.Module, x: Tensor, z: Tensor, m: int, weight: float
) -> list[list[float]]:
    """The losses of each update of a game as the chapter plays it."""
    players = [list(tell.parameters()), list(make.parameters())]
    adam = torch.optim.Adam([*players[0], *players[1]], lr=1e-3, betas=(0.5, 0.9))
    said = []
    for rows, noise in zip(x, z, strict=True):
        made = make(noise[None])
        real, fake = tell(coverage.pack(rows[None], m)), tell(coverage.pack(made, m))
        a, b = made.chunk(2, dim=1)
        spread = coverage.diversity(a, b.detach())
        losses = (
            coverage.discriminator_loss(real, fake),
            coverage.generator_loss(fake) - weight * spread,
        )
        for weights, loss in zip(players, losses, strict=True):
            slopes = torch.autograd.grad(loss.sum(), weights, retain_graph=True)
            for p, slope in zip(weights, slopes, strict=True):
                p.grad = slope
        adam.step()
        said.append([loss.item() for loss in losses])
    return said


@pytest.fixture(scope="module")
def tab(browser: Any, book: Path) -> Any:
    made = started(browser, book, "mode_coverage", "mode_coverage")
    yield made
    made.context.close()


@pytest.mark.parametrize(
    ("m", "weight", "sharp"), [(1, 0.0, False), (2, 0.0, False), (1, 0.5, False), (4, 1.0, True)]
)
def test_the_game_of_the_page_is_that_of_autograd(
    tab: Any, m: int, weight: float, sharp: bool
) -> None:
    g = torch.Generator().manual_seed(m)
    make = coverage.generator(1, units=64)
    head = coverage.discriminator(1, inputs=2 * m * (13 if sharp else 1), units=64)
    tell = nn.Sequential(Sharp(), *head) if sharp else head
    for net in (make, tell):
        nets.init(net, [g])
    x = coverage.ring(radius=2.0, std=0.05).sample(STEPS * BATCH * m, g).view(STEPS, -1, 2)
    z = torch.randn(STEPS, BATCH * m, 2, generator=g)
    ask = """([make, tell, x, z, m, weight, sharp]) => {
        const { play, update } = genbookLab.running.mode_coverage.probe;
        const game = play(m, sharp, () => 0.5);
        game.make.weights.set(make);
        game.tell.weights.set(tell);
        const row = (v) => new Float64Array(v.flat());
        const losses = x.map((rows, i) => update(game, row(rows), row(z[i]), weight));
        return [losses, [...game.make.weights], [...game.tell.weights]];
    }"""
    asked = [flat(make), flat(tell), x.tolist(), z.tolist(), m, weight, sharp]
    losses, *weights = tab.evaluate(ask, asked)
    expected = trained(make, tell, x, z, m, weight)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), atol=1e-3, rtol=0)
    for ours, net in zip(weights, (make, tell), strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(flat(net)), atol=1e-3, rtol=0)


def test_the_page_counts_modes_like_the_metric(tab: Any) -> None:
    g = torch.Generator().manual_seed(0)
    mix = coverage.grid()
    near = mix.means[:20].repeat_interleave(torch.arange(20) + 1, dim=0)  # uneven, five missing
    samples = near + 0.07 * torch.randn(near.shape, generator=g)
    ask = """([samples, means]) => {
        const { tally } = genbookLab.running.mode_coverage.probe;
        const { modes, quality, kl } = tally(new Float64Array(samples.flat()), means);
        return [modes, quality / 100, kl];
    }"""
    for rows in (samples, samples + 1.0):
        expected = modes.count(rows, mix.means, mix.std)
        kl = expected.reverse_kl if expected.captured else math.log(25)
        found = tab.evaluate(ask, [rows.tolist(), mix.means.tolist()])
        assert found == pytest.approx([expected.captured, expected.high_quality, kl], abs=1e-3)


def test_the_lab_works_by_keyboard(tab: Any) -> None:
    lab = tab.locator("#lab-mode_coverage")
    status = lab.locator("[role=status]")
    lab.get_by_role("button", name="One step").press("Enter")
    assert status.inner_text().startswith("1 updates:")
    assert "of 8 modes" in status.inner_text()
    lab.locator("canvas[tabindex]").press("Enter")
    assert "of 9 modes" in status.inner_text()
    assert tab.faults == []
