"""What the terminal shows of runs: the last progress line of each log, and an estimate."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import TaskID

# On something that is not a terminal, a line this often, and whenever a state changes.
LINE_SECONDS = 20.0
MARKS = {"done": "done", "kept": "up to date", "failed": "FAILED"}


class Follower:
    """Follows the `log.jsonl` of a run and estimates the time that is left."""

    def __init__(self) -> None:
        self.what = ""
        self.done: float | None = None
        self._log: Path | None = None
        self._offset = 0
        self._started = self._ended = 0.0
        self._marks: list[tuple[float, float]] = []  # when, and how much was done then
        self.expected: float | None = None

    def expect(self, seconds: float | None) -> None:
        """What an earlier run of the same chapter took: the estimate until the log has one."""
        self.expected = seconds

    def begin(self, part: Path | None = None, *, resumed: bool = False) -> None:
        """Start the clock; with a part folder, follow what is added to its log from now on."""
        self._started = time.monotonic()
        self._marks = [] if resumed else [(self._started, 0.0)]
        if part is not None:
            self._log = part / "log.jsonl"
            self._offset = self._log.stat().st_size if self._log.exists() else 0

    def read(self) -> None:
        """Take in the lines that were added to the log."""
        self._ended = time.monotonic()
        if self._log is None or not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        complete = text.rpartition(b"\n")[0]
        self._offset += len(complete) + 1 if complete else 0
        for line in complete.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("event") == "progress":
                self.what = str(entry.get("what", ""))
                self.done = entry.get("done", self.done)
                if self.done is not None:
                    self._marks.append((self._ended, self.done))

    @property
    def elapsed(self) -> float:
        return max(0.0, self._ended - self._started)

    def fraction(self) -> float | None:
        """The share of the run that is done, from the log, else from an earlier run's time."""
        if self.done is not None:
            return min(1.0, self.done)
        if self.expected:
            return min(0.99, self.elapsed / self.expected)
        return None

    def remaining(self) -> float | None:
        """Seconds left, by the speed of the second half of this attempt: the first half of a
        resumed run may fly past what its checkpoints hold."""
        if self.done is not None and self._marks:
            middle = self._started + self.elapsed / 2
            early = [mark for mark in self._marks if mark[0] <= middle]
            since, base = (early or self._marks[:1])[-1]
            if self.done > base:
                return (self._ended - since) / (self.done - base) * (1.0 - self.done)
        if self.expected:
            return max(0.0, self.expected - self.elapsed)
        return None


class Shown(Protocol):
    """What the display needs to know of a run."""

    state: str
    why: str
    follower: Follower

    @property
    def request(self) -> Any: ...


def clock(seconds: float | None) -> str:
    """Seconds as people read them: 41 s, 3 min 20 s, 2 h 05 min."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes as people read them: 12 KiB, 640 MiB, 1.2 GiB."""
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1000:
            return f"{count:.0f} {unit}"
    return f"{count / 1024:.1f} GiB"


class Display:
    """Progress on standard error: bars on a terminal, lines elsewhere, nothing when quiet."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet
        self._bars = Bars() if not quiet and sys.stderr.isatty() else None
        self._states: dict[str, str] = {}
        self._last_line = 0.0

    def __enter__(self) -> Display:
        if self._bars:
            self._bars.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.progress.stop()

    def show(self, tasks: Sequence[Shown]) -> None:
        """Show where every run stands."""
        if self._quiet:
            return
        if self._bars:
            for task in tasks:
                self._bars.update(task)
            return
        due = time.monotonic() - self._last_line > LINE_SECONDS
        for task in tasks:
            label = task.request.label()
            changed = self._states.get(label) != task.state
            if changed or (due and task.state == "running"):
                self._states[label] = task.state
                print(line(task), file=sys.stderr, flush=True)
                self._last_line = time.monotonic()


def line(task: Shown) -> str:
    """One run in one line of text."""
    follower, label = task.follower, task.request.label()
    if task.state in ("queued", "waiting"):
        return f"{label}: {task.state} ({task.why})"
    if task.state == "kept":
        return f"{label}: {MARKS['kept']}"
    if task.state in MARKS:
        return f"{label}: {MARKS[task.state]} after {clock(follower.elapsed)}"
    text = f"{label}: running for {clock(follower.elapsed)}"
    fraction = follower.fraction()
    if fraction is not None:
        text += f", {fraction:.0%} done, about {clock(follower.remaining())} left"
    return f"{text} ({follower.what})" if follower.what else text


class Bars:
    """A bar a run, by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"),
            console=Console(stderr=True), refresh_per_second=2,
        )  # fmt: skip
        self._rows: dict[str, TaskID] = {}

    def update(self, task: Shown) -> None:
        label = task.request.label()
        if label not in self._rows:
            self._rows[label] = self.progress.add_task(label, total=None, state="")
        over = task.state in MARKS
        fraction = 1.0 if over else task.follower.fraction()
        text = line(task).removeprefix(f"{label}: ")
        self.progress.update(
            self._rows[label],
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
            state=text,
        )
