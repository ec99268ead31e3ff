"""The Fréchet distance of two sets of features: ours against torch-fidelity's, both from the same
features in single precision, as the Inception network gives them."""

import harness
import numpy as np


def features(sizes):
    random = np.random.default_rng(0)
    shape = sizes["points"], sizes["dims"]
    mix = random.standard_normal((shape[1], shape[1]), np.float32) / shape[1] ** 0.5
    return [random.standard_normal(shape, np.float32) @ mix + np.float32(m) for m in (0.0, 0.1)]


def ours(sizes):
    import torch

    from genbook.metrics import frechet

    a, b = map(torch.from_numpy, features(sizes))
    found = {}
    return lambda: found.update(distance=frechet.frechet_distance(a, b)), lambda: found


def peer(sizes):
    import torch

    # torchvision's own operators are not built for a processor, and nothing here calls them.
    missing = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        missing.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torch_fidelity import metric_fid

    a, b = map(torch.from_numpy, features(sizes))
    found = {}

    def work():
        both = [metric_fid.fid_features_to_statistics(x) for x in (a, b)]
        found["distance"] = metric_fid.fid_statistics_to_metric(*both, False)[
            metric_fid.KEY_METRIC_FID
        ]

    return work, lambda: found


if __name__ == "__main__":
    harness.main({"ours": ours, "peer": peer})
