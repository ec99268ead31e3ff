"""Runs: execute a chapter under a profile, once for each state of everything it depends on.

from genbook import runs

wanted = runs.Request("aevb", profile="book")
runs.execute([wanted])
runs.find(wanted).record["claims"]
"""

from genbook.runs import weights
from genbook.runs.chapter import ChapterError, chapter_path, chapters, data_of
from genbook.runs.identity import Identity, Request, identity
from genbook.runs.recording import Recorded, RecordedError, record, recorded
from genbook.runs.schedule import RunFailedError, execute
from genbook.runs.standings import ledger_rows
from genbook.runs.store import DamagedRunError, Run, find, latest_chapter_runs

__all__ = [
    "ChapterError",
    "DamagedRunError",
    "Identity",
    "Recorded",
    "RecordedError",
    "Request",
    "Run",
    "RunFailedError",
    "chapter_path",
    "chapters",
    "data_of",
    "execute",
    "find",
    "identity",
    "latest_chapter_runs",
    "ledger_rows",
    "record",
    "recorded",
    "weights",
]
