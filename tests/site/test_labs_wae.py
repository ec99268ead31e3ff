"""The lab of the fading squares: codes, pictures, holes and gaps beside the library's."""

from pathlib import Path
from typing import Any

import torch
from test_labs import kept, started
from torch import Tensor, nn

from genbook import wae

LAWS = ("deterministic", "uniform")


def nets(law: str) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of the smoke run, as the chapter's `SquareModel` has them."""
    prefix = f"squares-{law}-0--2/"
    weights = {k.removeprefix(prefix): v for k, v in kept("wae").items() if k.startswith(prefix)}
    width, said = len(weights["encoder.0.bias"]), len(weights["encoder.4.bias"])
    model = nn.Module()
    model.encoder = wae.mlp(1024, [width] * 2, said)
    model.decoder = wae.mlp(2, [width] * 3, 1024, nn.Tanh)
    model.load_state_dict(weights)
    return model.encoder, model.decoder


def squares(grey: Tensor) -> Tensor:
    x = torch.zeros(len(grey), 32, 32)
    x[:, 8:24, 8:24] = grey[:, None, None]
    return x.flatten(1)


@torch.no_grad()
def test_codes_and_pictures_are_the_model_s(browser: Any, book: Path) -> None:
    tab = started(browser, book, "wae", "wae")
    grey, z = torch.linspace(0, 1, 11), torch.tensor([[0.0, 0.0], [1.2, -0.7], [-0.3, 0.9]])
    ask = """([law, greys, zs]) => {
        const { encode, decode, greyOf, nearest } = genbookLab.running.wae.probe;
        const codes = greys.map((grey) => encode(law, grey));
        return [codes.map((q) => [...q.mean]), codes.map((q) => q.sides),
                zs.map((z) => [...decode(law, z)]), zs.map((z) => greyOf(law, z)),
                zs.map((z) => nearest(decode(law, z))).map((n) => [n.grey, n.away])];
    }"""
    for law in LAWS:
        encoder, decoder = nets(law)
        mean, sides, pictures, greys, near = map(
            torch.tensor, tab.evaluate(ask, [law, grey.tolist(), z.tolist()])
        )
        said = encoder(squares(grey))
        torch.testing.assert_close(mean, said[:, :2], atol=1e-3, rtol=0)
        if law == "uniform":
            torch.testing.assert_close(sides, (said[:, 2:] - 2.0).exp(), atol=1e-3, rtol=0)
        made = torch.sigmoid(decoder(z))
        torch.testing.assert_close(pictures, made, atol=1e-3, rtol=0)
        inside = made.view(-1, 32, 32)[:, 8:24, 8:24].mean(dim=(1, 2))
        torch.testing.assert_close(greys, inside, atol=1e-3, rtol=0)
        torch.testing.assert_close(near[:, 0], inside, atol=1e-3, rtol=0)
        every = squares(torch.linspace(0, 1, 1001))
        best = torch.cdist(made, every).amin(dim=1) / 32  # a root of a mean over 1024 pixels
        torch.testing.assert_close(near[:, 1], best, atol=1e-3, rtol=0)
    tab.context.close()


def test_holes_and_gap_of_greys_are_counted_as_in_the_chapter(browser: Any, book: Path) -> None:
    viewport = {"width": 360, "height": 740}
    tab = started(browser, book, "wae", "wae", viewport=viewport)
    lab = tab.locator("#lab-wae")
    lab.get_by_role("button", name="Draw data and prior again").press("Enter")
    lab.get_by_role("button", name="Decode draws").press("Enter")
    lab.get_by_role("button", name="Decode draws").wait_for()  # it says Stop until it is done
    some = 2 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 1
    far = wae.far_from_codes(some, some[:100] + 0.02, radius=0.1)
    assert 0.2 < far.double().mean() < 0.8
    ask = """([zs, codes]) => zs.map(
        (z) => genbookLab.running.wae.probe.closest(z, codes).hole)"""
    assert tab.evaluate(ask, [some.tolist(), (some[:100] + 0.02).tolist()]) == far.tolist()
    ask = """() => {
        const { models, draws } = genbookLab.running.wae.probe;
        return [draws(), Object.values(models).map((m) => [m.codes, m.made])];
    }"""
    z, found = tab.evaluate(ask)
    texts = lab.locator(".gb-lab-column > span").all_inner_texts()
    for codes, made in found:
        far = wae.far_from_codes(torch.tensor(z), torch.tensor(codes), radius=0.1)
        assert any(t.startswith(f"Hole: {100 * far.double().mean():.0f} % of") for t in texts)
        expected = (torch.arange(2_000) + 0.5) / 2_000
        gap = 100 * (torch.tensor(made).sort().values - expected).abs().max()
        assert any(t.endswith(f"greys: {gap:.1f} points.") for t in texts)
    lab.locator("canvas[tabindex]").first.press("ArrowRight")
    assert "Code (0.55, -0.50)" in lab.locator(".gb-lab-status").inner_text()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.faults == []
    tab.context.close()
