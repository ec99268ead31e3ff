"""The lab of the diffusion chapter: schedule, score and samplers beside the library's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_labs import started
from torch import Tensor

from genbook import diffusion, mixtures

PROCESS = diffusion.GaussianDiffusion(diffusion.linear_betas(1000))
SAMPLERS = {"σ² = β": "large", "σ² = β̃": "small", "DDIM": "small"}


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def of(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def reverse(data: mixtures.GaussianMixture, steps: int, sampler: str) -> diffusion.Reverse:
    """The respaced chain with the best network, as the chapter makes it."""
    times = torch.linspace(0, 1000, steps + 1).round().long()[1:]

    def best(x: Tensor, t: Tensor) -> Tensor:
        return data.eps(x, PROCESS.at(PROCESS.alpha_bar, t, x))

    process = PROCESS.respaced(times)
    kind: Any = {"variance": SAMPLERS[sampler], "clip": False, "times": times}
    return diffusion.Reverse(best, process, **kind)


def test_schedule_and_score_are_the_library_s(browser: Any, book: Path) -> None:
    tab = started(browser, book, "diffusion", "diffusion")
    means, x, t = 0.7 * drawn(7, 2), drawn(4, 2), [0, 1, 130, 1000]
    data = mixtures.GaussianMixture(means, torch.full((7,), 1 / 7).double(), 0.08)
    ask = """([means, x, t]) => {
        const { data, alphaBar, score, eps } = genbookLab.running.diffusion.probe;
        data(means, 0.08);
        const of = (f) => x.map((v, i) => f(v, alphaBar[t[i]]));
        return [[...alphaBar], of(score), of(eps)];
    }"""
    alpha_bar, score, eps = tab.evaluate(ask, [means.tolist(), x.tolist(), t])
    torch.testing.assert_close(of(alpha_bar), PROCESS.alpha_bar, atol=1e-9, rtol=0)
    abar = PROCESS.alpha_bar[t, None]
    torch.testing.assert_close(of(score), data.score(x, abar), atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(of(eps), data.eps(x, abar), atol=1e-6, rtol=1e-6)
    tab.context.close()


def test_whole_chains_from_the_same_noise_end_in_the_same_place(browser: Any, book: Path) -> None:
    tab = started(browser, book, "diffusion", "diffusion")
    means, steps = 0.7 * drawn(7, 2), 30
    data = mixtures.GaussianMixture(means, torch.full((7,), 1 / 7).double(), 0.08)
    start, noise = drawn(6, 2), drawn(steps + 1, 6, 2)
    ask = """([means, sampler, start, noise]) => {
        const { data, respaced, noised, denoised } = genbookLab.running.diffusion.probe;
        data(means, 0.08);
        const p = respaced(noise.length - 1);
        let [back, on] = [start, start];
        for (let i = p.times.length - 1; i > 0; i -= 1) {
            back = back.map((x, m) => denoised(p, sampler, i, x, noise[i][m]));
        }
        for (let i = 1; i < p.times.length; i += 1) {
            on = on.map((x, m) => noised(p, i, x, noise[i][m]));
        }
        return [back, on];
    }"""
    for sampler in SAMPLERS:
        model = reverse(data, steps, sampler)
        back, on = tab.evaluate(ask, [means.tolist(), sampler, start.tolist(), noise.tolist()])
        expected, x = start, start
        if sampler == "DDIM":
            expected = diffusion.last(diffusion.ddim(model, start))
        else:
            for t in range(steps, 0, -1):
                step = model.step(expected, torch.full((6,), t))
                expected = step.mean + (t > 1) * (0.5 * step.log_var).exp() * noise[t]
        for t in range(1, steps + 1):
            x = model.process.q_step(x, t, noise[t])
        torch.testing.assert_close(of(back), expected, atol=1e-3, rtol=0)
        torch.testing.assert_close(of(on), x, atol=1e-3, rtol=0)
    tab.context.close()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_steps_make_the_data_again(browser: Any, book: Path, sampler: str) -> None:
    tab = started(browser, book, "diffusion", "diffusion")
    lab = tab.locator("#lab-diffusion")
    lab.get_by_label("sampler").select_option(sampler)
    lab.get_by_label("steps").select_option("1000")
    points = of(tab.evaluate("genbookLab.running.diffusion.probe.paths()['noise to data'][0]"))
    heaps = of(tab.evaluate("genbookLab.running.diffusion.probe.heaps()"))
    angle = 2 * torch.pi / 5 * torch.arange(5).double()
    torch.testing.assert_close(heaps, 0.65 * torch.stack([angle.cos(), angle.sin()], dim=1))
    distance, heap = torch.cdist(points, heaps).min(dim=1)
    share = (distance < 0.3).double().mean().item()
    # Of the data 98.9 % are that near; 300 points spread by 0.6 %, and 3 % is five times that.
    assert share > 0.959
    assert (heap.bincount(minlength=5) > 25).all()  # of 60 each, give or take 7
    lab.get_by_role("slider", name="t", exact=True).press("Home")
    assert f"t = 0, ᾱ = 1.0000: {100 * share:.1f} %" in lab.locator(".gb-lab-status").inner_text()
    tab.context.close()


def test_data_are_drawn_by_keys_and_by_pointer_and_time_runs(browser: Any, book: Path) -> None:
    tab = started(browser, book, "diffusion", "diffusion", viewport={"width": 360, "height": 740})
    lab, heaps = tab.locator("#lab-diffusion"), "genbookLab.running.diffusion.probe.heaps()"
    plane, status = lab.locator("canvas").first, lab.locator(".gb-lab-status")
    lab.get_by_role("button", name="Clear").press("Enter")
    assert "empty" in status.inner_text()
    plane.press("ArrowRight")
    plane.press("ArrowUp")
    plane.press("Space")
    assert tab.evaluate(heaps) == [[0.1, 0.1]]
    box = plane.bounding_box()
    plane.click(position={"x": box["width"] / 4, "y": box["height"] / 4})
    torch.testing.assert_close(of(tab.evaluate(heaps)[1]), of([-1.0, 1.0]), atol=0.03, rtol=0)
    lab.get_by_role("button", name="Noise to data").press("Enter")
    lab.get_by_role("button", name="Noise to data").wait_for()  # it says Stop until it is done
    assert status.inner_text().startswith("noise to data, t = 0,")
    assert "2 of 2 heaps have one" in status.inner_text()
    plane.press("Backspace")
    assert len(tab.evaluate(heaps)) == 1
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.faults == []
    tab.context.close()
