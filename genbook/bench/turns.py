"""Two programs that take turns, so that a busy machine slows both alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genbook.runs.provenance import MEMORY, THREADS

PROGRAMS = Path(__file__).parent / "programs"
PACKAGE = Path(__file__).resolve().parents[1]


class ProgramError(Exception):
    """A side of a comparison ended with an error."""


class Program:
    """One side of a comparison, in a process of its own, with one thread and memory that stays as
    for the runs of the book."""

    def __init__(
        self,
        name: str,
        side: str,
        sizes: Mapping[str, Any],
        python: Path,
        settings: Mapping[str, str] | None = None,
    ):
        self.what = f"{name}, {side}"
        path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [str(python), str(PROGRAMS / f"{name}.py"), side, json.dumps(sizes)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**MEMORY, **os.environ, **THREADS,
                 "PYTHONPATH": path if side == "ours" else "", **(settings or {})},
        )  # fmt: skip

    def _hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise ProgramError(f"{self.what}: {errors[-2000:].strip()}")
        return line

    def ready(self) -> None:
        """Wait until it can take its first turn."""
        self._hear()

    def turn(self) -> float:
        """Have it do its work; seconds."""
        assert self.process.stdin is not None
        print("turn", file=self.process.stdin, flush=True)
        return float(self._hear())

    def end(self) -> dict[str, Any]:
        """Memory and findings; the process ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        found: dict[str, Any] = json.loads(self._hear())
        return found


@dataclass(frozen=True)
class Side:
    """The seconds of every turn, the memory that the work took beside what was there before (MiB),
    and what it found."""

    seconds: list[float]
    memory: float
    found: dict[str, float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def of_peak(self) -> float | None:
        """The share of the machine's matrix-product peak that the work reached, where the program
        counts its arithmetic."""
        if "peak" not in self.found:
            return None
        return self.found["gigaflop"] / self.median / self.found["peak"]


@dataclass(frozen=True)
class Comparison:
    """Both sides of a program and the ratio of their turns, peer over ours: the median, and the
    smallest and the largest."""

    name: str
    peer_name: str
    sizes: dict[str, Any]
    ours: Side
    peer: Side
    ratio: float = field(init=False)
    lowest: float = field(init=False)
    highest: float = field(init=False)

    def __post_init__(self) -> None:
        both = zip(self.peer.seconds, self.ours.seconds, strict=True)
        ratios = [slow / fast for slow, fast in both]
        for key, value in (
            ("ratio", statistics.median(ratios)), ("lowest", min(ratios)), ("highest", max(ratios))
        ):  # fmt: skip
            object.__setattr__(self, key, value)


@contextmanager
def _running(*programs: Program) -> Iterator[None]:
    try:
        yield
    finally:
        for program in programs:
            program.process.kill()
            program.process.wait()


def compare(
    name: str,
    peer_name: str,
    sizes: Mapping[str, Any],
    *,
    python: Path,
    turns: int,
    warm_up: bool = True,
) -> Comparison:
    """One turn of each to warm up, unless told not to, then `turns` of each in alternation."""
    ours = Program(name, "ours", sizes, Path(sys.executable))
    peer = Program(name, "peer", sizes, python)
    with _running(ours, peer):
        for program in (ours, peer):
            program.ready()
            if warm_up:
                program.turn()
        seconds = [(ours.turn(), peer.turn()) for _ in range(turns)]
        found = [program.end()["found"] for program in (ours, peer)]
    sides = [
        Side([pair[i] for pair in seconds], memory(name, side, sizes, where), found[i])
        for i, (side, where) in enumerate((("ours", Path(sys.executable)), ("peer", python)))
    ]
    return Comparison(name, peer_name, dict(sizes), *sides)


def memory(name: str, side: str, sizes: Mapping[str, Any], python: Path) -> float:
    """What one turn takes beside what was there before, in MiB, in a process of its own that gives
    large blocks back when they are freed.  Else glibc keeps some, how many is a matter of luck: the
    same turn took between 130 and 1000 MiB."""
    give_back = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**17)}
    program = Program(name, side, sizes, python, give_back)
    with _running(program):
        program.ready()
        program.turn()
        end = program.end()
    return float(end["peak"] - end["before"])
