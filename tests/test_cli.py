"""The command line: what it prints, what it refuses, and its exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from genbook import cli, ledger

# Keys of an object of `genbook ledger --json`, fixed by the design.
KEYS = [
    "id", "chapter", "statement", "source", "published", "standing", "unit", "ours", "spread",
    "rule", "verdict", "profile", "run",
]  # fmt: skip
CHAPTER = """\
# %% tags=["parameters"]
profile = "smoke"
device = "cpu"
seed = 0

# %%
from genbook import ledger

claims = ledger.Ledger("tiny", profile=profile, seed=seed)
assert seed != 13
claims.judge("one", ours=1.0)
claims.close()
"""
CLAIMS = """\
[chapter]
title = "Tiny"

[claims.one]
statement = "One [sic] is one"
source = "section 1"
published = "qualitative"
standing = "primary"
unit = "none"
protocol = "count"
rule = { kind = "at_least", value = 0.5 }
why = "a test"
from = "smoke"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "tiny.py").write_text(CHAPTER)
    (tmp_path / "chapters" / "tiny.claims.toml").write_text(CLAIMS)
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    monkeypatch.delenv("GENBOOK_PROFILE", raising=False)
    return tmp_path


def genbook(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def test_help_is_quick_and_names_every_command() -> None:
    started = time.process_time()
    child = os.times().children_user
    done = subprocess.run(
        [sys.executable, "-m", "genbook", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("run", "record", "ledger", "data", "book", "bench"):
        assert f" {command} " in done.stdout
    # Processor time, so that a busy machine does not fail it.
    spent = time.process_time() - started + os.times().children_user - child
    assert spent < 1.0


@pytest.mark.parametrize("command", ["run", "record", "ledger", "data fetch", "book", "bench"])
def test_every_command_explains_itself(command: str) -> None:
    done = genbook(*command.split(), "--help")
    assert done.exit_code == 0
    assert "usage: " in done.output.lower()


def test_no_heavy_import_for_help() -> None:
    program = (
        "import sys; from genbook.cli import app\n"
        "heavy = {'torch', 'numpy', 'papermill', 'jupytext', 'nbformat', 'sphinx', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_run_then_ledger(project: Path) -> None:
    done = genbook("run", "tiny", "--engine", "script", "--profile", "book")
    assert done.exit_code == 0, done.output
    folder = Path(done.stdout.strip())
    assert folder.parent == project / "_build" / "runs"
    rows = json.loads(genbook("ledger", "--json").stdout)
    assert [list(row) for row in rows] == [KEYS]
    assert (rows[0]["ours"], rows[0]["verdict"]) == (1.0, "reproduced")
    assert rows[0]["run"] == folder.name
    table = genbook("ledger", "tiny").stdout
    assert "One [sic] is one" in table
    assert "1 reproduced" in table


def test_a_claim_that_was_not_run_is_listed(project: Path) -> None:
    (row,) = json.loads(genbook("ledger", "--json").stdout)
    assert (row["ours"], row["run"]) == (None, None)
    assert row["verdict"] == "not run at this scale"


def test_a_falsified_run_is_an_error_and_force_repairs_it(project: Path) -> None:
    arguments = ("run", "tiny", "--engine", "script", "--profile", "book")
    folder = Path(genbook(*arguments).stdout.strip())
    record = folder / "record.json"
    record.write_text(record.read_text().replace("1.0", "2.0"))
    for command in (arguments, ("ledger", "--json")):
        done = genbook(*command)
        assert done.exit_code == 1
        assert "record.json was changed after the run" in done.stderr
    assert genbook(*arguments, "--force").exit_code == 0
    assert genbook("ledger").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "tyni"), "did you mean 'tiny'"),
        (("run", "tiny", "--profile", "bok"), "did you mean 'book'"),
        (("run", "tiny", "--engine", "scirpt"), "script"),
        (("run", "tiny", "--device", "gpu"), "unknown device"),
        (("run", "tiny", "--sede", "3"), "--seed"),
        (("run", "tiny", "--seeds", "2..0"), "0..2"),
        (("run",), "name the chapters"),
        (("run", "tiny", "--all"), "name the chapters"),
        (("ledger", "tyni"), "did you mean 'tiny'"),
        (("record", "tiny", "--profile", "lnog"), "did you mean 'long'"),
    ],
)
def test_wrong_names_end_with_status_2(
    project: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = genbook(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_failure_and_limit_have_their_own_status(project: Path) -> None:
    script = ("--engine", "script")
    assert genbook("run", "tiny", "--seed", "13", *script).exit_code == 1
    path = project / "chapters" / "tiny.py"
    path.write_text(
        path.read_text().replace("assert seed", "import time; time.sleep(30)\nassert seed")
    )
    limited = genbook("run", "tiny", *script, "--timeout", "0.5")
    assert limited.exit_code == 124
    assert "wall-clock limit of 0.5 s" in limited.stderr
    assert ".part" in limited.stderr


def test_record_names_its_seeds(project: Path) -> None:
    genbook("run", "tiny", "--engine", "script", "--profile", "long", "--seeds", "0..1")
    done = genbook("record", "tiny", "--profile", "long")
    assert done.stdout.strip().endswith("tiny.long.json: seeds 0, 1")
    missing = genbook("record", "tiny", "--profile", "paper")
    assert missing.exit_code == 1
    assert "no run of tiny paper" in missing.stderr


def test_book_runs_the_chapters_and_says_where_to_look(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genbook import site

    (project / "_toc.yml").write_text("chapters:\n- file: chapters/tiny\n")
    seen: list[str] = []

    def build() -> Path:
        seen.append(os.environ["GENBOOK_PROFILE"])
        return project / "_build" / "html" / "index.html"

    monkeypatch.setattr(site, "build", build)
    monkeypatch.setenv("GENBOOK_PROFILE", "")
    done = genbook("book", "--profile", "smoke")
    assert done.exit_code == 0, done.output
    assert seen == ["smoke"]
    assert "The book is built in" in done.stdout
    assert done.stdout.strip().endswith("_build/html/index.html")
    assert len(list((project / "_build" / "runs").glob("tiny-smoke-*"))) == 1


def test_data_commands_tell_of_sets_and_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBOOK_DATA", str(tmp_path))
    listed = genbook("data", "list")
    assert listed.exit_code == 0
    assert "mnist" in listed.stdout
    assert "frey_face: " in listed.stdout
    assert genbook("data", "verify").exit_code == 0
    wrong = genbook("data", "verify", "minst")
    assert wrong.exit_code == 1
    assert "mnist" in wrong.stderr
    own = genbook("data", "fetch", "frey_face")
    assert own.exit_code == 1
    assert str(tmp_path) in own.stderr
    damaged = tmp_path / "mnist"
    damaged.mkdir()
    (damaged / "train-images-idx3-ubyte").write_bytes(b"not images")
    checked = genbook("data", "verify", "mnist")
    assert checked.exit_code == 1
    assert "WRONG" in checked.stdout


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [3]), ("0..2", [0, 1, 2]), ("0, 2,2..3", [0, 2, 3])]
)
def test_seeds_are_read(text: str, seeds: list[int]) -> None:
    assert cli.seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1..", "-1", "3..1"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"0\.\.2"):
        cli.seeds_of(text)
