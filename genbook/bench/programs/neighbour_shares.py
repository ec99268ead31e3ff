"""Precision, recall, density and coverage of two sets of features: ours against the package prdc,
which is by the authors of the last two."""

import harness
import numpy as np


def features(sizes):
    random = np.random.default_rng(0)
    return [
        (mean + random.standard_normal((sizes["points"], sizes["dims"]))).astype(np.float32)
        for mean in (0.0, 0.1)
    ]


def ours(sizes):
    import torch

    from genbook.metrics import neighbours

    real, made = map(torch.from_numpy, features(sizes))
    found = {}

    def work():
        found.update(vars(neighbours.neighbours(real, made, k=5, block=sizes["block"])))

    return work, lambda: found


def peer(sizes):
    from prdc import compute_prdc

    real, made = features(sizes)
    found = {}
    return lambda: found.update(compute_prdc(real, made, nearest_k=5)), lambda: found


if __name__ == "__main__":
    harness.main({"ours": ours, "peer": peer})
