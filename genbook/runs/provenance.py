"""Where a number comes from: commit, command, machine, versions, data, time and memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from genbook.runs.identity import Identity, Request

# The processor features on which torch's kernels, hence trained numbers, depend.
FEATURES = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd")
PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "safetensors", "ipykernel", "papermill")
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# glibc gives the memory of a freed tensor back to the system and asks for it again in the next
# step; with these it keeps it (up to 2 GB; tensors over 32 MiB, its limit, still come and go).
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "2000000000"}


def gather(request: Request, identity: Identity, root: Path) -> dict[str, Any]:
    """What is known before a run: everything but its time, memory and results."""
    return {
        "chapter": request.chapter,
        "profile": request.profile,
        "seed": request.seed,
        "device": request.device,
        "engine": request.engine,
        "processes": request.processes,
        "identity": {"hash": identity.hash, "parts": dict(identity.parts)},
        **commit(root, sorted(identity.sources)),
        "command": request.command(),
        "threads": int(THREADS["OMP_NUM_THREADS"]),
        "python": platform.python_version(),
        "packages": _versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        **processor(),
        "data": identity.data,
    }


def commit(root: Path, sources: list[str]) -> dict[str, Any]:
    """The commit, and whether a file that the run reaches differs from it (null: no git)."""
    head = _git(root, "rev-parse", "HEAD")
    changed = None if head is None else _git(root, "status", "--porcelain", "--", *sources)
    return {"commit": head, "dirty": None if changed is None else bool(changed)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> dict[str, Any]:
    """Name, features and cores of the processor."""
    name, flags = platform.processor(), set()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
    return {
        "processor": name,
        "processor_features": [feature for feature in FEATURES if feature in flags],
        "cores": os.cpu_count(),
    }


def accelerator(device: str) -> dict[str, Any]:
    """The accelerator's name and CUDA version; empty on a CPU."""
    if not device.startswith("cuda"):
        return {}
    import torch

    return {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}


def peak_memory_mib() -> int:
    """Peak resident memory of the largest child of this process: the one that ran the chapter."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)
