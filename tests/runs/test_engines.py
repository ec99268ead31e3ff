"""A chapter executed for real, by papermill and as a script."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from genbook import runs
from genbook.runs import store
from genbook.runs.identity import PACKAGE

SMOKE = runs.Request("tiny", seed=1)
SCRIPT = runs.Request("tiny", seed=1, engine="script")
NOISY = """
# %%
import os, sys
print("threads", os.environ["OMP_NUM_THREADS"], "hash", hash("a"))
print("a warning", file=sys.stderr)

# %%
1 + 1
"""

HANGING = """
# %%
import os, pathlib, time
(pathlib.Path(os.environ["GENBOOK_RUN_DIR"]) / "pid").write_text(str(os.getpid()))
time.sleep(60)
"""


def test_a_number_that_diverged_is_a_miss_and_not_a_damaged_run(
    project: Path, chapter: Callable[[str], None]
) -> None:
    chapter("")
    path = project / "chapters" / "tiny.py"
    path.write_text(
        path.read_text()
        .replace("ours=1.0 + 0.1 * seed", "ours=float('nan')")
        .replace("3.0 + seed", "float('inf')")
    )
    (run,) = runs.execute([SMOKE], quiet=True)
    record = store.read(run.folder).record
    assert record["claims"]["one"]["verdict"] == "missed"
    assert record["values"]["speed"]["value"] == float("inf")


ALLOCATING = """
# %%
import resource, torch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4_000_000)  # 15 MiB: 3906 pages of 4 KiB
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20

faults()  # the first time they have to be asked for
print("faults", faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
@pytest.mark.parametrize("request_", [SMOKE, SCRIPT], ids=["papermill", "script"])
def test_memory_of_freed_tensors_is_used_again(
    project: Path, chapter: Callable[[str], None], request_: runs.Request
) -> None:
    chapter(ALLOCATING)
    (run,) = runs.execute([request_], quiet=True)
    texts = [path.read_text() for path in run.folder.glob("*") if path.suffix in (".ipynb", ".txt")]
    (found,) = {float(n) for text in texts for n in re.findall(r"faults (\d+\.\d+)", text)}
    assert found < 1000, "a tensor's pages come from the system anew each time"


def test_papermill_leaves_a_clean_notebook_that_repeats(
    project: Path, chapter: Callable[[str], None]
) -> None:
    chapter(NOISY)
    (run,) = runs.execute([SMOKE], quiet=True)
    text = run.notebook.read_text()
    notebook = nbformat.reads(text, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[1].source.splitlines()[1:] == ['profile = "smoke"', 'device = "cpu"', "seed = 1"]
    assert code[1].metadata == {"tags": ["injected-parameters"]}
    assert "profile smoke seed 1" in code[2].outputs[0].text
    assert code[4].outputs[0].data["text/plain"] == "2"
    assert "papermill" not in text
    assert str(project) not in text
    assert not any(o.get("name") == "stderr" for cell in code for o in cell.outputs)
    assert (run.folder / "stderr.txt").read_text() == "a warning\n"
    assert not any(cell.metadata.get("execution") for cell in notebook.cells)
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "notebook.ipynb", "provenance.json", "record.json", "stderr.txt",
    ]  # fmt: skip
    assert {"chapter", "profile", "seed", "device", "commit", "command", "wall_seconds"} < set(
        run.provenance
    )
    assert run.provenance["threads"] == 1
    assert run.provenance["peak_memory_mib"] > 10

    (again,) = runs.execute([SMOKE], quiet=True, force=True)
    assert again.notebook.read_text() == text
    assert again.provenance["finished"] >= run.provenance["finished"]


def test_the_two_engines_leave_the_same_record(
    project: Path, chapter: Callable[[str], None]
) -> None:
    chapter(NOISY)
    script, papermill = runs.execute([SCRIPT, SMOKE], quiet=True)
    assert script.record == papermill.record
    assert script.record["values"]["speed"]["value"] == 4.0
    output = (script.folder / "output.txt").read_text()
    assert "profile smoke seed 1" in output
    numbers = [line for line in output.splitlines() if line.startswith("threads")]
    assert numbers[0] in papermill.notebook.read_text()


@pytest.mark.parametrize("request_", [SMOKE, SCRIPT], ids=["papermill", "script"])
def test_a_failing_cell_is_shown_and_its_folder_kept(
    project: Path, chapter: Callable[[str], None], request_: runs.Request
) -> None:
    chapter("\n# %%\ndef f(x):\n    return 1 / x\n\n# %%\nfirst = 1\nf(0)\n")
    with pytest.raises(runs.RunFailedError) as caught:
        runs.execute([request_], quiet=True)
    message = str(caught.value)
    part = next(store.store().glob("*.part"))
    assert "tiny smoke seed 1: code cell 4 failed" in message
    assert "    first = 1\n    f(0)" in message
    assert "ZeroDivisionError" in message
    assert "return 1 / x" in message
    assert str(part) in message
    assert "\x1b" not in message
    assert runs.find(request_) is None


@pytest.mark.parametrize("engine", ["papermill", "script"])
def test_a_chapter_that_judges_too_little_fails(
    project: Path, chapter: Callable[[str], None], engine: str
) -> None:
    source = project / "chapters" / "tiny.py"
    source.write_text(source.read_text().replace('claims.judge("one", ours=1.0 + 0.1 * seed)', ""))
    with pytest.raises(runs.RunFailedError, match="never judged: one"):
        runs.execute([runs.Request("tiny", engine=engine)], quiet=True)


def test_a_chapter_without_a_record_fails(project: Path) -> None:
    source = project / "chapters" / "tiny.py"
    source.write_text(source.read_text().replace("claims.close()", ""))
    with pytest.raises(runs.RunFailedError, match=r"no record\.json"):
        runs.execute([SCRIPT], quiet=True)


@pytest.mark.parametrize(("engine", "limit"), [("papermill", 4.0), ("script", 1.5)])
def test_the_wall_clock_limit_ends_a_run_and_keeps_its_folder(
    project: Path, chapter: Callable[[str], None], engine: str, limit: float
) -> None:
    chapter(HANGING)
    started = time.monotonic()
    with pytest.raises(runs.RunFailedError, match=f"wall-clock limit of {limit:g} s") as caught:
        runs.execute([runs.Request("tiny", engine=engine)], timeout=limit, quiet=True)
    assert caught.value.timed_out
    assert time.monotonic() - started < 15
    part = next(store.store().glob("*.part"))
    assert not Path(f"/proc/{(part / 'pid').read_text()}").exists()


def test_the_run_imports_the_library_as_it_was_at_the_start(
    project: Path, chapter: Callable[[str], None]
) -> None:
    chapter("\n# %%\nassert ledger.__file__.startswith(str(ledger.ROOT)), ledger.__file__\n"
            "assert '.part' in ledger.__file__\n")  # fmt: skip
    runs.execute([SCRIPT], quiet=True)
    runs.execute([SMOKE], quiet=True)


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""
JUPYTER = (
    "jupytext",
    "papermill",
    "nbformat",
    "nbclient",
    "jupyter_client",
    "jupyter_core",
    "ipykernel",
    "IPython",
    "pooch",
    "psutil",
    "yaml",
    "requests",
    "sphinx",
)  # fmt: skip  (nor pydantic, but typer itself needs that)


def test_the_script_engine_needs_no_jupyter(project: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(BLOCKER.format(names=set(JUPYTER)))
    path = os.pathsep.join([str(blocked), str(PACKAGE.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "GENBOOK_ROOT": str(project)}

    def genbook(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "genbook", *arguments],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = genbook("run", "tiny", "--engine", "script", "--profile", "long", "--seeds", "0..1")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert genbook("record", "tiny", "--profile", "long").returncode == 0
    assert json.loads((project / "book/recorded/tiny.long.json").read_text())["claims"]
    refused = genbook("run", "tiny")
    assert refused.returncode == 1
    assert "is blocked" in refused.stderr
