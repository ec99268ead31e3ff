"""What the terminal tells of a long run before it starts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from genbook import runs
from genbook.runs import forecast, store
from genbook.runs.progress import size

OWN = "; the estimate below is the run's own, after its first minute"
EPYC = {
    "wall_seconds": 4763.0, "peak_memory_mib": 1164, "processor": "AMD EPYC", "threads": 1,
}  # fmt: skip
H100 = {
    **EPYC, "wall_seconds": 628.0, "device": "cuda", "gpu": "H100", "gpu_peak_memory_mib": 640,
}  # fmt: skip


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "free", lambda: 2**31)


def finish(profile: str, known: dict[str, Any], seed: int = 0) -> Path:
    """A finished run that took this time and memory."""
    (run,) = runs.execute([runs.Request("tiny", profile, seed, engine="script")], quiet=True)
    path = run.folder / "provenance.json"
    path.write_text(json.dumps(run.provenance | known))
    return run.folder


def told(profile: str, device: str = "cpu") -> str:
    return "\n".join(forecast.told(runs.Request("tiny", profile, device=device)))


def test_a_smaller_profile_is_told_as_such(project: Path) -> None:
    assert told("paper") == f"tiny paper: no run of this profile is known{OWN}"
    finish("smoke", EPYC)
    finish("book", EPYC | {"wall_seconds": 299.0, "threads": 2})
    assert told("paper").splitlines() == [
        f"tiny paper: no run of this profile is known{OWN}",
        "tiny paper: the last run here of the book profile took 4 min 59 s and 1.1 GiB on AMD "
        "EPYC, 2 threads",
    ]
    assert forecast.told(runs.Request("tiny", "book")) == []


def test_the_newest_run_here_is_told_before_the_recorded_one(project: Path) -> None:
    finish("book", EPYC)
    older = finish("long", EPYC)
    runs.record("tiny", "long")
    finish("long", EPYC | {"wall_seconds": 200.0}, seed=1)
    os.utime(older / "provenance.json", (0, 0))
    assert told("long") == (
        "tiny long: the last run here took 3 min 20 s and 1.1 GiB on AMD EPYC, one thread"
    )
    shutil.rmtree(store.store())
    took = "took 1 h 19 min and 1.1 GiB on AMD EPYC, one thread"
    assert told("long") == f"tiny long: the recorded run {took}"
    assert told("paper").endswith(f"\ntiny paper: the recorded run of the long profile {took}")


def test_a_run_on_the_same_kind_of_device_comes_first(project: Path) -> None:
    finish("long", EPYC | {"wall_seconds": 7500.0})
    os.utime(finish("long", H100, seed=1) / "provenance.json")
    card = "10 min 28 s and 1.1 GiB (on the card 640 MiB) on H100, one thread"
    assert "took 2 h 05 min and" in told("long")
    assert told("long", "cuda:1") == f"tiny long: the last run here took {card}"
    shutil.rmtree(finish("long", EPYC))
    assert told("long") == f"tiny long: the last run here took {card} (this one is for cpu)"


def test_little_room_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "free", lambda: 700 * 2**20)
    line = f"only 700 MiB are free on the disk of {store.store()}"
    assert told("long").splitlines()[1:] == [line]
    assert forecast.told(runs.Request("tiny", "book")) == []


def test_it_is_told_once_and_before_the_runs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [runs.Request("tiny", "long", seed, engine="script") for seed in (0, 1)]
    runs.execute(requests)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"tiny long: no run of this profile is known{OWN}"
    assert not any("is known" in line for line in rest)
    runs.execute(requests)  # which are up to date
    assert "took" not in capsys.readouterr().err
    runs.execute(requests, quiet=True, force=True)
    assert capsys.readouterr().err == ""


def test_sizes_as_people_read_them() -> None:
    assert [size(n) for n in (0, 12_300, 700 * 2**20, 1023 * 2**20, 9 * 2**30)] == [
        "0 KiB", "12 KiB", "700 MiB", "1.0 GiB", "9.0 GiB",
    ]  # fmt: skip
