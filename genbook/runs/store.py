"""The store of runs: folders named by what they were made of, checked each time they are read.

`_build/runs/NAME-PROFILE-sSEED-HASH/` is a finished run; the same name with `.part` is one that
is running or was interrupted.  `provenance.json` is the last file written and holds the SHA-256
of the others; a folder that disagrees with it is not a run.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genbook import ledger
from genbook.runs import weights
from genbook.runs.chapter import chapters
from genbook.runs.identity import Identity, Request, differing, digest, hash_of, identity

SEALED = ("record.json", "notebook.ipynb", "output.txt", weights.FILE)
# Needed only to resume or to execute, hence removed from a finished run.
SCAFFOLD = (
    "checkpoints", "processes", "source", "jupyter",
    "attempts.json", "failure.json", "identity.json",
)  # fmt: skip


class DamagedRunError(Exception):
    """A run was changed after it was sealed, contradicts itself, or cannot be resumed."""


@dataclass(frozen=True)
class Run:
    """A finished and verified run."""

    folder: Path
    record: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def notebook(self) -> Path:
        return self.folder / "notebook.ipynb"


def store() -> Path:
    """Where runs are kept."""
    return ledger.ROOT / "_build" / "runs"


def folder_of(request: Request, name: Identity) -> Path:
    return store() / f"{request.chapter}-{request.profile}-s{request.seed}-{name.hash}"


def free() -> int:
    """The bytes that are free on the disk of the store."""
    return shutil.disk_usage(store() if store().exists() else ledger.ROOT).free


def part_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".part")


def find(request: Request) -> Run | None:
    """The finished run of this request by the current source, or None.

    Raises `DamagedRunError` when there is one but its content is not what was sealed.
    """
    folder = folder_of(request, identity(request))
    return read(folder) if folder.is_dir() else None


def latest_chapter_runs(profile: str = "book", names: Sequence[str] = ()) -> dict[str, Run | None]:
    """The run of each chapter's current source in this profile, None where it was not run."""
    return {name: find(Request(name, profile)) for name in names or chapters()}


def read(folder: Path) -> Run:
    """Read and verify a finished run, wherever it lies."""
    try:
        provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        seals = provenance["sha256"]
        named = provenance["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"provenance.json cannot be read ({error!r})") from error
    if "record.json" not in seals:
        raise _damaged(folder, "record.json was never sealed")
    for name, seal in seals.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, f"{name} is missing")
        if digest(path.read_bytes()) != seal:
            raise _damaged(folder, f"{name} was changed after the run: its SHA-256 differs")
    if not named["hash"] == hash_of(named["parts"]) == folder.name.rpartition("-")[2]:
        raise _damaged(folder, "the folder's name is not the hash of the identity it states")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    check(folder, record, provenance)
    return Run(folder, record, provenance)


def _damaged(folder: Path, reason: str) -> DamagedRunError:
    return DamagedRunError(
        f"{folder}: {reason}. It cannot be trusted: run the chapter again with --force, "
        "or delete the folder"
    )


def check(folder: Path, record: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Record, provenance and the numbers shown in the notebook must tell one story."""
    for key in ("chapter", "profile", "seed"):
        if record.get(key) != provenance[key]:
            raise _damaged(folder, f"record.json has {key} {record.get(key)!r}")
    notebook = folder / "notebook.ipynb"
    if not notebook.exists():
        return
    recorded = {**record["values"], **record["claims"]}
    shown = dict(_bundles(json.loads(notebook.read_text(encoding="utf-8"))))
    for name in sorted({*recorded, *shown}):
        ours, page = _as_shown(recorded.get(name)), shown.get(name)
        if json.dumps(ours, sort_keys=True) != json.dumps(page, sort_keys=True):
            raise _damaged(folder, f"'{name}' is {page} in the notebook but {ours} in the record")


def _as_shown(row: Any) -> Any:
    """A row of a record as a notebook holds it: JSON has no nan or inf, Jupyter writes words."""
    if isinstance(row, dict):
        return {key: _as_shown(value) for key, value in row.items()}
    if isinstance(row, list):
        return [_as_shown(value) for value in row]
    return repr(row) if isinstance(row, float) and not math.isfinite(row) else row


def _bundles(notebook: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            bundle = output.get("data", {}).get(ledger.BUNDLE_MIME)
            if bundle is not None:
                yield bundle["id"], {k: v for k, v in bundle.items() if k != "id"}


def finish(part: Path, provenance: dict[str, Any]) -> Path:
    """Seal a part folder and rename it to its run, replacing an older run of the same name."""
    record_path = part / "record.json"
    if not record_path.is_file():
        raise DamagedRunError(
            f"{part}: the chapter left no record.json: its last code cell must call claims.close()"
        )
    check(part, json.loads(record_path.read_text(encoding="utf-8")), provenance)
    seals = {name: digest((part / name).read_bytes()) for name in SEALED if (part / name).exists()}
    ledger.write_json(part / "provenance.json", {**provenance, "sha256": seals})
    for path in part.iterdir():
        _flush(path)
    folder = part.with_name(part.name.removesuffix(".part"))
    if folder.exists():
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old)
    else:
        part.rename(folder)
    _flush(folder.parent)
    _tidy(folder)
    return folder


def _tidy(folder: Path) -> None:
    """Delete what only an unfinished run needs: after the run has its name, so that a seal that
    fails (the disk may be full) has its checkpoints still."""
    for name in SCAFFOLD:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Push a file or folder to the disk, so that a power cut cannot leave a sealed half."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def finished(chapter: str, profile: str, places: Path | None = None) -> list[Path]:
    """Finished run folders of a chapter and profile, of any seed and source, newest first."""
    found = [
        path
        for path in (places or store()).glob(f"{chapter}-{profile}-s*-*")
        if path.is_dir() and (path / "provenance.json").is_file() and "." not in path.name
    ]
    return sorted(found, key=lambda path: (path / "provenance.json").stat().st_mtime, reverse=True)


def why_new(request: Request, name: Identity) -> str:
    """What changed since the newest run of the same chapter, profile and seed, for the terminal."""
    old = _newest(request)
    if old is None:
        return "first run"
    return "changed: " + ", ".join(differing(old["identity"]["parts"], name.parts))


def last_seconds(request: Request) -> float | None:
    """How long the newest run of the same chapter, profile and seed took; where there is none, the
    chapter's share of the recorded build of the book (`genbook bench --build --record`)."""
    old = _newest(request)
    if old:
        return float(old["wall_seconds"])
    path = ledger.ROOT / "book" / "recorded" / "build.json"
    build = ledger.read_recorded(path) if path.exists() else {}
    known = build["chapters"] if build.get("profile") == request.profile else {}
    return known.get(request.chapter)


def _newest(request: Request) -> dict[str, Any] | None:
    """Provenance of the newest run, by any source, with the parameters of this request."""
    for folder in finished(request.chapter, request.profile):
        try:
            provenance = read(folder).provenance
        except DamagedRunError:
            continue
        if all(provenance[k] == getattr(request, k) for k in ("seed", "device", "engine")):
            return provenance
    return None
