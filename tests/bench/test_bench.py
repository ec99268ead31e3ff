"""The benchmark: two programs take turns, do equal work, and what is found has its form."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from genbook import bench, ledger
from genbook.bench import build, growth, peers, turns
from genbook.site import lookup, tables
from genbook.site.growth import growth as growth_page

PYTHON = Path(sys.executable)
SMALL = {"tests": 20, "samples": 300}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(bench.ENTRIES["parzen_window"], sizes=SMALL)
    monkeypatch.setitem(bench.ENTRIES, "parzen_window", entry)


def test_the_sides_take_turns_and_find_the_same() -> None:
    found = turns.compare("parzen_window", "numpy", SMALL, python=PYTHON, turns=3)
    assert found.ours.found["mean"] == pytest.approx(found.peer.found["mean"], rel=1e-12)
    assert len(found.ours.seconds) == len(found.peer.seconds) == 3
    both = zip(found.peer.seconds, found.ours.seconds, strict=True)
    ratios = sorted(slow / fast for slow, fast in both)
    assert [found.lowest, found.ratio, found.highest] == ratios
    assert found.ours.median == sorted(found.ours.seconds)[1]
    assert found.ours.memory >= 0
    # Ten images of 784 values against 300 samples, in float64, twice.
    assert found.peer.memory > 10 * 300 * 784 * 8 / 2**20


@pytest.mark.parametrize("warm_up", [True, False])
def test_a_turn_before_the_first_is_left_out_where_turns_are_long(
    warm_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, turn = [], turns.Program.turn

    def counted(program: turns.Program) -> float:
        taken.append(program.what)
        return turn(program)

    monkeypatch.setattr(turns.Program, "turn", counted)
    found = turns.compare("parzen_window", "numpy", SMALL, python=PYTHON, turns=2, warm_up=warm_up)
    assert len(found.peer.seconds) == 2
    # Each side: two turns, one for its memory, and one to warm up.
    assert len(taken) == 2 * (3 + warm_up)
    assert not bench.ENTRIES["parzen_window"].warm_up


@pytest.mark.parametrize(
    ("name", "sizes", "found"),
    [
        ("aevb_training", {"images": 300}, {"weights": 815_824}),
        ("unet_step", {"batch": 1, "bfloat16": False}, {"weights": 8_952_067}),
        ("unet_step", {"batch": 1, "bfloat16": True}, {"weights": 8_952_067}),
        ("neighbour_shares", {"points": 50, "dims": 3, "block": 20}, {}),
        ("frechet_statistics", {"points": 50, "dims": 3}, {}),
    ],
)
def test_our_side_of_the_other_programs_works(
    name: str, sizes: dict[str, int], found: dict[str, int]
) -> None:
    program = turns.Program(name, "ours", sizes, PYTHON)
    program.ready()
    seconds = program.turn()
    assert seconds > 0
    end = program.end()["found"]
    assert end.items() >= found.items()
    if name == "unet_step":
        assert 0.02 < end["gigaflop"] / seconds / end["peak"] < 1.5  # a first step is a slow one
    assert program.process.wait(10) == 0


def test_a_program_that_fails_says_why() -> None:
    program = turns.Program("parzen_window", "ours", {"tests": 1}, PYTHON)
    with pytest.raises(turns.ProgramError, match=r"parzen_window, ours: (?s:.*)'samples'"):
        program.ready()


def test_every_program_has_its_entry() -> None:
    programs = {path.stem for path in turns.PROGRAMS.glob("*.py")} - {"harness"}
    assert programs == {entry.program or name for name, entry in bench.ENTRIES.items()}


def test_unequal_work_is_refused(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(bench.ENTRIES["parzen_window"], agree={"mean": -1.0})
    monkeypatch.setitem(bench.ENTRIES, "parzen_window", entry)
    with pytest.raises(turns.ProgramError, match="not equal work: mean -"):
        bench.compare(["parzen_window"], most_turns=1)


def test_the_command_prints_json_or_a_table(
    small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.main(["parzen_window", "--turns", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert set(found["machine"]) >= {"processor", "cores", "torch", "python"}
    (row,) = found["comparisons"]
    assert row["name"] == "parzen_window"
    assert row["sizes"] == SMALL
    assert len(row["peer"]["seconds"]) == 1
    bench.main(["parzen_window", "--turns", "1"])
    assert "numpy" in capsys.readouterr().out


def test_a_recorded_comparison_is_on_the_page_and_cannot_be_edited(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    assert bench.recorded("bench") is None
    with pytest.raises(lookup.UnknownResultError, match="genbook bench --record"):
        list(tables.bench(lookup.Results({"profile": "book", "chapters": {}, "bench": None})))
    bench.main(["parzen_window", "--turns", "1", "--record"])
    found = bench.recorded("bench")
    assert found is not None
    assert found["command"] == "genbook bench parzen_window --turns 1 --record"
    page = lookup.Results({"profile": "book", "chapters": {}, "bench": found})
    html = "".join(piece.html for piece in tables.bench(page) if isinstance(piece, tables.Markup))
    (row,) = found["comparisons"]
    assert f"{row['ratio']:.2f} <span>" in html
    assert f"{row['ours']['seconds'][0]:.3g} s" in html
    assert "genbook bench parzen_window" in html
    path = bench.recorded_path("bench")
    path.write_text(path.read_text().replace('"ratio": ', '"ratio": 1'))
    with pytest.raises(ledger.ClaimsError, match="was changed"):
        bench.recorded("bench")


def test_the_share_of_the_peak_is_arithmetic_over_time() -> None:
    side = turns.Side([1.0, 2.0, 4.0], 0.0, {"gigaflop": 30.0, "peak": 60.0})
    assert side.of_peak == pytest.approx(0.25)
    assert turns.Side([1.0], 0.0, {}).of_peak is None
    row = {"seconds": side.seconds, "found": side.found}
    assert "Ours at 25% of the peak in matrix products, theirs at 12%" in tables.of_peak(
        row, {"seconds": [4.0], "found": side.found}
    )
    assert tables.of_peak(row, {"seconds": [1.0], "found": {}}) == ""


def test_the_growth_of_costs_is_measured_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    small = {name: (*row[:3], row[3][:2]) for name, row in growth.MEASURES.items()}
    monkeypatch.setattr(growth, "MEASURES", small)
    bench.main(["--growth", "--turns", "1", "--record"])
    found = bench.recorded("growth")
    assert found is not None
    assert found["command"] == "genbook bench --growth --turns 1 --record"
    for name, row in found["measures"].items():
        fast, slow = row["seconds"]
        assert row["sizes"] == list(small[name][3])
        assert row["exponent"] == pytest.approx(math.log2(slow / fast))
    page = lookup.Results({"profile": "book", "chapters": {}, "growth": found})
    html = "".join(piece.html for piece in growth_page(page) if isinstance(piece, tables.Markup))
    for row in found["measures"].values():
        assert f"{row['quantity']} to the power {row['exponent']:.2f}</td>" in html
        assert f"{row['seconds'][1]:.3g}</td>" in html
    bench.main(["--growth", "--turns", "1"])
    assert "Parzen window of 100 images" in capsys.readouterr().out


def test_a_power_law_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "_seconds", lambda work: float(work()) ** 2)
    law = {"law": ("a square", "n", lambda n: lambda: n, (1, 3, 9))}
    monkeypatch.setattr(growth, "MEASURES", law)
    assert growth.measure()["law"]["exponent"] == pytest.approx(2.0)


def test_three_builds_are_timed_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chapters").mkdir()
    chapter = tmp_path / "chapters" / "toy.py"
    chapter.write_text('# %% [markdown]\n# Words.\n\n# %% tags=["parameters"]\nseed = 0\n')
    (tmp_path / "genbook").mkdir()
    (tmp_path / "genbook" / "some.py").write_text("1\n")
    (tmp_path / "notes").write_text("not tracked")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e"]
    for arguments in (["init", "-q"], ["add", "chapters", "genbook"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    seen = []

    def built(root: Path, profile: str) -> float:
        run = root / "_build" / "runs" / "toy"
        run.mkdir(parents=True, exist_ok=True)
        ledger.write_json(run / "provenance.json", {"chapter": "toy", "wall_seconds": 30.4})
        seen.append((root / "chapters" / "toy.py").read_text())
        assert not (root / "notes").exists()
        (tmp_path / "genbook" / "some.py").write_text("2\n")  # edited while it is measured
        return 100.0 / len(seen)

    monkeypatch.setattr(build, "_build", built)
    bench.main(["--build", "--profile", "smoke", "--record"])
    before = chapter.read_text()
    assert seen[:2] == [before, before]
    assert seen[2] == before.replace("# Words.\n", "# Words.\n#\n# One more sentence.\n")
    found = bench.recorded("build")
    assert found is not None
    assert found["dirty"] is False
    assert found["builds"] == {"cold": 100.0, "unchanged": 50.0, "prose": 100.0 / 3}
    page = lookup.Results(
        {"profile": "book", "chapters": {"toy": {"title": "A toy"}}, "build": found}
    )
    html = "".join(piece.html for piece in tables.build(page) if isinstance(piece, tables.Markup))
    assert '>A toy</th><td role="cell" data-label="Time">30 s</td>' in html
    assert "nothing changed since</th>" in html
    assert "genbook bench --build --profile smoke --record" in html
    other = lookup.Results({"profile": "book", "chapters": {}, "build": found})  # lacks the chapter
    pieces = (piece.html for piece in tables.build(other) if isinstance(piece, tables.Markup))
    assert '>toy</th><td role="cell" data-label="Time">30 s</td>' in "".join(pieces)


def test_without_the_other_packages_the_message_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as stop:
        bench.main(["unet_step"])
    assert stop.value.code == 1
    assert "genbook bench --install" in capsys.readouterr().err
    assert peers.folder() == tmp_path / "_build" / "peers"


@pytest.mark.parametrize("wrong", [["nothing"], ["--turns", "0"]])
def test_a_wrong_option_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        bench.main(wrong)
    assert stop.value.code == 2
    assert "genbook bench: error:" in capsys.readouterr().err
