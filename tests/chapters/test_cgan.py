"""Parts of the cGAN chapter by themselves: the cell for MIR Flickr on small files of the true
layout, and the chapter's own small functions.

The chapter runs whole in test_smoke.py, without these files.  Here the statements that bind the
wanted names are taken out of its source and run alone.
"""

from __future__ import annotations

import ast
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor

from genbook import cgan, tagging, training
from genbook.data import DataError, words
from genbook.runs.chapter import chapter_path, code_cells

PATH = chapter_path("cgan")
TEXT = PATH.read_text(encoding="utf-8")


def bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of the chapter's top level defines or assigns."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if not isinstance(statement, ast.Assign):
        return set()
    return {n.id for target in statement.targets for n in ast.walk(target) if hasattr(n, "id")}


def execute(body: list[ast.stmt], namespace: dict[str, Any]) -> None:
    code = compile(ast.Module(body, []), str(PATH), "exec", dont_inherit=True)
    exec(code, namespace)


def taken(*names: str) -> dict[str, Any]:
    """A namespace with the chapter's imports and these of its names, each bound once in it."""
    body = ast.parse(TEXT).body
    for name in names:
        times = sum(name in bound(statement) for statement in body)
        assert times == 1, f"chapters/cgan.py binds {name} {times} times, not once"
    namespace: dict[str, Any] = {"__name__": "cgan_in_parts"}
    wanted = [
        statement
        for statement in body
        if isinstance(statement, ast.Import | ast.ImportFrom) or bound(statement) & {*names}
    ]
    execute(wanted, namespace)
    return namespace


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
def chapter() -> dict[str, Any]:
    return taken(*SETTINGS, *TRAINING, "tag_flickr")


def run_cell(namespace: dict[str, Any]) -> Any:
    """Run the cell that defines tag_flickr; its last expression is what the page shows."""
    trees = [ast.parse(cell.source) for cell in code_cells("cgan", TEXT)[0]]
    (cell,) = (t for t in trees if any("tag_flickr" in bound(s) for s in t.body))
    *statements, last = cell.body
    assert isinstance(last, ast.Expr)
    execute(statements, namespace)
    return eval(compile(ast.Expression(last.value), str(PATH), "eval"), namespace)


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


def test_the_reader_s_mir_flickr_fills_the_table(flickr: Path, chapter: dict[str, Any]) -> None:
    calls = spy(chapter, trains=True)
    table = run_cell(chapter)
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
    flickr: Path, chapter: dict[str, Any]
) -> None:
    shutil.rmtree(flickr)
    calls = spy(chapter, trains=False)
    assert run_cell(chapter).rows == [["", "MIR Flickr is not in the data folder", ""]]
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
def test_files_that_do_not_fit_are_named(flickr: Path, chapter: dict[str, Any], spoil: Any) -> None:
    says = spoil(flickr)
    calls = spy(chapter, trains=False)
    with pytest.raises(DataError, match=f"^{re.escape(says)}$"):
        run_cell(chapter)
    assert not calls, "before anything is trained"


# The chapter's own small functions.


@pytest.mark.parametrize("rounds", [1, 4])
def test_k_means_finds_the_means_of_three_clusters(rounds: int) -> None:
    """More images than the 2000 that it compares at once, in no order."""
    k_means = taken("k_means")["k_means"]
    centres = torch.tensor([[9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0], [9.0, 9.0, 9.0, 0.0]])
    cluster = torch.randint(3, (4_500,), generator=seeded(0))
    images = centres[cluster] + 0.5 * torch.randn(4_500, 4, generator=seeded(1))

    def covers(seed: int) -> bool:  # without rounds it gives the images that it starts from
        start = k_means(images, 3, 0, seeded(seed))
        assert all((images == x).all(dim=1).any() for x in start)
        return len(torch.cdist(start, centres).argmin(dim=1).unique()) == 3

    seed = next(seed for seed in range(100) if covers(seed))
    found = k_means(images, 3, rounds, seeded(seed))
    want = torch.stack([images[cluster == c].double().mean(dim=0) for c in range(3)])
    order = torch.cdist(found, centres).argmin(dim=1)  # the cluster of each centroid
    # float32 sums of 1500 numbers of about 10
    np.testing.assert_allclose(found, want[order], atol=1e-4)


def test_an_empty_cluster_keeps_its_centroid() -> None:
    """Of equal centroids one gets all images, and the others none."""
    picture = torch.tensor([3.0, 0.0, -2.0, 1.0])
    found = taken("k_means")["k_means"](picture.repeat(6, 1), 4, 2, seeded(0))
    assert torch.equal(found, picture.repeat(4, 1))


def pictures(n: int) -> Tensor:
    """Like digits: values in [0, 1], smooth, and a frame of two pixels without ink; [n, 784]."""
    noise = torch.rand(n, 28, 28, generator=seeded(2)).numpy()
    smooth = ndimage.uniform_filter(noise, (0, 3, 3))
    smooth[:, [0, 1, -2, -1], :] = smooth[:, :, [0, 1, -2, -1]] = 0.0
    return torch.from_numpy(smooth).flatten(1)


def test_blurred_is_the_mean_of_three_by_three_pixels() -> None:
    images = pictures(4)
    found = taken("blurred")["blurred"](images)
    assert found.shape == images.shape
    square = images.numpy().reshape(4, 28, 28)
    want = ndimage.uniform_filter(square, (0, 3, 3), mode="constant")
    np.testing.assert_allclose(found, want.reshape(4, 784), atol=1e-6)
    torch.testing.assert_close(found.mean(dim=1), images.mean(dim=1))  # no ink at the frame


@pytest.mark.parametrize("size", [20, 32, 56])
def test_resized_goes_by_straight_lines_between_the_centres_of_pixels(size: int) -> None:
    images = pictures(4)
    found = taken("resized")["resized"](images, size)
    assert found.shape == images.shape

    def line(old: int, new: int) -> np.ndarray:
        """The weights [new, old] along a side; beyond the outer centres nothing changes."""
        at = (np.arange(new) + 0.5) * old / new - 0.5
        return np.stack([np.interp(at, np.arange(old), row) for row in np.eye(old)], axis=1)

    way = line(size, 28) @ line(28, size)
    want = way @ images.double().numpy().reshape(4, 28, 28) @ way.T
    np.testing.assert_allclose(found, want.reshape(4, 784), atol=1e-5)


def test_resized_blurs_and_keeps_the_ink() -> None:
    images, resized = pictures(4), taken("resized")["resized"]
    found = resized(images, 32)
    # A new pixel is a mean of old ones, but old ones do not all weigh the same: 1 % here.
    torch.testing.assert_close(found.mean(dim=1), images.mean(dim=1), rtol=0.02, atol=0.0)
    assert (found.var(dim=1) < images.var(dim=1)).all()
    assert (found - images).abs().max() > 0.01
    grey = torch.full((1, 784), 0.3)
    torch.testing.assert_close(resized(grey, 32), grey)


def test_inside_is_the_deviation_within_labels() -> None:
    inside = taken("inside")["inside"]
    labels = torch.arange(10).repeat_interleave(4)[:-3]  # one 9 only, which has no deviation
    means = 100.0 * torch.arange(10.0)[labels, None]  # between labels, which does not count
    images = means + labels[:, None] * torch.randn(len(labels), 6, generator=seeded(3))
    want = [np.std(images[labels == d].double().numpy(), axis=0, ddof=1) for d in range(9)]
    assert math.isclose(inside(images, labels), np.mean(want), rel_tol=1e-4)
    assert inside(means.expand(-1, 6), labels) == 0.0


def test_walks_move_one_thing_and_keep_the_other() -> None:
    """A net that shows what it is asked: z and y side by side."""

    class Shown:
        draw = staticmethod(cgan.centred_noise)

        def __call__(self, z: Tensor, y: Tensor) -> Tensor:
            return torch.cat([z, y], dim=1)

    in_z, in_y = taken("device", "walks")["walks"](Shown(), seeded(4))
    assert in_z.shape == in_y.shape == (100, 110)
    (z, still_y), (still_z, y) = (
        images.view(10, 10, 110).split([100, 10], dim=-1) for images in (in_z, in_y)
    )
    eye = torch.eye(10)
    torch.testing.assert_close(still_y, eye[:, None].expand(10, 10, 10))
    assert torch.equal(z[:-1, -1], z[1:, 0]), "a row goes on where the last one ended"
    assert (z[:, -1] - z[:, 0]).norm(dim=-1).min() > 1.0
    torch.testing.assert_close(still_z, z[0, 0].expand(10, 10, 100))
    torch.testing.assert_close(y[:, 0], eye)
    torch.testing.assert_close(y[:, -1], eye.roll(-1, dims=0))
    for moving in (z, y):  # in a straight line, with even steps
        steps = moving.diff(dim=1)
        torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-5, rtol=0.0)


def test_walks_of_the_generator_are_two_sheets_of_a_hundred() -> None:
    net = cgan.Generator()
    net.draw = cgan.centred_noise
    for images in taken("device", "walks")["walks"](net, seeded(5)):
        assert images.shape == (100, 784)
        assert not images.requires_grad
        assert images.min() >= 0.0
        assert images.max() <= 1.0


def test_noise_wins_one_measure_at_most_against_the_most_common_tags() -> None:
    """Users write the first five words, and a crowd would write all: what noise is like."""
    measures_won = taken("measures_won")["measures_won"]
    n, vocabulary, tags = 200, 40, 5
    own = torch.zeros(n, vocabulary, dtype=torch.bool)
    own[:, :tags] = torch.rand(n, tags, generator=seeded(6)) < 0.7
    even = torch.full((n, vocabulary), 1.0 / vocabulary, dtype=torch.float64)
    common = tagging.tag_by_frequency(own, images=n, tags=tags)
    order = torch.rand(n, vocabulary, generator=seeded(7)).argsort(dim=1)
    noise = tagging.Tagging(order[:, :tags], even)
    for truth, won in ((even, 1), (common.distribution, 0)):
        ours, rival = (tagging.score(one, own, truth) for one in (noise, common))
        assert measures_won(ours, rival) == won
        assert measures_won(rival, ours) == 3 - won
        assert measures_won(ours, ours) == 0, "a draw is no win"
