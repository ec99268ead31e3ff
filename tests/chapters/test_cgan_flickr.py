"""The cGAN chapter's cell for MIR Flickr, on small files of the true layout.

The chapter runs whole in test_smoke.py, without these files.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from genbook import cgan, tagging, training
from genbook.data import DataError, words

CHAPTER = "cgan"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The cell for MIR Flickr: what it stands on, and the cell itself.
SETTINGS = ("profile", "device", "seed", "Profile", "PROFILES", "cfg")
TRAINING = ("paper_schedule", "sgd", "train_tagger")

PHOTOGRAPHS, WORDS, WIDTH, FEATURES = 30, 24, 5, 7
UNTAGGED = 4  # the photograph without tags of its own
NAMES = [f"word{v}" for v in range(WORDS - 1)] + ["plant_life"]


def user_tags(photograph: int) -> list[str]:
    """Five words and one that has no vector; a word said twice; for one photograph nothing."""
    if photograph == UNTAGGED:
        return []
    own = [f"word{(5 * photograph + k) % (WORDS - 1)}" for k in range(5)]
    return [*own, f"dsc{photograph:04d}", own[0]]


def known_tags(photograph: int) -> list[str]:
    """What is left of them, and the one annotation that there is."""
    concepts = ["plant_life"] if photograph in (UNTAGGED, PHOTOGRAPHS) else []
    return [word for word in user_tags(photograph) if word in NAMES] + concepts


def hidden(photograph: int) -> str:
    """The word whose vector is at the front of the features of a photograph."""
    return NAMES[7 * photograph % WORDS]


class Reader(tagging.TagGenerator):
    """A tagger that has not learnt, and says what is at the front of the features."""

    def forward(self, z: Tensor, y: Tensor, drop: torch.Generator | None = None) -> Tensor:
        return y[:, : self.out.out_features].expand(*z.shape[:-1], -1)


@pytest.fixture
def flickr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """mir_flickr of the data folder: photographs, tags, annotations, features, word vectors."""
    monkeypatch.setenv("GENBOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path / "run"))
    folder = tmp_path / "data" / "mir_flickr"
    (folder / "mirflickr" / "meta" / "tags").mkdir(parents=True)
    for n in range(1, PHOTOGRAPHS + 1):
        picture = Image.new("RGB", (70 + n, 64), (8 * n, 10, 10))
        picture.save(folder / "mirflickr" / f"im{n}.jpg")
        text = "".join(f"{word}\r\n" for word in user_tags(n))
        path = folder / "mirflickr" / "meta" / "tags" / f"tags{n}.txt"
        path.write_bytes(text.encode())
    annotations = folder / "mirflickr25k_annotations_v080"
    annotations.mkdir()
    (annotations / "plant_life.txt").write_text(f"{UNTAGGED}\n{PHOTOGRAPHS}\n")
    g = seeded(0)
    vectors = torch.randn(WORDS, WIDTH, generator=g)
    words.write_vectors(folder / "words.vectors", words.WordVectors(tuple(NAMES), vectors))
    features = torch.randn(PHOTOGRAPHS, FEATURES, generator=g)
    features[:, :WIDTH] = vectors[[NAMES.index(hidden(n + 1)) for n in range(PHOTOGRAPHS)]]
    save_file({"features": features}, folder / "features.safetensors")
    yield folder
    shutil.rmtree(tmp_path / "run", ignore_errors=True)  # a checkpoint of 40 MB


@pytest.fixture
def chapter(taken: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return taken(*SETTINGS, *TRAINING, "tag_flickr")


def spy(namespace: dict[str, Any], *, trains: bool) -> list[dict[str, Any]]:
    """Note what the cell hands to train_tagger, and train, or give back a `Reader`."""
    calls: list[dict[str, Any]] = []
    train = namespace["train_tagger"]

    def train_tagger(name: str, features: Tensor, vectors: Tensor, pairs: Any, **kw: Any) -> Any:
        calls.append({"features": features, "vectors": vectors, "pairs": pairs, **kw})
        if trains:
            calls[-1]["training"] = train(name, features, vectors, pairs, **kw)
            return calls[-1]["training"]
        net = Reader(features=features.shape[1], width=vectors.shape[1])
        return SimpleNamespace(model=SimpleNamespace(generator=net))

    namespace["train_tagger"] = train_tagger
    return calls


def test_the_reader_s_mir_flickr_fills_the_table(
    flickr: Path, chapter: dict[str, Any], run_cell: Any
) -> None:
    calls = spy(chapter, trains=True)
    table = run_cell("tag_flickr", chapter)
    last_four = range(PHOTOGRAPHS - 3, PHOTOGRAPHS + 1)
    assert [row[0] for row in table.rows] == [f"number {n}" for n in last_four]
    assert [row[1] for row in table.rows] == [", ".join(known_tags(n)) for n in last_four]
    for _, _, made in table.rows:
        tags = made.split(", ")
        assert len(tags) == len({*tags}) == 10
        assert {*tags} <= {*NAMES}
    (call,) = calls
    smoke = chapter["PROFILES"]["smoke"].tag_updates
    assert call["updates"] == call["training"].count == smoke > 0
    learnt = call["training"].model.generator.state_dict()
    assert all(value.isfinite().all() for value in learnt.values())
    start = tagging.TagGenerator(features=FEATURES, width=WIDTH)
    player = cgan.GAN(start, torch.nn.Identity())  # G is drawn before D
    cgan.init_uniform(player, random=training.stream(0, "init"))
    moved = {k for k, v in start.state_dict().items() if not torch.equal(v, learnt[k])}
    assert moved == {*learnt}, "all of the generator learns"


def test_the_tagger_learns_from_all_photographs_but_the_four_shown(
    flickr: Path, chapter: dict[str, Any]
) -> None:
    calls = spy(chapter, trains=False)
    chapter["tag_flickr"]()
    (call,) = calls
    used = sorted(NAMES)  # every word is somebody's tag
    image_of, word_of = call["pairs"]
    found = [(n + 1, used[v]) for n, v in zip(image_of.tolist(), word_of.tolist(), strict=True)]
    assert found == [
        (n, word) for n in range(1, PHOTOGRAPHS - 3) for word in sorted({*known_tags(n)})
    ]
    table = words.read_vectors(flickr / "words.vectors")
    assert torch.equal(call["vectors"], table.of(used))
    stored = words.read_features(flickr / "features.safetensors", images=PHOTOGRAPHS)
    torch.testing.assert_close(call["features"].square().mean().item(), 1.0)
    scale = stored[0, 0] / call["features"][0, 0]
    torch.testing.assert_close(call["features"] * scale, stored)


def test_the_tagger_learns_from_150_000_pairs_at_most(
    flickr: Path, chapter: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeated(tags: Tensor) -> tuple[Tensor, Tensor]:
        image, word = tags.nonzero(as_tuple=True)
        return image.repeat_interleave(2_000), word.repeat_interleave(2_000)

    monkeypatch.setattr(tagging, "pairs", repeated)
    calls = spy(chapter, trains=False)
    chapter["tag_flickr"]()
    image_of, word_of = calls[0]["pairs"]
    assert len(image_of) == len(word_of) == 150_000
    assert image_of[0] == 0, "the first"
    assert image_of.max() < PHOTOGRAPHS - 5, "which end before the last photograph but four"


def test_each_photograph_is_tagged_by_its_own_features(
    flickr: Path, chapter: dict[str, Any]
) -> None:
    spy(chapter, trains=False)
    for number, (name, _, made) in enumerate(chapter["tag_flickr"](), start=PHOTOGRAPHS - 3):
        assert name == f"number {number}"
        assert made.split(", ")[0] == hidden(number)


def test_the_words_are_sought_in_the_whole_file_of_vectors(
    flickr: Path, chapter: dict[str, Any]
) -> None:
    """Not only among the tags in use: words that nobody has written lie where all samples do."""
    calls = spy(chapter, trains=False)
    table = words.read_vectors(flickr / "words.vectors")
    fresh = tuple(f"fresh{k}" for k in range(300))
    more = torch.randn(300, WIDTH, generator=seeded(1))
    both = words.WordVectors((*table.words, *fresh), torch.cat([table.vectors, more]))
    words.write_vectors(flickr / "words.vectors", both)
    rows = chapter["tag_flickr"]()
    assert len(calls[0]["vectors"]) == WORDS
    made = {word for row in rows for word in row[2].split(", ")}
    assert made & {*fresh}


def test_without_the_reader_s_files_the_table_says_so(
    flickr: Path, chapter: dict[str, Any], run_cell: Any
) -> None:
    shutil.rmtree(flickr)
    calls = spy(chapter, trains=False)
    assert run_cell("tag_flickr", chapter).rows == [
        ["", "MIR Flickr is not in the data folder", ""]
    ]
    assert not calls
    assert not flickr.exists()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("mirflickr", "MIR Flickr is not in the data folder"),
        ("features.safetensors", "features.safetensors is not beside MIR Flickr"),
        ("words.vectors", "words.vectors is not beside MIR Flickr"),
    ],
)
def test_the_table_says_which_of_the_reader_s_files_is_not_there(
    flickr: Path, chapter: dict[str, Any], part: str, said: str
) -> None:
    (flickr / part).rename(flickr / "elsewhere")
    calls = spy(chapter, trains=False)
    assert chapter["tag_flickr"]() == [["", said, ""]]
    assert not calls


def other_rows(folder: Path) -> str:
    path = folder / "features.safetensors"
    save_file({"features": torch.ones(PHOTOGRAPHS - 1, FEATURES)}, path)
    return f"{path}: {PHOTOGRAPHS - 1} rows of features for {PHOTOGRAPHS} images"


def other_width(folder: Path) -> str:
    path = folder / "words.vectors"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] += " 0.5"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{path}, line 3: {WIDTH + 1} numbers, not {WIDTH}"


def other_language(folder: Path) -> str:
    path = folder / "words.vectors"
    names = tuple(f"mot{v}" for v in range(WORDS))
    words.write_vectors(path, words.WordVectors(names, torch.ones(WORDS, WIDTH)))
    total = sum(len(user_tags(n)) for n in range(1, PHOTOGRAPHS + 1)) + 2  # two annotations
    return f"None of the {total} tags is one of the {WORDS} known words."


@pytest.mark.parametrize("spoil", [other_rows, other_width, other_language])
def test_files_that_do_not_fit_are_named(
    flickr: Path, chapter: dict[str, Any], spoil: Any, run_cell: Any
) -> None:
    says = spoil(flickr)
    calls = spy(chapter, trains=False)
    with pytest.raises(DataError, match=f"^{re.escape(says)}$"):
        run_cell("tag_flickr", chapter)
    assert not calls, "before anything is trained"
