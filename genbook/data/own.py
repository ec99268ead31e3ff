"""Loaders for the data sets that only the reader can bring.

The reader's files are never moved or changed. What takes minutes to decode is kept beside them
as one safetensors file, which names the bytes that it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from genbook.data import flickr, formats
from genbook.data.fetching import folder_of
from genbook.data.files import (
    CacheError,
    DataError,
    Say,
    guarded,
    install,
    locked,
    sha256_of,
    write_whole,
)
from genbook.data.formats import Bytes
from genbook.data.sets import OWN, OwnSet

SIZE = 64  # side of the cropped CelebA and MIR Flickr images, as in the WAE paper
TRAIN, TEST = "0", "2"  # codes of list_eval_partition.txt; 1 is validation
PARTITION = "list_eval_partition.txt"
TAGS = "mirflickr/meta/tags"

Decode = Callable[[Path, int], Bytes]


def lacks(own: OwnSet) -> str | None:
    """What the reader has to do before the set can be loaded, or None."""
    folder = folder_of(own.name)
    if all((folder / need).exists() for need in own.needs):
        return None
    return (
        f"The data set {own.name} cannot be fetched: bring your own copy. "
        f"The folder is {folder}. {own.bring}"
    )


def require(own: OwnSet) -> Path:
    """The folder of the reader's files; DataError says what to put where."""
    advice = lacks(own)
    if advice:
        raise DataError(advice)
    return folder_of(own.name)


def source_files(own: OwnSet, folder: Path) -> list[Path]:
    """The reader's files that the set is made of, in a fixed order."""
    if own.name == "frey_face":
        return [folder / own.needs[0]]
    images = numbered(folder / own.needs[0], ".jpg")
    if own.name == "mir_flickr":
        listed = flickr.concept_lists(folder / flickr.ANNOTATIONS)
        return images + numbered(folder / TAGS, ".txt") + listed
    partition = folder / PARTITION
    return images + ([partition] if partition.exists() else [])


def numbered(folder: Path, ending: str) -> list[Path]:
    """The files of a folder with that ending, by the number in their names."""
    found = [path for path in folder.iterdir() if path.suffix.lower() == ending]
    if not found:
        raise DataError(f"{folder} holds no {ending} files.")
    return sorted(found, key=lambda path: (_number(path), path.name))


def _number(path: Path) -> int:
    digits = re.search(r"\d+", path.stem)
    return int(digits[0]) if digits else -1


def fingerprint(own: OwnSet) -> str:
    """A hash of the names and bytes of the reader's files, companions too, or "absent".

    The bytes are read again only when a name, size or time of change differs from last time.
    """
    if lacks(own):
        return "absent"
    folder = folder_of(own.name)
    files = source_files(own, folder)
    if own.name == "mir_flickr":
        files += [path for name in flickr.COMPANIONS if (path := folder / name).exists()]
    stats = [(path, path.stat()) for path in files]
    quick = sha256_of_lines(f"{path.name} {st.st_size} {st.st_mtime_ns}" for path, st in stats)
    memory = folder / ".fingerprint.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["quick"] == quick:
            return str(known["full"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no memory, or a spoilt one: hash again
    full = sha256_of_lines(f"{path.name} {sha256_of(path)}" for path in files)
    with suppress(OSError):  # a read-only folder only costs the time of hashing
        write_whole(memory, json.dumps({"quick": quick, "full": full}))
    return full


def sha256_of_lines(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def check_files(own: OwnSet, folder: Path) -> list[tuple[str, bool]]:
    """Each of the reader's files, and whether the loader can read it whole."""
    files = source_files(own, folder)
    return [(str(path.relative_to(folder)), _readable(own, path)) for path in files]


def _readable(own: OwnSet, path: Path) -> bool:
    try:
        match path.suffix.lower():
            case ".mat":
                formats.frey_faces(path)
            case ".jpg":
                (formats.face if own.name == "celeba" else formats.photo)(path, SIZE)
            case _ if path.name == PARTITION:
                partition(path)
            case _ if path.parent.name == flickr.ANNOTATIONS:
                flickr.image_numbers(path)
            case _:
                path.read_bytes()
    except (DataError, OSError):
        return False
    return True


def frey_face() -> Tensor:
    """The 1965 Frey faces, uint8 [1965,28,20]."""
    folder = require(OWN["frey_face"])
    return torch.from_numpy(formats.frey_faces(folder / "frey_rawface.mat"))


def celeba(say: Say) -> tuple[Tensor, Tensor]:
    """Training and test faces, uint8 [N,3,64,64]: centre 140 x 140, resized.

    By list_eval_partition.txt if it is there (its validation images are left out); without it
    every image is a training image.
    """
    own = OWN["celeba"]
    folder = require(own)
    images = numbered(folder / own.needs[0], ".jpg")
    codes = partition(folder / PARTITION)
    if codes is None:
        train, test = images, []
    else:
        unlisted = [path.name for path in images if path.name not in codes]
        if unlisted:
            raise DataError(f"{PARTITION} does not list {unlisted[0]}.")
        train = [path for path in images if codes[path.name] == TRAIN]
        test = [path for path in images if codes[path.name] == TEST]
    made = converted(own, {"train": train, "test": test}, formats.face, say)
    return made["train"], made["test"]


def partition(path: Path) -> dict[str, str] | None:
    """File name -> code (0 train, 1 validation, 2 test), or None without the list."""
    if not path.exists():
        return None
    codes: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match line.split():
            case [name, ("0" | "1" | "2") as code]:
                codes[name] = code
            case []:
                continue
            case _:
                raise DataError(f'{path}, line {number}: expected "NAME.jpg 0|1|2", found "{line}"')
    return codes


def mir_flickr(say: Say) -> tuple[Tensor, tuple[tuple[str, ...], ...]]:
    """The photographs, uint8 [N,3,64,64], and the tags of each (there may be none).

    The user tags as they are, then, when the reader has brought the annotations, the names of the
    concepts that are not among them.
    """
    own = OWN["mir_flickr"]
    folder = require(own)
    images = numbered(folder / own.needs[0], ".jpg")
    user_tags = {_number(path): path for path in numbered(folder / TAGS, ".txt")}
    untagged = [path.name for path in images if _number(path) not in user_tags]
    if untagged:
        number = _number(Path(untagged[0]))
        raise DataError(f"{folder / TAGS} has no tags{number}.txt for {untagged[0]}.")
    numbers = [_number(path) for path in images]
    shown = flickr.concepts(folder / flickr.ANNOTATIONS, set(numbers))
    tags = tuple(_with_concepts(user_tags[n], shown.get(n, [])) for n in numbers)
    return converted(own, {"train": images}, formats.photo, say)["train"], tags


def _with_concepts(user_tags: Path, concepts: list[str]) -> tuple[str, ...]:
    """The user tags in a file and the concepts that the user has not named."""
    words = user_tags.read_text(encoding="utf-8", errors="replace").split()
    return (*words, *(name for name in concepts if name not in words))


def converted(
    own: OwnSet, parts: dict[str, list[Path]], decode: Decode, say: Say
) -> dict[str, Tensor]:
    """The decoded images of each part, from the kept conversion when it fits the files."""
    folder = folder_of(own.name)
    kept = folder / f"converted-{SIZE}.safetensors"
    source = fingerprint(own)
    found = _kept(kept, source)
    if found is not None:
        return found
    try:
        with guarded(folder), locked(folder, say):
            found = _kept(kept, source)
            if found is None:
                found = _decode(parts, decode, say)
                _keep(kept, found, source)
    except CacheError as error:  # a read-only folder of images is as good, only slower
        say(f"{own.name}: the decoded images are not kept. {error}")
    return found or _decode(parts, decode, say)


def _decode(parts: dict[str, list[Path]], decode: Decode, say: Say) -> dict[str, Tensor]:
    return {part: _decode_all(paths, decode, say) for part, paths in parts.items()}


def _decode_all(paths: Sequence[Path], decode: Decode, say: Say) -> Tensor:
    images = torch.empty(len(paths), 3, SIZE, SIZE, dtype=torch.uint8)
    for i, path in enumerate(paths):
        images[i] = torch.from_numpy(decode(path, SIZE).copy())
        if (i + 1) % 10_000 == 0:
            say(f"decoded {i + 1} of {len(paths)} images")
    return images


def _kept(path: Path, source: str) -> dict[str, Tensor] | None:
    """The kept conversion, or None when there is none for exactly these files."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            facts = stored.metadata() or {}
            if facts.get("source") != source:
                return None
            parts = stored.keys()
            images = {part: stored.get_tensor(part) for part in parts}
    except (SafetensorError, OSError):
        return None  # spoilt: it can be made again
    right = all(facts.get(part) == _digest(tensor) for part, tensor in images.items())
    return images if right else None


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.numpy().data).hexdigest()


def _keep(path: Path, images: dict[str, Tensor], source: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    facts = {"source": source} | {name: _digest(tensor) for name, tensor in images.items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(images, part, metadata=facts)
        install(part, path)
    except SafetensorError as error:  # its way of saying what the operating system said
        raise CacheError(f"The folder {path.parent} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
