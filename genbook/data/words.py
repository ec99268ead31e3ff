"""Words of photographs: word vectors and their files, lists of tags, features of the photographs.

Tags are a bool matrix [N, V]: whether image n has word v.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genbook.data.files import DataError, write_whole

log = logging.getLogger("genbook.data")


@dataclass(frozen=True)
class WordVectors:
    """The vocabulary, each word once, and the vectors of its words, float32 [V, W]."""

    words: tuple[str, ...]
    vectors: Tensor

    def of(self, words: Sequence[str]) -> Tensor:
        """The vectors of `words`, in their order; DataError for a word that has none."""
        place = {word: v for v, word in enumerate(self.words)}
        absent = [word for word in words if word not in place]
        if absent:
            raise DataError(f'{len(absent)} words have no vector, the first is "{absent[0]}".')
        return self.vectors[[place[word] for word in words]]


def write_vectors(path: Path, table: WordVectors) -> None:
    """Write the text format of word2vec: "count width", then "word v1 v2 ..." a line, UTF-8.

    Nine significant digits, so that float32 is read back to the bit.  Raises DataError for a word
    that is empty or holds white space, which no reader of the format could tell from two words.
    """
    lines = [f"{len(table.words)} {table.vectors.shape[1]}"]
    for word, vector in zip(table.words, table.vectors.tolist(), strict=True):
        if word.split() != [word]:
            raise DataError(f"{path}: {word!r} cannot be written, it is not one word")
        lines.append(" ".join([word, *(f"{x:.9g}" for x in vector)]))
    write_whole(path, "\n".join(lines) + "\n")


def read_vectors(path: Path) -> WordVectors:
    """Read the text format of word2vec (see `write_vectors`), made here, by gensim or by word2vec.

    Raises DataError, with the file and the line, for a header that is none or disagrees with the
    number of lines, a vector of another width, a number that is none or is not finite, a repeated
    word, and a file that is not UTF-8 text.
    """
    first_line: dict[str, int] = {}
    rows = []
    try:
        with path.open(encoding="utf-8") as lines:
            count, width = _header(path, lines.readline())
            for number, line in enumerate(lines, start=2):
                word, *fields = line.rstrip().split(" ")
                if len(fields) != width:
                    raise DataError(f"{path}, line {number}: {len(fields)} numbers, not {width}")
                if word in first_line:
                    raise DataError(
                        f'{path}, line {number}: "{word}" is on line {first_line[word]} already'
                    )
                first_line[word] = number
                rows.append(_vector(path, number, fields))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (a binary word2vec file?): {error}") from error
    if len(rows) != count:
        raise DataError(f"{path}, line 1: {count} words are announced, but {len(rows)} follow")
    return WordVectors(tuple(first_line), torch.from_numpy(np.stack(rows)))


def _header(path: Path, line: str) -> tuple[int, int]:
    fields = line.split()
    if len(fields) != 2 or not all(f.isdecimal() and int(f) > 0 for f in fields):
        raise DataError(f'{path}, line 1: expected "COUNT WIDTH", found "{line.strip()[:60]}"')
    return int(fields[0]), int(fields[1])


def _vector(path: Path, number: int, fields: list[str]) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            vector = np.array([float(field) for field in fields]).astype(np.float32)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}") from error
    if not np.isfinite(vector).all():
        raise DataError(f"{path}, line {number}: a number is not finite in 32 bits")
    return vector


def read_tags(path: Path, words: Sequence[str], *, images: int) -> Tensor:
    """Tags bool [N, V] from a text file: one line an image, its words between spaces, maybe none.

    Raises DataError as `tag_matrix` does, with the file and the line.
    """
    with path.open(encoding="utf-8") as lines:
        return tag_matrix([line.split() for line in lines], words, images=images, path=path)


def known(lists: Sequence[Sequence[str]], words: Collection[str]) -> list[list[str]]:
    """The lists of tags without the words that are not among `words`, those that have a vector.

    Nobody has a vector for every word that users make up, and `tag_matrix` refuses a word it does
    not know, so this comes before it.  Words are compared as they are: the tags of MIR Flickr are
    in lower case.  A list may end with no word.  How many tags and distinct words were dropped
    goes to the log; raises DataError when no tag is left.
    """
    vocabulary = set(words)
    kept = [[word for word in tag_list if word in vocabulary] for tag_list in lists]
    total = sum(map(len, lists))
    dropped = total - sum(map(len, kept))
    if dropped == total:
        raise DataError(f"None of the {total} tags is one of the {len(vocabulary)} known words.")
    unknown = {word for tag_list in lists for word in tag_list} - vocabulary
    log.info("%d of %d tags dropped: %d words are not known", dropped, total, len(unknown))
    return kept


def tag_matrix(
    lists: Sequence[Sequence[str]], words: Sequence[str], *, images: int, path: Path | None = None
) -> Tensor:
    """Tags bool [N, V] from one list of words an image; a word twice in a list counts once.

    Raises DataError when there are not `images` lists, and for a word that is not in the
    vocabulary `words` (`known` drops these), with the line of the file `path` or the image, counted
    from 1.
    """
    if len(lists) != images:
        raise DataError(f"{path or 'The tags'}: {len(lists)} tag lists for {images} images")
    place = {word: v for v, word in enumerate(words)}
    tags = torch.zeros(images, len(words), dtype=torch.bool)
    for n, tag_list in enumerate(lists):
        for word in tag_list:
            if word not in place:
                at = f"{path}, line {n + 1}" if path else f"The tags of image {n + 1}"
                raise DataError(f'{at}: "{word}" is not one of the {len(words)} known words')
            tags[n, place[word]] = True
    return tags


def tag_lists(tags: Tensor, words: Sequence[str]) -> list[list[str]]:
    """The words of each image, in the order of the vocabulary: `tag_matrix` the other way round."""
    per_image = tags.nonzero()[:, 1].split(tags.sum(dim=1).tolist())
    return [[words[v] for v in image.tolist()] for image in per_image]


def tagged(tags: Tensor, *, untagged: Literal["drop", "refuse"]) -> Tensor:
    """Indices [M] of the images that have a tag, from tags bool [N, V].

    Section 4.2 leaves images without tags out ("drop": their number goes to the log).  With
    "refuse", DataError says how many there are.
    """
    has_tag = tags.any(dim=1)
    without = f"{int((~has_tag).sum())} of {len(tags)} images have no tag"
    if untagged == "refuse" and not has_tag.all():
        raise DataError(f"{without}: leave them out, or give them tags.")
    log.info(without)
    return has_tag.nonzero()[:, 0]


def read_features(path: Path, *, images: int) -> Tensor:
    """Features float32 [N, F] of the photographs: the tensor `features` of a safetensors file.

    Section 4.2: F = 4096, the last fully connected layer of a frozen convolutional network.  Row n
    is image n of the set.  Raises DataError, with the file, when it is not a safetensors file, has
    no such tensor, or this is not [N, F] with N = `images` or has a number that is not finite.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            names = sorted(stored.keys())
            if "features" not in names:
                there = ", ".join(names) or "nothing"
                raise DataError(f'{path} holds no tensor "features", it holds: {there}')
            features: Tensor = stored.get_tensor("features").float()
    except SafetensorError as error:
        raise DataError(f"{path} is not a whole safetensors file: {error}") from error
    if features.ndim != 2:
        raise DataError(f"{path}: the features have the shape {list(features.shape)}, not [N, F]")
    if len(features) != images:
        raise DataError(f"{path}: {len(features)} rows of features for {images} images")
    finite = features.isfinite().all(dim=1)
    if not finite.all():
        first = int(finite.long().argmin()) + 1
        raise DataError(f"{path}: a feature of image {first} is not finite in 32 bits")
    return features


def skip_gram(
    tags: Tensor, words: Sequence[str], *, width: int = 200, epochs: int = 5, seed: int = 0
) -> WordVectors:
    """Word vectors by skip-gram with negative sampling (Mikolov et al. 2013) from tags bool [N, V].

    Section 4.2: skip-gram, 200-d.  A list is a sentence and has no order, so the window is as long
    as the longest list; 5 negatives, learning rate 0.025 and 5 passes are gensim's defaults; no
    word is left out or thinned out.  On one machine the vectors depend on the arguments alone.
    Raises DataError without gensim, and when a word of the vocabulary is in no list.
    """
    absent = [word for word, used in zip(words, tags.any(dim=0).tolist(), strict=True) if not used]
    if absent:
        raise DataError(f'{len(absent)} words are in no tag list, the first is "{absent[0]}".')
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise DataError(
            "Training word vectors needs gensim (pip install gensim); vectors that were trained "
            "elsewhere can be read from a file with read_vectors."
        ) from error
    model = Word2Vec(
        sentences=tag_lists(tags, words),
        sg=1,
        vector_size=width,
        window=int(tags.sum(dim=1).max()),
        shrink_windows=False,
        min_count=1,
        sample=0,
        epochs=epochs,
        seed=seed,
        workers=1,  # several threads would race
    )
    return WordVectors(tuple(words), torch.from_numpy(model.wv[list(words)]))
