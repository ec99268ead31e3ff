"""What names a run: everything that its numbers can depend on, and nothing else.

A run of a chapter is named by its code cells, its claims file, the library files that it can
reach, its parameters, its data, the lock file and the versions of Python and torch.  Prose, cell
metadata, the command line, the site and this package are left out, so that editing them does not
run anything again.

The settings of the profiles that are not the run's own are a part of their own: a page prints
them, so its run is made again when they change, but no number depends on them, and a recorded run
stands when only another profile was changed.  Which weights are kept for a page's lab is a part
of the same kind.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from genbook import ledger
from genbook.runs.chapter import ChapterError, chapter_path, code_cells

PACKAGE = Path(__file__).resolve().parents[1]
# The rooms above the line: a chapter must not import them.
ABOVE = ("cli", "site", "runs", "bench", "__main__")
ENGINES = ("papermill", "script")
# The checkpoints whose weights the pages' labs run on, by chapter, and the part of the model.
KEPT = {
    "aevb": {"two": ""},
    "cgan": {"conditional": "generator."},
    "wae": {"squares-deterministic-0--2": "", "squares-uniform-0--2": ""},
}
# Chapters whose lab runs on the weights of a recorded run: after the book profile's few passes the
# generator of the cGAN does not hear its label yet.
KEPT_WITH_RECORD = ("cgan",)
DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?|xpu(:\d+)?")


@dataclass(frozen=True)
class Request:
    """A run that somebody wants; unknown profiles, engines and devices are refused here."""

    chapter: str
    profile: str = "smoke"
    seed: int = 0
    device: str = "cpu"
    engine: str = "papermill"
    processes: int = 1  # that share its training, a GPU each

    def __post_init__(self) -> None:
        for value, known in ((self.profile, ledger.PROFILES), (self.engine, ENGINES)):
            if value not in known:
                kind = "profile" if known is ledger.PROFILES else "engine"
                raise ChapterError(f"unknown {kind} '{value}': {ledger.nearest(value, known)}")
        if not DEVICE.fullmatch(self.device):
            raise ChapterError(f"unknown device '{self.device}': cpu, cuda, cuda:N, mps or xpu")
        if self.seed < 0:
            raise ChapterError(f"a seed is not negative: {self.seed}")
        if self.processes > 1 and self.engine != "script":
            raise ChapterError("several processes need --engine script: a notebook has one")

    def command(self) -> str:
        """The command that makes this run."""
        return (
            f"genbook run {self.chapter} --profile {self.profile} --device {self.device} "
            f"--seed {self.seed} --engine {self.engine}"
            + (f" --processes {self.processes}" if self.processes > 1 else "")
        )

    def label(self) -> str:
        """The run as the terminal names it."""
        return f"{self.chapter} {self.profile} seed {self.seed}"


@dataclass(frozen=True)
class Identity:
    """The name of a run: a hash, the parts it was made of, and the bytes of the sources."""

    hash: str
    parts: Mapping[str, str]
    sources: Mapping[str, bytes] = field(repr=False, default_factory=dict)

    @property
    def data(self) -> dict[str, str]:
        """The fingerprint of each data set."""
        return {k[5:]: v for k, v in self.parts.items() if k.startswith("data ")}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The names of the parts in which two identities differ."""
    return sorted(k for k in {*before, *after} if before.get(k) != after.get(k))


def hash_of(parts: Mapping[str, str]) -> str:
    """The twelve digits that end a run folder's name."""
    return digest(json.dumps(dict(parts), sort_keys=True).encode())[:12]


def identity(
    request: Request,
    *,
    root: Path | None = None,
    package: Path = PACKAGE,
    fingerprints: Mapping[str, str] | None = None,
) -> Identity:
    """Read everything the run depends on and name it.

    `fingerprints` of the data sets are passed on from a process that has read them already.
    """
    root = root or ledger.ROOT
    path = chapter_path(request.chapter, root)
    text = path.read_text(encoding="utf-8")
    cells, parameters = code_cells(request.chapter, text)
    claims_path = path.with_name(f"{request.chapter}.claims.toml")
    claims = ledger.read_claims(request.chapter, root)
    lock = root / "requirements.txt"
    reached = import_closure(request.chapter, [c.source for c in cells], package)
    sources = {
        f"chapters/{request.chapter}.py": text.encode(),
        f"chapters/{request.chapter}.claims.toml": claims_path.read_bytes(),
    }
    own, others = zip(*(by_profile(c.source, request.profile) for c in cells), strict=True)
    parts = {
        "code cells": digest(json.dumps([parameters, *own]).encode()),
        "other profiles": digest("".join(others).encode()),
        "claims": digest(sources[f"chapters/{request.chapter}.claims.toml"]),
        "profile": request.profile,
        "seed": str(request.seed),
        "device": request.device,
        "engine": request.engine,
        "requirements.txt": digest(lock.read_bytes()) if lock.exists() else "absent",
        "python": platform.python_version(),
        "torch": _version("torch"),
    }
    if request.processes > 1:
        if package / "parallel.py" not in reached:
            raise ChapterError(
                f"{request.chapter} trains in one process: it has no use for several"
            )
        parts["processes"] = str(request.processes)
    for file in reached:
        content = file.read_bytes()
        name = f"genbook/{file.relative_to(package).as_posix()}"
        sources[name] = content
        parts[name] = digest(content)
    for profile, recorded in ledger.recorded_paths(request.chapter, root):
        # A chapter shows what larger profiles have recorded, and never its own or smaller ones.
        if ledger.PROFILES.index(profile) > ledger.PROFILES.index(request.profile):
            content = recorded.read_bytes()
            sources[f"book/recorded/{recorded.name}"] = content
            parts[f"recorded {profile}"] = digest(content)
    if request.chapter in KEPT:
        parts["kept weights"] = digest(json.dumps(KEPT[request.chapter]).encode())
    for name in (*claims.data, *claims.optional_data):
        parts[f"data {name}"] = (fingerprints or {}).get(name) or _fingerprint(name)
    return Identity(hash_of(parts), parts, sources)


def by_profile(source: str, profile: str) -> tuple[str, str]:
    """The source of a code cell without the settings of other profiles, and these settings: the
    entries of `PROFILES = {"smoke": Profile(...), ...}` with another key, which begin and end
    lines of their own (ChapterError otherwise)."""
    lines = source.splitlines()
    others: list[str] = []
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)):
            continue
        if [t.id for t in node.targets if isinstance(t, ast.Name)] != ["PROFILES"]:
            continue
        entries = [*zip(node.value.keys, node.value.values, strict=True)]
        starts = [key.lineno for key, _ in entries if key]
        stops = [node.lineno, *(value.end_lineno for _, value in entries)]
        if any(start == stop for start, stop in zip(starts, stops, strict=False)):
            raise ChapterError("PROFILES: each profile needs lines of its own")
        for key, value in reversed(entries):
            if isinstance(key, ast.Constant) and key.value != profile:
                place = slice(key.lineno - 1, value.end_lineno)
                others[:0] = lines[place]
                del lines[place]
    return "\n".join(lines), "\n".join(others)


def _fingerprint(name: str) -> str:
    from genbook import data  # imports torch, which a chapter without data need not wait for

    return data.fingerprint(name)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def import_closure(chapter: str, sources: list[str], package: Path = PACKAGE) -> list[Path]:
    """The files of the library that a chapter can reach through import statements, sorted.

    Every import counts, also one inside a function.  A reached package brings its data files.
    """
    reached: set[Path] = set()
    waiting: list[str] = []
    for number, source in enumerate(sources, 1):
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            raise ChapterError(
                f"chapters/{chapter}.py, code cell {number}: {error.msg}: {error.text or ''}"
            ) from error
        waiting += _imported(tree, package=())
    while waiting:
        name = waiting.pop()
        if name.split(".")[1:2] and name.split(".")[1] in ABOVE:
            raise ChapterError(
                f"chapters/{chapter}.py reaches {name}, which is above the line: a chapter "
                "imports only data, plotting, nn, training, metrics, ledger and the papers' files"
            )
        for file in _files(name, package):
            if file in reached:
                continue
            reached.add(file)
            if file.suffix == ".py":
                inside = ("genbook", *file.relative_to(package).parent.parts)
                waiting += _imported(ast.parse(file.read_text(encoding="utf-8")), inside)
    return sorted(reached)


def _imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Dotted names under `genbook` that a module imports; attributes are listed as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "genbook")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module.split(".")[0] == "genbook":
                yield module
                yield from (f"{module}.{a.name}" for a in node.names)


def _files(name: str, package: Path) -> Iterator[Path]:
    """The files behind a dotted name: its own, those of its parents, a package's data files."""
    place = package
    for part in (None, *name.split(".")[1:]):
        place = place / part if part else place
        if (place / "__init__.py").is_file():
            yield from (p for p in place.iterdir() if p.is_file() and _belongs(p))
        elif place.with_suffix(".py").is_file():
            yield place.with_suffix(".py")
            return
        else:
            return


def _belongs(path: Path) -> bool:
    """Of a package that is reached: its `__init__.py` and its data files."""
    return path.name == "__init__.py" or (path.suffix != ".py" and not path.name.startswith("."))
