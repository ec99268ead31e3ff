"""Quotes from the sources of a claim, for the page that follows one from the paper to the page.

    ```{excerpt} claims aevb:superfluous-overfit         the claim in its claims file
    ```{excerpt} code aevb:superfluous-overfit           the cell of the chapter, to where it judges
    ```{excerpt} run aevb:superfluous-overfit@long       where the runs were made
    ```{excerpt} record aevb:superfluous-overfit@long    what the record says, seed by seed

They are read from what the stage keeps in `sources/`, so that no page has to repeat them.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genbook import ledger, runs
from genbook.site.lookup import Found, UnknownResultError

SOURCES = "sources"
RUN = (
    "command", "commit", "dirty", "processor", "gpu", "threads", "python", "wall_seconds",
    "peak_memory_mib",
)  # fmt: skip


def stage(folder: Path, fresh: Mapping[str, runs.Run]) -> None:
    """Keep chapters, claims files and what the runs say of each claim."""
    target = folder / SOURCES
    target.mkdir()
    for name, run in fresh.items():
        for ending in ("py", "claims.toml"):
            shutil.copy(ledger.ROOT / "chapters" / f"{name}.{ending}", target)
        found = {
            one.profile: _kept(f"book/recorded/{one.path.name}", one.runs)
            for one in runs.recorded(name)
        }
        record = {"seed": run.record["seed"], "record": run.record, "provenance": run.provenance}
        found[run.record["profile"]] = _kept(f"_build/runs/{run.folder.name}", [record])
        (target / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")


def _kept(where: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kept = [
        {
            "seed": one["seed"],
            "run": {key: one["provenance"][key] for key in RUN if key in one["provenance"]},
            "claims": one["record"]["claims"],
        }
        for one in records
    ]
    return {"where": where, "runs": kept}


def excerpt(kind: str, folder: Path, found: Found) -> tuple[str, str, str]:
    """Where the lines stand, the lines, and their language."""
    if found.claim is None:
        raise UnknownResultError(f"'{found.name}' is a value; only a claim can be followed")
    if kind == "claims":
        return _of_claims(folder, found)
    if kind == "code":
        return _of_code(folder, found)
    records = json.loads((folder / f"{found.chapter}.json").read_text(encoding="utf-8"))
    kept = records[found.run["profile"]]
    if kind == "run":
        lines = [{"seed": one["seed"], **one["run"]} for one in kept["runs"]]
    elif kind == "record":
        lines = [
            {"seed": one["seed"], found.name: one["claims"][found.name]} for one in kept["runs"]
        ]
    else:
        raise UnknownResultError(f"no excerpt '{kind}'; known: claims, code, record, run")
    return kept["where"], "\n".join(map(_wrapped, lines)), "json"


def _wrapped(content: Mapping[str, Any]) -> str:
    """A line of a record; one with many facts is spread over lines."""
    return json.dumps(content, indent=1 if len(content) > 2 else None)


def _of_claims(folder: Path, found: Found) -> tuple[str, str, str]:
    """The table of the claim, as it is written in the claims file."""
    text = (folder / f"{found.chapter}.claims.toml").read_text(encoding="utf-8")
    head = f"[claims.{found.name}]"
    start = text.index(head)
    block = text[start:].split("\n\n")[0].rstrip()
    return f"{_place(found, 'claims.toml', text[:start])}", block, "toml"


def _of_code(folder: Path, found: Found) -> tuple[str, str, str]:
    """The cell of the chapter from its start to the line that judges the claim."""
    text = (folder / f"{found.chapter}.py").read_text(encoding="utf-8")
    call = re.search(rf'^claims\.judge\(\s*"{re.escape(found.name)}"', text, re.MULTILINE)
    if call is None:
        raise UnknownResultError(f"no line of {found.chapter}.py judges '{found.name}' by itself")
    start = text.index("\n", text.rindex("\n# %%", 0, call.start()) + 1) + 1
    lines = text[start:].splitlines()
    line = text.count("\n", start, call.start())
    end = next(
        node.end_lineno
        for node in ast.parse(text[start:].split("\n# %%")[0]).body
        if node.lineno == line + 1
    )
    return _place(found, "py", text[: call.start()]), "\n".join(lines[:end]), "python"


def _place(found: Found, ending: str, before: str) -> str:
    line = before.count("\n") + 1
    return f"chapters/{found.chapter}.{ending}, line {line}"
