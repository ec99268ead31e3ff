"""`results.json`, the numbers that the pages may print, and how a page asks for one of them.

    results["profile"]                      the profile of the fresh runs: book, or smoke in tests
    results["chapters"][NAME]["title"]
    results["chapters"][NAME]["claims"]     by id: statement, source, published, rule, why, ...
    results["chapters"][NAME]["runs"]       by profile: the fresh run and the recorded ones
    results["bench"]                        the recorded comparisons of speed, if there are any
    results["growth"]                       how costs were measured to grow, the same
    results["build"]                        how long the book took to build, the same

A run has `profile`, `seeds`, `recorded`, `claims` (id to ours, spread, verdict), `values`
(name to value, spread, unit, format) and its provenance: `commits`, `dirty`, `changed` (sources
that are no longer those of the run), `machine`, `device`, `seconds`, `versions`, and `command`,
which makes it again for all its seeds.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genbook import ledger
from genbook.site import wording

NOT_RUN = "not run at this scale"
ASKED = re.compile(
    r"(?:(?P<chapter>\w+):)?(?P<name>[\w.-]+?)(?:@(?P<profile>\w+))?"
    r"(?:\.(?P<part>published|spread|verdict))?"
)


class UnknownResultError(Exception):
    """A page asks for a number that no run has; the message names the nearest right one."""


@dataclass(frozen=True)
class Printed:
    """What a `{result}` prints: its text and the number itself, the key of the facts behind it, and
    the place on its chapter's page where these stand: a row of the ledger or the line of a run."""

    text: str
    number: str
    facts: str
    place: str
    claim: str | None


@dataclass(frozen=True)
class Found:
    """A result of a run: a claim with its row of the record, or a value without a claim."""

    chapter: str
    name: str
    part: str
    run: dict[str, Any]
    row: dict[str, Any]
    claim: dict[str, Any] | None


@dataclass(frozen=True)
class Judgement:
    """One row of the ledger: a claim, the run that judged it best, and all runs that have it."""

    id: str
    claim: dict[str, Any]
    run: dict[str, Any]
    result: dict[str, Any]
    others: tuple[tuple[dict[str, Any], dict[str, Any]], ...]


class Results:
    """The staged results, with the look-ups of the role and the tables."""

    def __init__(self, content: dict[str, Any]):
        self.profile: str = content["profile"]
        self.chapters: dict[str, Any] = content["chapters"]
        self.bench: dict[str, Any] | None = content.get("bench")
        self.growth: dict[str, Any] | None = content.get("growth")
        self.build: dict[str, Any] | None = content.get("build")

    @classmethod
    def read(cls, path: Path) -> Results:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def chapter(self, name: str) -> dict[str, Any]:
        if name not in self.chapters:
            hint = ledger.nearest(name, list(self.chapters)) if self.chapters else "there is none"
            raise UnknownResultError(f"no chapter '{name}'; {hint}")
        found: dict[str, Any] = self.chapters[name]
        return found

    def run(self, chapter: str, profile: str) -> dict[str, Any]:
        runs = self.chapter(chapter)["runs"]
        if profile not in runs:
            raise UnknownResultError(
                f"chapter '{chapter}' has no run of profile '{profile}'; it has: {', '.join(runs)}"
            )
        found: dict[str, Any] = runs[profile]
        return found

    def find(self, asked: str, chapter: str | None) -> Found:
        """Resolve `name`, `chapter:name`, `name@profile`, and the tails that `ASKED` names."""
        match = ASKED.fullmatch(asked.strip())
        if match is None:
            raise UnknownResultError(
                f"'{asked}' is not a result's name; write NAME or CHAPTER:NAME"
            )
        name, part = match["name"], match["part"] or ""
        chapter = match["chapter"] or chapter
        if chapter is None:
            raise UnknownResultError(
                f"outside a chapter '{name}' needs its chapter: CHAPTER:{name}"
            )
        run = self.run(chapter, match["profile"] or self.profile)
        known = [*run["claims"], *run["values"]]
        if name not in known:
            close = ledger.nearest(name, known) if known else "the run recorded nothing"
            raise UnknownResultError(f"chapter '{chapter}' has no result '{name}'; {close}")
        claim = self.chapter(chapter)["claims"].get(name)
        row = run["values"].get(name) or run["claims"][name]
        return Found(chapter, name, part, run, row, claim)

    def look_up(self, asked: str, chapter: str | None) -> Printed:
        """What the page prints for this."""
        found = self.find(asked, chapter)
        text, number = _printed(found)
        profile = found.run["profile"]
        key = f"{found.chapter}:{found.name}" + (f"@{profile}" if profile != self.profile else "")
        if found.claim is None:
            return Printed(text, repr(number), key, run_place(found.chapter, profile), None)
        return Printed(text, repr(number), key, place(found.chapter, found.name), found.name)

    def judgements(self, chapter: str) -> list[Judgement]:
        """The chapter's claims in their order, each with the largest run that could judge it."""
        found = self.chapter(chapter)
        by_size = sorted(found["runs"].values(), key=lambda r: -ledger.PROFILES.index(r["profile"]))
        rows = []
        for claim_id, claim in found["claims"].items():
            having = [
                (run, run["claims"][claim_id]) for run in by_size if claim_id in run["claims"]
            ]
            judged = [pair for pair in having if pair[1]["verdict"] != NOT_RUN]
            fresh = [pair for pair in having if not pair[0]["recorded"]]
            run, result = (judged or fresh or having)[0]
            others = tuple(pair for pair in having if pair[0] is not run)
            rows.append(Judgement(claim_id, claim, run, result, others))
        return rows


def _printed(found: Found) -> tuple[str, Any]:
    """The text and the number of the part that was asked for."""
    name, part, row, claim = found.name, found.part, found.row, found.claim
    if part in ("published", "verdict") and claim is None:
        raise UnknownResultError(f"'{name}' is a value and has no '{part}'; only a claim has")
    if part == "spread":
        if row["spread"] is None:
            profile = found.run["profile"]
            raise UnknownResultError(f"'{name}' has no spread in the {profile} run")
        return wording.spread(row["spread"]), row["spread"]
    if claim is None:
        return wording.value(row), row["value"]
    if part == "published":
        if claim["standing"] == "none":
            raise UnknownResultError(f"'{name}' has no published value")
        return wording.published(claim["published"]), claim["published"]
    if part == "verdict":
        return row["verdict"], row["ours"]
    return wording.ours(row["ours"], row["spread"]), row["ours"]


def place(chapter: str, claim: str) -> str:
    """The id of a claim's row in the ledger."""
    return f"claim-{chapter}-{claim}"


def run_place(chapter: str, profile: str) -> str:
    """The id of the line about a run under the chapter's title."""
    return f"run-{chapter}-{profile}"


def mention(claim: str) -> str:
    """The id of the first place in a chapter that prints a claim."""
    return f"said-{claim}"


def standing(claim: dict[str, Any]) -> str:
    """`86.76, as quoted`: what the paper says, with its standing."""
    if claim["standing"] == "none":
        return "no published value"
    text = wording.published(claim["published"])
    return text + (", as quoted" if claim["standing"] == "quoted" else "")


def commits(run: dict[str, Any]) -> str:
    """The commits of a run, or of the runs of several seeds."""
    changes = " with local changes" if run["dirty"] else ""
    return ", ".join(commit[:10] for commit in run["commits"]) + changes


def duration(run: dict[str, Any]) -> str:
    """The wall time of a run, or the mean of several."""
    return wording.duration(run["seconds"]) + (" for each seed" if len(run["seeds"]) > 1 else "")
