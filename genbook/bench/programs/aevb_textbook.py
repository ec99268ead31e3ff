"""AEVB on MNIST: the chapter's loop against the one of the textbooks (see genbook.bench.textbook),
from the same weights; `latents` has the number of latent variables of each model."""

import os
import tempfile

import harness


def side(kind, sizes):
    import torch

    os.environ["GENBOOK_RUN_DIR"] = tempfile.mkdtemp()
    from genbook import data
    from genbook.bench import textbook

    torch.set_num_threads(sizes["threads"])
    torch.manual_seed(0)
    mnist = data.load("mnist")
    way = getattr(textbook, kind)(mnist, [textbook.new_vae(n) for n in sizes["latents"]])
    x = mnist.test_images[:2_000].flatten(1).float() / 255.0

    def found():
        bound = way.bound(x)  # before the step whose arithmetic is counted
        work = sizes["steps"] * harness.gigaflop_of(lambda: way.train(1))
        return {"bound": bound, "gigaflop": work, "peak": harness.peak_gigaflops(way.dtype)}

    return lambda: way.train(sizes["steps"]), found


def ours(sizes):
    return side("Ours", sizes)


def peer(sizes):
    return side("Textbook", sizes)


if __name__ == "__main__":
    harness.main({"ours": ours, "peer": peer})
