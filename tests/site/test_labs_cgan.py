"""The lab of the cGAN chapter: pictures of the folded generator beside PyTorch's."""

from pathlib import Path
from typing import Any

import torch
from test_labs import kept, started
from torch.nn import functional

from genbook import cgan
from genbook.site import labs


def test_the_folded_generator_is_the_chapter_s_with_and_without_units(
    browser: Any, book: Path
) -> None:
    net = cgan.Generator()
    net.load_state_dict({k.partition("generator.")[2]: v for k, v in kept("cgan").items()})
    g = torch.Generator().manual_seed(0)
    z, y, ways = torch.rand(4, 100, generator=g), torch.tensor([0, 3, 9, 5]), [0, 7, 9, 2]
    of_z, of_joint = (torch.rand(4, units, generator=g) < 0.5 for units in (200, 1200))
    of_y = torch.from_numpy(labs.label_units(1000))[ways]
    assert 0.45 < of_y.float().mean() < 0.55
    one_hot = functional.one_hot(y, 10).float()
    with torch.no_grad():
        still = net(z, one_hot)
        h = functional.relu(torch.cat([net.z_layer(z), net.y_layer(one_hot)], dim=1))
        h = functional.relu(net.joint(2 * h * torch.cat([of_z, of_y], dim=1)))
        dropped = torch.sigmoid(net.out(2 * h * of_joint))
    assert (still - dropped).abs().max() > 0.01
    tab = started(browser, book, "cgan", "cgan")
    ask = """([z, y, ways, ofZ, joint]) => {
        const { generate } = genbookLab.running.cgan.probe;
        const drop = (k) => ({ way: ways[k], z: ofZ[k], joint: joint[k] });
        return [z.map((v, k) => [...generate(v, y[k])]),
                z.map((v, k) => [...generate(v, y[k], drop(k))])];
    }"""
    sent = [z.tolist(), y.tolist(), ways, of_z.int().tolist(), of_joint.int().tolist()]
    for made, expected in zip(tab.evaluate(ask, sent), (still, dropped), strict=True):
        torch.testing.assert_close(torch.tensor(made), expected, atol=1e-3, rtol=0)
    tab.context.close()


def test_rows_change_one_thing_each_and_say_its_spread(browser: Any, book: Path) -> None:
    viewport = {"width": 360, "height": 740}
    tab = started(browser, book, "cgan", "cgan", viewport=viewport, reduced_motion="reduce")
    lab = tab.locator("#lab-cgan")
    ask = """() => Object.fromEntries(Object.entries(genbookLab.running.cgan.probe.rows).map(
        ([name, row]) => [name, row.pictures.map((x) => [...x])]))"""

    def rows() -> dict[str, torch.Tensor]:
        return {name: torch.tensor(pictures) for name, pictures in tab.evaluate(ask).items()}

    before = rows()
    lab.get_by_role("button", name="Label 7").press("Enter")
    lab.get_by_role("slider").press("End")
    after = rows()
    assert not before["labels"].equal(after["labels"])  # another z
    assert not before["walk"].equal(after["walk"])  # another label
    torch.testing.assert_close(after["labels"][7], after["walk"][9])
    torch.testing.assert_close(before["labels"][3], before["walk"][0])
    said = lab.locator(".gb-lab-status").inner_text()
    for name, words in (("labels", "the label"), ("z", "z"), ("drops", "dropped units")):
        assert f"{after[name].std(dim=0).mean():.4f} from {words}" in said
    lab.get_by_role("button", name="Drop units").press("Enter")
    torch.testing.assert_close(rows()["walk"][9], after["drops"][0])
    lab.get_by_role("button", name="Drop others").press("Enter")
    assert not rows()["drops"].equal(after["drops"])
    lab.get_by_role("button", name="Walk").press("Enter")
    lab.get_by_role("button", name="Stop").press("Enter")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.faults == []
    tab.context.close()
