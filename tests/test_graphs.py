"""A step captured as a CUDA graph does what the step does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from genbook import graphs, unet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def trained(wrap: Callable[..., Callable[..., Tensor]], half: bool, dropout: float) -> Tensor:
    """The weights, and the losses, of five updates."""
    torch.manual_seed(0)
    net = unet.UNet(
        values=1, size=8, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4,
        dropout=dropout,
    ).cuda()  # fmt: skip
    adam = torch.optim.Adam(net.parameters(), lr=1e-2, fused=True)

    def step(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            loss = (net(x, t).float() - x).square().mean()
        adam.zero_grad()
        loss.backward()
        return loss.detach()

    t = torch.arange(1, 7).cuda()
    step = wrap(step, torch.zeros(6, 1, 8, 8).cuda(), t)
    losses = []
    for update in range(5):
        torch.manual_seed(update)
        losses.append(step(torch.randn(6, 1, 8, 8).cuda(), 100 * t).clone())
        adam.step()
    return torch.cat([torch.stack(losses), *(p.detach().flatten() for p in net.parameters())])


@pytest.mark.parametrize("half", [False, True])
def test_training_by_a_graph_is_training(half: bool) -> None:
    plain = trained(lambda step, *_: step, half, 0.0)
    torch.testing.assert_close(trained(graphs.capture, half, 0.0), plain, rtol=1e-3, atol=1e-3)


def test_dropout_drops_anew_at_every_replay() -> None:
    losses = trained(graphs.capture, False, 0.5)[:5]
    assert len(losses.unique()) == 5
    assert torch.equal(losses, trained(graphs.capture, False, 0.5)[:5])


def test_a_graph_wants_all_arguments() -> None:
    weight = nn.Parameter(torch.ones(3).cuda())

    def step(x: Tensor) -> Tensor:
        weight.grad = None
        loss = (weight * x).sum()
        loss.backward()
        return loss.detach()

    captured = graphs.capture(step, torch.zeros(3).cuda())
    assert captured(torch.arange(3.0).cuda()).item() == 3.0
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="argument"):
        captured()
