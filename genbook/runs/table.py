"""The ledger as a table on the terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from genbook import ledger

STYLES = {"reproduced": "green", "within band": "green", "missed": "red"}


def print_rows(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print the ledger's rows and how many claims have each verdict."""
    # Not a terminal (a file, a pipe): wide enough for a statement in one line.
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    table = Table(
        "claim", "published", "ours", "rule", "verdict", "profile", "run", show_lines=True
    )
    bands = {name: ledger.read_claims(name) for name in {row["chapter"] for row in rows}}
    for row in rows:
        unit = "" if row["unit"] in ("none", "") else f" {row['unit']}"
        table.add_row(
            f"[bold]{row['chapter']}: {row['id']}[/bold]\n{escape(row['statement'])}\n"
            f"[dim]{escape(row['source'])}",
            escape(f"{row['published']} ({row['standing']})"),
            escape(number(row["ours"], row["spread"]) + (unit if row["ours"] is not None else "")),
            bands[row["chapter"]][row["id"]].band(),
            f"[{STYLES.get(row['verdict'], 'dim')}]{row['verdict']}",
            row["profile"] or "",
            row["run"] or "",
        )
    console.print(table)
    counts = Counter(row["verdict"] for row in rows)
    console.print(
        ", ".join(f"{counts[verdict]} {verdict}" for verdict in ledger.VERDICTS if counts[verdict])
    )


def number(ours: Any, spread: float | None) -> str:
    """A result as text, with its spread."""
    if ours is None:
        return ""
    numbers = ours if isinstance(ours, list) else [ours]
    text = ", ".join("not finite" if x is None else f"{x:.6g}" for x in numbers)
    return text if spread is None else f"{text} ± {spread:.2g}"
