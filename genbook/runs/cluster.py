"""Runs on a cluster: a dask scheduler chooses the machine that starts a run's worker process.

The project's folder, its environment and the data cache must be at the same place on every machine,
as they are on a shared file system: runs, their checkpoints and their logs are the files of a local
run.  A machine that is lost costs the steps since the last checkpoint; dask hands its run to
another, which goes on from there.  A run on a GPU takes one unit of the resource `GPU`.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genbook import ledger
from genbook.runs import worker
from genbook.runs.chapter import ChapterError
from genbook.runs.identity import Identity, Request
from genbook.runs.schedule import GRACE_SECONDS, POLL_SECONDS, Task, start_process

CONNECT_SECONDS = 10.0
STOP_SECONDS = 1.0  # between two questions whether the runs were cancelled


@dataclass
class ClusterTask(Task):
    """A request that dask has: `waiting` until a machine says that it has taken it."""

    cluster: Cluster | None = None
    heard: deque[str] = field(default_factory=deque)
    _future: Any = None

    def start(self, force: bool, timeout: float | None) -> None:
        """Submit the run."""
        assert self.cluster is not None
        self._future = self.cluster.submit(
            self, worker.job(self.request, self.identity, force, timeout)
        )
        self.state, self.why = "waiting", "for a machine of the cluster"
        self.follower.begin()

    def poll(self) -> None:
        """Take in what the machine has said, and the progress that the chapter has logged."""
        while self.heard:
            self._hear(json.loads(self.heard.popleft()))
        self.follower.read()
        if not self._future.done() or self.state not in ("running", "waiting"):
            return
        if self._future.status != "finished":
            self._fail(f"the cluster gave it up: {self._future.exception()}")
            return
        status, lines, errors = self._future.result()
        for line in lines[-1:]:  # the last word may come before the event that carries it
            self._hear(json.loads(line))
        if self.state in ("running", "waiting"):
            self._fail(f"its worker ended with status {status}\n{errors}")

    def cancel(self) -> None:
        """Take it out of dask's queue, or have the machine that has it end it."""
        if self._future is None or self._future.done():
            return
        assert self.cluster is not None
        if self.where:
            self.cluster.stop()
        else:
            self._future.cancel()

    def reap(self) -> None:
        """Wait until the run has ended on its machine."""
        end = time.monotonic() + STOP_SECONDS + GRACE_SECONDS
        while self._future is not None and not self._future.done() and time.monotonic() < end:
            time.sleep(POLL_SECONDS)


class Cluster:
    """A connection to a dask scheduler: an address such as tcp://host:8786, or the path of a
    scheduler file."""

    def __init__(self, address: str):
        try:
            from distributed import Client
        except ImportError:
            raise ChapterError("--cluster needs dask: pip install distributed") from None
        where = {"scheduler_file" if Path(address).is_file() else "address": address}
        try:
            self.client = Client(**where, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ChapterError(f"no dask scheduler at {address}: {error}") from error
        self.name = f"genbook-{uuid.uuid4().hex[:8]}"
        self.tasks: list[ClusterTask] = []
        self.client.subscribe_topic(self.name, self._heard)

    def close(self) -> None:
        """End the connection; runs that were not told to stop go on."""
        self.client.close()

    def task(self, request: Request, name: Identity) -> ClusterTask:
        """A request to be run here."""
        self.tasks.append(ClusterTask(request, name, cluster=self))
        return self.tasks[-1]

    def submit(self, task: ClusterTask, job: bytes) -> Any:
        """The future of a run."""
        gpu = task.request.device.startswith("cuda")
        return self.client.submit(
            work, job, str(ledger.ROOT), self.name, self.tasks.index(task),
            key=f"{self.name}-{task.identity.hash}", resources={"GPU": 1} if gpu else None,
        )  # fmt: skip

    def stop(self) -> None:
        """Tell the runs of this connection to end."""
        from distributed import Event

        Event(f"{self.name}-stop", client=self.client).set()

    def _heard(self, event: tuple[float, Any]) -> None:
        _, message = event
        self.tasks[message["task"]].heard.append(message["line"])


def work(job: bytes, root: str, name: str, task: int) -> tuple[int, Sequence[str], str]:
    """On a machine of the cluster: run the worker process, pass on what it says, and end it when
    the runs of this name are cancelled.  Returns its exit status, its events, its last errors."""
    from distributed import Event, get_worker

    here, stop = get_worker(), Event(f"{name}-stop")

    def say(line: str) -> None:
        here.log_event(name, {"task": task, "line": line})

    say(json.dumps({"event": "accepted", "where": socket.gethostname()}))
    process = start_process(job, Path(root))
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []
    pending = errors = b""
    asked = time.monotonic()
    while True:
        code = process.poll()
        pending += process.stdout.read() or b""
        errors += process.stderr.read() or b""
        *complete, pending = pending.split(b"\n")
        for line in complete:
            lines.append(line.decode())
            say(lines[-1])
        if code is not None:
            return code, lines, errors.decode()[-4000:]
        if time.monotonic() - asked > STOP_SECONDS:
            asked = time.monotonic()
            if stop.is_set() and not process.stdin.closed:
                process.stdin.close()
        time.sleep(POLL_SECONDS)
