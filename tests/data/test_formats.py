"""The readers of the file formats, on files of the true format and on damaged ones."""

import json

import numpy as np
import pytest
from PIL import Image

from genbook import data
from genbook.data import formats, sets


def as_bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, dtype=np.uint8)


def test_idx_shape_and_order():
    header = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])
    images = formats.idx(as_bytes(header + bytes(range(24))))
    assert images.shape == (2, 3, 4)
    assert images[1, 2, 3] == 23
    assert images[1, 0, 0] == 12


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0", b"\0\0\x0d\1\0\0\0\1\0", b"\0\0\x08\3\0\0\0\1", b"\0\0\x08\1\0\0\0\2\0"],
    ids=["empty", "short", "floats", "cut header", "cut body"],
)
def test_damaged_idx(content):
    with pytest.raises(data.DataError):
        formats.idx(as_bytes(content))


def test_cifar_records_against_their_definition():
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    records = formats.cifar_records(pictures.reshape(7, 1024, 3), labels)
    # The definition: a label byte, then the red, green and blue planes, each row by row.
    by_hand = b"".join(
        bytes([label]) + b"".join(picture[:, :, c].tobytes() for c in range(3))
        for label, picture in zip(labels, pictures, strict=True)
    )
    assert records == by_hand
    images, found = formats.cifar(as_bytes(records))
    assert np.array_equal(images, pictures.transpose(0, 3, 1, 2))
    assert np.array_equal(found, labels)
    with pytest.raises(data.DataError, match="no multiple of 3073"):
        formats.cifar(as_bytes(records[:-1]))


def test_cifar_batch_rebuilt_from_png_and_labels(tmp_path):
    rows = np.zeros((10_000, 1024, 3), dtype=np.uint8)
    rows[:, 0, 1] = np.arange(10_000) % 251
    Image.fromarray(rows).save(tmp_path / "data_batch_2.png", compress_level=1)
    labels = [(i // 10_000 + i) % 10 for i in range(50_000)]
    (tmp_path / "train_lables.json").write_text(json.dumps(labels))
    made = sets.rebuild_cifar(tmp_path, sets.CIFAR_FILES[1])
    images, found = formats.cifar(as_bytes(made.read_bytes()))
    assert made.stat().st_size == sets.CIFAR_FILES[1].size
    assert found.tolist() == labels[10_000:20_000]
    assert images[77, 1, 0, 0] == 77
    assert images[:, [0, 2]].max() == 0


def test_label_list_refuses_what_is_not_labels(tmp_path):
    path = tmp_path / "labels.json"
    for text in ("[1, 2", '["1"]', "[10]", "[-1]", "{}"):
        path.write_text(text)
        with pytest.raises(data.DataError, match="labels"):
            formats.label_list(path)


def test_png_refuses_other_files(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(path, format="JPEG")
    with pytest.raises(data.DataError, match="not a whole PNG"):
        formats.png(path)
    Image.new("L", (4, 4)).save(path)
    with pytest.raises(data.DataError, match="mode L"):
        formats.png(path)
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(data.DataError, match="not a whole PNG"):
        formats.png(path)
