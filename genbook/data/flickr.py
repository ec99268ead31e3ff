"""The annotations of MIR Flickr: for each of 24 concepts, the photographs that show it.

A text file a concept, `plant_life.txt` for one; a line of it is the number of an image, from 1.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from genbook.data.files import DataError

ANNOTATIONS = "mirflickr25k_annotations_v080"  # as the archive is called
COMPANIONS = ("features.safetensors", "words.vectors")  # what a chapter reads beside the set
NO_CONCEPT = "README.txt"  # which the archive holds too


def concept_lists(folder: Path) -> list[Path]:
    """The list of each concept, by name; none without the folder.

    `NAME_r1.txt` is left out: it holds the images of `NAME.txt` that show the concept more clearly
    ("relevant"), so it would say the name again of images that have it.
    """
    if not folder.is_dir():
        return []
    texts = [path for path in folder.glob("*.txt") if path.name != NO_CONCEPT]
    found = [path for path in texts if not path.stem.endswith("_r1")]
    if not found:
        raise DataError(f"{folder} holds no lists of images such as animals.txt.")
    return sorted(found)


def image_numbers(path: Path) -> dict[int, int]:
    """The numbers of the images that show a concept, each with its line of the file.

    DataError names the line that holds anything else; empty lines say nothing.
    """
    line_of: dict[int, int] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line, text in enumerate(map(str.strip, lines), start=1):
        if re.fullmatch("[0-9]{1,9}", text):
            line_of[int(text)] = line
        elif text:
            found = f'found "{text[:60]}"'
            raise DataError(f"{path}, line {line}: expected the number of an image, {found}")
    return line_of


def concepts(folder: Path, images: Collection[int]) -> dict[int, list[str]]:
    """The concepts of each image that has any, by its number, in alphabetical order.

    A name stays as its file has it, one word: `plant_life`, with the underscore by which files of
    word vectors join a phrase.  DataError names the line with a number that no image has.
    """
    shown: dict[int, list[str]] = {}
    for path in concept_lists(folder):
        for number, line in image_numbers(path).items():
            if number not in images:
                raise DataError(f"{path}, line {line}: there is no image {number}")
            shown.setdefault(number, []).append(path.stem)
    return shown
