"""One training on several processes, on a GPU each (data parallelism).

torchrun starts the processes, and every one of them executes the whole chapter.  In a training that
they share, all draw the same batch by the same random numbers, each takes the gradient of its share
of the rows, and all make the step of the mean: the step that one process makes, up to rounding and
up to the noise inside the network (dropout).  In one process nothing here does anything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed

from genbook.training import run_folder

PATIENCE = timedelta(days=2)  # one process may have a long measurement to repeat, another not


def processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one, from 0; only the results of number 0 are kept."""
    return int(os.environ.get("RANK", "0"))


def share(size: int) -> slice:
    """This process's rows of a batch of `size`; ValueError where they cannot be equally many."""
    rows, left = divmod(size, processes())
    if left:
        raise ValueError(f"{processes()} processes cannot share a batch of {size} equally")
    return slice(rank() * rows, (rank() + 1) * rows)


def mine(number: int) -> bool:
    """Whether this process makes the block of this number; see `collect`."""
    return number % processes() == rank()


def average(*tensors: Tensor) -> None:
    """Put in place of each tensor its mean over the processes: the same bits in every one."""
    if processes() > 1:
        _join()
        for sending in [distributed.all_reduce(x, async_op=True) for x in tensors]:
            sending.wait()
        torch._foreach_div_(list(tensors), float(processes()))


def begin_alike(name: str) -> None:
    """Before a training that is shared: give every process the checkpoint that the first one goes
    on from, or none where it has none."""
    if processes() > 1:
        _meet()
        if rank():
            own = run_folder() / "checkpoints" / f"{name}.safetensors"
            own.unlink(missing_ok=True)
            _copy(_folders()[0] / "checkpoints" / own.name, own)
        _meet()


def collect(paths: Sequence[Path]) -> None:
    """Wait for the others, and copy files that one of them has made and this process has not."""
    if processes() > 1:
        _meet()
        for path in paths:
            for folder in _folders():
                if not path.exists():
                    _copy(folder / path.relative_to(run_folder()), path)
        _meet()


def _folders() -> list[Path]:
    """The run folder of each process, as genbook/runs/script.py lays them out."""
    first = run_folder().parents[1] if rank() else run_folder()
    return [first, *(first / "processes" / str(other) for other in range(1, processes()))]


def _copy(source: Path, target: Path) -> None:
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".tmp")
        shutil.copyfile(source, partial)
        partial.replace(target)


def _join() -> None:
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)


def _meet() -> None:
    _join()
    distributed.barrier()
