"""Dead letters on the page: which are asked for, and what is ordered for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from config.settings import Settings
from streams.broker_url import broker_url
from streams.dead_letters.letters import Filter, Letter, Order, State
from streams.dead_letters.replay import Resender
from streams.dead_letters.store import LetterStore
from streams.duration import parse_since
from streams.sinks.room import BacklogRoom
from streams.transport import StreamLayout
from streams.transport.connection import connect

__all__ = [
    "BadQuestionError",
    "LetterList",
    "OneLetter",
    "discard",
    "find_letter",
    "letter_numbers",
    "list_letters",
    "parse_filter",
    "replay",
]

LIST_MAX: Final = 50
_WORD_CHARS: Final = 64
_ID_MAX: Final = 2**63 - 1
_PAYLOAD_SHOWN_BYTES: Final = 4_096


class BadQuestionError(Exception):
    """What is asked for makes no sense; the text says why."""


@dataclass(frozen=True, slots=True)
class LetterList:
    """Letters, the newest first, and how many there are."""

    letters: list[Letter]
    total: int


@dataclass(frozen=True, slots=True)
class OneLetter:
    """All about one letter."""

    letter: Letter
    deaths: list[dict[str, Any]]
    #: The beginning of the payload, and whether that is all of it.
    payload: str
    is_whole: bool


def parse_filter(query: Mapping[str, str], now: datetime | None = None) -> Filter:
    """Read the form's fields; raises BadQuestionError."""
    words: dict[str, str | None] = {}
    for name in ("stage", "sink", "reason", "since", "state"):
        word = query.get(name, "")
        if len(word) > _WORD_CHARS or not word.isprintable():
            raise BadQuestionError(f"{name} is no word that could be one")
        words[name] = word or None
    state, since = words["state"] or State.DEAD.value, words["since"]
    try:
        states = tuple(State) if state == "all" else (State(state),)
    except ValueError:
        raise BadQuestionError("there is no such state") from None
    try:
        moment = parse_since(since, now=now or datetime.now(UTC)) if since else None
    except ValueError as exc:
        raise BadQuestionError(f"since: {exc}") from None
    return Filter(words["stage"], words["sink"], words["reason"], moment, states)


def letter_numbers(texts: list[str]) -> list[int]:
    """Read the numbers of the letters that were ticked; raises BadQuestionError."""
    if not texts:
        raise BadQuestionError("no letter is chosen")
    if len(texts) > LIST_MAX:
        raise BadQuestionError(f"more than {LIST_MAX} letters at a time")
    found = []
    for text in texts:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
        if not 0 < number <= _ID_MAX:
            raise BadQuestionError("that is not the number of a letter")
        found.append(number)
    return sorted(set(found))


def list_letters(settings: Settings, wanted: Filter) -> LetterList:
    """Read the newest of the letters that are meant; raises DatabaseUnavailableError."""
    with LetterStore.opened(settings) as store:
        found = store.newest(wanted, LIST_MAX)
        total = len(found) if len(found) < LIST_MAX else max(store.count(wanted), len(found))
        return LetterList(found, total)


def find_letter(settings: Settings, number: int) -> OneLetter | None:
    """Read one letter; None: there is none. Raises DatabaseUnavailableError."""
    with LetterStore.opened(settings) as store:
        found = store.find([number])
        content: Order | None = store.content(number) if found else None
        deaths = store.history(number) if found else []
    if not found:
        return None
    payload = (content.payload if content else None) or b""
    return OneLetter(
        found[0],
        deaths,
        payload[:_PAYLOAD_SHOWN_BYTES].decode("utf-8", "backslashreplace"),
        len(payload) <= _PAYLOAD_SHOWN_BYTES,
    )


def discard(settings: Settings, numbers: list[int]) -> int:
    """Discard letters: all of them, or none.

    Raises:
        WrongLettersError: one of them cannot be.
        DatabaseUnavailableError: Postgres does not answer as it should.
    """
    with LetterStore.opened(settings) as store:
        store.discard(numbers)
    return len(numbers)


def replay(settings: Settings, layout: StreamLayout, numbers: list[int]) -> int:
    """Send letters again: all of them, or none; what was cut off is finished by another order.

    Not for the worker's own loop: it waits for Postgres.

    Raises:
        WrongLettersError: one of them cannot be.
        BacklogFullError: a sink has no room for its part; nothing was sent.
        ReplayError, TransportError, DatabaseUnavailableError: not all may have been sent.
    """
    return asyncio.run(_replay(settings, layout, numbers))


async def _replay(settings: Settings, layout: StreamLayout, numbers: list[int]) -> int:
    sinks = [sink.name for sink in settings.sinks]
    name = f"{settings.app_id}-page"
    with LetterStore.opened(settings) as store:
        letters = store.find(numbers)
        async with connect(
            broker_url(settings), timeout_s=settings.redis_timeout_s, name=name
        ) as client:
            resender = Resender(
                client,
                store,
                source=settings.source_stream,
                group=settings.app_id,
                layout=layout,
            )
            await resender.check({letter.sink for letter in letters})
            room = BacklogRoom(client, settings.sinks, group=settings.app_id, layout=layout)
            # Nobody waits at a page.
            for sink, count in Counter(letter.sink for letter in letters).items():
                await room.check(sink, count)
            store.claim(numbers, sinks)
            sent = [await resender.send(letter) for letter in letters]
    return sum(entry_id is not None for entry_id in sent)
