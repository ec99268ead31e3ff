"""Word-vector files, tag lists and skip-gram vectors, and what is said of bad ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from genbook.data import DataError, words
from genbook.data.words import WordVectors


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_vectors_are_read_back_to_the_bit(tmp_path):
    vectors = torch.randn(5, 200, generator=seeded(0)) * torch.logspace(-30, 30, 200)
    extremes = [torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny, 1e-45, 0.1]
    vectors[0, :4] = torch.tensor(extremes)
    table = WordVectors(("plane", "straße", "猫", "new", "1"), vectors)
    path = tmp_path / "vectors.txt"
    words.write_vectors(path, table)
    assert path.read_text(encoding="utf-8").splitlines()[0] == "5 200"
    found = words.read_vectors(path)
    assert found.words == table.words
    assert found.vectors.dtype == torch.float32
    assert torch.equal(found.vectors, vectors)


def test_files_of_other_writers_are_read(tmp_path):
    path = tmp_path / "vectors.txt"
    # The original word2vec leaves a space before the line feed; a no-break space is part of a word.
    path.write_bytes("2 3\r\na\u00a0b 1 -2.5 3e-2 \r\nc 0 0 1 \r\n".encode())
    found = words.read_vectors(path)
    assert found.words == ("a\u00a0b", "c")
    assert found.vectors.tolist() == [[1.0, -2.5, np.float32(0.03).item()], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", 'line 1: expected "COUNT WIDTH", found ""'),
        ("plane 1 2\n", 'line 1: expected "COUNT WIDTH", found "plane 1 2"'),
        ("2 two\na 1 2\nb 1 2\n", 'line 1: expected "COUNT WIDTH", found "2 two"'),
        ("0 2\n", 'line 1: expected "COUNT WIDTH", found "0 2"'),
        ("3 2\na 1 2\nb 1 2\n", "line 1: 3 words are announced, but 2 follow"),
        ("1 2\na 1 2\nb 1 2\n", "line 1: 1 words are announced, but 2 follow"),
        ("2 2\na 1 2\nb 1\n", "line 3: 1 numbers, not 2"),
        ("2 2\na 1 2 3\nb 1 2\n", "line 2: 3 numbers, not 2"),
        ("2 2\na 1 2\n\nb 1 2\n", "line 3: 0 numbers, not 2"),
        ("2 2\na 1 2\nb 1 x2\n", "line 3: could not convert string to float: 'x2'"),
        ("2 2\na 1 nan\nb 1 2\n", "line 2: a number is not finite in 32 bits"),
        ("2 2\na 1 2\nb 1e39 2\n", "line 3: a number is not finite in 32 bits"),
        ("3 2\na 1 2\nb 1 2\na 3 4\n", 'line 4: "a" is on line 2 already'),
    ],
)
def test_a_bad_vector_file_is_named_with_its_line(tmp_path, content, says):
    path = tmp_path / "vectors.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"{path}, {says}")):
        words.read_vectors(path)


def test_a_binary_vector_file_is_refused(tmp_path):
    path = tmp_path / "vectors.bin"
    path.write_bytes(b"1 2\nplane " + np.array([-1.5, 2.5], "<f4").tobytes() + b"\xff\xfe\n")
    with pytest.raises(DataError, match=re.escape(f"{path} is not UTF-8 text")):
        words.read_vectors(path)


@pytest.mark.parametrize("word", ["", "new york", "a\n"])
def test_what_is_not_one_word_is_not_written(tmp_path, word):
    path = tmp_path / "vectors.txt"
    with pytest.raises(DataError, match="not one word"):
        words.write_vectors(path, WordVectors((word,), torch.ones(1, 2)))
    assert not path.exists()


def test_the_vectors_of_some_words():
    table = WordVectors(("a", "b", "c"), torch.arange(6.0).reshape(3, 2))
    assert table.of(["c", "a"]).tolist() == [[4.0, 5.0], [0.0, 1.0]]
    with pytest.raises(DataError, match='2 words have no vector, the first is "x"'):
        table.of(["a", "x", "y"])


def test_tag_lists_and_matrices_are_each_other(tmp_path):
    path = tmp_path / "tags.txt"
    path.write_text("blue plane\n\nsky sky blue\n", encoding="utf-8")
    known = ("plane", "sky", "blue")
    tags = words.read_tags(path, known, images=3)
    assert tags.tolist() == [[True, False, True], [False] * 3, [False, True, True]]
    lists = words.tag_lists(tags, known)
    assert lists == [["plane", "blue"], [], ["sky", "blue"]]
    assert torch.equal(words.tag_matrix(lists, known, images=3), tags)
    assert words.tag_lists(tags[:0], known) == []


def test_bad_tag_lists_are_refused(tmp_path):
    path = tmp_path / "tags.txt"
    path.write_text("blue\n\nblue oceam\n", encoding="utf-8")
    known = ("blue", "ocean")
    says = f'{path}, line 3: "oceam" is not one of the 2 known words'
    with pytest.raises(DataError, match=re.escape(says)):
        words.read_tags(path, known, images=3)
    with pytest.raises(DataError, match=re.escape(f"{path}: 3 tag lists for 4 images")):
        words.read_tags(path, known, images=4)
    with pytest.raises(DataError, match='The tags of image 2: "red" is not one of the 2'):
        words.tag_matrix([["blue"], ["red"]], known, images=2)
    with pytest.raises(DataError, match="The tags: 1 tag lists for 2 images"):
        words.tag_matrix([["blue"]], known, images=2)


def test_words_that_are_not_known_are_dropped_and_counted(caplog):
    lists = [("sky", "skyy", "blue"), (), ("skyy", "Blue", "dsc0042"), ["blue", "blue"]]
    with caplog.at_level("INFO", logger="genbook.data"):
        kept = words.known(lists, ("blue", "sea", "sky"))
    assert kept == [["sky", "blue"], [], [], ["blue", "blue"]]
    assert "4 of 8 tags dropped: 3 words are not known" in caplog.text
    assert words.tag_matrix(kept, ("blue", "sea", "sky"), images=4).sum() == 3
    assert words.known(kept, ("blue", "sky")) == kept


@pytest.mark.parametrize(("lists", "total"), [([["skyy"], ["Blue", "Blue"]], 3), ([[], []], 0)])
def test_tags_of_which_nothing_is_known_are_refused(lists, total):
    with pytest.raises(DataError, match=f"None of the {total} tags is one of the 2 known words"):
        words.known(lists, ("blue", "sky"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_features_are_read_as_they_are(tmp_path, dtype):
    path = tmp_path / "features.safetensors"
    features = torch.randn(3, 5, generator=seeded(0)).to(dtype)
    save_file({"features": features, "more": torch.ones(1)}, path)
    found = words.read_features(path, images=3)
    assert found.dtype == torch.float32
    assert torch.equal(found, features.float())


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"fc7": torch.ones(3, 5), "fc6": torch.ones(3)}, ' holds no tensor "features", it holds'),
        ({"fc7": torch.ones(3, 5), "fc6": torch.ones(3)}, "holds: fc6, fc7"),
        ({}, "holds: nothing"),
        ({"features": torch.ones(3, 5, 1)}, ": the features have the shape [3, 5, 1], not [N, F]"),
        ({"features": torch.ones(4, 5)}, ": 4 rows of features for 3 images"),
        ({"features": torch.tensor([[1.0], [float("nan")], [float("inf")]])}, "of image 2 is not"),
        (
            {"features": torch.tensor([[1], [1], [1e39]], dtype=torch.double)},
            "of image 3 is not finite",
        ),
    ],
)
def test_bad_features_are_refused_with_the_file(tmp_path, tensors, says):
    path = tmp_path / "features.safetensors"
    save_file(tensors, path)
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        words.read_features(path, images=3)
    assert str(caught.value).startswith(str(path))


def test_features_that_are_not_safetensors_are_refused(tmp_path):
    path = tmp_path / "features.safetensors"
    save_file({"features": torch.ones(3, 5)}, path)
    whole = path.read_bytes()
    for content in (b"", b"<html>Quota</html>", whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(f"{path} is not a whole safetensors file")):
            words.read_features(path, images=3)


def test_images_without_tags_are_counted_and_dropped_or_refused(caplog):
    tags = torch.tensor([[0, 1], [0, 0], [1, 1], [0, 0]]).bool()
    with caplog.at_level("INFO", logger="genbook.data"):
        assert words.tagged(tags, untagged="drop").tolist() == [0, 2]
    assert "2 of 4 images have no tag" in caplog.text
    with pytest.raises(DataError, match="2 of 4 images have no tag"):
        words.tagged(tags, untagged="refuse")
    assert words.tagged(tags[::2], untagged="refuse").tolist() == [0, 1]


def two_topics(n: int) -> tuple[Tensor, tuple[str, ...]]:
    """Lists of words of one topic or of the other: a b c, or x y z."""
    tags = torch.rand(n, 6, generator=seeded(0)) < 0.7
    tags[: n // 2, 3:] = False
    tags[n // 2 :, :3] = False
    return tags, ("a", "b", "c", "x", "y", "z")


def test_skip_gram_puts_words_of_one_topic_together():
    pytest.importorskip("gensim")
    tags, names = two_topics(1000)
    table = words.skip_gram(tags, names, width=8, epochs=20, seed=3)
    assert table.words == names
    assert table.vectors.shape == (6, 8)
    unit = torch.nn.functional.normalize(table.vectors, dim=1)
    cosine = unit @ unit.T
    within = torch.stack([cosine[:3, :3], cosine[3:, 3:]])
    assert within.min() > cosine[:3, 3:].max()


def test_skip_gram_is_the_same_in_another_process(tmp_path):
    pytest.importorskip("gensim")
    here = words.skip_gram(*two_topics(200), width=8, seed=3)
    path = tmp_path / "vectors.txt"
    code = (
        "import sys; from pathlib import Path; from genbook.data import words\n"
        "import torch; g = torch.Generator().manual_seed(0)\n"
        "tags = torch.rand(200, 6, generator=g) < 0.7\n"
        "tags[:100, 3:] = False; tags[100:, :3] = False\n"
        "table = words.skip_gram(tags, tuple('abcxyz'), width=8, seed=3)\n"
        "words.write_vectors(Path(sys.argv[1]), table)\n"
    )
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    places = os.pathsep.join([str(Path(words.__file__).parents[2]), *sys.path])
    env = os.environ | {"PYTHONHASHSEED": other, "PYTHONPATH": places}
    subprocess.run([sys.executable, "-c", code, str(path)], env=env, check=True)
    assert torch.equal(words.read_vectors(path).vectors, here.vectors)


def test_skip_gram_says_what_it_lacks(monkeypatch):
    tags, names = two_topics(10)
    with pytest.raises(DataError, match='1 words are in no tag list, the first is "unsaid"'):
        words.skip_gram(torch.cat([tags, tags[:, :1] & False], dim=1), (*names, "unsaid"))
    monkeypatch.setitem(sys.modules, "gensim", None)
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(DataError, match=r"pip install gensim.*read_vectors"):
        words.skip_gram(tags, names)
