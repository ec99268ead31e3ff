"""The inception score, and the published measures with the real Inception network.

The network's weights cannot come with the book.  `published` measures with torch-fidelity when the
reader has both; everything else in the book takes its features from a network that a chapter
trains, and never calls the result FID or inception score without saying so.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

WEIGHTS = "GENBOOK_INCEPTION"


def inception_score(logits: Tensor, *, splits: int = 1) -> float:
    """exp E_x KL(p(y|x) || p(y)), Salimans et al. 2016, from class logits [N, C].

    p(y) is the mean of p(y|x) over the set, so the score rewards confident single answers and an
    even spread of answers; it cannot see variety within a class.  Between 1 and C.  With
    splits (published scores take 10) the mean over equal parts in the order given, as a rule lower.
    Raises ValueError with fewer images than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"{len(logits)} images cannot make {splits} parts")
    scores = []
    for part in logits.double().tensor_split(splits):
        log_p = part.log_softmax(dim=1)
        log_mean = log_p.logsumexp(dim=0) - math.log(len(part))
        scores.append((log_p.exp() * (log_p - log_mean)).sum(dim=1).mean().exp())
    return torch.stack(scores).mean().item()


class InceptionError(Exception):
    """The real Inception network is not here; the message says what to do."""


class _Images(Dataset[Tensor]):
    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def published(
    made: Tensor, real: Tensor, *, weights: Path | None = None, cuda: bool = False
) -> Mapping[str, float]:
    """FID of `made` against `real` and inception score of `made` with torch-fidelity.

    uint8 [N, 3, H, W].  Published values take 50 000 samples, against the training set of CIFAR-10.
    `weights` is the file pt_inception-2015-12-05-6726825d.pth (else GENBOOK_INCEPTION names it), a
    pickle: take it from torch-fidelity's own release only.  Keys: frechet_inception_distance,
    inception_score_mean, inception_score_std.  Raises InceptionError without the file or the
    package, ValueError for other tensors.
    """
    for images in (made, real):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"uint8 [N, 3, H, W] is wanted, not {images.dtype} {images.shape}")
    named = weights or (Path(os.environ[WEIGHTS]) if os.environ.get(WEIGHTS) else None)
    if named is None or not named.is_file():
        where = f"{named} is no file" if named else f"{WEIGHTS} is not set"
        raise InceptionError(
            f"The weights of the Inception network are missing ({where}): put "
            f"pt_inception-2015-12-05-6726825d.pth anywhere and set {WEIGHTS} to its path."
        )
    try:
        from torch_fidelity import calculate_metrics
    except ImportError as error:
        raise InceptionError(
            f"torch-fidelity does not load ({error}): pip install torch-fidelity"
        ) from error
    found: Mapping[str, float] = calculate_metrics(
        input1=_Images(made.cpu()), input2=_Images(real.cpu()), fid=True, isc=True, cuda=cuda,
        feature_extractor_weights_path=str(named), verbose=False,
    )  # fmt: skip
    return found
