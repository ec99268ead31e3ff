"""What both sides of a comparison have in common: do the work when asked and say how long it took.

The programs of this folder run in two environments, the book's and that of the peers: the peer's
side imports nothing of the book, and this file imports the standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Result = Mapping[str, float]
Side = Callable[[Mapping[str, Any]], tuple[Callable[[], None], Callable[[], Result]]]


def memory_mib(what: str) -> float:
    """VmRSS, the memory that this process has, or VmHWM, the largest that it has had, by the
    kernel's count (Linux): getrusage's starts with that of the process that started this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{what}:")[2].split()[0]) / 1024.0


def forget_peak() -> None:
    """Let VmHWM start anew from VmRSS: what the preparation took at most is no part of the work."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def gigaflop_of(step: Callable[[], object]) -> float:
    """The arithmetic of the matrix products and convolutions of a training step, in 1e9."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def peak_gigaflops(dtype: str = "float32", size: int = 2_048) -> float:
    """What this machine's one thread reaches in a large matrix product, in 1e9 a second: the best
    of five."""
    import torch

    a, b = torch.rand(2, size, size).to(getattr(torch, dtype))
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, b)
        taken.append(time.perf_counter() - started)
    return 2.0 * size**3 / min(taken) / 1e9


def main(sides: Mapping[str, Side]) -> None:
    """`python PROGRAM.py SIDE SIZES`: a turn for each line on standard input, its seconds as a line
    on standard output; at the end of the input one JSON object: memory before and at most, and what
    the work found.  A side is built from the sizes: what to do, and what it found."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a peer prints is no answer
    work, result = sides[sys.argv[1]](json.loads(sys.argv[2]))
    forget_peak()
    before = memory_mib("VmRSS")
    print("ready", file=answers)
    for _ in sys.stdin:
        started = time.perf_counter()
        work()
        print(time.perf_counter() - started, file=answers)
    peak = memory_mib("VmHWM")
    print(json.dumps({"before": before, "peak": peak, "found": dict(result())}), file=answers)
