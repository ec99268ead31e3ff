"""One training step of a U-Net of diffusion: the book's against denoising-diffusion-pytorch's, both
64 channels wide with multiples 1, 2, 2, 2, on photographs of 32 x 32; in single precision, or with
autocast to bfloat16 as in the long and paper profiles of the chapter.

The architectures differ (the peer has linear attention at every resolution, a convolution of 7 x 7
at its entrance and a block less a resolution on the way up), so weights and the arithmetic of a
step stand beside the time.  At 72 channels the peer has as many weights as ours at 64, and of all
its widths the arithmetic that is nearest to ours.
"""

import harness
import numpy as np

CHANNELS, MULTIPLES = 64, (1, 2, 2, 2)


def steps(net, sizes, **how):
    """Simple loss, backward, Adam, which each side has as its own trainer has it."""
    import torch

    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    x, eps = (
        torch.from_numpy(random.standard_normal((sizes["batch"], 3, 32, 32), np.float32))
        for _ in "ab"
    )
    t = torch.arange(sizes["batch"]) * 7 % 1000 + 1
    adam = torch.optim.Adam(net.parameters(), lr=2e-4, **how)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=sizes["bfloat16"]):
            loss = (net(x, t).float() - eps).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    def result():
        weights = sum(p.numel() for p in net.parameters())
        peak = harness.peak_gigaflops("bfloat16" if sizes["bfloat16"] else "float32")
        return {"weights": weights, "gigaflop": harness.gigaflop_of(step), "peak": peak}

    return step, result


def ours(sizes):
    from genbook import unet

    net = unet.UNet(channels=CHANNELS, multipliers=MULTIPLES, groups=16, dropout=0.0)
    return steps(net, sizes, fused=True)


def peer(sizes):
    import torch

    # torchvision's own operators are not built for a processor, and nothing here calls them.
    missing = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        missing.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from denoising_diffusion_pytorch import Unet

    return steps(Unet(dim=sizes["peer_channels"], dim_mults=MULTIPLES), sizes)


if __name__ == "__main__":
    harness.main({"ours": ours, "peer": peer})
