"""What is known of how far a stream is read: here, and as Redis tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .loss import Position

__all__ = ["Figures", "ReadSoFar"]


@dataclass(slots=True)
class ReadSoFar:
    """What this process knows of a stream; kept beyond its terms."""

    #: Empty: not counted.
    epoch: str = ""
    #: The last entry delivered, here or, where it is counted, to anybody.
    id: str = ""
    ordinal: int = 0
    #: Lost in this epoch: reported, and durable in the journal.
    reported: int = 0
    recorded: int = 0
    #: The last entry delivered when nothing unreported was missing.
    clean: str = ""
    last_id: str = ""
    #: Of a stream of ours: at least.
    added: int = 0

    @property
    def accounted(self) -> int:
        """Entries up to the last one delivered whose fate is known."""
        return self.ordinal + self.reported

    def position(self, stream: str, *, accounted: int | None = None) -> Position:
        """The same as the journal has it; `accounted` where that is not this process's count."""
        return Position(
            stream=stream,
            epoch=self.epoch,
            id=self.id,
            accounted=self.accounted if accounted is None else accounted,
            last_id=self.last_id,
            added=self.added,
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """The answer of ``position_check.lua``."""

    status: str
    epoch: str
    id: str
    ordinal: int
    implied: int
    added: int
    length: int
    first: str
    last_id: str
    deleted: str
    clean_before: str
    clean: str
    lost: int
    last_id_before: str
    added_before: int

    @classmethod
    def from_answer(cls, answer: list[Any]) -> Figures:
        plain: list[Any] = [item.decode() if isinstance(item, bytes) else item for item in answer]
        return cls(*plain)
