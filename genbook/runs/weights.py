"""The weights that a page's lab runs on, kept with the finished run in half precision.

A checkpoint holds optimiser, random state and every network in full; a lab needs a network or two,
and a browser has to load them.
"""

from __future__ import annotations

import json
from pathlib import Path

from genbook.runs.identity import KEPT, Request

FILE = "weights.safetensors"


def keep(request: Request, part: Path) -> None:
    """Write what `KEPT` names of the checkpoints in `part` to its weights file, as float16 under
    `CHECKPOINT/TENSOR`.  A training that this profile leaves out is left out here."""
    if request.chapter not in KEPT:
        return
    import torch
    from safetensors.torch import load_file, save_file

    kept = {}
    for name, prefix in KEPT[request.chapter].items():
        path = part / "checkpoints" / f"{name}.safetensors"
        for key, tensor in load_file(path).items() if path.exists() else ():
            if key.startswith(f"model.{prefix}"):
                kept[f"{name}/{key.removeprefix('model.')}"] = tensor.to(torch.float16)
    if kept:
        save_file(kept, part / FILE, metadata={"run": json.dumps(request.label())})
