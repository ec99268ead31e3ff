"""The packages that the book is held against, in an environment of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from genbook import ledger

# Without their dependencies, most of which are for what is not measured here; those that are
# needed to import them stand below.
PEERS = (
    "denoising-diffusion-pytorch==2.3.4", "prdc==0.2", "pythae==0.1.2", "torch-fidelity==0.4.0",
    "torchvision==0.28.0", "accelerate==1.15.0", "ema-pytorch==0.8.3",
)  # fmt: skip
NEEDED = (
    "torch==2.13.0", "numpy", "scipy", "scikit-learn", "einops", "tqdm", "pydantic", "dill",
    "imageio", "packaging", "safetensors", "pyyaml", "psutil", "huggingface-hub",
)  # fmt: skip


class PeersError(Exception):
    """The environment of the peers cannot be made."""


def folder() -> Path:
    """Where the environment is."""
    return ledger.ROOT / "_build" / "peers"


def python() -> Path:
    """The interpreter of the peers; PeersError if it is not there."""
    path = folder() / "bin" / "python"
    if not path.exists():
        raise PeersError("the packages to compare with are not installed: genbook bench --install")
    return path


def install() -> None:
    """Make the environment, or complete it."""
    pip = [str(folder() / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    commands = [
        [sys.executable, "-m", "venv", str(folder())],
        [*pip, *NEEDED],
        [*pip, "--no-deps", *PEERS],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeersError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
