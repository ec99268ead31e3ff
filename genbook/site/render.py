"""Render the staged book with jupyter-book, and let only a checked result be seen.

_build/html.work/source    the stage (see `stage`)
_build/html.work/pages     what the page builder is writing
_build/html                the last book that passed every check
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

from filelock import FileLock

from genbook import ledger
from genbook.site import check, stage
from genbook.site.errors import SiteError
from genbook.site.finish import finish

# Sphinx says WARNING or ERROR at the start of a message, after the place it speaks of.
COMPLAINT = re.compile(r"^(?:.*: )?(?:WARNING|ERROR|CRITICAL|SEVERE): .*$", re.MULTILINE)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# In a notebook, myst-nb counts ten thousand lines for each cell.
CELL_LINE = re.compile(r"(\.ipynb):(\d+)(\d{4})(?=:)")


def build(open: bool = False, *, profile: str | None = None, output: Path | None = None) -> Path:
    """Stage, render and check the book; return its first page.

    Sphinx is skipped when the stage is the same, byte for byte, as that of the last book.
    `profile` (default: GENBOOK_PROFILE, else `book`) names the runs that the pages show.
    """
    profile = profile or os.environ.get("GENBOOK_PROFILE") or "book"
    html = output or ledger.ROOT / "_build" / "html"
    work = html.parent / f"{html.name}.work"
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / "lock"):
        source, seal = work / "source", work / "digest"
        stage.stage(source, profile, stage.fresh_runs(profile))
        digest = stage.digest(source)
        same = html.is_dir() and seal.is_file() and seal.read_text() == digest
        if not (same and not check.problems(html, source)):
            seal.unlink(missing_ok=True)
            _publish(_render(source, work / "pages"), source, html)
            seal.write_text(digest)
    index = html / "index.html"
    if open:
        webbrowser.open(index.as_uri())
    return index


def _publish(pages: Path, source: Path, html: Path) -> None:
    """Check new pages and put them in the place of the old ones."""
    found = check.problems(pages, source)
    if found:
        listed = "\n".join(f"- {problem}" for problem in found)
        raise SiteError(f"the book was rendered to {pages} but is not fit to be seen:\n{listed}")
    old = html.with_name(html.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if html.exists():
        html.rename(old)
    pages.rename(html)
    shutil.rmtree(old, ignore_errors=True)


def _render(source: Path, target: Path) -> Path:
    """Run jupyter-book from nothing; any warning is an error, also one that it forgives."""
    shutil.rmtree(target, ignore_errors=True)
    command = [
        sys.executable, "-c", "from jupyter_book.cli.main import main; main()",
        "build", str(source), "--path-output", str(target), "-W", "--keep-going", "-q",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=600
    )
    said = ANSI.sub("", done.stdout + done.stderr).replace(f"{source}{os.sep}", "")
    said = CELL_LINE.sub(lambda m: f"{m[1]}, cell {m[2]}, line {int(m[3])}", said)
    complaints = list(dict.fromkeys(COMPLAINT.findall(said)))
    if complaints:
        raise SiteError("the book has warnings, which are errors:\n" + "\n".join(complaints))
    pages = target / "_build" / "html"
    if done.returncode != 0 or not (pages / "index.html").is_file():
        raise SiteError(f"jupyter-book failed with code {done.returncode}:\n{said[-4000:]}")
    finish(pages, source)
    return pages


def environment() -> dict[str, str]:
    """The environment of the page builder: fixed hashes and dates, no colours."""
    fixed = {"PYTHONHASHSEED": "0", "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    # 1 January 1980, the earliest date that every file format can hold.
    return {"SOURCE_DATE_EPOCH": "315532800", **os.environ, **fixed}
