"""The data sets of the book: find, fetch, verify, hand out as tensors on a device.

    from genbook import data

    mnist = data.load("mnist")
    mnist.train_images  # uint8 [60000,28,28]

MNIST, Fashion-MNIST and CIFAR-10 are fetched on first use from the first source that answers;
Frey Face, CelebA and MIR Flickr are the reader's own files. Everything lies in one folder
(GENBOOK_DATA, else the user's cache), and every byte is checked by hash before it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from genbook.data import own
from genbook.data.fetching import fetch as _fetch
from genbook.data.fetching import folder_of, origins, read
from genbook.data.files import CacheError, DataError, Say, cache_folder, fault_of, guarded
from genbook.data.sets import OWN, PUBLIC, OwnSet, PublicSet, find, names

__all__ = [
    "CacheError",
    "Check",
    "DataError",
    "ImageData",
    "Status",
    "TaggedImageData",
    "available",
    "cache_folder",
    "fetch",
    "fingerprint",
    "load",
    "names",
    "status",
    "to_stderr",
    "verify",
]


@dataclass(frozen=True)
class ImageData:
    """A data set as tensors on one device.

    Images are uint8, [N,H,W] where grey and [N,3,H,W] in colour; labels are int64 [N] or None.
    A set without a split of its own has all of its images in `train_images` and none in
    `test_images`.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor | None


@dataclass(frozen=True)
class TaggedImageData(ImageData):
    """Images with the words that people gave them, one tuple (maybe empty) an image."""

    train_tags: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Status:
    """One line of `genbook data list`."""

    name: str
    state: str  # "ready", "partial" or "missing", by presence and size alone
    size: int  # bytes on disk of the files that are there
    source: str  # where the files came from, else where they will be sought
    note: str  # for a set that is not ready: what to do


class Check(NamedTuple):
    """One file of `genbook data verify`."""

    file: str
    ok: bool


def to_stderr(line: str) -> None:
    """A `progress` that prints to standard error."""
    print(line, file=sys.stderr, flush=True)


def load(
    name: str, *, device: str | torch.device = "cpu", progress: Say | None = None
) -> ImageData:
    """The data set as tensors on `device`; a public one is fetched when it is not in the cache.

    Every byte of a public set is checked by sha256 as it is read. Raises DataError, which says
    what to do, when the set is unknown, cannot be fetched, or is the reader's to bring.
    """
    say = progress or _silent
    wanted = find(name)
    if isinstance(wanted, PublicSet):
        images, labels, test_images, test_labels = wanted.read(read(wanted, say))
        return ImageData(
            name=name,
            train_images=torch.from_numpy(images).to(device),
            train_labels=torch.from_numpy(labels).to(device, torch.int64),
            test_images=torch.from_numpy(test_images).to(device),
            test_labels=torch.from_numpy(test_labels).to(device, torch.int64),
        )
    return _own_loader(wanted)(wanted, torch.device(device), say)


def _own_loader(wanted: OwnSet) -> Callable[[OwnSet, torch.device, Say], ImageData]:
    return {"frey_face": _frey_face, "celeba": _celeba, "mir_flickr": _mir_flickr}[wanted.name]


def _frey_face(wanted: OwnSet, device: torch.device, say: Say) -> ImageData:
    faces = own.frey_face().to(device)
    return ImageData(wanted.name, faces, None, faces[:0], None)


def _celeba(wanted: OwnSet, device: torch.device, say: Say) -> ImageData:
    train, test = own.celeba(say)
    return ImageData(wanted.name, train.to(device), None, test.to(device), None)


def _mir_flickr(wanted: OwnSet, device: torch.device, say: Say) -> ImageData:
    photos, tags = own.mir_flickr(say)
    photos = photos.to(device)
    return TaggedImageData(wanted.name, photos, None, photos[:0], None, tags)


def fetch(name: str, *, progress: Say | None = None) -> Path:
    """Bring a data set into the cache, checked; return its folder. Nothing to do is no work.

    `progress` is called with a line of text now and then (`to_stderr` prints them). For a set
    that the reader must bring, DataError says what to put where.
    """
    wanted = find(name)
    if isinstance(wanted, OwnSet):
        return own.require(wanted)
    return _fetch(wanted, progress or _silent)


def _silent(line: str) -> None:
    pass


def available(name: str) -> bool:
    """Whether `load` needs nothing more: the reader's files, or all the fetched ones, are there."""
    wanted = find(name)
    if isinstance(wanted, OwnSet):
        return own.lacks(wanted) is None
    return _sizes(wanted)[0] == len(wanted.files)


def fingerprint(name: str) -> str:
    """A stable name of the exact bytes of a data set, at no cost of reading a public one.

    Public sets answer from their known hashes, the reader's own from their files ("absent" when
    they are not there).
    """
    wanted = find(name)
    if isinstance(wanted, OwnSet):
        return own.fingerprint(wanted)
    return own.sha256_of_lines(f"{file.name} {file.sha256}" for file in wanted.files)


def status() -> list[Status]:
    """Every data set and how it stands, by presence and size alone (`verify` reads the bytes)."""
    return [_public_status(one) for one in PUBLIC.values()] + [
        _own_status(one) for one in OWN.values()
    ]


def _sizes(wanted: PublicSet) -> tuple[int, int]:
    """How many files are there in the right size, and the bytes of all that are there."""
    folder = folder_of(wanted.name)
    paths = [(folder / file.name, file) for file in wanted.files]
    with guarded(folder):
        sizes = [(path.stat().st_size, file.size) for path, file in paths if path.is_file()]
    return sum(size == right for size, right in sizes), sum(size for size, _ in sizes)


def _public_status(wanted: PublicSet) -> Status:
    right, size = _sizes(wanted)
    folder = folder_of(wanted.name)
    came_from = sorted(set(origins(folder).values())) if right else []
    total = len(wanted.files)
    state = "ready" if right == total else "partial" if size else "missing"
    return Status(
        name=wanted.name,
        state=state,
        size=size,
        source=", ".join(came_from) or wanted.sources[0].label,
        note="" if state == "ready" else f"genbook data fetch {wanted.name}",
    )


def _own_status(wanted: OwnSet) -> Status:
    advice = own.lacks(wanted)
    try:
        files = [] if advice else own.source_files(wanted, folder_of(wanted.name))
    except DataError as error:
        files, advice = [], str(error)
    return Status(
        name=wanted.name,
        state="missing" if advice else "ready",
        size=sum(path.stat().st_size for path in files),
        source="your own files",
        note=advice or "",
    )


def verify(name: str) -> list[Check]:
    """Read every byte of a data set again and say which files are right. Changes nothing.

    A file of a public set is right when its sha256 is; the reader's own files are right when the
    loader reads them whole.
    """
    wanted = find(name)
    folder = folder_of(name)
    if isinstance(wanted, PublicSet):
        with guarded(folder):
            faults = [fault_of(folder / file.name, file) for file in wanted.files]
        return [
            Check(file.name, not fault) for file, fault in zip(wanted.files, faults, strict=True)
        ]
    own.require(wanted)
    return [Check(file, ok) for file, ok in own.check_files(wanted, folder)]
