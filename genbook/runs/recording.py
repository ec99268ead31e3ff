"""Results of runs too long for a build: `book/recorded/NAME.PROFILE.json`.

Written by `genbook record` from finished runs, never by hand.  A file holds the record and the
provenance of one run a seed, the claims over the seeds, and the SHA-256 of all that; reading it
checks the sum, works the claims out again from the runs, and judges them again by the claims file.
Where a page's lab runs on them, the weights that the first seed's run kept lie beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genbook import ledger
from genbook.runs import store, weights
from genbook.runs.identity import KEPT_WITH_RECORD, Request, digest, identity

# Parts of a run's identity that are the experiment itself.  The others (versions, lock file,
# device, engine) may differ between the machine that made a recorded run and the one that reads it.
MACHINE = (
    "python", "torch", "requirements.txt", "device", "processes", "engine", "seed", "profile",
)  # fmt: skip
# What the page shows and no number depends on.
SHOWN = ("other profiles", "kept weights")


class RecordedError(Exception):
    """A recorded file was changed by hand, or runs cannot be recorded."""


@dataclass(frozen=True)
class Recorded:
    """A verified file of recorded runs, one a seed, and what they give together."""

    path: Path
    chapter: str
    profile: str
    runs: tuple[dict[str, Any], ...]  # each {"seed", "record", "provenance"}
    claims: dict[str, dict[str, Any]]  # id: {"ours", "spread", "n", "verdict"}
    values: dict[str, dict[str, Any]]  # name: {"value", "spread", "n", "unit", "format"}
    changed: tuple[str, ...]  # sources that differ from those that made the runs
    weights: Path | None = None  # those of the first seed, for the page's lab

    def first(self) -> store.Run:
        """The run of the first seed; its folder is where this record is."""
        run = self.runs[0]
        return store.Run(self.path.parent, run["record"], run["provenance"])


def folder() -> Path:
    """Where recorded results are kept: in the repository."""
    return ledger.ROOT / "book" / "recorded"


def recorded(chapter: str) -> list[Recorded]:
    """The recorded results of a chapter, smallest profile first, all verified."""
    paths = [folder() / f"{chapter}.{profile}.json" for profile in ledger.PROFILES]
    return [read(path) for path in paths if path.exists()]


def read(path: Path) -> Recorded:
    """Read and verify one file of recorded results."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        seal = content.pop("sha256")
        runs = content["runs"]
    except (OSError, ValueError, KeyError) as error:
        raise RecordedError(f"{path}: cannot be read ({error!r})") from error
    if seal != ledger.recorded_digest(content):
        raise RecordedError(
            f"{path}: its content is not what `genbook record` wrote: the SHA-256 differs. "
            "Restore it, or delete it and record the runs again"
        )
    chapter, profile = content["chapter"], content["profile"]
    claims = over_seeds(chapter, profile, [run["record"] for run in runs])
    for name, stored in content["claims"].items():
        found = {k: v for k, v in claims.get(name, stored).items() if k != "verdict"}
        if found != {k: v for k, v in stored.items() if k != "verdict"}:
            raise RecordedError(f"{path}: claim '{name}' is {stored} but its runs give {found}")
    return Recorded(
        path, chapter, profile, tuple(runs), claims,
        values_over_seeds([run["record"] for run in runs]),
        tuple(differences(runs[0]["provenance"])),
        _weights(path, content.get("weights")),
    )  # fmt: skip


def _weights_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.{weights.FILE}")


def _weights(path: Path, seal: str | None) -> Path | None:
    """The weights beside a file of recorded results, if it names any."""
    if seal is None:
        return None
    found = _weights_path(path)
    if not found.exists() or digest(found.read_bytes()) != seal:
        raise RecordedError(
            f"{found}: not the weights that `genbook record` put there. Restore the file"
        )
    return found


def over_seeds(
    chapter: str, profile: str, records: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Each claim over the seeds: mean, sample standard deviation, number of seeds, verdict.

    With one seed the spread is the one that the chapter gave.  A claim that is no longer in the
    claims file is left out; one that the runs never had is not there.
    """
    book = ledger.read_claims(chapter)
    found = {}
    for name, claim in book.claims.items():
        rows = [record["claims"][name] for record in records if name in record["claims"]]
        known = [row["ours"] for row in rows if row["ours"] is not None]
        if not rows:
            continue
        ours, spread = _mean_and_spread(known) if known else (None, None)
        if len(known) == 1:
            spread = next(row["spread"] for row in rows if row["ours"] is not None)
        verdict = claim.verdict(ours, profile)
        found[name] = {"ours": ours, "spread": spread, "n": len(known), "verdict": verdict}
    return found


def values_over_seeds(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each named value over the seeds, with its unit and format."""
    found = {}
    for name in sorted({name for record in records for name in record["values"]}):
        rows = [record["values"][name] for record in records if name in record["values"]]
        mean, spread = _mean_and_spread([row["value"] for row in rows])
        kept = {k: rows[0][k] for k in ("unit", "format")}
        found[name] = {"value": mean, "spread": spread, "n": len(rows), **kept}
    return found


def _mean_and_spread(numbers: Sequence[Any]) -> tuple[Any, Any]:
    """Mean and sample standard deviation over seeds, number by number where a seed has several
    (the spread of a list is that of its noisiest entry)."""
    if isinstance(numbers[0], list):
        columns = [_mean_and_spread(column) for column in zip(*numbers, strict=True)]
        spreads = [spread for _, spread in columns if spread is not None]
        return [mean for mean, _ in columns], max(spreads, default=None)
    spread = statistics.stdev(numbers) if len(numbers) > 1 else None
    return statistics.fmean(numbers), spread


def differences(provenance: Mapping[str, Any]) -> list[str]:
    """The parts of the experiment that are not what they are in the source at hand."""
    request = Request(
        **{k: provenance[k] for k in ("chapter", "profile", "seed", "device", "engine")}
    )
    old = provenance["identity"]["parts"]
    new = identity(request).parts
    parts = sorted(part for part in {*old, *new} if _is_experiment(part))
    return [
        part for part in parts if old.get(part) != new.get(part) and not _lacking(part, old, new)
    ]


def _lacking(part: str, *states: Mapping[str, str]) -> bool:
    """An optional data set that one of the two machines does not have says nothing of the code."""
    return part.startswith("data ") and any(state.get(part) == "absent" for state in states)


def record(
    chapter: str, profile: str, *, places: Path | None = None, even_if_changed: bool = False
) -> Path:
    """Put the finished runs of a chapter and profile, one a seed, into `book/recorded`.

    Seeds that are there already, made by the same state of the code, stay beside the new ones.
    `places` is a folder of run folders, for example brought from another machine; by default the
    store. Runs made by another state of the chapter's code are refused unless `even_if_changed`.
    """
    Request(chapter, profile)  # refuses unknown names
    chosen = _newest_by_seed(chapter, profile, places, even_if_changed)
    origins = {_state(run.provenance) for run in chosen}
    if len(origins) > 1:
        raise RecordedError(
            f"{chapter} {profile}: the seeds were run by different states of the code; run them "
            "all by one"
        )
    path = folder() / f"{chapter}.{profile}.json"
    by_seed = {run["seed"]: run for run in (read(path).runs if path.exists() else ())}
    by_seed = {k: v for k, v in by_seed.items() if _state(v["provenance"]) in origins}
    for run in chosen:
        seed = run.record["seed"]
        by_seed[seed] = {"seed": seed, "record": run.record, "provenance": run.provenance}
    runs = [by_seed[seed] for seed in sorted(by_seed)]
    content = {
        "chapter": chapter,
        "profile": profile,
        "runs": runs,
        "claims": over_seeds(chapter, profile, [run["record"] for run in runs]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if chapter in KEPT_WITH_RECORD:
        content["weights"] = _put_weights(path, runs[0], chosen)
    ledger.write_json(path, {**content, "sha256": ledger.recorded_digest(content)})
    return path


def _put_weights(path: Path, first: Mapping[str, Any], chosen: Sequence[store.Run]) -> str:
    """Copy the weights of the first seed's run beside `path`; their SHA-256.  Where that run was
    recorded before, what lies there stays."""
    target = _weights_path(path)
    for run in chosen:
        if run.record["seed"] == first["seed"] and (run.folder / weights.FILE).exists():
            partial = target.with_suffix(f".{os.getpid()}.tmp")
            shutil.copyfile(run.folder / weights.FILE, partial)
            os.replace(partial, target)
    if not target.exists():
        raise RecordedError(
            f"the run of seed {first['seed']} kept no weights for the lab of its page: run it again"
        )
    return digest(target.read_bytes())


def _newest_by_seed(
    chapter: str, profile: str, places: Path | None, even_if_changed: bool
) -> list[store.Run]:
    found: dict[int, store.Run] = {}
    refused = []
    for path in store.finished(chapter, profile, places):
        run = store.read(path)
        changed = differences(run.provenance)
        if changed and not even_if_changed:
            refused.append(f"{path.name} was run before these changed: {', '.join(changed)}")
        else:
            found.setdefault(run.record["seed"], run)
    if not found:
        where = places or store.store()
        raise RecordedError(
            "\n".join([f"no run of {chapter} {profile} in {where} can be recorded", *refused])
        )
    return [found[seed] for seed in sorted(found)]


def _is_experiment(part: str) -> bool:
    """Not a trait of the machine, nor what the page shows beside the run's own: the settings and
    the recorded results of other profiles, and the weights of its lab."""
    return part not in (*MACHINE, *SHOWN) and not part.startswith("recorded ")


def _state(provenance: Mapping[str, Any]) -> str:
    """The state of the experiment that made a run, to compare it with another's."""
    parts = provenance["identity"]["parts"]
    return json.dumps({k: v for k, v in parts.items() if _is_experiment(k)}, sort_keys=True)
