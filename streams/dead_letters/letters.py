"""What a dead letter is to who lists, replays and discards it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from streams.errors import ReconcilerError
from streams.ids import excerpt

__all__ = [
    "Filter",
    "Letter",
    "Order",
    "State",
    "WrongLettersError",
    "check_discardable",
    "check_replayable",
    "check_sinks",
]


class WrongLettersError(ReconcilerError):
    """The order names letters that it cannot be carried out on; nothing was."""


class State(StrEnum):
    """What has been decided about a letter."""

    DEAD = "dead"
    #: Ordered to be replayed, and perhaps already sent.
    REPLAYING = "replaying"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant; None: any."""

    stage: str | None = None
    sink: str | None = None
    reason: str | None = None
    #: Died at this moment or later, the last time.
    since: datetime | None = None
    states: tuple[State, ...] = tuple(State)


@dataclass(frozen=True, slots=True)
class Letter:
    """One letter, all but what is large."""

    id: int
    origin_id: str
    source_id: str
    stage: str
    sink: str
    reason: str
    error: str
    attempts: int
    first_at: datetime
    last_at: datetime
    state: State
    replays: int
    replayed_as: str | None
    resolved_at: datetime | None
    #: None: it has no payload.
    payload_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as a document."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be sent for a letter, and which of its replays this is."""

    letter_id: int
    replays: int
    origin_id: str
    sink: str
    key: bytes | None
    payload: bytes | None = field(repr=False)
    #: The producer's fields other than the payload.
    fields: tuple[tuple[bytes, bytes], ...] = field(repr=False)


def check_replayable(ids: Iterable[int], found: Iterable[Letter], sinks: Iterable[str]) -> None:
    """Raise WrongLettersError unless all of `ids` are `found` and can be replayed."""
    by_id = _all_of(ids, found)
    for letter in by_id.values():
        if letter.state not in (State.DEAD, State.REPLAYING):
            raise WrongLettersError(f"letter {letter.id} is {letter.state.value} already")
    check_sinks({letter.sink for letter in by_id.values()}, sinks)


def check_discardable(ids: Iterable[int], found: Iterable[Letter]) -> None:
    """Raise WrongLettersError unless all of `ids` are `found` and dead."""
    for letter in _all_of(ids, found).values():
        if letter.state is State.REPLAYING:
            raise WrongLettersError(
                f"letter {letter.id} is being replayed: `replay` it to the end first"
            )
        if letter.state is not State.DEAD:
            raise WrongLettersError(f"letter {letter.id} is {letter.state.value} already")


def check_sinks(wanted: set[str], sinks: Iterable[str]) -> None:
    """Raise WrongLettersError if a delivery is `wanted` that no sink of `sinks` would take."""
    if unknown := wanted - {"", *sinks}:
        names = ", ".join(map(excerpt, sorted(unknown)))
        raise WrongLettersError(f"no such sink is configured any more: {names}")


def _all_of(ids: Iterable[int], found: Iterable[Letter]) -> dict[int, Letter]:
    by_id = {letter.id: letter for letter in found}
    if unknown := sorted(set(ids) - set(by_id)):
        raise WrongLettersError(f"there is no letter {', '.join(map(str, unknown[:20]))}")
    return by_id
