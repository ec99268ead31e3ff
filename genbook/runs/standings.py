"""Every claim of the book once, with the run that says most about it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from genbook import ledger
from genbook.runs.chapter import chapters
from genbook.runs.identity import ENGINES, Request
from genbook.runs.recording import recorded
from genbook.runs.store import find

UNJUDGED = "not run at this scale"


def ledger_rows(names: list[str] | None = None) -> list[dict[str, Any]]:
    """The claims of these chapters (all of them by default), each with our number and verdict
    from the largest profile that has judged it: a recorded run, else the run of the book."""
    return [row for name in (chapters() if names is None else names) for row in _rows(name)]


def _rows(name: str) -> Iterator[dict[str, Any]]:
    book = ledger.read_claims(name)
    judged = sorted(_judged(name), key=lambda j: ledger.PROFILES.index(j[0]), reverse=True)
    for claim in book.claims.values():
        row: dict[str, Any] = {
            "id": claim.id,
            "chapter": name,
            "statement": claim.statement,
            "source": claim.source,
            "published": claim.published,
            "standing": claim.standing,
            "unit": claim.unit,
            "ours": None,
            "spread": None,
            "rule": dict(claim.rule),
            "verdict": UNJUDGED,
            "profile": None,
            "run": None,
        }
        for profile, run, claims in judged:
            found = claims.get(claim.id)
            if found and found["verdict"] != UNJUDGED:
                row |= {"ours": _finite(found["ours"]), "spread": _finite(found["spread"])}
                row["verdict"] = found["verdict"]
                row |= {"profile": profile, "run": run}
                break
        yield row


def _finite(number: Any) -> Any:
    """JSON has no infinity: a result that is not finite (always `missed`) is None there."""
    if isinstance(number, list):
        return [_finite(one) for one in number]
    return number if number is None or math.isfinite(number) else None


def _judged(name: str) -> Iterator[tuple[str, str, dict[str, dict[str, Any]]]]:
    """Profile, name and claims of each result of a chapter: the fresh run and the recorded ones.

    A fresh run comes first, so that it wins over a recorded one of the same profile.
    """
    profile = os.environ.get("GENBOOK_PROFILE") or "book"
    for engine in ENGINES:
        run = find(Request(name, profile, engine=engine))
        if run is not None:
            yield profile, run.folder.name, run.record["claims"]
            break
    for result in recorded(name):
        yield result.profile, f"book/recorded/{result.path.name}", result.claims
