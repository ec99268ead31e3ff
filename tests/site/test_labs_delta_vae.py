"""The lab of the delta-VAE chapter: its formulas beside the library's, and its minimiser."""

from pathlib import Path
from typing import Any

import torch
from test_labs import started

from genbook import delta_vae


def test_formula_divergence_and_minimum_are_the_library_s(browser: Any, book: Path) -> None:
    tab = started(browser, book, "delta_vae", "delta_vae")
    pairs = [(n, a) for n in (2, 3, 28, 64) for a in (0.0, 0.3, 0.95, 0.99)]
    ask = """(pairs) => {
        const { rate, closest, minimum } = genbookLab.running.delta_vae.probe;
        return pairs.map(([n, a]) => [rate(a, n), minimum(a, n), closest(a, n)]);
    }"""
    for (n, a), (rate, minimum, variances) in zip(pairs, tab.evaluate(ask, pairs), strict=True):
        alpha = torch.tensor([a], dtype=torch.float64)
        committed = delta_vae.committed_rate(alpha, n).item()
        assert abs(rate - committed) < 1e-9
        assert abs(minimum - committed) < 1e-6
        expected = delta_vae.closest_variances(alpha, n)[:, 0]
        torch.testing.assert_close(torch.tensor(variances, dtype=torch.float64), expected)
    mu, log_var = torch.randn(2, 1, 9, 1, generator=torch.Generator().manual_seed(0)).double()
    free = torch.cat([mu, log_var]).requires_grad_()
    value = delta_vae.ar1_kl(free[:1], free[1:], torch.tensor([0.8], dtype=torch.float64))
    (slopes,) = torch.autograd.grad(value.sum(), free)
    ask = """(free) => {
        const { value, slope } = genbookLab.running.delta_vae.probe.kl(free, 0.8);
        return [value, [...slope]];
    }"""
    found, slope = tab.evaluate(ask, free.flatten().tolist())
    assert abs(found - value.item()) < 1e-6
    torch.testing.assert_close(torch.tensor(slope).double(), slopes.flatten(), atol=1e-5, rtol=1e-5)
    tab.context.close()


def test_from_a_random_posterior_the_minimiser_ends_on_the_closest(
    browser: Any, book: Path
) -> None:
    tab = started(browser, book, "delta_vae", "delta_vae", viewport={"width": 360, "height": 740})
    lab = tab.locator("#lab-delta_vae")
    lab.get_by_role("slider", name="last α").press("End")  # 0.99
    lab.get_by_role("slider", name="length n").press("ArrowLeft")  # 27
    lab.get_by_role("button", name="at random").press("Enter")
    lab.locator("canvas").nth(1).press("Shift+ArrowUp")
    lab.get_by_role("button", name="Minimise").press("Enter")
    lab.get_by_role("button", name="Minimise").wait_for()  # it says Stop until it is done
    n, alpha = 27, torch.linspace(0.5, 0.99, 4, dtype=torch.float64)
    posterior = torch.tensor(
        tab.evaluate("[...genbookLab.running.delta_vae.probe.posterior()]"), dtype=torch.float64
    )
    closest = delta_vae.closest_variances(alpha[-1:], n)[:, 0]
    torch.testing.assert_close(posterior[:n], torch.zeros(n).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(posterior[n:].exp(), closest, atol=1e-3, rtol=0)
    delta = delta_vae.committed_rate(alpha, n).item()
    share = delta_vae.committed_rate(alpha[-1:], n).item()
    said = lab.locator(".gb-lab-status").inner_text()
    assert said.count(f"{delta:.4f} nats") == 2  # by the formula and by the minimiser
    assert f"{share:.4f} nats; its share of δ is {share:.4f}" in said
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.faults == []
    tab.context.close()
