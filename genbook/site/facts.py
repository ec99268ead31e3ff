"""The facts behind the results that a page prints: what the panel shows that a result opens.

A printed result carries a key, `CHAPTER:NAME` or `CHAPTER:NAME@PROFILE`.  The page holds the facts
of its keys once, as JSON at its end, and those of a run once a run:

    {"results": {KEY: {"run": "aevb@long", "ours": ...}}, "runs": {"aevb@long": {"seeds": ...}}}

Every text is ready to be printed.  Without JavaScript a result is a link to the place on its
chapter's page where the same facts stand.
"""

from __future__ import annotations

import json
import re
from html import escape, unescape
from typing import Any

from genbook.site import wording
from genbook.site.lookup import Found, Results, commits, duration, standing

KEY = re.compile(r'data-facts="([^"]+)"')


def link(text: str, key: str, address: str, attributes: str = "") -> str:
    """A printed result that opens its facts."""
    return (
        f'<a class="gb-result" href="{escape(address)}" data-facts="{escape(key)}"{attributes}>'
        f"{escape(text)}</a>"
    )


def of_page(results: Results, body: str) -> str:
    """The script with the facts of every result in the body of a page; nothing without one."""
    keys = sorted({unescape(key) for key in KEY.findall(body)})
    if not keys:
        return ""
    found = {key: results.find(key, None) for key in keys}
    runs = {run_key(one): of_run(one.run) for one in found.values()}
    content = {"results": {key: of_result(one) for key, one in found.items()}, "runs": runs}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    text = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="gb-facts">{text}</script>'


def run_key(found: Found) -> str:
    return f"{found.chapter}@{found.run['profile']}"


def of_result(found: Found) -> dict[str, str]:
    """What is particular to one result."""
    row, claim = found.row, found.claim
    if claim is None:
        unit = f" {row['unit']}" if row["unit"] else ""
        return {"run": run_key(found), "what": found.name, "ours": wording.value(row) + unit}
    unit = f" ({claim['unit']})" if claim["unit"] else ""
    return {
        "run": run_key(found),
        "what": wording.mathematics(claim["statement"]),
        "published": f"{standing(claim)}: {claim['source']}",
        "ours": wording.ours(row["ours"], row["spread"]) + unit,
        "rule": wording.rule(claim["band"]),
        "why": wording.mathematics(claim["why"]),
        "verdict": row["verdict"],
    }


def of_run(run: dict[str, Any]) -> dict[str, str]:
    """What all results of a run share."""
    return {
        "profile": f"{run['profile']}, {'recorded' if run['recorded'] else 'fresh'}",
        "seeds": ", ".join(map(str, run["seeds"])),
        "commit": commits(run),
        "hardware": f"{run['machine']} ({run['device']})",
        "time": duration(run),
        "command": run["command"],
    }
