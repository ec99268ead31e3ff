"""The two engines that execute a chapter in its part folder: papermill, and a plain script."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genbook.runs import script
from genbook.runs.chapter import ChapterError, code_cells, injected
from genbook.runs.identity import Identity, Request
from genbook.runs.provenance import MEMORY, THREADS

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# The script processes of this worker, so that it can end them.
PROCESSES: list[subprocess.Popen[bytes]] = []
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class CellError(Exception):
    """A code cell of a chapter failed."""

    cell: int
    source: str
    traceback: str


def write_snapshot(identity: Identity, part: Path) -> Path:
    """Copy the sources that name the run into it.  The chapter imports these copies, so an edit
    made while it runs cannot slip into a run of another name."""
    source = part / "source"
    for name, content in identity.sources.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return source


def environment(part: Path, engine: str) -> dict[str, str]:
    """The environment of the process that runs the cells: one thread, memory that stays, fixed
    hashing, the snapshot as library, and nothing of the user's own Jupyter settings."""
    env = {**MEMORY, **os.environ, **THREADS, "PYTHONHASHSEED": "0"}
    source, jupyter = part / "source", part / "jupyter"
    env["GENBOOK_ROOT"] = str(source)
    env["GENBOOK_RUN_DIR"] = str(part)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(source), env.get("PYTHONPATH")]))
    if env.get("GENBOOK_DATA"):
        env["GENBOOK_DATA"] = os.path.abspath(env["GENBOOK_DATA"])
    env.pop("MPLBACKEND", None)
    if engine == "script":
        env |= {"MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}  # as -P
    else:
        env |= {
            "IPYTHONDIR": str(jupyter / "ipython"),
            "JUPYTER_CONFIG_DIR": str(jupyter / "config"),
            "JUPYTER_NO_CONFIG": "1",
            "JUPYTER_PREFER_ENV_PATH": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
    return env


def _launcher(request: Request) -> list[str]:
    """What starts a program in one process, or, by torchrun, in several of this machine."""
    if request.processes == 1:
        return [sys.executable, "-P"]
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={request.processes}"]


def run_script(request: Request, part: Path) -> dict[str, Any]:
    """Execute the code cells in one plain Python process; returns further provenance."""
    source = part / "source"
    file = source / "chapters" / f"{request.chapter}.py"
    cells, parameters = code_cells(request.chapter, file.read_text(encoding="utf-8"))
    plain = [
        {"number": number, "file": str(file), "line": cell.line, "source": cell.source}
        for number, cell in enumerate(cells, 1)
    ]
    values = injected(request.profile, request.device, request.seed)
    plain.insert(parameters + 1, {"number": 0, "file": "<parameters>", "line": 1, "source": values})
    failure, result, job = part / "failure.json", source / "result.json", source / "job.json"
    job.write_text(
        json.dumps(
            {"file": str(file), "cells": plain, "failure": str(failure), "result": str(result)}
        ),
        encoding="utf-8",
    )
    with (part / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [*_launcher(request), script.__file__, str(job)],
            stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
            cwd=source, env=environment(part, "script"),
        )  # fmt: skip
        PROCESSES.append(process)
        code = process.wait()
    if code == script.FULL_DISK:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part))
    if code:
        found = json.loads(failure.read_text(encoding="utf-8")) if failure.exists() else None
        text = f"the process ended with exit status {code}: see {part / 'output.txt'}"
        raise CellError(**found) if found else CellError(0, "", text)
    return dict(json.loads(result.read_text(encoding="utf-8")))


def run_papermill(request: Request, part: Path) -> dict[str, Any]:
    """Execute the chapter as a notebook by papermill; returns further provenance."""
    os.environ.pop("MPLBACKEND", None)
    os.environ.update(environment(part, "papermill"))
    text = (part / "source" / "chapters" / f"{request.chapter}.py").read_text(encoding="utf-8")
    # Imported after the environment is set: Jupyter reads its folders from it.
    import nbformat
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    from genbook.runs.kernel import IpcKernelManager

    notebook = convert(request.chapter, text)
    path = part / "notebook.ipynb"
    with tempfile.TemporaryDirectory(prefix="genbook-") as sockets:
        os.environ["JUPYTER_RUNTIME_DIR"] = sockets
        try:
            done = execute_notebook(
                notebook, path,
                parameters={n: getattr(request, n) for n in ("profile", "device", "seed")},
                kernel_name="python3", cwd=part / "source", progress_bar=False,
                kernel_manager_class=IpcKernelManager, coalesce_streams=True,
                # An unfinished notebook is of no use, and saving it twice a cell takes seconds.
                request_save_on_cell_execute=False,
            )  # fmt: skip
        except PapermillExecutionError as error:
            text = ANSI.sub("", "\n".join(error.traceback))
            raise CellError(_number_of(error.source, notebook), error.source, text) from None
    noise = normalise(done)
    if noise:
        (part / "stderr.txt").write_text(noise, encoding="utf-8")
    nbformat.validate(done)
    nbformat.write(done, path)
    return {}


def _number_of(source: str, notebook: Any) -> int:
    """Which code cell of the chapter this is, counted from 1; the last one of equal cells."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return max((number for number, text in enumerate(code, 1) if text == source), default=0)


def convert(name: str, text: str) -> Any:
    """The chapter as a notebook, with cell ids that depend on its text alone."""
    import jupytext

    cells, _ = code_cells(name, text)
    notebook = jupytext.reads(text, fmt="py:percent")
    read = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for number, (ours, theirs) in enumerate(zip([c.source for c in cells], read, strict=False), 1):
        if ours.strip("\n") != theirs.strip("\n"):
            raise ChapterError(
                f"chapters/{name}.py: jupytext reads code cell {number} differently; use plain "
                f"'# %%' cells without magics. It read:\n{theirs}"
            )
    if len(cells) != len(read):
        raise ChapterError(
            f"chapters/{name}.py: {len(cells)} code cells, but jupytext reads {len(read)}: is "
            "there text before the first '# %%'?"
        )
    notebook.metadata = {"kernelspec": dict(KERNELSPEC)}
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k != "lines_to_next_cell"}
    name_cells(notebook)
    return notebook


def name_cells(notebook: Any) -> None:
    """Give each cell an id made of its text and of how often that text has occurred."""
    seen: Counter[str] = Counter()
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        text = hashlib.sha256(f"{cell.cell_type} {cell.source}".encode()).hexdigest()[:12]
        cell.id = f"{text}-{seen[text]}"
        seen[text] += 1


def normalise(notebook: Any) -> str:
    """Strip what papermill and the kernel add of their own; returns what was on stderr."""
    noise = []
    notebook.metadata = {
        "kernelspec": dict(KERNELSPEC),
        "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
    }
    for cell in notebook.cells:
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        noise += [o.text for o in cell.outputs if o.get("name") == "stderr"]
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    name_cells(notebook)
    return "".join(noise)
