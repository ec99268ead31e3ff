"""The Parzen-window log-likelihood: ours against numpy, written as the formula is, ten test images
at a time as in the official code of Goodfellow et al. 2014."""

import harness
import numpy as np

SIGMA = 0.2
BLOCK = 10  # official code, batch_size


def images(sizes):
    random = np.random.default_rng(0)
    return random.random((sizes["tests"], 784)), random.random((sizes["samples"], 784))


def ours(sizes):
    import torch

    from genbook.metrics import parzen

    x, samples = map(torch.from_numpy, images(sizes))
    found = {}

    def work():
        found["mean"] = parzen.log_likelihood(x, samples, sigma=SIGMA).mean().item()

    return work, lambda: found


def peer(sizes):
    x, samples = images(sizes)
    found = {}

    def work():
        scores = []
        for first in range(0, len(x), BLOCK):
            a = (x[first : first + BLOCK, None] - samples) / SIGMA
            e = -0.5 * (a**2).sum(2)
            top = e.max(1)
            scores.append(top + np.log(np.mean(np.exp(e - top[:, None]), 1)))
        constant = x.shape[1] * np.log(SIGMA * np.sqrt(2 * np.pi))
        found["mean"] = float(np.concatenate(scores).mean() - constant)

    return work, lambda: found


if __name__ == "__main__":
    harness.main({"ours": ours, "peer": peer})
