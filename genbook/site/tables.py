"""The ledger, the scoreboard and the line about a chapter's run, as pieces of a page.

A piece is finished HTML (`Markup`) or a phrase from a claims file, which the page's own parser
reads, so that mathematics in it is set like any other.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from genbook import ledger as claims_ledger
from genbook.bench import turns
from genbook.site import wording
from genbook.site.lookup import (
    Judgement,
    Results,
    UnknownResultError,
    commits,
    duration,
    mention,
    place,
    run_place,
)


@dataclass(frozen=True)
class Markup:
    """HTML that goes to the page as it is."""

    html: str


Pieces = Iterator[Markup | str]

COLUMNS = ("Claim", "Published", "Ours", "Rule", "Verdict", "Run")
BENCH = ("What", "Beside", "Ours", "Theirs", "Theirs over ours", "Memory, ours and theirs")
HEADS = ("Chapter", "Claims", *(verdict.capitalize() for verdict in claims_ledger.VERDICTS))


def slug(verdict: str) -> str:
    return verdict.replace(" ", "-")


def badge(verdict: str) -> str:
    return f'<span class="gb-verdict gb-{slug(verdict)}">{escape(verdict)}</span>'


def cell(label: str, content: str) -> Markup:
    return Markup(f'<td role="cell" data-label="{label}">{content}</td>')


def head_of(title: str, kind: str, columns: tuple[str, ...]) -> Markup:
    """The start of a table that scrolls in its own box and becomes cards on a phone.  Its roles
    are named because a table that is laid out as cards loses them."""
    heads = "".join(f'<th role="columnheader" scope="col">{name}</th>' for name in columns)
    return Markup(
        f'<div class="gb-scroll" role="region" aria-label="{title}">'
        f'<table class="gb-cards {kind}" role="table"><thead role="rowgroup">'
        f'<tr role="row">{heads}</tr></thead><tbody role="rowgroup">'
    )


def ledger(results: Results, names: list[str], folder: str) -> Pieces:
    """Every claim of the chapters: statement, source, published, ours, rule, verdict, run.
    `folder` leads to the pages of the chapters; on a chapter's own page it is empty."""
    yield head_of("Ledger of claims", "gb-ledger", COLUMNS)
    for name in names:
        if len(names) > 1:
            title, link = escape(results.chapter(name)["title"]), f"{folder}{name}.html"
            yield Markup(
                f'<tr role="row" class="gb-chapter"><th role="rowheader" scope="rowgroup" '
                f'colspan="{len(COLUMNS)}"><a href="{link}">{title}</a></th></tr>'
            )
        for judgement in results.judgements(name):
            yield from _row(name, judgement, f"{folder}{name}.html" if folder else "")
    yield Markup("</tbody></table></div>")


def _row(chapter: str, judgement: Judgement, page: str) -> Pieces:
    claim, run, result = judgement.claim, judgement.run, judgement.result
    anchor, said = escape(place(chapter, judgement.id)), escape(mention(judgement.id))
    yield Markup(
        f'<tr role="row" id="{anchor}" data-chapter="{chapter}" data-profile="{run["profile"]}" '
        f'data-verdict="{slug(result["verdict"])}"><td role="cell" data-label="Claim">'
    )
    yield Markup('<div class="gb-statement">')
    yield claim["statement"]
    yield Markup(f' <a class="gb-anchor" href="#{anchor}" aria-label="Link to this claim">#</a>')
    yield Markup('</div><div class="gb-source">')
    yield claim["source"]
    yield Markup(f'</div><a class="gb-said" href="{page}#{said}">Where the chapter prints it</a>')
    yield from _details(judgement)
    yield Markup("</td>")
    yield cell("Published", _published(claim))
    unit = f'<div class="gb-unit">{escape(claim["unit"])}</div>' if claim["unit"] else ""
    ours = escape(wording.ours(result["ours"], result["spread"]))
    number = escape(repr(result["ours"]))
    yield cell("Ours", f'<span class="gb-ours" data-value="{number}">{ours}</span>{unit}')
    yield cell("Rule", escape(wording.rule(claim["band"])))
    yield cell("Verdict", badge(result["verdict"]))
    kind = "recorded" if run["recorded"] else "fresh"
    yield cell("Run", f"{run['profile']}, {kind}<br>{wording.seeds(run['seeds'])}")
    yield Markup("</tr>")


def _published(claim: dict[str, Any]) -> str:
    if claim["standing"] == "none":
        return "—"
    text = escape(wording.published(claim["published"]))
    quoted = '<div class="gb-standing">as quoted</div>' if claim["standing"] == "quoted" else ""
    return text + quoted


def _details(judgement: Judgement) -> Pieces:
    claim = judgement.claim
    yield Markup("<details><summary>How this was judged</summary><dl>")
    for heading, text in (("Protocol", claim["protocol"]), ("Why this rule", claim["why"])):
        if text:
            yield Markup(f"<dt>{heading}</dt><dd>")
            yield text
            yield Markup("</dd>")
    yield Markup(f"<dt>Judged from</dt><dd>the {escape(claim['from'])} profile on</dd>")
    for run, result in ((judgement.run, judgement.result), *judgement.others):
        ours = escape(wording.ours(result["ours"], result["spread"]))
        yield Markup(
            f"<dt>{run['profile'].capitalize()} run, {wording.seeds(run['seeds'])}</dt>"
            f"<dd>{ours}: {escape(result['verdict'])}. {_provenance(run)}<br>"
            f"<code>{escape(run['command'])}</code></dd>"
        )
    yield Markup("</dl></details>")


def _provenance(run: dict[str, Any]) -> str:
    changed = f" Since then these changed: {escape(', '.join(run['changed']))}."
    return (
        f"{duration(run)} on {escape(run['machine'])}, {escape(run['versions'])}, "
        f"commit {escape(commits(run))}." + (changed if run["changed"] else "")
    )


def counts(results: Results, names: list[str]) -> dict[str, Counter[str]]:
    """How many claims of each chapter came out how."""
    return {name: Counter(j.result["verdict"] for j in results.judgements(name)) for name in names}


def scoreboard(results: Results, names: list[str]) -> Pieces:
    """How many claims of each chapter came out how, with a total."""
    found = counts(results, names)
    yield head_of("Scoreboard", "gb-scoreboard", HEADS)
    for name, count in found.items():
        title = escape(results.chapter(name)["title"])
        link = f'<a href="chapters/{name}.html">{title}</a>'
        yield Markup(_score(link, f"chapter={name}&amp;", count))
    if len(found) > 1:
        yield Markup(_score("All chapters", "", sum(found.values(), Counter())))
    yield Markup("</tbody></table></div>")


def _score(title: str, chapter: str, count: Counter[str]) -> str:
    """A row of counts, each a link to the claims that it counts."""
    cells = cell(HEADS[1], str(count.total())).html
    for head, verdict in zip(HEADS[2:], claims_ledger.VERDICTS, strict=True):
        wanted = f"{chapter}verdict={slug(verdict)}"
        number = f'<a href="ledger.html#{wanted}">{count[verdict]}</a>' if count[verdict] else "0"
        cells += cell(head, number).html
    return f'<tr role="row"><th role="rowheader" scope="row">{title}</th>{cells}</tr>'


def run_line(results: Results, names: list[str]) -> Pieces:
    """Which run the page shows, where its executed notebook is, and the recorded runs beside it."""
    for name in names:
        shown = results.run(name, results.profile)
        download = (
            f'<a href="../_sources/chapters/{name}.ipynb" download>Download the executed '
            "notebook</a>"
        )
        yield _line(name, shown, "This page shows the", download)
        for run in results.chapter(name)["runs"].values():
            if run is not shown:
                yield _line(name, run, "Recorded, and printed beside it: the", "")


def _line(chapter: str, run: dict[str, Any], start: str, end: str) -> Markup:
    return Markup(
        f'<p class="gb-run" id="{run_place(chapter, run["profile"])}">{start} {run["profile"]} '
        f"run, {wording.seeds(run['seeds'])}: {_provenance(run)} "
        f"Run it again: <code>{escape(run['command'])}</code>. {end}</p>"
    )


def bench(results: Results) -> Pieces:
    """The recorded comparisons of speed: medians of turns, the ratio with its spread, memory."""
    found = results.bench
    if found is None:
        raise UnknownResultError("no comparison of speed is recorded: genbook bench --record")
    yield head_of("Speed beside other packages", "gb-bench", BENCH)
    for row in found["comparisons"]:
        ours, peer = row["ours"], row["peer"]
        medians = [f"{statistics.median(side['seconds']):.3g} s" for side in (ours, peer)]
        ratio = f"{row['ratio']:.2f} <span>({row['lowest']:.2f} to {row['highest']:.2f})</span>"
        memory = f"{ours['memory']:,.0f} and {peer['memory']:,.0f} MiB"
        command = f"<code>genbook bench {escape(row['name'])}</code>"
        yield Markup(f'<tr role="row"><th role="rowheader" scope="row">{escape(row["what"])}')
        yield Markup(f'<div class="gb-source">{command}{of_peak(ours, peer)}</div></th>')
        for head, text in zip(
            BENCH[1:], (escape(row["peer_name"]), *medians, ratio, memory), strict=True
        ):
            yield cell(head, text)
        yield Markup("</tr>")
    yield end_of(found)


def of_peak(*sides: Mapping[str, Any]) -> str:
    """How near the sides' arithmetic comes to the processor's peak, where it was counted."""
    shares = [turns.Side(side["seconds"], 0.0, side["found"]).of_peak for side in sides]
    if None in shares:
        return ""
    ours, theirs = shares
    return f"<br>Ours at {ours:.0%} of the peak in matrix products, theirs at {theirs:.0%}."


BUILDS = {
    "cold": "the book, from nothing", "unchanged": "the book, nothing changed since",
    "prose": "the book, after an edit of prose",
}  # fmt: skip


def build(results: Results) -> Pieces:
    """The recorded builds of the book, and each chapter's run in the one from nothing."""
    found = results.build
    if found is None:
        raise UnknownResultError("no build is recorded: genbook bench --build --record")
    yield head_of("How long the book takes to build", "gb-build", ("What", "Time"))
    rows = {text: found["builds"][key] for key, text in BUILDS.items()}
    slowest_first = sorted(found["chapters"].items(), key=lambda row: -row[1])
    titles = {name: content["title"] for name, content in results.chapters.items()}
    rows |= {titles.get(name, name): seconds for name, seconds in slowest_first}
    for what, seconds in rows.items():
        yield Markup(f'<tr role="row"><th role="rowheader" scope="row">{escape(what)}</th>')
        yield cell("Time", wording.duration(seconds))
        yield Markup("</tr>")
    yield end_of(found, "Two chapters side by side, one thread each")


def end_of(
    found: Mapping[str, Any],
    how: str = "Medians of turns, one thread each where no other number is named",
) -> Markup:
    """The end of a table of recorded timings: where and how they were taken."""
    on = found["machine"]
    return Markup(
        f'</tbody></table></div><p class="gb-run">{how}, on '
        f"{escape(on['processor'])}, torch {escape(on['torch'])}, Python {escape(on['python'])}; "
        f"recorded by <code>{escape(found['command'])}</code> at commit "
        f"<code>{escape(str(found['commit'])[:10])}</code>.</p>"
    )
