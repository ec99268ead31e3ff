"""Run a chapter's code cells as one plain program: `python -P script.py JOB.json`.

Started by path in a process of its own, so it imports nothing but the standard library: the
chapter must see the library of its snapshot, not the one that the scheduler has imported.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
import traceback
import types
from pathlib import Path
from typing import Any

# The exit status when not even the failure could be written, for want of room on the disk.
FULL_DISK = 74


def main() -> int:
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    number, several = int(os.environ.get("RANK", "0")), "LOCAL_RANK" in os.environ
    if several:
        _take_place(number, int(os.environ["LOCAL_RANK"]))
    module = types.ModuleType("__main__")
    module.__file__ = job["file"]
    sys.modules["__main__"] = module
    sys.argv = [job["file"]]
    for cell in job["cells"]:
        # The blank lines put every traceback on the chapter's own line numbers.
        source = "\n" * (cell["line"] - 1) + cell["source"]
        try:
            exec(compile(source, cell["file"], "exec", dont_inherit=True), module.__dict__)
        except BaseException as error:  # SystemExit in a cell is a failure too
            frames = error.__traceback__.tb_next if error.__traceback__ else None
            lines = traceback.format_exception(type(error), error, frames)
            failure = {
                "cell": cell["number"],
                "source": cell["source"],
                "traceback": "".join(lines),
            }
            # Of several processes the first that fails has the reason; the others lose touch.
            with (
                contextlib.suppress(FileExistsError),
                Path(job["failure"]).open("x" if several else "w", encoding="utf-8") as file,
            ):
                file.write(json.dumps(failure))
            return 1
    if number == 0:
        Path(job["result"]).write_text(json.dumps(_accelerator_memory()), encoding="utf-8")
    return 0


def _take_place(number: int, local: int) -> None:
    """As one process of several that torchrun has started: see one GPU, and leave what a run leaves
    in a folder of one's own, unless this is the first."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = given.split(",") if given else [str(i) for i in range(local + 1)]
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local] if local < len(gpus) else ""
    if number:
        folder = Path(os.environ["GENBOOK_RUN_DIR"]) / "processes" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["GENBOOK_RUN_DIR"] = str(folder)
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # to the end


def _end_with_parent() -> None:
    """Standard input is a pipe that the worker holds open: its end is the end of the worker."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def _accelerator_memory() -> dict[str, int]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"gpu_peak_memory_mib": torch.cuda.max_memory_allocated() // 2**20}


if __name__ == "__main__":
    try:
        status = main()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        status = FULL_DISK
    sys.exit(status)
