"""Collect what the pages may print: claims files, fresh runs and recorded runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from genbook import bench, ledger, runs
from genbook.site.errors import SiteError


def collect(profile: str, fresh: Mapping[str, runs.Run]) -> dict[str, Any]:
    """The content of results.json for the chapters in `fresh` (its form: see `lookup`)."""
    chapters = {name: _chapter(run) for name, run in fresh.items()}
    measured = {what: bench.recorded(what) for what in ("bench", "growth", "build")}
    return {"profile": profile, "chapters": chapters, **measured}


def _chapter(run: runs.Run) -> dict[str, Any]:
    record = run.record
    book = ledger.read_claims(record["chapter"])
    claims = {
        key: _judged(book[key], row, record["profile"]) for key, row in record["claims"].items()
    }
    values = {key: {**row, "spread": None} for key, row in record["values"].items()}
    entries = {
        recorded.profile: {
            **_provenance([one["provenance"] for one in recorded.runs]),
            "recorded": True,
            "changed": list(recorded.changed),
            "claims": recorded.claims,
            "values": recorded.values,
        }
        for recorded in runs.recorded(record["chapter"])
    }
    # A fresh run stands before a recorded one of the same profile.
    entries[record["profile"]] = {
        **_provenance([run.provenance]),
        "recorded": False,
        "changed": [],
        "claims": claims,
        "values": values,
    }
    return {
        "title": book.title,
        "claims": {key: _claim(claim) for key, claim in book.claims.items()},
        "runs": entries,
    }


def _claim(claim: ledger.Claim) -> dict[str, Any]:
    return {
        "statement": claim.statement,
        "source": claim.source,
        "published": claim.published,
        "standing": claim.standing,
        "unit": claim.unit,
        "protocol": claim.protocol,
        "band": claim.band(),
        "why": claim.why,
        "from": claim.from_profile,
    }


def _provenance(runs_of: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where one run, or the runs of several seeds, were made; `seconds` is the mean of one."""
    first = runs_of[0]
    return {
        "profile": first["profile"],
        "seeds": [one["seed"] for one in runs_of],
        "commits": list(dict.fromkeys(one["commit"] or "unknown" for one in runs_of)),
        "dirty": any(one["dirty"] for one in runs_of),
        "machine": first.get("gpu") or first["processor"] or first["platform"],
        "device": first["device"],
        "seconds": statistics.fmean(one["wall_seconds"] for one in runs_of),
        "versions": f"torch {first['packages']['torch']}",
        "command": _command(runs_of),
    }


def _command(runs_of: Sequence[Mapping[str, Any]]) -> str:
    """The one command that makes these runs again."""
    command: str = runs_of[0]["command"]
    seeds = ",".join(str(one["seed"]) for one in runs_of)
    alone = f"--seed {runs_of[0]['seed']} "
    return command.replace(alone, f"--seeds {seeds} ") if len(runs_of) > 1 else command


def _judged(claim: ledger.Claim, row: Mapping[str, Any], profile: str) -> Mapping[str, Any]:
    """The row of a fresh record, once its verdict is found to be that of the claim's rule."""
    verdict = claim.verdict(row["ours"], profile)
    if verdict != row["verdict"]:
        raise SiteError(
            f"{claim.chapter}: the {profile} record calls '{claim.id}' {row['verdict']!r}, "
            f"its rule says {verdict!r} for {row['ours']!r}"
        )
    return row
