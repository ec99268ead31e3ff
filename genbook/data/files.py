"""The cache folder and the files in it: checked by hash, replaced whole, never lost."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("genbook.data")

Say = Callable[[str], None]
"""Takes one line of progress, without its line feed."""

LOCK_SECONDS = 3600.0  # longer than any fetch may take on a slow line

# What the operating system answers when the cache folder itself is the trouble.
FOLDER_TROUBLE = {
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "it is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOTDIR: "a part of its path is a file",
}


class DataError(Exception):
    """A data set cannot be had as asked; the message says what to do."""


class CacheError(DataError):
    """The cache folder cannot be used: trying another source cannot help."""


class BadFileError(Exception):
    """A file arrived and is not what it should be; `path` is to be set aside."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(why)
        self.path = path
        self.why = why


@dataclass(frozen=True)
class File:
    """One file whose bytes are known in advance."""

    name: str
    size: int
    sha256: str


def cache_folder() -> Path:
    """Where the data sets live: GENBOOK_DATA, else `genbook` in the user's cache."""
    chosen = os.environ.get("GENBOOK_DATA")
    if chosen:
        return Path(chosen).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "genbook"


def trouble_with(folder: Path, error: OSError) -> CacheError:
    """The error that tells a reader why the cache folder failed and how to go on."""
    why = FOLDER_TROUBLE.get(error.errno or 0, str(error))
    return CacheError(
        f"The cache folder {folder} cannot be used: {why}. Set GENBOOK_DATA to a folder "
        "that can be written and has room, or free this one."
    )


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Turn what the operating system says about the cache folder into a CacheError."""
    try:
        yield
    except OSError as error:
        if error.errno not in FOLDER_TROUBLE:
            raise
        raise trouble_with(folder, error) from error


def make_folder(folder: Path) -> None:
    """Make a folder of the cache; CacheError when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise trouble_with(folder, error) from error


def require_room(folder: Path, needed: int) -> None:
    """Raise CacheError unless `needed` bytes are free where `folder` (which exists) lies."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CacheError(
            f"The cache folder {folder} is too full: {needed / 1e6:.0f} MB are needed for the "
            f"fetch and {free / 1e6:.0f} MB are free. Free some, or set GENBOOK_DATA to a folder "
            "with room."
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def looks_like_html(head: bytes) -> bool:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml"))


def fault_of(path: Path, file: File) -> str | None:
    """What is wrong with the bytes at `path`, or None when they are exactly `file`."""
    if not path.is_file():
        return "missing"
    with path.open("rb") as stream:
        head = stream.read(512)
    size = path.stat().st_size
    if size != file.size and looks_like_html(head):
        return "an HTML page (a quota or login page?) in place of the file"
    if size < file.size:
        return f"truncated: {size} of {file.size} bytes"
    if size > file.size:
        return f"too long: {size} bytes instead of {file.size}"
    found = sha256_of(path)
    if found != file.sha256:
        return f"wrong sha256: {found} instead of {file.sha256}"
    return None


def set_aside(path: Path, folder: Path, why: str) -> Path:
    """Move a bad file to `folder` as NAME.bad (NAME.2.bad, ...), and say so in the log.

    Bytes that were set aside before are not kept twice.
    """
    bad = folder / f"{path.name}.bad"
    count = 1
    while bad.exists():
        if bad.stat().st_size == path.stat().st_size and sha256_of(bad) == sha256_of(path):
            break
        count += 1
        bad = folder / f"{path.name}.{count}.bad"
    os.replace(path, bad)
    log.warning("%s is bad (%s); it was set aside as %s", path.name, why, bad)
    return bad


def install(path: Path, target: Path) -> None:
    """Put a complete, checked file in its place in one step."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(path, target)


def write_whole(target: Path, text: str) -> None:
    """Write a small text file so that a reader never sees half of it."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        install(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder against other processes that fetch or convert into it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that is filling {folder}")
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise DataError(
                f"Another process has been filling {folder} for {LOCK_SECONDS:.0f} s. "
                "Wait for it, or end it, and try again."
            ) from None
    try:
        yield
    finally:
        lock.release()
