"""The name of a run changes with what its numbers depend on, and with nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import jupytext
import pytest

from genbook.runs.chapter import ChapterError, code_cells, split
from genbook.runs.identity import PACKAGE, Request, by_profile, identity, import_closure

SMOKE = Request("tiny")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the package, free to be edited."""
    copy = tmp_path / "library" / "genbook"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Its prose.", "Other prose, with a formula $x$."),
        ("# %%\nclaims.close", '# %% tags=["hide-input"]\nclaims.close'),
        ("# # A tiny chapter\n", "# # A tiny chapter\n#\n# %% [markdown]\n# One more cell.\n"),
        ("display_name: Python 3 (ipykernel)", "display_name: Another"),
    ],
)
def test_prose_and_metadata_do_not_rename_a_run(project: Path, old: str, new: str) -> None:
    before = identity(SMOKE)
    edit(project / "chapters" / "tiny.py", old, new)
    assert identity(SMOKE).hash == before.hash


@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [
        ("chapters/tiny.py", "3.0 + seed", "4.0 + seed", "code cells"),
        ("chapters/tiny.py", "# %%\nclaims.close", "# %%\n1\n# %%\nclaims.close", "code cells"),
        ("chapters/tiny.claims.toml", "within = 0.15", "within = 0.2", "claims"),
        ("requirements.txt", "2.13.0", "2.13.1", "requirements.txt"),
    ],
)
def test_code_claims_and_lock_rename_a_run(
    project: Path, file: str, old: str, new: str, part: str
) -> None:
    before = identity(SMOKE)
    edit(project / file, old, new)
    after = identity(SMOKE)
    assert after.hash != before.hash
    assert [p for p in after.parts if after.parts[p] != before.parts[p]] == [part]


SETTINGS = """
PROFILES = {
    "smoke": dict(
        updates=1, size=2,
    ),
    "book": dict(updates=10, size=2),
    "long": dict(updates=100, size=2),
}
cfg = PROFILES[profile]
"""


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("updates=10,", "updates=20,", "other profiles"),
        ("updates=100,", "updates=20,", "other profiles"),
        ("updates=1,", "updates=20,", "code cells"),
        ("cfg = PROFILES[profile]", "cfg = PROFILES['long']", "code cells"),
        ('    "long": dict(updates=100, size=2),\n', "", "other profiles"),
    ],
)
def test_settings_of_other_profiles_are_a_part_of_their_own(
    project: Path, chapter: Callable[[str], None], old: str, new: str, part: str
) -> None:
    chapter(SETTINGS)
    before = identity(SMOKE)
    edit(project / "chapters" / "tiny.py", old, new)
    after = identity(SMOKE)
    assert [p for p in after.parts if after.parts[p] != before.parts[p]] == [part]
    assert after.hash != before.hash


def test_settings_are_split_by_whole_lines() -> None:
    lines = SETTINGS.splitlines()
    own, others = by_profile(SETTINGS, "book")
    assert own.splitlines() == [*lines[:2], lines[5], *lines[7:]]
    assert others.splitlines() == [*lines[2:5], lines[6]]
    assert by_profile("x = {'book': 1}", "smoke") == ("x = {'book': 1}", "")
    for crowded in ('"smoke": 1, "book": 2,\n}', '"smoke": 1,\n"book": 2, "long": 3}'):
        with pytest.raises(ChapterError, match="lines of its own"):
            by_profile("PROFILES = {\n" + crowded, "smoke")
    with pytest.raises(ChapterError, match="lines of its own"):
        by_profile('PROFILES = {"smoke": 1}', "smoke")


@pytest.mark.parametrize(
    "change", [{"profile": "book"}, {"seed": 1}, {"device": "cuda"}, {"engine": "script"}]
)
def test_parameters_rename_a_run(project: Path, change: dict[str, object]) -> None:
    assert identity(Request("tiny", **change)).hash != identity(SMOKE).hash  # type: ignore[arg-type]


def test_one_line_of_a_reached_library_file_renames_a_run(project: Path, library: Path) -> None:
    before = identity(SMOKE, package=library)
    assert before.hash == identity(SMOKE).hash
    (library / "ledger.py").write_text((library / "ledger.py").read_text() + "\n# one line\n")
    assert identity(SMOKE, package=library).hash != before.hash


@pytest.mark.parametrize("file", ["cli.py", "runs/store.py", "site/new.py", "unreached.py"])
def test_other_library_files_do_not_rename_a_run(project: Path, library: Path, file: str) -> None:
    before = identity(SMOKE, package=library)
    with (library / file).open("a") as stream:
        stream.write("\n# one line\n")
    assert identity(SMOKE, package=library).hash == before.hash


def test_data_versions_rename_a_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(project / "chapters" / "tiny.claims.toml", "title", 'data = ["mnist"]\ntitle')
    hashes = {
        identity(SMOKE, fingerprints={"mnist": "a"}).hash,
        identity(SMOKE, fingerprints={"mnist": "b"}).hash,
    }
    for name in ("importlib.metadata.version", "platform.python_version"):
        monkeypatch.setattr(name, lambda *_: "9.9")
        hashes.add(identity(SMOKE, fingerprints={"mnist": "a"}).hash)
    assert len(hashes) == 4


def package(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "genbook" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "genbook"


def test_closure_follows_every_form_of_import(tmp_path: Path) -> None:
    place = package(
        tmp_path,
        {
            "__init__.py": "",
            "a.py": "def f():\n    from genbook.b import g",
            "b.py": "from . import c",
            "c.py": "import genbook.room.d as d",
            "room/__init__.py": "from .e import thing",
            "room/d.py": "from ..f import *",
            "room/e.py": "thing = 1",
            "room/table.csv": "1,2",
            "room/unused.py": "",
            "f.py": "import torch",
            "g.py": "",
        },
    )
    found = import_closure("x", ["import torch\nfrom genbook import a"], place)
    assert [path.relative_to(place).as_posix() for path in found] == [
        "__init__.py", "a.py", "b.py", "c.py", "f.py",
        "room/__init__.py", "room/d.py", "room/e.py", "room/table.csv",
    ]  # fmt: skip


def test_rooms_above_the_line_are_refused(tmp_path: Path) -> None:
    place = package(tmp_path, {"__init__.py": "", "a.py": "from genbook import runs"})
    with pytest.raises(ChapterError, match=r"genbook\.runs, which is above the line"):
        import_closure("x", ["import genbook.a"], place)


def test_a_cell_that_is_no_python_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChapterError, match="code cell 2"):
        import_closure("x", ["1", "%matplotlib inline"], PACKAGE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "sede = 0", "unknown parameter 'sede'; did you mean 'seed'"),
        ("seed = 0\n", "", "lacks seed"),
        ("seed = 0", "seed = 0\nepochs = 3", "unknown parameter 'epochs'"),
        ("seed = 0", "seed = 0\nprint(seed)", "may only assign"),
        ('# %% tags=["parameters"]', "# %%", "0 cells are tagged"),
    ],
)
def test_a_broken_parameters_cell_is_refused(
    project: Path, old: str, new: str, message: str
) -> None:
    edit(project / "chapters" / "tiny.py", old, new)
    with pytest.raises(ChapterError, match=message):
        identity(SMOKE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chapter": "tyni"}, "did you mean 'tiny'"),
        ({"chapter": "../tiny"}, "unknown chapter"),
        ({"profile": "smoek"}, "unknown profile 'smoek': did you mean 'smoke'"),
        ({"engine": "scirpt"}, "unknown engine 'scirpt': did you mean 'script'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"seed": -1}, "not negative"),
    ],
)
def test_unknown_names_are_refused(project: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ChapterError, match=message):
        identity(Request(**{"chapter": "tiny", **fields}))  # type: ignore[arg-type]


def test_the_split_agrees_with_jupytext(project: Path) -> None:
    paths = [project / "chapters" / "tiny.py", *(PACKAGE.parent / "chapters").glob("*.py")]
    for path in paths:
        text = path.read_text()
        theirs = jupytext.reads(text, fmt="py:percent").cells
        ours = split(text)
        assert [(c.kind, c.source) for c in ours] == [(c.cell_type, c.source) for c in theirs]
        cells, parameters = code_cells(path.stem, text)
        assert "parameters" in cells[parameters].tags


def test_lines_of_cells_are_those_of_the_file(project: Path) -> None:
    text = (project / "chapters" / "tiny.py").read_text()
    lines = text.splitlines()
    for cell in split(text):
        if cell.kind == "code":
            assert lines[cell.line - 1] == cell.source.splitlines()[0]
