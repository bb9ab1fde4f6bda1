"""A host's report in hand: the event, and the entry it came in."""

from __future__ import annotations

from dataclasses import dataclass

from streams.events import CapsuleEvent
from streams.transport import Entry

__all__ = ["Report"]


@dataclass(slots=True, eq=False)
class Report:
    """One event under way, with the entry to settle when it is done."""

    event: CapsuleEvent
    entry: Entry
