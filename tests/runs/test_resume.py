"""Runs that cannot simply go on: damaged checkpoints, a full disk, another state's leftovers."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genbook import ledger, runs
from genbook.runs import resume, store

SCRIPT = runs.Request("tiny", engine="script")
# Fails in its first attempt, after it has written checkpoints.
BROKEN = """
# %%
import json, os, pathlib
import numpy as np
from safetensors.numpy import save_file

folder = pathlib.Path(os.environ["GENBOOK_RUN_DIR"])
(folder / "checkpoints").mkdir(exist_ok=True)
if not (folder / "checkpoints" / "main.safetensors").exists():
    for name in ("main", "samples"):
        notes = {"notes": json.dumps({"count": 3})} if name == "main" else None
        save_file({"x": np.zeros(99)}, folder / "checkpoints" / f"{name}.safetensors", notes)
    ledger.write_json(folder / "checkpoints" / "plane.json", {"bound": 1.0})
    for left in ("checkpoints/main.17.tmp", "checkpoints/.tmpAbCdEf", "record.json.17.tmp"):
        (folder / left).write_text("half")
    raise RuntimeError("the first attempt")
"""
FULL = """
# %%
import os, pathlib
folder = pathlib.Path(os.environ["GENBOOK_RUN_DIR"])
(folder / "checkpoints").mkdir(exist_ok=True)
(folder / "checkpoints" / "main.17.tmp").write_text("half")
"""
WRITE = 'with open("/dev/full", "w") as file:\n    file.write("x")\n'


def failure(request: runs.Request = SCRIPT) -> str:
    with pytest.raises(runs.RunFailedError) as caught:
        runs.execute([request], quiet=True)
    return str(caught.value)


def part() -> Path:
    (found,) = store.store().glob("*.part")
    return found


@pytest.fixture
def unfinished(chapter: Callable[[str], None]) -> Path:
    """The part folder of a run that has failed after it wrote checkpoints."""
    chapter(BROKEN)
    assert "the first attempt" in failure()
    return part()


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def of_another_kind(path: Path) -> None:
    save_file({"x": np.zeros(99)}, path, {"notes": '{"count": 3'})


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage", "wrong"),
    [
        ("checkpoints/main.safetensors", half, "not fully covered"),
        ("checkpoints/main.safetensors", empty, "header too small"),
        ("checkpoints/main.safetensors", of_another_kind, "delimiter"),
        ("checkpoints/samples.safetensors", half, "not fully covered"),
        ("checkpoints/plane.json", half, "Expecting"),
        ("attempts.json", empty, "Expecting"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_nothing_begins_again(
    unfinished: Path, name: str, damage: Callable[[Path], None], wrong: str
) -> None:
    damage(unfinished / name)
    before = {p: p.read_bytes() for p in unfinished.rglob("*") if p.is_file()}
    message = failure()
    assert f"{unfinished / name} is damaged: " in message
    assert wrong in message
    assert message.count(" is damaged: ") == 1
    assert "Traceback" not in message
    assert "--force" in message
    assert {p: p.read_bytes() for p in unfinished.rglob("*") if p.is_file()} == before

    (unfinished / name).unlink()
    if name.endswith("main.safetensors"):
        assert "the first attempt" in failure()  # of that training, which has begun again
    (run,) = runs.execute([SCRIPT], quiet=True)
    assert not (run.folder / "checkpoints").exists()


def test_force_does_not_look_at_what_it_deletes(unfinished: Path) -> None:
    half(unfinished / "checkpoints" / "main.safetensors")
    with pytest.raises(runs.RunFailedError, match="the first attempt"):
        runs.execute([SCRIPT], force=True, quiet=True)
    assert resume.check(unfinished) is None


def test_a_refused_attempt_takes_no_time(unfinished: Path) -> None:
    """Days may pass between the end of an attempt and the one that is refused."""
    for path in unfinished.rglob("*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 9e4))
    attempts = unfinished / "attempts.json"
    (attempt,) = json.loads(attempts.read_text())
    attempts.write_text(json.dumps([{"start": attempt["start"] - 9e4}]))
    os.utime(attempts, (attempt["start"] - 9e4,) * 2)
    measure = unfinished / "checkpoints" / "plane.json"
    measure.write_text("{")
    assert "is damaged" in failure()
    measure.unlink()
    (run,) = runs.execute([SCRIPT], quiet=True)
    assert run.provenance["attempts"] == 2
    assert run.provenance["wall_seconds"] < 100


def test_what_interrupted_writing_left_is_deleted(unfinished: Path) -> None:
    assert [p.name for p in unfinished.rglob("*tmp*")] == []  # by the attempt that failed
    (unfinished / "record.json.18.tmp").write_text("half")  # by one that was killed
    (run,) = runs.execute([SCRIPT], quiet=True)
    assert [p.name for p in run.folder.rglob("*tmp*")] == []


@pytest.mark.parametrize("engine", ["papermill", "script"])
def test_a_full_disk_is_told_in_plain_words(chapter: Callable[[str], None], engine: str) -> None:
    chapter(FULL + WRITE)
    message = failure(runs.Request("tiny", engine=engine))
    assert f"free for {part()}" in message
    assert message.startswith("tiny smoke seed 0: no room is left on the disk (OSError: [Errno 28]")
    assert "the same command goes on" in message
    assert "Traceback" not in message
    assert json.loads((part() / "failure.json").read_text())["traceback"] in message
    assert list((part() / "checkpoints").iterdir()) == []


def test_a_disk_too_full_for_the_failure_is_told_too(chapter: Callable[[str], None]) -> None:
    chapter(FULL + '(folder / "failure.json").symlink_to("/dev/full")\n' + WRITE)
    assert "no room is left on the disk (OSError: [Errno 28]" in failure()
    chapter(FULL + '(folder / "failure.json" / "x").mkdir(parents=True)\nraise OSError(28, "?")\n')
    shutil.rmtree(part())
    message = failure(runs.Request("tiny"))  # where only the worker writes it, and cannot
    assert "no room is left on the disk (OSError: [Errno 28] ?)" in message
    assert [p.name for p in part().rglob("*.tmp")] == []


def test_a_disk_that_fills_while_a_run_is_sealed_costs_no_checkpoint(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project / "tiny.part"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "main.json").write_text("1")
    known = {"chapter": "tiny", "profile": "smoke", "seed": 0}
    (folder / "record.json").write_text(json.dumps(known))

    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_json", full)
        with pytest.raises(OSError, match="No space"):
            store.finish(folder, known)
    assert resume.checkpoints(folder)
    assert not (store.finish(folder, known) / "checkpoints").exists()


@pytest.mark.parametrize(
    ("line", "full"),
    [
        ("OSError: [Errno 28] No space left on device: '/x/y'", True),
        (f"OSError: [Errno {errno.EDQUOT}] Disk quota exceeded", True),
        (
            "safetensors_rust.SafetensorError: Error while serializing: I/O error: No space left "
            "on device (os error 28)",
            True,
        ),
        ("OSError: [Errno 2] No such file or directory", False),
        ("    print('OSError: [Errno 28] No space left on device')\nValueError: 3", False),
    ],
)
def test_a_full_disk_is_known_by_its_number(
    project: Path, monkeypatch: pytest.MonkeyPatch, line: str, full: bool
) -> None:
    monkeypatch.setattr(store, "free", lambda: 12 * 2**10)
    said = resume.full_disk(f"Traceback (most recent call last):\n{line}\n", project)
    assert (said is not None) == full
    if said:
        assert line in said
        assert f"12 KiB are free for {project}" in said


def test_an_unfinished_run_of_another_state_is_told(
    unfinished: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(request: runs.Request = SCRIPT) -> str:
        with pytest.raises(runs.RunFailedError):
            runs.execute([request])
        lines = capsys.readouterr().err.splitlines()
        return "\n".join(line for line in lines if "begins" in line)

    def edit(name: str, old: str, new: str) -> None:
        path = project / "chapters" / name
        path.write_text(path.read_text().replace(old, new))

    edit("tiny.claims.toml", "within = 0.15", "within = 0.2")
    assert told() == (
        "tiny smoke seed 0: begins from the beginning; an unfinished run of another state "
        f"(changed since: claims) is in {unfinished}"
    )
    assert told(runs.Request("tiny", seed=1, engine="script")) == ""  # of this seed, nothing is
    newest = store.part_of(store.folder_of(SCRIPT, runs.identity(SCRIPT)))
    os.utime(unfinished, (0, 0))
    edit("tiny.py", "the first attempt", "an attempt")
    both = f"(changed since: code cells, engine) is in {newest} and 1 older"
    assert told(runs.Request("tiny")).endswith(both)


def test_a_run_that_goes_on_is_not_told_of_others(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = unfinished.with_name("tiny-smoke-s0-0123456789ab.part")
    shutil.copytree(unfinished, other)
    assert resume.left_behind(SCRIPT, runs.identity(SCRIPT)) == []
    shutil.rmtree(unfinished / "checkpoints")
    (line,) = resume.left_behind(SCRIPT, runs.identity(SCRIPT))
    assert str(other) in line
    (other / "identity.json").unlink()
    (line,) = resume.left_behind(SCRIPT, runs.identity(SCRIPT))
    assert "another state (it did not note which) is in" in line
    shutil.rmtree(other / "checkpoints")
    assert resume.left_behind(SCRIPT, runs.identity(SCRIPT)) == []
    failure()
    assert capsys.readouterr().err == ""  # quiet
