"""`genbook bench --build`: how long the book takes to build from nothing, again with nothing
changed, and after an edit of prose; and each chapter's share.

The tracked files are copied to a folder of their own, which has no runs. The data and the
environment are those at hand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from genbook import ledger
from genbook.bench.turns import ProgramError


def measure(*, profile: str = "book") -> dict[str, Any]:
    """Seconds of the three builds, and of each chapter's run in the first."""
    (ledger.ROOT / "_build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ledger.ROOT / "_build") as folder:
        root = Path(folder)
        copy(ledger.ROOT, root)
        cold = _build(root, profile)
        chapters = {
            content["chapter"]: content["wall_seconds"]
            for path in sorted((root / "_build" / "runs").glob("*/provenance.json"))
            for content in [json.loads(path.read_text(encoding="utf-8"))]
        }
        unchanged = _build(root, profile)
        add_prose(min((root / "chapters").glob("*.py")))
        builds = {"cold": cold, "unchanged": unchanged, "prose": _build(root, profile)}
    return {"profile": profile, "builds": builds, "chapters": chapters}


def copy(source: Path, target: Path) -> None:
    """Copy the files that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=source, capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target / name)


def add_prose(chapter: Path) -> None:
    """Give the first text cell of a chapter one more paragraph."""
    head, mark, rest = chapter.read_text(encoding="utf-8").partition('\n\n# %% tags=["parameters')
    chapter.write_text(f"{head}\n#\n# One more sentence.{mark}{rest}", encoding="utf-8")


def _build(root: Path, profile: str) -> float:
    """Build the book of `root` with its own copy of the library; seconds."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("GENBOOK_") or "DATA" in k}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "genbook", "book", "--profile", profile],
        cwd=root, env={**keep, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE, stderr=None, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ProgramError(f"the book cannot be built:\n{done.stdout[-2000:]}")
    return time.monotonic() - started
