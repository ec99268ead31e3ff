"""Runs side by side, interrupted, killed, resumed, and watched."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, LocalCluster

from genbook import ledger, runs
from genbook.runs import cluster, store
from genbook.runs.identity import PACKAGE
from genbook.runs.progress import Follower, clock, line
from genbook.runs.schedule import Task

SLOW = """
# %%
import json, os, pathlib, time
folder = pathlib.Path(os.environ["GENBOOK_RUN_DIR"])
checkpoint = folder / "checkpoints" / "step.json"
checkpoint.parent.mkdir(exist_ok=True)
with (folder / "pids").open("a") as stream:
    stream.write(f"{os.getpid()}\\n")
step = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
claims.value("from", step, unit="", format=".0f")
started = time.time()
while step < STEPS:
    time.sleep(0.05)
    step += 1
    checkpoint.with_suffix(".tmp").write_text(json.dumps(step))
    checkpoint.with_suffix(".tmp").replace(checkpoint)
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({"event": "progress", "what": "steps", "done": step / STEPS}) + "\\n")
claims.value("took", time.time() - started, unit="s", format=".1f")
claims.value("start", started, unit="s", format=".1f")
"""


def genbook(project: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "GENBOOK_ROOT": str(project)}
    return subprocess.Popen(
        [sys.executable, "-m", "genbook", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A build in the background may have SIGINT ignored, which children would inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def part() -> Path | None:
    return next(iter(store.store().glob("*.part")), None)


def steps() -> int:
    found = part()
    checkpoint = found and found / "checkpoints" / "step.json"
    return int(checkpoint.read_text() or 0) if checkpoint and checkpoint.exists() else 0


def chapter_pid() -> int:
    found = part()
    assert found is not None
    return int((found / "pids").read_text().split()[-1])


def test_two_runs_go_side_by_side_and_one_after_another(
    project: Path, chapter: Callable[[str], None]
) -> None:
    chapter(SLOW.replace("STEPS", "20"))
    requests = [runs.Request("tiny", seed=seed, engine="script") for seed in (0, 1)]
    (start, end), (other, _) = [times(run) for run in runs.execute(requests, quiet=True)]
    assert other < end
    again = runs.execute(requests, jobs=1, force=True, quiet=True)
    # The one that took longer before goes first.
    (start, end), (other, _) = sorted(times(run) for run in again)
    assert start < end <= other


def times(run: runs.Run) -> tuple[float, float]:
    start, took = (run.record["values"][name]["value"] for name in ("start", "took"))
    return start, start + took


def test_one_failure_does_not_stop_the_others(
    project: Path, chapter: Callable[[str], None]
) -> None:
    chapter("\n# %%\nassert seed != 1\n")
    requests = [runs.Request("tiny", seed=seed, engine="script") for seed in (1, 0, 2)]
    with pytest.raises(runs.RunFailedError, match="tiny smoke seed 1: code cell 3"):
        runs.execute(requests, jobs=1, quiet=True)
    assert [runs.find(request) is not None for request in requests] == [False, True, True]


def test_two_processes_share_one_run(project: Path, chapter: Callable[[str], None]) -> None:
    chapter(SLOW.replace("STEPS", "15"))
    both = [genbook(project, "run", "tiny", "--engine", "script") for _ in range(2)]
    said = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert any("waiting (another process is running it)" in errors for _, errors in said)
    run = runs.find(runs.Request("tiny", engine="script"))
    assert run is not None
    assert run.provenance["attempts"] == 1


@pytest.mark.parametrize(
    ("how", "engine"),
    [(signal.SIGINT, "papermill"), (signal.SIGKILL, "papermill"), (signal.SIGKILL, "script")],
)
def test_an_interrupted_run_ends_at_once_and_is_resumed(
    project: Path, chapter: Callable[[str], None], how: signal.Signals, engine: str
) -> None:
    chapter(SLOW.replace("STEPS", "40"))
    process = genbook(project, "run", "tiny", "--engine", engine)
    wait_for(lambda: steps() >= 20)
    pid = chapter_pid()
    process.send_signal(how)
    _, errors = process.communicate(timeout=20)
    wait_for(lambda: not alive(pid), 5.0)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted" in errors
    request = runs.Request("tiny", engine=engine)
    assert runs.find(request) is None
    (run,) = runs.execute([request], quiet=True)
    assert run.provenance["attempts"] == 2
    assert run.record["values"]["from"]["value"] >= 20
    assert run.provenance["wall_seconds"] > run.record["values"]["took"]["value"] + 0.9
    assert part() is None


def test_lines_tell_state_share_and_estimate(project: Path, chapter: Callable[[str], None]) -> None:
    chapter(SLOW.replace("STEPS", "12"))
    process = genbook(project, "run", "tiny", "--engine", "script")
    output, errors = process.communicate(timeout=30)
    assert [entry.partition(": ")[2].split()[0] for entry in errors.splitlines()] == [
        "queued", "running", "done",
    ]  # fmt: skip
    again, errors = genbook(project, "run", "tiny", "--engine", "script").communicate(timeout=30)
    assert again == output
    assert errors == "tiny smoke seed 0: up to date\n"


def log(folder: Path, *entries: object) -> None:
    with (folder / "log.jsonl").open("a") as stream:
        stream.writelines(json.dumps(entry) + "\n" for entry in entries)


def test_the_estimate_goes_by_the_latest_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    follower = Follower()
    follower.expect(40.0)
    follower.begin(tmp_path)
    now[0] = 110.0
    follower.read()
    assert (follower.fraction(), follower.remaining()) == (0.25, 30.0)
    log(tmp_path, {"event": "progress", "what": "AEVB", "done": 0.2}, {"event": "step"})
    follower.read()
    assert (follower.what, follower.fraction(), follower.remaining()) == ("AEVB", 0.2, 40.0)
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"event": "progress", "do')
    follower.read()
    assert follower.fraction() == 0.2
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('ne": 0.5}\n')
    now[0] = 120.0
    follower.read()
    assert follower.fraction() == 0.5
    assert follower.remaining() == pytest.approx(10.0 / 0.3 * 0.5)  # 0.2 to 0.5 in 10 seconds


def test_a_resumed_run_is_estimated_from_where_it_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log(tmp_path, {"event": "progress", "done": 0.4})
    follower = Follower()
    follower.begin(tmp_path, resumed=True)
    follower.read()
    assert follower.fraction() is None
    log(tmp_path, {"event": "progress", "done": 0.5})
    now[0] = 5.0
    follower.read()
    log(tmp_path, {"event": "progress", "done": 0.75})
    now[0] = 15.0
    follower.read()
    assert follower.remaining() == pytest.approx(10.0)
    log(tmp_path, {"event": "progress", "done": 0.8})
    now[0] = 45.0
    follower.read()  # 0.05 in 30 seconds: what went fast before tells nothing of the rest
    assert follower.remaining() == pytest.approx(120.0)


def test_a_line_says_what_is_left(project: Path, tmp_path: Path) -> None:
    request = runs.Request("tiny", "book", 3)
    task = Task(request, runs.identity(request), state="running")
    task.follower.begin(tmp_path)
    log(tmp_path, {"event": "progress", "what": "AEVB Nz=20", "done": 0.5})
    task.follower.read()
    assert line(task) == (
        "tiny book seed 3: running for 0 s, 50% done, about 0 s left (AEVB Nz=20)"
    )
    assert [clock(s) for s in (None, 41.2, 200, 7500)] == [
        "?", "41 s", "3 min 20 s", "2 h 05 min",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def dask() -> Iterator[str]:
    """The address of a scheduler with two workers, each a process that takes one run."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as here:
        yield here.scheduler_address


def test_a_cluster_leaves_the_files_of_a_local_run(project: Path, dask: str) -> None:
    requests = [runs.Request("tiny", seed=seed, engine="script") for seed in (0, 1, 2)]
    there = runs.execute(requests, cluster=dask, quiet=True)
    assert [run.record["seed"] for run in there] == [0, 1, 2]
    found = [(run.folder, (run.folder / "record.json").read_bytes()) for run in there]
    files = [sorted(p.name for p in run.folder.rglob("*")) for run in there]
    here = runs.execute(requests, force=True, quiet=True)
    assert [(run.folder, (run.folder / "record.json").read_bytes()) for run in here] == found
    assert [sorted(p.name for p in run.folder.rglob("*")) for run in here] == files


def test_a_run_whose_worker_is_killed_is_finished_by_another(
    project: Path, chapter: Callable[[str], None], dask: str
) -> None:
    chapter(SLOW.replace("STEPS", "40"))
    process = genbook(project, "run", "tiny", "--engine", "script", "--cluster", dask)
    wait_for(lambda: steps() >= 15)
    pid = chapter_pid()
    psutil.Process(pid).parents()[1].kill()  # of the chapter: the run's process, dask's worker
    said, errors = process.communicate(timeout=40)
    assert process.returncode == 0, errors
    assert not alive(pid)
    run = runs.find(runs.Request("tiny", engine="script"))
    assert run is not None
    assert said.strip() == str(run.folder)
    assert run.provenance["attempts"] == 2
    assert run.record["values"]["from"]["value"] >= 15


def test_an_interrupt_ends_the_runs_of_a_cluster(
    project: Path, chapter: Callable[[str], None], dask: str
) -> None:
    chapter(SLOW.replace("STEPS", "400"))
    process = genbook(project, "run", "tiny", "--seeds", "0..5", "--engine", "script",
                      "--cluster", dask)  # fmt: skip
    wait_for(lambda: steps() >= 3)
    pid = chapter_pid()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    wait_for(lambda: not alive(pid), 5.0)
    before = len(list(store.store().glob("*.part")))
    time.sleep(1.0)
    assert len(list(store.store().glob("*.part"))) == before <= 2


def test_a_failure_on_a_cluster_is_told_as_a_local_one(
    project: Path, chapter: Callable[[str], None], dask: str
) -> None:
    chapter("\n# %%\nassert seed != 1\n")
    requests = [runs.Request("tiny", seed=seed, engine="script") for seed in (0, 1)]
    with pytest.raises(runs.RunFailedError, match="tiny smoke seed 1: code cell 3 failed"):
        runs.execute(requests, cluster=dask, quiet=True)
    assert runs.find(requests[0]) is not None


def test_another_state_of_the_sources_is_refused(
    project: Path, chapter: Callable[[str], None], dask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")  # of this process alone
    with pytest.raises(runs.RunFailedError, match="another state of python"):
        runs.execute([runs.Request("tiny", engine="script")], cluster=dask, quiet=True)


def test_a_run_on_a_gpu_asks_the_cluster_for_one(
    project: Path, dask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(Client, "submit", lambda *_, resources, **__: asked.append(resources))
    with contextlib.closing(cluster.Cluster(dask)) as connected:
        for device in ("cpu", "cuda", "cuda:1"):
            request = runs.Request("tiny", device=device)
            connected.task(request, runs.identity(request)).start(False, None)
    assert asked == [None, {"GPU": 1}, {"GPU": 1}]


def test_without_a_scheduler_the_message_says_so(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.3)
    with pytest.raises(runs.ChapterError, match=r"no dask scheduler at tcp://127\.0\.0\.1:9"):
        runs.execute([runs.Request("tiny")], cluster="tcp://127.0.0.1:9", quiet=True)


def test_the_longest_run_comes_first(
    project: Path, chapter: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("long", "new", "short"):
        for end in (".py", ".claims.toml"):
            text = (project / "chapters" / f"tiny{end}").read_text()
            (project / "chapters" / f"{name}{end}").write_text(text.replace('"tiny"', f'"{name}"'))
    build = {"profile": "smoke", "chapters": {"short": 1.0, "tiny": 2.0, "long": 3.0}}
    recorded = project / "book" / "recorded" / "build.json"
    recorded.parent.mkdir(parents=True)
    recorded.write_text(json.dumps({**build, "sha256": ledger.recorded_digest(build)}))
    started = []
    start = Task.start

    def noted(task: Task, force: bool, timeout: float | None) -> None:
        started.append(task.request.chapter)
        start(task, force, timeout)

    monkeypatch.setattr(Task, "start", noted)
    wanted = [runs.Request(name, engine="script") for name in ("tiny", "short", "new", "long")]
    made = runs.execute(wanted, jobs=1, quiet=True)
    assert started == ["new", "long", "tiny", "short"]
    assert [run.provenance["chapter"] for run in made] == ["tiny", "short", "new", "long"]
    assert store.last_seconds(runs.Request("tiny", "book", engine="script")) is None
