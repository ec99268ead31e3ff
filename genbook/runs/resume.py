"""A run that goes on, or cannot: checkpoints that are damaged, a disk that is full, and what an
unfinished run of another state has left.

Nothing here starts a training again: that is for the reader to say, by deleting a file or --force.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
from pathlib import Path

from genbook import ledger
from genbook.runs import store
from genbook.runs.identity import Identity, Request, differing
from genbook.runs.progress import size

# The last line of a traceback: Python's form of an error number, and that of safetensors, whose
# error is no OSError.
FULL = re.compile(
    rf"^[\w.]+: .*(\[Errno ({errno.ENOSPC}|{errno.EDQUOT})\]"
    rf"|\(os error ({errno.ENOSPC}|{errno.EDQUOT})\)).*$",
    re.MULTILINE,
)


def checkpoints(part: Path) -> list[Path]:
    """The checkpoints in a part folder: trainings, samples and measurements, of every process."""
    found = [*part.glob("checkpoints/*"), *part.glob("processes/*/checkpoints/*")]
    return sorted(path for path in found if path.suffix in (".json", ".safetensors"))


def sweep(part: Path) -> None:
    """Delete what is left of files that are written beside their target and then renamed: the
    project's own `*.tmp`, and `.tmp*` of safetensors.  Nobody may be writing any more."""
    for path in [*part.rglob("*.tmp"), *part.rglob(".tmp*")]:
        with contextlib.suppress(OSError):
            path.unlink()


def check(part: Path) -> None:
    """Refuse to go on from a part folder in which a file is damaged."""
    notes = part / "attempts.json"
    paths = [*checkpoints(part), *([notes] if notes.exists() else [])]
    damaged = [f"{path} is damaged: {wrong}" for path in paths if (wrong := _wrong(path))]
    if damaged:
        raise store.DamagedRunError(
            "\n".join(damaged) + "\nThe run does not go on from this. Delete what is damaged, and "
            "only what it held (the training or measurement of that name) begins again; or give "
            "--force, and the whole run does"
        )


def _wrong(path: Path) -> str:
    """What is wrong with a checkpoint, in words; nothing if it is whole."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        else:
            with safe_open(path, "np") as file:  # checks the header against the file's size
                json.loads((file.metadata() or {}).get("notes", "null"))
    except (OSError, SafetensorError, ValueError) as error:
        return str(error) or repr(error)
    return ""


def full_disk(traceback: str, part: Path) -> str | None:
    """What to say of a failure for want of room on the disk; None for any other failure."""
    found = FULL.search(traceback)
    return found and (
        f"no room is left on the disk ({found[0]}); {size(store.free())} are free for {part}. "
        "Checkpoints written before are whole, since each was written beside the last one and then "
        "renamed: make room, and the same command goes on from them"
    )


def note_identity(name: Identity, part: Path) -> None:
    """Write down what this run is made of, for a later one that differs."""
    ledger.write_json(part / "identity.json", {"hash": name.hash, "parts": dict(name.parts)})


def left_behind(request: Request, name: Identity) -> list[str]:
    """One line for the terminal if this run begins from the beginning while an unfinished one of
    the same chapter, profile and seed, but of another state, holds checkpoints."""
    own = store.part_of(store.folder_of(request, name))
    parts = store.store().glob(f"{request.chapter}-{request.profile}-s{request.seed}-*.part")
    others = [part for part in parts if part != own and checkpoints(part)]
    if not others or checkpoints(own):
        return []
    newest = max(others, key=lambda part: part.stat().st_mtime)
    more = f" and {len(others) - 1} older" if others[1:] else ""
    return [
        f"{request.label()}: begins from the beginning; an unfinished run of another state "
        f"({_difference(newest, name)}) is in {newest}{more}"
    ]


def _difference(part: Path, name: Identity) -> str:
    try:
        before = json.loads((part / "identity.json").read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, KeyError):
        return "it did not note which"
    return "changed since: " + ", ".join(differing(before, name.parts))
