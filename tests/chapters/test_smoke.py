"""Every chapter at smoke: by papermill, as a script, and once more, killed, by nbval, strictly.

A run that `make smoke` has made already is taken from the store.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from genbook import data, ledger, runs

# The bar is 2 GiB and 20 s on one core of a quiet machine; the limit here only catches a runaway.
PEAK_MIB = 2048
LIMIT_SECONDS = 300.0


def smoke(name: str, engine: str) -> runs.Run:
    request = runs.Request(name, engine=engine)
    return runs.execute([request], timeout=LIMIT_SECONDS, quiet=True)[0]


@pytest.mark.parametrize("name", runs.chapters())
def test_a_smoke_run_is_clean_and_complete(name: str) -> None:
    run = smoke(name, "papermill")
    book = ledger.read_claims(name)
    assert set(run.record["claims"]) == set(book.claims)
    for claim_id, row in run.record["claims"].items():
        assert row["verdict"] == book[claim_id].verdict(row["ours"], "smoke")
        # A claim of the paper may be missed at any size; an identity may not.
        exact = book[claim_id].rule["kind"] == "exact"
        assert not (exact and row["verdict"] == "missed"), f"{claim_id}: {row['ours']}"
    noise = run.folder / "stderr.txt"
    assert not noise.exists(), noise.read_text()
    assert run.provenance["peak_memory_mib"] < PEAK_MIB


@pytest.mark.parametrize("name", runs.chapters())
def test_the_script_engine_finds_the_same(name: str) -> None:
    script, papermill = smoke(name, "script"), smoke(name, "papermill")
    assert script.record["settings"] == papermill.record["settings"]
    assert set(script.record["values"]) == set(papermill.record["values"])
    verdicts = [
        {claim_id: row["verdict"] for claim_id, row in run.record["claims"].items()}
        for run in (script, papermill)
    ]
    assert verdicts[0] == verdicts[1]


KILLED = """
import os, signal, sys
from pathlib import Path
from genbook import training
from genbook.runs.chapter import code_cells

save, left = training.Training.save, int(sys.argv[2])

def save_and_die(self):
    global left
    save(self)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

training.Training.save = save_and_die
training.SECONDS_BETWEEN_CHECKPOINTS = -1.0  # after every update
path = Path(sys.argv[1])
names = {"__name__": "__main__"}
for cell in code_cells(path.stem, path.read_text(encoding="utf-8"))[0]:
    exec(compile(cell.source, str(path), "exec", dont_inherit=True), names)
"""


@pytest.mark.parametrize("name", runs.chapters())
def test_a_second_run_killed_and_resumed_prints_the_same(name: str, tmp_path: Path) -> None:
    """nbval, strict: a run is killed at some update of some training, another goes on from what it
    left, and every output is compared with that of the executed notebook, which ran unbroken."""
    notebook = tmp_path / f"{name}.ipynb"
    shutil.copy(smoke(name, "papermill").notebook, notebook)
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
        "GENBOOK_RUN_DIR": str(tmp_path / "run"), "IPYTHONDIR": str(tmp_path / "ipython"),
    }  # fmt: skip
    saves = random.randrange(3, 60)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(runs.chapter_path(name)), str(saves)],
        env={**environment, "MPLBACKEND": "Agg"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    environment.pop("MPLBACKEND", None)
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env",
            f"--nbval-cell-timeout={LIMIT_SECONDS:.0f}", "-p", "no:cacheprovider", str(notebook),
        ],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"killed after {saves} updates\n{done.stdout[-6000:]}"


def test_frey_face_runs_when_the_reader_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optional half of Figure 2, on noise in the form of the real file."""
    faces = np.random.default_rng(0).integers(0, 256, (560, 1965), dtype=np.uint8)
    (tmp_path / "frey_face").mkdir()
    savemat(tmp_path / "frey_face" / "frey_rawface.mat", {"ff": faces})
    (tmp_path / "mnist").symlink_to(data.cache_folder() / "mnist")
    monkeypatch.setenv("GENBOOK_DATA", str(tmp_path))
    record = smoke("aevb", "script").record
    for method in ("AEVB", "wake-sleep"):
        for latents in (2, 5, 10, 20):
            curve = record["series"][f"frey-{method}-{latents}"]
            assert curve["samples"]
            assert np.isfinite(curve["test"]).all()
    assert np.isfinite(record["claims"]["fig2-frey"]["ours"])


def test_diffusion_in_two_processes_is_the_run_of_one() -> None:
    """Blocks of samples and codes are shared out, and the networks for CIFAR-10 are trained by
    both: of these only the noise of dropout is another."""
    (two,) = runs.execute(
        [runs.Request("diffusion", engine="script", processes=2)], timeout=LIMIT_SECONDS, quiet=True
    )
    records = [smoke("diffusion", "script").record, two.record]
    alone, shared = ({k: v["value"] for k, v in r["values"].items()} for r in records)
    assert alone.keys() == shared.keys()
    assert {k for k in alone if alone[k] != shared[k]} <= {k for k in alone if "photo" in k}
    losses = [r["series"]["photo-simple"]["loss"] for r in records]
    assert np.isclose(*losses, rtol=0.05).all()
