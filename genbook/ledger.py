"""Claims of a paper, the rules that judge them, and the record that a run leaves.

A claims file (`chapters/NAME.claims.toml`) is written before the run and says what the paper
claims and what would count as reproducing it.  A chapter only supplies its own number:

    claims = Ledger("aevb", profile=profile, seed=seed)
    claims.judge("fig2-nz20-bound", ours=-116.2, spread=0.3)
    claims.value("images-per-second", 10500, unit="images/s", format=",.0f")
    claims.close()

`close` refuses a claim that was never judged and writes `record.json`, from which the page, the
ledger and the scoreboard all print the same number.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import html
import itertools
import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROFILES = ("smoke", "book", "long", "paper")
STANDINGS = ("primary", "quoted", "none")
VERDICTS = ("reproduced", "within band", "missed", "not run at this scale")
BUNDLE_MIME = "application/vnd.genbook.claim+json"
ROOT = Path(os.environ.get("GENBOOK_ROOT") or Path(__file__).resolve().parents[1])

# The fields that each kind of rule needs, with the number a rule is centred on (if any) first.
RULE_FIELDS: dict[str, tuple[str, ...]] = {
    "exact": ("target", "tolerance"),
    "band": ("value", "within"),
    "at_least": ("value",),
    "at_most": ("value",),
    "ordering": ("order", "margin"),
}
TABLES = ("chapter", "claims")
CHAPTER_FIELDS = ("title", "data", "optional_data")
CLAIM_FIELDS: dict[str, tuple[type, ...]] = {
    "statement": (str,),
    "source": (str,),
    "published": (str, int, float),
    "standing": (str,),
    "unit": (str,),
    "protocol": (str,),
    "rule": (dict,),
    "why": (str,),
    "from": (str,),
}

Number = float | int
Ours = Number | Sequence[Number] | None


class ClaimsError(Exception):
    """A claims file, a judgement or a record is not what the ledger can stand behind."""


def nearest(name: str, known: Sequence[str]) -> str:
    """The tail of an error message: the nearest right name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "known: " + ", ".join(sorted(known))


@dataclass(frozen=True)
class Claim:
    """One claim of a paper and the rule, fixed before the run, that judges our number."""

    id: str
    chapter: str
    statement: str
    source: str
    published: str | float
    standing: str
    unit: str
    protocol: str
    rule: Mapping[str, Any]
    why: str
    from_profile: str

    def verdict(self, ours: Ours, profile: str) -> str:
        """One of `VERDICTS`.  A profile smaller than `from_profile` never judges."""
        if PROFILES.index(profile) < PROFILES.index(self.from_profile) or ours is None:
            return "not run at this scale"
        numbers = list(ours) if isinstance(ours, Sequence) else [ours]
        if not all(math.isfinite(x) for x in numbers):
            return "missed"
        holds = _rule_holds(self.rule, numbers)
        if self.rule["kind"] == "band":
            return "within band" if holds else "missed"
        return "reproduced" if holds else "missed"

    def band(self) -> str:
        """The rule in words, as the ledger prints it."""
        rule = self.rule
        match rule["kind"]:
            case "exact":
                return f"= {rule['target']:g} to {rule['tolerance']:g}"
            case "band":
                return f"{rule['value']:g} ± {rule['within']:g}"
            case "at_least":
                return f"≥ {rule['value']:g}"
            case "at_most":
                return f"≤ {rule['value']:g}"
        margin = f" by {rule['margin']:g} or more" if rule["margin"] else ""
        return f"{rule['order']}{margin}"


def _rule_holds(rule: Mapping[str, Any], numbers: Sequence[Number]) -> bool:
    ours = numbers[0]
    target = float(rule.get("target", rule.get("value", 0.0)))
    match rule["kind"]:
        case "exact":
            return abs(ours - target) <= float(rule["tolerance"])
        case "band":
            return abs(ours - target) <= float(rule["within"])
        case "at_least":
            return ours >= target
        case "at_most":
            return ours <= target
    sign = 1.0 if rule["order"] == "increasing" else -1.0
    steps = [sign * (b - a) for a, b in itertools.pairwise(numbers)]
    return min(steps) > 0 and min(steps) >= float(rule["margin"])


@dataclass(frozen=True)
class ChapterClaims:
    """What a claims file says: the chapter's title, its data sets and its claims by id."""

    name: str
    title: str
    data: tuple[str, ...]
    optional_data: tuple[str, ...]
    claims: dict[str, Claim]

    def __getitem__(self, claim_id: str) -> Claim:
        if claim_id not in self.claims:
            raise ClaimsError(
                f"{self.name}: no claim '{claim_id}' in chapters/{self.name}.claims.toml; "
                + nearest(claim_id, list(self.claims))
            )
        return self.claims[claim_id]


def read_claims(name: str, root: Path | None = None) -> ChapterClaims:
    """Read and check `chapters/NAME.claims.toml`; a `ClaimsError` names what is wrong."""
    path = (root or ROOT) / "chapters" / f"{name}.claims.toml"
    if not path.exists():
        raise ClaimsError(f"{name}: chapters/{name}.claims.toml is missing")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ClaimsError(f"chapters/{name}.claims.toml: {error}") from error
    head = table.get("chapter", {})
    if "title" not in head:
        raise ClaimsError(f"chapters/{name}.claims.toml: [chapter] needs a title")
    for where, found, known in (("", table, TABLES), ("[chapter] ", head, CHAPTER_FIELDS)):
        for field in found:
            if field not in known:
                raise ClaimsError(
                    f"chapters/{name}.claims.toml: {where}unknown name '{field}'; "
                    + nearest(field, known)
                )
    claims = {key: _claim(key, name, body) for key, body in table.get("claims", {}).items()}
    return ChapterClaims(
        name,
        head["title"],
        tuple(head.get("data", ())),
        tuple(head.get("optional_data", ())),
        claims,
    )


def _claim(claim_id: str, chapter: str, body: Mapping[str, Any]) -> Claim:
    where = f"claim '{claim_id}' of {chapter}"
    for field in body:
        if field not in CLAIM_FIELDS:
            raise ClaimsError(
                f"{where}: unknown field '{field}'; {nearest(field, [*CLAIM_FIELDS])}"
            )
    for field, kind in CLAIM_FIELDS.items():
        if field not in body:
            raise ClaimsError(f"{where}: the field '{field}' is missing")
        if not isinstance(body[field], kind) or isinstance(body[field], bool):
            raise ClaimsError(f"{where}: '{field}' has the wrong type, {body[field]!r}")
    if body["standing"] not in STANDINGS:
        raise ClaimsError(f"{where}: standing {body['standing']!r} is not one of {STANDINGS}")
    if (body["standing"] == "none") != (body["published"] == "none"):
        raise ClaimsError(f"{where}: 'published' and 'standing' must both be \"none\" or neither")
    if body["from"] not in PROFILES:
        raise ClaimsError(f"{where}: from = {body['from']!r} is not one of {PROFILES}")
    _check_rule(where, body["rule"], body["published"])
    fields = {k: v for k, v in body.items() if k != "from"}
    return Claim(id=claim_id, chapter=chapter, from_profile=body["from"], **fields)


def _check_rule(where: str, rule: Mapping[str, Any], published: str | float) -> None:
    kind = rule.get("kind")
    if kind not in RULE_FIELDS:
        raise ClaimsError(
            f"{where}: rule kind {kind!r} is unknown; {nearest(str(kind), [*RULE_FIELDS])}"
        )
    wanted = {"kind", *RULE_FIELDS[kind]}
    if set(rule) != wanted:
        odd = ", ".join(sorted(set(rule) ^ wanted))
        raise ClaimsError(f"{where}: a rule of kind '{kind}' has {sorted(wanted)}; check: {odd}")
    for field in RULE_FIELDS[kind]:
        value = rule[field]
        if field == "order":
            if value not in ("increasing", "decreasing"):
                raise ClaimsError(f"{where}: order {value!r} is neither increasing nor decreasing")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ClaimsError(f"{where}: the rule's '{field}' is not a number: {value!r}")
    for field in ("tolerance", "within", "margin"):
        if rule.get(field, 0) < 0:
            raise ClaimsError(f"{where}: the rule's '{field}' is negative")
    centre = RULE_FIELDS[kind][0]
    if kind in ("exact", "band") and not isinstance(published, str) and rule[centre] != published:
        raise ClaimsError(
            f"{where}: the rule judges against {rule[centre]:g} "
            f"but the published value is {published:g}"
        )


class Judged:
    """What a notebook shows for a judged claim or a recorded value: a line and a data bundle."""

    def __init__(self, line: str, bundle: Mapping[str, Any]):
        self.line, self.bundle = line, bundle

    def __repr__(self) -> str:
        return self.line

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {
            "text/plain": self.line,
            "text/html": f'<p class="gb-judged">{html.escape(self.line)}</p>',
            BUNDLE_MIME: dict(self.bundle),
        }


class Ledger:
    """Collects a chapter's judged claims, named values and curves, and writes its record."""

    def __init__(self, chapter: str, *, profile: str, seed: int = 0, root: Path | None = None):
        if profile not in PROFILES:
            raise ClaimsError(f"unknown profile '{profile}'; {nearest(profile, PROFILES)}")
        self.book = read_claims(chapter, root)
        self.profile, self.seed, self.root = profile, seed, root or ROOT
        self.record: dict[str, Any] = {
            "chapter": chapter, "profile": profile, "seed": seed,
            "settings": {}, "claims": {}, "values": {}, "series": {},
        }  # fmt: skip
        folder = os.environ.get("GENBOOK_RUN_DIR")
        scratch = self.root / "_build" / "scratch" / f"{chapter}-{profile}"
        self.folder = Path(folder) if folder else scratch
        self.folder.mkdir(parents=True, exist_ok=True)

    def judge(self, claim_id: str, *, ours: Ours, spread: Number | None = None) -> None:
        """Judge a claim by its rule.  `ours` is a number, a list for an ordering, or None when
        this profile does not run the experiment; `spread` is over seeds or test images."""
        claim = self.book[claim_id]
        if claim_id in self.record["claims"]:
            raise ClaimsError(f"{self.book.name}: claim '{claim_id}' is judged twice")
        is_list = isinstance(ours, Sequence)
        if ours is not None and is_list != (claim.rule["kind"] == "ordering"):
            raise ClaimsError(
                f"claim '{claim_id}': a rule of kind '{claim.rule['kind']}' got {ours!r}"
            )
        numbers: Any = ours
        if ours is not None:  # a tensor or numpy scalar must not reach the record
            numbers = [float(x) for x in ours] if isinstance(ours, Sequence) else float(ours)
        if isinstance(numbers, list) and len(numbers) < 2:
            raise ClaimsError(f"claim '{claim_id}': an ordering needs two numbers or more")
        verdict = claim.verdict(numbers, self.profile)
        row = {
            "ours": numbers,
            "spread": None if spread is None else float(spread),
            "verdict": verdict,
        }
        self.record["claims"][claim_id] = row
        _show(
            f"{verdict}: {claim.statement}\n  ours {_text(row)}  rule {claim.band()}",
            {"id": claim_id, **row},
        )

    def value(self, name: str, number: Number, *, unit: str, format: str) -> None:
        """Record a named number that is not a claim, so that prose can print it."""
        if name in self.record["values"] or name in self.book.claims:
            raise ClaimsError(f"{self.book.name}: the name '{name}' is used twice")
        row = {"value": float(number), "unit": unit, "format": format}
        self.record["values"][name] = row
        _show(f"{name} = {float(number):{format}} {unit}".rstrip(), {"id": name, **row})

    def series(self, name: str, **columns: Sequence[Number]) -> None:
        """Record a curve: equally long columns of numbers, for figures that show recorded runs."""
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1 or name in self.record["series"]:
            raise ClaimsError(f"series '{name}': used twice, or its columns differ in length")
        self.record["series"][name] = {k: [float(x) for x in v] for k, v in columns.items()}

    def sheet(self, name: str, png: str) -> None:
        """Record a sheet of small images (`plotting.packed`), so that a page can show what a
        recorded run made."""
        sheets = self.record.setdefault("sheets", {})
        if name in sheets:
            raise ClaimsError(f"sheet '{name}' is recorded twice")
        sheets[name] = png

    def settings(self, settings: Any) -> None:
        """Record the frozen dataclass of this profile."""
        self.record["settings"] = dataclasses.asdict(settings)

    def recorded(self) -> dict[str, list[dict[str, Any]]]:
        """The records of larger profiles in book/recorded, by profile, one a seed, so that a page
        can show a long run beside the fresh one.  Smaller and equal profiles never see them."""
        return {
            profile: [run["record"] for run in read_recorded(path)["runs"]]
            for profile, path in recorded_paths(self.book.name, self.root)
            if PROFILES.index(profile) > PROFILES.index(self.profile)
        }

    def close(self) -> None:
        """Write `record.json`.  An unjudged claim is an error that names it."""
        missing = [name for name in self.book.claims if name not in self.record["claims"]]
        if missing:
            raise ClaimsError(f"{self.book.name}: never judged: {', '.join(missing)}")
        write_json(self.folder / "record.json", self.record)


def recorded_paths(name: str, root: Path | None = None) -> list[tuple[str, Path]]:
    """Profile and file of every recorded run of a chapter, smallest profile first."""
    folder = (root or ROOT) / "book" / "recorded"
    found = ((profile, folder / f"{name}.{profile}.json") for profile in PROFILES)
    return [(profile, path) for profile, path in found if path.exists()]


def recorded_digest(content: Mapping[str, Any]) -> str:
    """The sha256 that a recorded file carries of all the rest of itself."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_recorded(path: Path) -> dict[str, Any]:
    """A file of book/recorded; a `ClaimsError` if it is not what `genbook record` wrote."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content.get("sha256") != recorded_digest(content):
        raise ClaimsError(f"book/recorded/{path.name} was changed after it was written")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write JSON beside the target and rename, so that a reader never meets half a file."""
    partial = path.with_name(path.name + f".{os.getpid()}.tmp")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _text(row: Mapping[str, Any]) -> str:
    ours, spread = row["ours"], row["spread"]
    if ours is None:
        return "—"
    text = ", ".join(f"{x:.6g}" for x in ours) if isinstance(ours, list) else f"{ours:.6g}"
    return text if spread is None else f"{text} ± {spread:.2g}"


def _show(line: str, bundle: Mapping[str, Any]) -> None:
    judged = Judged(line, bundle)
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        print(line)
        return
    if get_ipython() is None:
        print(line)
    else:
        from IPython.display import display

        display(judged)
