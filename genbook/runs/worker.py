"""One run in a process of its own, started by the scheduler.

The first line on standard input is the job.  The scheduler keeps that pipe open; when it closes
(the run is cancelled, or the scheduler was killed) the worker ends its children and itself.
Events go to standard output, one JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from filelock import FileLock, Timeout

from genbook import ledger
from genbook.runs import engines, provenance, resume, store, weights
from genbook.runs.chapter import ChapterError
from genbook.runs.identity import Identity, Request, differing, identity

FAILED = 1


class Worker:
    """The life of one run: lock, snapshot, execution under a time limit, seal."""

    def __init__(self, job: dict[str, Any]):
        self.request = Request(**job["request"])
        self.force: bool = job["force"]
        self.timeout: float | None = job["timeout"]
        self.timed_out = False
        self.begun = False  # whether this attempt is noted, and its end is to be dated
        self.identity: Identity = identity(self.request, fingerprints=job["data"])
        self.folder = store.folder_of(self.request, self.identity)
        self.part = store.part_of(self.folder)

    def run(self) -> int:
        store.store().mkdir(parents=True, exist_ok=True)
        locks = store.store() / ".locks"
        locks.mkdir(exist_ok=True)
        lock = FileLock(locks / f"{self.folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _event("waiting", why="another process is running it")
            lock.acquire(poll_interval=0.2)
            self.force = False
        with lock:
            if self.folder.exists() and not self.force:
                _event("finished", folder=str(self.folder), new=False)
                return 0
            if self.force:
                shutil.rmtree(self.part, ignore_errors=True)
            try:
                return self._execute()
            except Exception as error:  # whatever it is, the scheduler reports it with the folder
                return self._fail(error)

    def _execute(self) -> int:
        resume.check(self.part)
        earlier, attempts = self._start_attempt()
        known = provenance.gather(self.request, self.identity, ledger.ROOT)
        engines.write_snapshot(self.identity, self.part)
        for stale in ("failure.json", "stderr.txt"):
            (self.part / stale).unlink(missing_ok=True)
        _event("started", part=str(self.part), resumed=attempts > 1)
        started = time.monotonic()
        limit = threading.Timer(self.timeout or 0, self._stop_at_limit)
        if self.timeout:
            limit.daemon = True
            limit.start()
        run = {"papermill": engines.run_papermill, "script": engines.run_script}
        more = run[self.request.engine](self.request, self.part)
        wall = earlier + time.monotonic() - started
        limit.cancel()
        weights.keep(self.request, self.part)
        folder = store.finish(
            self.part,
            {
                **known,
                **provenance.accelerator(self.request.device),
                **more,
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "wall_seconds": round(wall, 1),
                "attempts": attempts,
                "peak_memory_mib": provenance.peak_memory_mib(),
            },
        )
        _event("finished", folder=str(folder), new=True)
        return 0

    def _start_attempt(self) -> tuple[float, int]:
        """Note this attempt; returns the seconds that earlier ones ran and their count plus one."""
        self.part.mkdir(exist_ok=True)
        path = self.part / "attempts.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        if known:
            last = max(p.stat().st_mtime for p in self.part.rglob("*") if p.is_file())
            known[-1]["seconds"] = max(0.0, last - known[-1]["start"])
        resume.sweep(self.part)
        ledger.write_json(path, [*known, {"start": time.time()}])
        self.begun = True
        resume.note_identity(self.identity, self.part)
        return sum(a["seconds"] for a in known), len(known) + 1

    def _stop_at_limit(self) -> None:
        self.timed_out = True
        end_children()

    def _fail(self, error: Exception) -> int:
        failure: dict[str, Any] = {"cell": None, "source": "", "timed_out": self.timed_out}
        if self.timed_out:
            failure["traceback"] = f"stopped at the wall-clock limit of {self.timeout:g} s"
        elif isinstance(error, engines.CellError):
            failure |= {k: getattr(error, k) for k in ("cell", "source", "traceback")}
        elif isinstance(error, ChapterError | store.DamagedRunError | ledger.ClaimsError):
            failure["traceback"] = str(error)
        else:
            failure["traceback"] = "".join(traceback.format_exception(error))
        if full := resume.full_disk(failure["traceback"], self.part):
            failure |= {"cell": None, "source": "", "traceback": full}
        if self.begun:
            with contextlib.suppress(OSError):  # there may be no room; the event says it all
                ledger.write_json(self.part / "failure.json", failure)
        resume.sweep(self.part)
        _event("failed", part=str(self.part), failure=failure)
        return FAILED


def _event(kind: str, **fields: Any) -> None:
    print(json.dumps({"event": kind, **fields}), flush=True)


def end_children() -> None:
    """Kill every process that this one started, theirs included where psutil is at hand (it
    comes with Jupyter; without it the only child is the script's own process)."""
    for process in engines.PROCESSES:
        process.kill()
    try:
        import psutil
    except ImportError:
        return
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _end_with_scheduler() -> None:
    while os.read(0, 4096):
        pass
    end_children()
    os._exit(1)


def main() -> int:
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_scheduler, daemon=True).start()
    worker = Worker(job)
    if changed := differing(job["parts"], worker.identity.parts):
        _event("changed", parts=changed)
        return FAILED
    return worker.run()


def job(request: Request, name: Identity, force: bool, timeout: float | None) -> bytes:
    """The first line of a worker's standard input."""
    content = {
        "request": asdict(request), "parts": dict(name.parts), "data": name.data,
        "force": force, "timeout": timeout,
    }  # fmt: skip
    return json.dumps(content).encode() + b"\n"
