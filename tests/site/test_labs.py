"""The labs in a real browser, beside PyTorch on the same weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from genbook import aevb, runs
from genbook.site import labs


def started(browser: Any, book: Path, name: str, page: str, **context: Any) -> Any:
    """The page of a chapter with its lab started by the keyboard."""
    tab = browser.new_context(**context).new_page()
    tab.faults = []
    tab.on("pageerror", lambda error: tab.faults.append(str(error)))
    tab.goto((book / "chapters" / f"{page}.html").as_uri())
    button = tab.locator(f"#lab-{name} .gb-lab-start")
    button.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_function(f"genbookLab.running['{name}']")
    assert tab.faults == []
    return tab


def kept(name: str) -> dict[str, torch.Tensor]:
    """The weights of the recorded run or the smoke run, as the page has them."""
    run = runs.find(runs.Request(name, "smoke"))
    assert run is not None
    return {k: v.float() for k, v in load_file(labs.weights_of(name, run)[0]).items()}


def test_the_page_of_aevb_decodes_and_encodes_like_the_model(browser: Any, book: Path) -> None:
    weights = {k.removeprefix("two/"): v for k, v in kept("aevb").items()}
    vae = aevb.VAE(pixels=784, hidden=len(weights["encoder.hidden.bias"]), latents=2)
    vae.load_state_dict(weights)
    tab = started(browser, book, "aevb", "aevb")
    codes = torch.tensor([[0.0, 0.0], [1.3, -2.0], [-0.4, 0.7]])
    ink = torch.rand(3, 784, generator=torch.Generator().manual_seed(0))
    ask = """([zs, xs]) => {
        const { decode, encode } = genbookLab.running.aevb.probe;
        const code = (x) => { const q = encode(x); return [...q.mu, ...q.logVar]; };
        return [zs.map((z) => [...decode(z)]), xs.map(code)];
    }"""
    made, said = tab.evaluate(ask, [codes.tolist(), ink.tolist()])
    with torch.no_grad():
        q = vae.encoder(ink)
        torch.testing.assert_close(torch.tensor(made), vae.decoder.mean(codes), atol=1e-3, rtol=0)
        both = torch.cat([q.mu, q.log_var], dim=1)
    torch.testing.assert_close(torch.tensor(said), both, atol=1e-3, rtol=1e-3)
    tab.context.close()
