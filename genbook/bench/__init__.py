"""`genbook bench`: how fast the book's code is beside what people use today, on this machine.

Each line is one comparison at equal work. Two programs take turns, with as many threads each (one
where no other number is named), so that a busy machine slows both; the ratio is the median over
turns. Memory is what the work took beside what the process had before. The other packages live in
an environment of their own (--install).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from genbook import ledger
from genbook.bench import peers, turns


@dataclass(frozen=True)
class Entry:
    """A program of the folder programs, and what it is compared with.

    `agree` says how far apart what both sides find may be: work that is not equal is an error.
    """

    what: str
    peer: str
    sizes: dict[str, Any]
    turns: int
    agree: dict[str, float]
    foreign: bool = True  # the peer is a package of the other environment
    program: str = ""  # of the folder, where it has not the entry's name
    warm_up: bool = True  # not where a turn takes minutes


SHARES = ("precision", "recall", "density", "coverage")
# 15 nats are twice the distance of two seeds after some hundred steps; prdc works in single
# precision, which moves points on the rim of a ball.
ENTRIES = {
    "aevb_textbook": Entry(
        "AEVB training, three sizes of Figure 2: 100 batches of 100 digits each",
        "a textbook loop with a DataLoader",
        {"latents": [3, 5, 10], "steps": 100, "threads": 1}, 9, {"bound": 15.0}, foreign=False,
    ),
    "aevb_textbook_two_threads": Entry(
        "the same, each with two threads", "a textbook loop with a DataLoader",
        {"latents": [3, 5, 10], "steps": 100, "threads": 2}, 9, {"bound": 15.0}, foreign=False,
        program="aevb_textbook",
    ),
    "aevb_textbook_alone": Entry(
        "one size alone, 20 latent variables, one thread", "a textbook loop with a DataLoader",
        {"latents": [20], "steps": 100, "threads": 1}, 9, {"bound": 15.0}, foreign=False,
        program="aevb_textbook",
    ),
    "aevb_textbook_alone_two_threads": Entry(
        "one size alone, two threads", "a textbook loop with a DataLoader",
        {"latents": [20], "steps": 100, "threads": 2}, 9, {"bound": 15.0}, foreign=False,
        program="aevb_textbook",
    ),
    "aevb_training": Entry(
        "AEVB training, a pass over 10 000 images", "pythae's trainer",
        {"images": 10_000}, 9, {"weights": 0.0},
    ),
    "unet_step": Entry(
        "U-Net of diffusion, a training step of 8: both 64 wide, in the chapter's bfloat16",
        "denoising-diffusion-pytorch",
        {"batch": 8, "bfloat16": True, "peer_channels": 64}, 9, {},
    ),
    "unet_step_equal_work": Entry(
        "the same, the other 72 wide: as many weights, the nearest arithmetic",
        "denoising-diffusion-pytorch",
        {"batch": 8, "bfloat16": True, "peer_channels": 72}, 9, {}, program="unet_step",
    ),
    "unet_step_single": Entry(
        "both 64 wide, in single precision", "denoising-diffusion-pytorch",
        {"batch": 8, "bfloat16": False, "peer_channels": 64}, 9, {}, program="unet_step",
    ),
    "unet_step_single_equal_work": Entry(
        "in single precision, the other 72 wide", "denoising-diffusion-pytorch",
        {"batch": 8, "bfloat16": False, "peer_channels": 72}, 9, {}, program="unet_step",
    ),
    "neighbour_shares": Entry(
        "precision, recall, density, coverage: 10 000 points in 64 dimensions", "prdc",
        {"points": 10_000, "dims": 64, "block": 200}, 3, dict.fromkeys(SHARES, 1e-3),
    ),
    "frechet_statistics": Entry(
        "Fréchet distance: 50 000 points in 2048 dimensions", "torch-fidelity",
        {"points": 50_000, "dims": 2_048}, 3, {"distance": 1e-3},
    ),
    "parzen_window": Entry(
        "Parzen window: 10 000 images, 10 000 samples", "numpy",
        {"tests": 10_000, "samples": 10_000}, 3, {"mean": 1e-6}, foreign=False, warm_up=False,
    ),
}  # fmt: skip


def compare(names: Sequence[str], *, most_turns: int | None = None) -> list[turns.Comparison]:
    """The comparisons of these names."""
    found = []
    for name in names:
        entry = ENTRIES[name]
        python = peers.python() if entry.foreign else Path(sys.executable)
        number = min(entry.turns, most_turns or entry.turns)
        print(f"{entry.what}: {number} turns", file=sys.stderr, flush=True)
        program = entry.program or name
        row = turns.compare(
            program, entry.peer, entry.sizes,
            python=python, turns=number, warm_up=entry.warm_up,
        )  # fmt: skip
        row = replace(row, name=name)
        for key, apart in entry.agree.items():
            if not abs(row.ours.found[key] - row.peer.found[key]) <= apart:
                both = f"{row.ours.found[key]:g} and {row.peer.found[key]:g}"
                raise turns.ProgramError(f"{name}: not equal work: {key} {both}")
        found.append(row)
    return found


def record(what: str, content: dict[str, Any], command: str) -> Path:
    """Write `bench`, `growth` or `build` to book/recorded, sealed like recorded runs; the book's
    page of speed shows it."""
    from genbook.runs import provenance

    content = {
        "machine": machine(),
        "command": command,
        **provenance.commit(ledger.ROOT, ["genbook"]),
        **content,
    }
    path = recorded_path(what)
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_json(path, {**content, "sha256": ledger.recorded_digest(content)})
    return path


def recorded_path(what: str) -> Path:
    """Where the recorded figures are."""
    return ledger.ROOT / "book" / "recorded" / f"{what}.json"


def recorded(what: str) -> dict[str, Any] | None:
    """The recorded `bench`, `growth` or `build`; ClaimsError if it is not what `record` wrote."""
    path = recorded_path(what)
    return ledger.read_recorded(path) if path.exists() else None


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    import torch

    from genbook.runs.provenance import processor

    return {**processor(), "python": platform.python_version(), "torch": torch.__version__}


def show(found: Sequence[turns.Comparison], on: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="The book's code beside other packages",
        caption=f"{on['processor']}, torch {on['torch']}, Python {on['python']}",
    )
    for column in (
        "what",
        "beside",
        "ours, s",
        "theirs, s",
        "ratio",
        "spread",
        "memory, MiB",
        "of peak",
    ):
        table.add_column(column)
    for row in found:
        shares = (row.ours.of_peak, row.peer.of_peak)
        table.add_row(
            ENTRIES[row.name].what,
            row.peer_name,
            f"{row.ours.median:.3g}",
            f"{row.peer.median:.3g}",
            f"{row.ratio:.2f}",
            f"{row.lowest:.2f} to {row.highest:.2f}",
            f"{row.ours.memory:,.0f} / {row.peer.memory:,.0f}",
            " / ".join(f"{share:.0%}" for share in shares if share is not None),
        )
    Console().print(table)


def show_growth(found: dict[str, Any], on: dict[str, Any]) -> None:
    """Print how the costs grow."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "size: seconds", "grows as", title=f"One thread, {on['processor']}")
    for row in found.values():
        points = zip(row["sizes"], row["seconds"], strict=True)
        table.add_row(
            row["what"],
            f"{row['quantity']} " + ", ".join(f"{size}: {s:.3g}" for size, s in points),
            f"the power {row['exponent']:.2f}",
        )
    Console().print(table)


def show_build(found: dict[str, Any], on: dict[str, Any]) -> None:
    """Print how long the builds took."""
    print(f"{found['profile']} profile, two chapters side by side, {on['processor']}")
    for name, seconds in {**found["builds"], **found["chapters"]}.items():
        print(f"{name:14}{seconds:8.1f} s")


def _of_the_book(what: str, chosen: argparse.Namespace, command: str) -> None:
    """`growth` or `build`: measured, then recorded or shown."""
    from genbook.bench import build, growth
    from genbook.runs import provenance

    state = provenance.commit(ledger.ROOT, ["genbook"])  # what is edited meanwhile is not measured
    if what == "growth":
        found: dict[str, Any] = {"measures": growth.measure(turns=chosen.turns or growth.TURNS)}
    else:
        found = build.measure(profile=chosen.profile)
    if chosen.record:
        print(record(what, {**state, **found}, command))
    elif chosen.json:
        print(json.dumps({"machine": machine(), **found}))
    elif what == "growth":
        show_growth(found["measures"], machine())
    else:
        show_build(found, machine())


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `genbook bench`."""
    parser = argparse.ArgumentParser(
        prog="genbook bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    known = "\n".join(f"{name}: {entry.what} ({entry.peer})" for name, entry in ENTRIES.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of\n{known}")
    parser.add_argument("--install", action="store_true", help="make the environment of the others")
    parser.add_argument("--growth", action="store_true", help="how costs grow with the work")
    parser.add_argument("--build", action="store_true", help="how long the book takes to build")
    parser.add_argument("--profile", choices=ledger.PROFILES, default="book", help="with --build")
    parser.add_argument("--turns", type=int, help="at most so many turns of each side")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--record", action="store_true", help="write it to book/recorded")
    chosen = parser.parse_args(argv)
    if unknown := [name for name in chosen.names if name not in ENTRIES]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(ENTRIES)}")
    if chosen.turns is not None and chosen.turns < 1:
        parser.error("a comparison needs a turn")
    command = " ".join(["genbook bench", *(argv or sys.argv[1:])])
    try:
        if chosen.install:
            peers.install()
            return
        if chosen.growth or chosen.build:
            _of_the_book("growth" if chosen.growth else "build", chosen, command)
            return
        found = compare(chosen.names or [*ENTRIES], most_turns=chosen.turns)
    except (peers.PeersError, turns.ProgramError) as error:
        parser.exit(1, f"genbook bench: {error}\n")
    if chosen.record:
        rows = [{**asdict(row), "what": ENTRIES[row.name].what} for row in found]
        print(record("bench", {"comparisons": rows}, command))
    elif chosen.json:
        print(json.dumps({"machine": machine(), "comparisons": [asdict(row) for row in found]}))
    else:
        show(found, machine())
