"""Several runs side by side, each a worker process, with progress and an estimate.

The scheduler only starts workers, reads their events and the log of their chapter, and reports.
Ctrl-C, an exception or `kill -9` of the scheduler closes the workers' pipes, on which they end;
their part folders stay, and the next call goes on from them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbook import ledger
from genbook.runs import forecast, resume, store, worker
from genbook.runs.chapter import data_of
from genbook.runs.identity import PACKAGE, Identity, Request, identity
from genbook.runs.progress import Display, Follower

if TYPE_CHECKING:
    from genbook.runs.cluster import Cluster

WORKER = "import sys; from genbook.runs.worker import main; sys.exit(main())"
POLL_SECONDS = 0.25
# How long a cancelled worker may take to end its kernel before it is killed itself.
GRACE_SECONDS = 5.0


class RunFailedError(Exception):
    """One or more runs failed; the message says which, where, and what is left of them."""

    def __init__(self, failures: Sequence[str], timed_out: bool):
        super().__init__("\n\n".join(failures))
        self.timed_out = timed_out


def start_process(job: bytes, root: Path) -> subprocess.Popen[bytes]:
    """A worker process for a run; what it says can be read without waiting."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", WORKER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "GENBOOK_ROOT": str(root)},
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(job)
    process.stdin.flush()
    for stream in (process.stdout, process.stderr):
        os.set_blocking(stream.fileno(), False)
    return process


@dataclass
class Task:
    """A request on its way: `queued`, `waiting`, `running`, then `done`, `kept` or `failed`."""

    request: Request
    identity: Identity
    why: str = ""
    state: str = "queued"
    folder: Path | None = None
    where: str = ""  # the machine of a cluster that has it
    failure: str = ""
    timed_out: bool = False
    follower: Follower = field(default_factory=Follower)
    _process: subprocess.Popen[bytes] | None = None
    _pending: bytes = b""
    _errors: bytes = b""

    def start(self, force: bool, timeout: float | None) -> None:
        """Start the worker; its events and the end of its life are seen by `poll`."""
        job = worker.job(self.request, self.identity, force, timeout)
        self._process = start_process(job, ledger.ROOT)
        self.state = "running"
        self.follower.begin()

    def poll(self) -> None:
        """Take in what the worker has said, and the progress that the chapter has logged."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        code = self._process.poll()
        self._pending += self._process.stdout.read() or b""
        self._errors += self._process.stderr.read() or b""
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            self._hear(json.loads(line))
        self.follower.read()
        if code is not None and self.state in ("running", "waiting"):
            self._fail(f"its worker ended with status {code}\n{self._errors.decode()[-4000:]}")

    def _hear(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "waiting":
                self.state, self.why = "waiting", event["why"]
            case "started":
                self.state = "running"
                self.follower.begin(Path(event["part"]), resumed=event["resumed"])
            case "finished":
                self.state = "done" if event["new"] else "kept"
                self.folder = Path(event["folder"])
            case "accepted":
                self.state, self.where = "running", event["where"]
            case "changed":
                where = f"on {self.where} it has another state of" if self.where else "changed:"
                self._fail(f"not the run that was asked for; {where} {', '.join(event['parts'])}")
            case "failed":
                self._explain(event["part"], event["failure"])

    def _explain(self, part: str, failure: dict[str, Any]) -> None:
        self.timed_out = failure["timed_out"]
        text = failure["traceback"].rstrip()
        if failure["cell"]:
            indented = "\n".join(f"    {line}" for line in failure["source"].splitlines())
            text = f"code cell {failure['cell']} failed:\n\n{indented}\n\n{text}"
        self._fail(f"{text}\nwhat it left, checkpoints included, is kept in {part}")

    def _fail(self, reason: str) -> None:
        self.state, self.failure = "failed", f"{self.request.label()}: {reason}"

    def cancel(self) -> None:
        """Close the worker's pipe: it ends its children and itself."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def reap(self) -> None:
        """Wait for a cancelled or finished worker; kill it when it does not end."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def execute(
    requests: Sequence[Request],
    *,
    jobs: int = 2,
    timeout: float | None = None,
    force: bool = False,
    quiet: bool = False,
    cluster: str | None = None,
) -> list[store.Run]:
    """Make these runs, `jobs` side by side, and return them in order; those that are finished
    already are not run again unless `force`.  With the address of a dask scheduler they all go to
    its `cluster`, which has as many side by side as it has workers.

    `timeout` is a wall-clock limit in seconds for each run. All requests are tried before
    `RunFailedError` tells of those that failed. Missing data is fetched first.
    """
    with contextlib.ExitStack() as stack:
        new: Callable[[Request, Identity], Task] = Task
        if cluster:
            new = stack.enter_context(contextlib.closing(_cluster(cluster))).task
        tasks = [_task(new, request, force) for request in dict.fromkeys(requests)]
        _fetch(tasks, quiet)
        if not quiet:
            _tell(tasks)
        display = stack.enter_context(Display(quiet))
        try:
            _run(tasks, len(tasks) if cluster else jobs, timeout, force, display)
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                task.reap()
    failures = [task.failure for task in tasks if task.failure]
    if failures:
        raise RunFailedError(failures, all(t.timed_out for t in tasks if t.failure))
    return [store.read(task.folder) for task in tasks if task.folder is not None]


def _cluster(address: str) -> Cluster:
    from genbook.runs.cluster import Cluster  # imports dask, which nothing else needs

    return Cluster(address)


def _task(new: Callable[[Request, Identity], Task], request: Request, force: bool) -> Task:
    name = identity(request)
    folder = store.folder_of(request, name)
    task = new(request, name)
    if folder.is_dir() and not force:
        store.read(folder)
        task.state, task.folder = "kept", folder
    else:
        task.why = "forced" if folder.is_dir() else store.why_new(request, name)
        task.follower.expect(store.last_seconds(request))
    return task


def _fetch(tasks: Sequence[Task], quiet: bool) -> None:
    """Bring the data that the queued runs need; an error of the data room says what to do."""
    wanted = data_of(task.request.chapter for task in tasks if task.state == "queued")
    if not wanted:
        return
    from genbook import data

    for name in wanted:
        data.fetch(name, progress=None if quiet else data.to_stderr)


def _tell(tasks: Sequence[Task]) -> None:
    """What should be known before the runs start, each line once."""
    lines = [
        line
        for task in tasks
        if task.state == "queued"
        for line in (*resume.left_behind(task.request, task.identity), *forecast.told(task.request))
    ]
    for line in dict.fromkeys(lines):
        print(line, file=sys.stderr, flush=True)


def _run(
    tasks: Sequence[Task], jobs: int, timeout: float | None, force: bool, display: Display
) -> None:
    """Keep `jobs` workers going until every task is over.  What takes longest comes first, so that
    no worker is left alone with it at the end; a run of unknown length may be long."""
    active: list[Task] = []
    queued = [task for task in tasks if task.state == "queued"]
    queued.sort(key=lambda task: -(task.follower.expected or math.inf))
    display.show(tasks)
    while queued or active:
        while queued and len(active) < max(1, jobs):
            task = queued.pop(0)
            task.start(force, timeout)
            active.append(task)
        time.sleep(POLL_SECONDS)
        for task in active:
            task.poll()
        active = [task for task in active if task.state in ("running", "waiting")]
        display.show(tasks)
