"""The command `genbook`.

Everything heavier than typer is imported inside the command that needs it, so that `--help` is
quick and a machine without Jupyter can run chapters as scripts.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def genbook() -> None:
    """Executable reproductions of generative-model papers: run, record, judge and publish."""


class Engine(StrEnum):
    papermill = "papermill"
    script = "script"


Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Chapters, for example aevb.")
]
Profile = Annotated[
    str, typer.Option(help="smoke (seconds), book (minutes), long (an hour or two) or paper (GPU).")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps or xpu.")]


def fail(message: str, code: int = 1) -> NoReturn:
    """Print an error to standard error and end with an exit status."""
    typer.echo(f"genbook: {message}", err=True)
    raise typer.Exit(code)


def seeds_of(text: str) -> list[int]:
    """`3` is one seed, `0..2` is 0, 1 and 2, and commas join such parts."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise typer.BadParameter(f"{text!r}: write 3, 0..2 or 0,2,5", param_hint="--seeds")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))


@contextmanager
def reported() -> Iterator[None]:
    """Turn the errors that the parts raise for people into a message and an exit status."""
    from genbook.ledger import ClaimsError
    from genbook.runs import ChapterError, DamagedRunError, RecordedError, RunFailedError

    try:
        yield
    except ChapterError as error:
        fail(str(error), 2)
    except (ClaimsError, DamagedRunError, RecordedError) as error:
        fail(str(error))
    except RunFailedError as error:
        fail(str(error), 124 if error.timed_out else 1)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from where it stopped", 130)
    except Exception as error:
        # The data room and the site are imported only by the commands that need them.
        for room, kind in (("genbook.data", "DataError"), ("genbook.site.errors", "SiteError")):
            if room in sys.modules and isinstance(error, getattr(sys.modules[room], kind)):
                fail(str(error))
        raise


@app.command()
def run(
    names: Names = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every chapter of the book.")] = False,
    profile: Profile = "smoke",
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="The seed.")] = 0,
    seeds: Annotated[str | None, typer.Option(help="Several seeds: 0..2 or 0,2,5.")] = None,
    engine: Annotated[
        Engine, typer.Option(help="papermill makes a notebook; script needs no Jupyter.")
    ] = Engine.papermill,
    processes: Annotated[
        int, typer.Option(min=1, help="That share a run's training, a GPU each (torchrun).")
    ] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each.")] = 2,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Wall-clock limit of each run, in seconds.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Run again what is up to date.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="A dask scheduler, tcp://HOST:PORT or its file: one run a worker, --jobs aside."
        ),
    ] = None,
) -> None:
    """Execute chapters; print the folder of each finished run.

    A run is kept until its chapter's code, the library files that it reaches, its claims, data,
    parameters or versions change. An interrupted run goes on from its checkpoints.

    Exit status: 0 when all is done, 1 when a run failed, 2 for a wrong name or option,
    124 when the limit was reached, 130 after Ctrl-C.
    """
    from genbook import runs

    if bool(names) == every:
        fail("name the chapters, or say --all", 2)
    if cluster and processes > 1:
        fail("a worker of a cluster takes one process: --processes is for this machine", 2)
    chosen = seeds_of(seeds) if seeds is not None else [seed]
    _execute(
        [
            (chapter, profile, one, device, engine.value, processes)
            for chapter in (runs.chapters() if every else names or ())
            for one in chosen
        ],
        jobs, timeout, force, quiet, cluster,
    )  # fmt: skip


def _execute(
    wanted: list[tuple[str, str, int, str, str, int]],
    jobs: int,
    timeout: float | None,
    force: bool,
    quiet: bool,
    cluster: str | None = None,
) -> None:
    """Make these runs and print their folders; errors end the command with their exit status."""
    from genbook import runs

    with reported():
        requests = [runs.Request(*one) for one in wanted]
        for finished in runs.execute(
            requests, jobs=jobs, timeout=timeout, force=force, quiet=quiet, cluster=cluster
        ):
            _note_stderr(finished.folder)
            typer.echo(str(finished.folder))


def _note_stderr(folder: Path) -> None:
    noise = folder / "stderr.txt"
    if noise.exists():
        typer.echo(f"genbook: the chapter wrote to standard error: see {noise}", err=True)


@app.command()
def record(
    name: Annotated[str, typer.Argument(help="A chapter.")],
    *,
    profile: Profile = "long",
    source: Annotated[
        Path | None,
        typer.Option("--from", exists=True, file_okay=False, help="A folder of run folders."),
    ] = None,
    even_if_changed: Annotated[
        bool, typer.Option(help="Also runs made before the chapter's code or claims changed.")
    ] = False,
) -> None:
    """Put the finished runs of a chapter, one a seed, into book/recorded.

    Runs of another machine are recorded by --from FOLDER, after the same checks of their hashes.
    """
    from genbook import runs

    with reported():
        path = runs.record(name, profile, places=source, even_if_changed=even_if_changed)
        seeds = [run["seed"] for one in runs.recorded(name) if one.path == path for run in one.runs]
        typer.echo(f"{path}: seeds {', '.join(map(str, seeds))}")


@app.command()
def ledger(
    names: Names = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
) -> None:
    """Every claim: published, ours, rule, verdict and the run that it comes from."""
    from genbook import runs

    with reported():
        for name in names or ():
            runs.chapter_path(name)
        rows = runs.ledger_rows(names)
    if as_json:
        import json

        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False))
        return
    from genbook.runs.table import print_rows

    print_rows(rows)


data_app = typer.Typer(help="Data sets: list, fetch and verify.", no_args_is_help=True)
app.add_typer(data_app, name="data")
DataNames = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Data sets.")]


@data_app.command("list")
def data_list() -> None:
    """Every data set, whether it is there, and where it comes from."""
    from rich.console import Console
    from rich.table import Table

    from genbook import data

    table = Table("name", "state", "MB", "source", title=str(data.cache_folder()))
    with reported():
        found = data.status()
    for one in found:
        table.add_row(one.name, one.state, f"{one.size / 1e6:.1f}", one.source)
    Console().print(table)
    for one in found:
        if one.note:
            typer.echo(f"\n{one.name}: {one.note}")


@data_app.command("fetch")
def data_fetch(names: DataNames = None) -> None:
    """Bring data sets into the cache, checked by hash; by default those that chapters need."""
    from genbook import data, runs

    with reported():
        for name in names or runs.data_of(runs.chapters()):
            typer.echo(f"{name}: {data.fetch(name, progress=data.to_stderr)}")


@data_app.command("verify")
def data_verify(names: DataNames = None) -> None:
    """Read every byte of data sets again; exit status 1 when a file is wrong.

    By default all that are there.
    """
    from genbook import data

    with reported():
        chosen = names or [one.name for one in data.status() if one.state != "missing"]
        checks = [(name, check) for name in chosen for check in data.verify(name)]
    for name, check in checks:
        typer.echo(f"{name} {check.file}: {'ok' if check.ok else 'WRONG'}")
    if not all(check.ok for _, check in checks):
        fail("a file is not what it should be: fetch the data set again")


@app.command()
def book(
    *,
    profile: Profile = "book",
    jobs: Annotated[int, typer.Option(min=1, help="Chapters side by side.")] = 2,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Wall-clock limit of each run, in seconds.")
    ] = None,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Print it to _build/genbook.pdf, too.")
    ] = False,
) -> None:
    """Build the book: fetch data, run what has no run yet, render the static site."""
    os.environ["GENBOOK_PROFILE"] = profile
    from genbook import runs, site
    from genbook.runs.progress import clock

    started = time.monotonic()
    with reported():
        requests = [runs.Request(name, profile) for name in runs.chapters()]
        runs.execute(requests, jobs=jobs, timeout=timeout)
        ran = time.monotonic()
        page = site.build()
    ended = time.monotonic()
    typer.echo(
        f"The book is built in {clock(ended - started)} (chapters {clock(ran - started)}, "
        f"pages {clock(ended - ran)}).\nOpen {page}"
    )
    if pdf:
        with reported():
            typer.echo(f"On paper: {site.print_book(page.parent)}")


@app.command(
    add_help_option=False,  # genbook.bench has its own options, and says so
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(context: typer.Context) -> None:
    """Speed, side by side with the textbook way and with peers."""
    import importlib

    sys.argv = ["genbook bench", *context.args]
    importlib.import_module("genbook.bench").main()
