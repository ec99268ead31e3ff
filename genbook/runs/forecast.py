"""What is known of the time, memory and room of a long run, told before it starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from genbook import ledger
from genbook.runs import recording, store
from genbook.runs.identity import Request
from genbook.runs.progress import clock, size

LONG = ("long", "paper")
LITTLE_ROOM = 2**30


def told(request: Request) -> list[str]:
    """The lines for the terminal; none for a short profile."""
    if request.profile not in LONG:
        return []
    free = store.free()
    room = f"only {size(free)} are free on the disk of {store.store()}"
    return [*_costs(request), *([room] if free < LITTLE_ROOM else [])]


def _costs(request: Request) -> list[str]:
    """What the nearest run that is known took: of this profile, else of the largest smaller one."""
    label = f"{request.chapter} {request.profile}"
    unknown = (
        f"{label}: no run of this profile is known; "
        "the estimate below is the run's own, after its first minute"
    )
    for profile in reversed(ledger.PROFILES[: ledger.PROFILES.index(request.profile) + 1]):
        known = [*_here(request.chapter, profile), *_recorded(request.chapter, profile)]
        if not known:
            continue
        what, provenance = min(known, key=lambda one: not _same_device(one[1], request))
        took = f"took {_took(provenance)}"
        if not _same_device(provenance, request):
            took += f" (this one is for {request.device})"
        if profile == request.profile:
            return [f"{label}: {what} {took}"]
        return [unknown, f"{label}: {what} of the {profile} profile {took}"]
    return [unknown]


def _here(chapter: str, profile: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Provenance of the finished runs on this machine, of any seed and state, newest first."""
    for folder in store.finished(chapter, profile):
        with contextlib.suppress(store.DamagedRunError):
            yield "the last run here", store.read(folder).provenance


def _recorded(chapter: str, profile: str) -> Iterator[tuple[str, dict[str, Any]]]:
    path = recording.folder() / f"{chapter}.{profile}.json"
    if path.exists():
        with contextlib.suppress(recording.RecordedError):
            for run in recording.read(path).runs:
                yield "the recorded run", run["provenance"]


def _same_device(provenance: Mapping[str, Any], request: Request) -> bool:
    return bool(provenance["device"].split(":")[0] == request.device.split(":")[0])


def _took(provenance: Mapping[str, Any]) -> str:
    """1 h 19 min and 1.1 GiB on AMD EPYC, one thread."""
    memory = size(provenance["peak_memory_mib"] * 2**20)
    if "gpu_peak_memory_mib" in provenance:
        memory += f" (on the card {size(provenance['gpu_peak_memory_mib'] * 2**20)})"
    machine = provenance.get("gpu") or provenance["processor"] or provenance["platform"]
    threads = provenance["threads"]
    many = "one thread" if threads == 1 else f"{threads} threads"
    return f"{clock(provenance['wall_seconds'])} and {memory} on {machine}, {many}"
