"""Recorded results: several seeds together, sealed, and judged again on every reading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from genbook import ledger, runs
from genbook.runs import recording, store


@pytest.fixture
def long_runs(project: Path) -> list[runs.Run]:
    requests = [runs.Request("tiny", "long", seed, engine="script") for seed in range(3)]
    return runs.execute(requests, quiet=True)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_seeds_are_aggregated(long_runs: list[runs.Run]) -> None:
    path = runs.record("tiny", "long")
    (found,) = runs.recorded("tiny")
    assert found.path == path
    assert [run["seed"] for run in found.runs] == [0, 1, 2]
    claim = found.claims["one"]
    assert claim["ours"] == pytest.approx(1.1)
    assert claim["spread"] == pytest.approx(0.1)
    assert (claim["n"], claim["verdict"]) == (3, "within band")
    speed = {"value": 4.0, "spread": 1.0, "n": 3, "unit": "m/s", "format": ".1f"}
    assert found.values["speed"] == speed
    assert found.changed == ()
    assert found.runs[1]["provenance"]["seed"] == 1
    assert runs.record("tiny", "long").read_bytes() == path.read_bytes()


def test_seeds_of_the_same_code_join_what_is_recorded(project: Path, chapter) -> None:
    def run(*seeds: int) -> None:
        runs.execute([runs.Request("tiny", "long", n, engine="script") for n in seeds], quiet=True)

    run(0, 1)
    first = runs.record("tiny", "long")
    shutil.rmtree(store.store())
    run(2)
    assert runs.record("tiny", "long") == first
    (found,) = runs.recorded("tiny")
    assert [entry["seed"] for entry in found.runs] == [0, 1, 2]
    assert found.claims["one"]["n"] == 3
    shutil.rmtree(store.store())
    chapter("\n# %%\nprint('other code')\n")
    run(2)
    runs.record("tiny", "long")
    (found,) = runs.recorded("tiny")
    assert [entry["seed"] for entry in found.runs] == [2]


@pytest.mark.parametrize(
    ("old", "new"),
    [('"ours": 1.0', '"ours": 1.02'), ('"n": 3', '"n": 4'), ('"within band"', '"reproduced"')],
)
def test_a_falsified_recorded_number_is_detected(
    long_runs: list[runs.Run], old: str, new: str
) -> None:
    edit(runs.record("tiny", "long"), old, new)
    with pytest.raises(runs.RecordedError, match="SHA-256 differs"):
        runs.recorded("tiny")


def test_a_resealed_aggregate_is_detected(long_runs: list[runs.Run]) -> None:
    path = runs.record("tiny", "long")
    content = json.loads(path.read_text())
    content["claims"]["one"]["ours"] = 1.0
    del content["sha256"]
    path.write_text(json.dumps({**content, "sha256": ledger.recorded_digest(content)}))
    with pytest.raises(runs.RecordedError, match="its runs give"):
        runs.recorded("tiny")


def test_weights_of_the_first_seed_lie_beside_the_record(
    long_runs: list[runs.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "KEPT_WITH_RECORD", ("tiny",))
    with pytest.raises(runs.RecordedError, match="seed 0 kept no weights"):
        runs.record("tiny", "long")
    for seed, run in enumerate(long_runs):
        (run.folder / runs.weights.FILE).write_bytes(b"weights %d" % seed)
    runs.record("tiny", "long")
    (found,) = runs.recorded("tiny")
    assert found.weights is not None
    assert found.weights.read_bytes() == b"weights 0"
    assert found.first().provenance["seed"] == 0
    for run in long_runs[:2]:
        shutil.rmtree(run.folder)
    runs.record("tiny", "long")
    assert runs.recorded("tiny")[0].weights == found.weights
    found.weights.write_bytes(b"other weights")
    with pytest.raises(runs.RecordedError, match="not the weights"):
        runs.recorded("tiny")


def test_verdicts_follow_the_claims_file(long_runs: list[runs.Run], project: Path) -> None:
    runs.record("tiny", "long")
    edit(project / "chapters" / "tiny.claims.toml", "within = 0.15", "within = 0.05")
    (found,) = runs.recorded("tiny")
    assert found.claims["one"]["verdict"] == "missed"
    assert found.changed == ("claims",)


def test_runs_of_other_code_are_refused_unless_wanted(
    long_runs: list[runs.Run], project: Path
) -> None:
    edit(project / "chapters" / "tiny.py", "3.0 + seed", "5.0 + seed")
    with pytest.raises(runs.RecordedError, match="before these changed: code cells"):
        runs.record("tiny", "long")
    runs.record("tiny", "long", even_if_changed=True)
    (found,) = runs.recorded("tiny")
    assert found.changed == ("code cells",)
    runs.execute([runs.Request("tiny", "long", 0, engine="script")], quiet=True)
    with pytest.raises(runs.RecordedError, match="different states of the code"):
        runs.record("tiny", "long", even_if_changed=True)


def test_recorded_runs_stand_when_another_profile_is_changed(
    project: Path, chapter: Callable[[str], None]
) -> None:
    chapter('PROFILES = {\n    "book": 1,\n    "long": 2,\n}\n')
    runs.execute([runs.Request("tiny", "long", engine="script")], quiet=True)
    edit(project / "chapters" / "tiny.py", '"book": 1', '"book": 3')
    runs.record("tiny", "long")
    assert runs.recorded("tiny")[0].changed == ()
    edit(project / "chapters" / "tiny.py", '"long": 2', '"long": 3')
    assert runs.recorded("tiny")[0].changed == ("code cells",)


def test_runs_of_another_machine_are_recorded_after_checks(
    long_runs: list[runs.Run], project: Path
) -> None:
    elsewhere = project / "elsewhere"
    shutil.copytree(store.store(), elsewhere)
    shutil.rmtree(store.store())
    with pytest.raises(runs.RecordedError, match="no run of tiny long"):
        runs.record("tiny", "long")
    runs.record("tiny", "long", places=elsewhere)
    assert len(runs.recorded("tiny")[0].runs) == 3
    edit(elsewhere / long_runs[0].folder.name / "record.json", '"ours": 1.0', '"ours": 1.01')
    with pytest.raises(runs.DamagedRunError, match=r"record\.json was changed"):
        runs.record("tiny", "long", places=elsewhere)


def test_numbers_of_a_list_are_aggregated_one_by_one() -> None:
    mean, spread = recording._mean_and_spread([[1.0, 2.0], [3.0, 2.0]])
    assert mean == [2.0, 2.0]
    assert spread == pytest.approx(2**0.5)
    assert recording._mean_and_spread([5.0]) == (5.0, None)


def test_the_ledger_takes_the_largest_profile_that_judged(
    long_runs: list[runs.Run], project: Path
) -> None:
    edit(project / "chapters" / "tiny.claims.toml", 'from = "smoke"', 'from = "long"')
    (row,) = runs.ledger_rows()
    assert (row["ours"], row["verdict"], row["run"]) == (None, "not run at this scale", None)
    runs.record("tiny", "long", even_if_changed=True)
    (row,) = runs.ledger_rows()
    assert (row["profile"], row["run"]) == ("long", "book/recorded/tiny.long.json")
    assert row["ours"] == pytest.approx(1.1)
    edit(project / "chapters" / "tiny.claims.toml", 'from = "long"', 'from = "smoke"')
    shutil.rmtree(project / "book")
    (fresh,) = runs.execute([runs.Request("tiny", "book", engine="script")], quiet=True)
    (row,) = runs.ledger_rows()
    assert (row["profile"], row["run"], row["ours"]) == ("book", fresh.folder.name, 1.0)


def test_a_chapter_sees_recorded_runs_of_larger_profiles(
    long_runs: list[runs.Run], project: Path, chapter: Callable[[str], None]
) -> None:
    shows = "\n# %%\nprint({p: len(r) for p, r in claims.recorded().items()})\n"
    chapter(shows)
    book, paper = (runs.Request("tiny", p, engine="script") for p in ("book", "paper"))
    names = [runs.identity(request).hash for request in (book, paper)]
    runs.record("tiny", "long", even_if_changed=True)
    assert runs.identity(book).hash != names[0]
    assert runs.identity(paper).hash == names[1]
    first, second = runs.execute([book, paper], quiet=True)
    assert "{'long': 3}" in (first.folder / "output.txt").read_text()
    assert "{}" in (second.folder / "output.txt").read_text()
    assert runs.recorded("tiny")[0].changed == ("code cells",)
