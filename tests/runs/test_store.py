"""A finished run is only read when nobody has touched it since it was sealed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genbook import ledger
from genbook.runs import store
from genbook.runs.identity import Request, digest, identity

SMOKE = Request("tiny")


def bundle(name: str, row: dict[str, Any]) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {ledger.BUNDLE_MIME: {"id": name, **row}}}


@pytest.fixture
def run(project: Path) -> Path:
    """A run made by hand: record and notebook agree."""
    claim = {"ours": 1.0, "spread": None, "verdict": "within band"}
    value = {"value": 3.0, "unit": "m/s", "format": ".1f"}
    record = {
        "chapter": "tiny", "profile": "smoke", "seed": 0, "settings": {},
        "claims": {"one": claim}, "values": {"speed": value}, "series": {},
    }  # fmt: skip
    outputs = [bundle("one", claim), bundle("speed", value)]
    notebook = {"cells": [{"cell_type": "code", "outputs": outputs}]}
    name = identity(SMOKE)
    part = store.part_of(store.folder_of(SMOKE, name))
    (part / "checkpoints").mkdir(parents=True)
    (part / "figures").mkdir()
    (part / "record.json").write_text(json.dumps(record))
    (part / "notebook.ipynb").write_text(json.dumps(notebook))
    known = {
        "chapter": "tiny", "profile": "smoke", "seed": 0, "device": "cpu", "engine": "papermill",
        "identity": {"hash": name.hash, "parts": dict(name.parts)}, "wall_seconds": 4.0,
    }  # fmt: skip
    return store.finish(part, known)


def reseal(folder: Path) -> None:
    """What a careful forger does: make the hashes fit."""
    provenance = json.loads((folder / "provenance.json").read_text())
    for name in provenance["sha256"]:
        provenance["sha256"][name] = digest((folder / name).read_bytes())
    (folder / "provenance.json").write_text(json.dumps(provenance))


def falsify(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_finished_run_is_found(run: Path) -> None:
    found = store.find(SMOKE)
    assert found is not None
    assert found.folder == run
    assert found.record["claims"]["one"]["ours"] == 1.0
    assert not (run / "checkpoints").exists()
    assert (run / "figures").is_dir()
    assert store.find(Request("tiny", "book")) is None
    assert store.latest_chapter_runs("smoke")["tiny"] == found


@pytest.mark.parametrize("file", ["record.json", "notebook.ipynb"])
def test_a_falsified_number_is_detected(run: Path, file: str) -> None:
    falsify(run / file, '"ours": 1.0', '"ours": 1.1')
    with pytest.raises(store.DamagedRunError, match=f"{file} was changed"):
        store.find(SMOKE)


@pytest.mark.parametrize("file", ["record.json", "notebook.ipynb"])
@pytest.mark.parametrize(
    ("old", "new"), [('"ours": 1.0', '"ours": 1.1'), ('"value": 3.0', '"value": 4.0')]
)
def test_a_falsified_and_resealed_number_is_detected(
    run: Path, file: str, old: str, new: str
) -> None:
    falsify(run / file, old, new)
    reseal(run)
    with pytest.raises(store.DamagedRunError, match="in the notebook but"):
        store.find(SMOKE)


def test_a_claim_dropped_from_the_record_is_detected(run: Path) -> None:
    record = json.loads((run / "record.json").read_text())
    del record["claims"]["one"]
    (run / "record.json").write_text(json.dumps(record))
    reseal(run)
    with pytest.raises(store.DamagedRunError, match=r"'one' is .* but None in the record"):
        store.find(SMOKE)


def test_a_missing_file_and_a_broken_provenance_are_detected(run: Path) -> None:
    (run / "notebook.ipynb").unlink()
    with pytest.raises(store.DamagedRunError, match=r"notebook\.ipynb is missing"):
        store.find(SMOKE)
    (run / "provenance.json").write_text("{")
    with pytest.raises(store.DamagedRunError, match="provenance"):
        store.find(SMOKE)


def test_a_falsified_identity_is_detected(run: Path) -> None:
    falsify(
        run / "provenance.json", '"profile": "smoke",\n   "python"', '"profile": "x",\n   "python"'
    )
    with pytest.raises(store.DamagedRunError, match="not the hash"):
        store.read(run)


def test_a_part_folder_is_not_a_run(run: Path) -> None:
    run.rename(store.part_of(run))
    assert store.find(SMOKE) is None
    assert store.finished("tiny", "smoke") == []


def test_what_changed_is_named(run: Path, project: Path) -> None:
    falsify(project / "chapters" / "tiny.py", "3.0 + seed", "5.0 + seed")
    falsify(project / "requirements.txt", "2.13.0", "2.13.1")
    why = store.why_new(SMOKE, identity(SMOKE))
    assert why == "changed: code cells, requirements.txt"
    assert store.last_seconds(SMOKE) == 4.0
    assert store.why_new(Request("tiny", "book"), identity(Request("tiny", "book"))) == "first run"


def test_without_a_record_there_is_no_run(project: Path) -> None:
    part = project / "tiny.part"
    part.mkdir()
    with pytest.raises(store.DamagedRunError, match=r"claims\.close"):
        store.finish(part, {})
