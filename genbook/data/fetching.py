"""Fetching the public data sets: a chain of sources, one lock, every file checked by hash."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genbook.data.files import (
    BadFileError,
    CacheError,
    DataError,
    File,
    Say,
    cache_folder,
    fault_of,
    guarded,
    install,
    locked,
    make_folder,
    require_room,
    set_aside,
    write_whole,
)
from genbook.data.formats import Bytes
from genbook.data.sets import PublicSet
from genbook.data.sources import Source, UnavailableError

ORIGINS = "origins.json"  # file name -> label of the source that it came from


def folder_of(name: str) -> Path:
    return cache_folder() / name


def origins(folder: Path) -> dict[str, str]:
    """Which source each file came from, as far as it was written down."""
    try:
        found = json.loads((folder / ORIGINS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def fetch(wanted: PublicSet, say: Say) -> Path:
    """Bring every file of the set into the cache, whole and checked; return its folder.

    Files that are there and right are kept; wrong ones are set aside as NAME.bad.
    """
    folder = folder_of(wanted.name)
    with guarded(folder):
        if not missing_files(wanted, folder):
            return folder
    make_folder(folder)
    with guarded(folder), locked(folder, say):
        missing = missing_files(wanted, folder)  # another process may have been at it
        if missing:
            _clear_place(folder, missing)
            require_room(folder, wanted.room)
            _try_sources(wanted, missing, folder, say)
    return folder


def missing_files(wanted: PublicSet, folder: Path) -> list[File]:
    return [file for file in wanted.files if fault_of(folder / file.name, file)]


def _clear_place(folder: Path, missing: Sequence[File]) -> None:
    """Set wrong files aside, and remove the scratch of fetches that were killed."""
    for file in missing:
        path = folder / file.name
        if path.exists():
            set_aside(path, folder, fault_of(path, file) or "wrong")
    for scratch in folder.glob(".fetch-*"):  # ours: the lock is held
        shutil.rmtree(scratch, ignore_errors=True)


def _try_sources(wanted: PublicSet, missing: list[File], folder: Path, say: Say) -> None:
    """Ask each source in turn for what is still missing; DataError when some of it is left."""
    tried = []
    for source in wanted.sources:
        say(f"{wanted.name}: trying {source.label}")
        trouble = _take_from(source, missing, folder, say)
        missing = [file for file in missing if not (folder / file.name).exists()]
        if not missing:
            say(f"{wanted.name}: complete and checked")
            return
        tried.append(f"  {source.label}: {trouble or 'it has not all of the files'}")
        say(f"{wanted.name}:{tried[-1][1:]}")
    by_hand = [f"  {file.name} ({file.size} bytes, sha256 {file.sha256})" for file in missing]
    raise DataError(
        "\n".join(
            [
                f"The data set {wanted.name} could not be fetched. Tried in turn:",
                *tried,
                "Open the way to one of these and call it again, or put these files, unpacked, "
                f"into {folder}:",
                *by_hand,
            ]
        )
    )


def _take_from(source: Source, missing: Sequence[File], folder: Path, say: Say) -> str | None:
    """Install what one source delivers; return what went wrong with it, if anything did."""
    scratch = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder))
    try:
        for file, path in source.deliver(missing, scratch, say):
            fault = fault_of(path, file)
            if fault:
                raise BadFileError(path, fault)
            install(path, folder / file.name)
            write_whole(
                folder / ORIGINS, json.dumps({**origins(folder), file.name: source.label}, indent=1)
            )
    except BadFileError as error:
        if not error.path.exists():
            return error.why
        bad = set_aside(error.path, folder, error.why)
        return f"{error.path.name}: {error.why} (set aside as {bad})"
    except (UnavailableError, DataError) as error:
        if isinstance(error, CacheError):
            raise
        return str(error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return None


def read(wanted: PublicSet, say: Say) -> list[Bytes]:
    """The bytes of every file of the set, each checked by hash as it was read; fetch if need be."""
    folder = folder_of(wanted.name)
    with guarded(folder):
        found = _read_right(wanted, folder)
        if found is None:
            fetch(wanted, say)
            found = _read_right(wanted, folder)
    if found is None:
        raise DataError(f"The files of {wanted.name} in {folder} changed while they were read.")
    return found


def _read_right(wanted: PublicSet, folder: Path) -> list[Bytes] | None:
    """All the files, or None when one is not there or not right.

    Hashing is done on the very bytes that are handed out, at a fraction of a second a set, so
    there is no record of an earlier check that could be out of date.
    """
    parts = []
    for file in wanted.files:
        try:
            part = np.fromfile(folder / file.name, dtype=np.uint8)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        if part.size != file.size or hashlib.sha256(part.data).hexdigest() != file.sha256:
            return None
        parts.append(part)
    return parts
