"""A host's report in hand: the event, and the entry it came in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streams.events import CapsuleEvent
from streams.transport import Entry

__all__ = ["Report", "by_stage"]


@dataclass(slots=True, eq=False)
class Report:
    """One event under way, with the entry to settle when it is done."""

    event: CapsuleEvent
    entry: Entry
    #: The stage whose effect it has: its verb's, or that of failures.
    stage: str


def by_stage(reports: Iterable[Report]) -> dict[str, list[Report]]:
    """Split `reports` by their stages, in order."""
    found: dict[str, list[Report]] = {}
    for report in reports:
        found.setdefault(report.stage, []).append(report)
    return found
