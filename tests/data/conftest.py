"""A tiny public data set of the true IDX format, and fake places to fetch it from."""

import gzip
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from genbook.data import files, sets
from genbook.data.archives import Members
from genbook.data.sources import Npm, Source


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.tobytes()


def tgz(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def file_of(name: str, content: bytes) -> files.File:
    return files.File(name, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GENBOOK_DATA", str(folder))
    return folder


@dataclass(frozen=True)
class Tiny:
    """The data set "tiny": its true bytes, and how to declare where it comes from."""

    contents: dict[str, bytes]
    folder: Path
    declare: Callable[..., None]  # declare(*sources)

    @property
    def archive(self) -> bytes:
        return tgz({f"package/{name}": content for name, content in self.contents.items()})

    @property
    def npm(self) -> Npm:
        return Npm("tiny", "1.0.0", Members(self.members("package")))

    def members(self, top: str) -> dict[str, files.File]:
        return {f"{top}/{name}": file_of(name, content) for name, content in self.contents.items()}

    def leftovers(self) -> list[str]:
        """Scratch folders that a fetch has left behind."""
        return sorted(path.name for path in self.folder.glob(".fetch-*"))

    def packed(self) -> dict[str, bytes]:
        return {f"/{name}.gz": gzip.compress(content) for name, content in self.contents.items()}


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    rng = np.random.default_rng(0)
    contents = {
        "train-images": idx_bytes(rng.integers(0, 256, (6, 5, 4), dtype=np.uint8)),
        "train-labels": idx_bytes(np.arange(6, dtype=np.uint8)),
        "test-images": idx_bytes(rng.integers(0, 256, (3, 5, 4), dtype=np.uint8)),
        "test-labels": idx_bytes(np.arange(3, dtype=np.uint8)),
    }

    def declare(*sources: Source) -> None:
        known = tuple(file_of(name, content) for name, content in contents.items())
        one = sets.PublicSet("tiny", "Tiny", known, sources, 10_000, sets.read_idx)
        monkeypatch.setitem(sets.PUBLIC, "tiny", one)

    return Tiny(contents, cache / "tiny", declare)


@dataclass(frozen=True)
class FakeNpm:
    """An `npm` on the PATH that hands over prepared bytes, and counts its calls."""

    archive: Path
    calls: Path

    def gives(self, archive: bytes) -> None:
        self.archive.write_bytes(archive)

    @property
    def count(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNpm:
    npm = FakeNpm(tmp_path / "prepared", tmp_path / "calls")
    command = tmp_path / "bin" / "npm"
    command.parent.mkdir()
    command.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> "{npm.calls}"\n'
        "sleep 0.2\n"
        f'test -f "{npm.archive}" || {{ echo "npm error code ENOTFOUND" >&2; exit 1; }}\n'
        f'cp "{npm.archive}" tiny-1.0.0.tgz\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    return npm


@dataclass
class Web:
    """A web server on this machine; `pages` may be changed while it runs."""

    base: str
    pages: dict[str, bytes]
    claimed: dict[str, int]  # path -> Content-Length, where it is to be false
    asked: list[str]
    silent: threading.Event  # set: the server takes connections and says nothing


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Web("", {}, {}, [], threading.Event())
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            if state.silent.is_set():
                over.wait(10)
                return
            content = state.pages.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(state.claimed.get(self.path, len(content))))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.base = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state
    over.set()
    server.shutdown()
    server.server_close()
