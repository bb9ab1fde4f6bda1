"""Dead letters that were dealt with long ago, and those that there is no room for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import structlog

from streams.dead_letters.retention import Surplus, count_open, drop, remove_resolved, surplus
from streams.events import EntryId
from streams.journal import PostgresJournal
from streams.postgres import Postgres

__all__ = ["OldLetters"]

log = structlog.get_logger(__name__)

#: From this part of the bound on, it is told that letters will have to be dropped.
_FILLING: Final = 0.8


class OldLetters:
    """The chore that removes them.

    Arguments:
        keep_days: how long a letter is kept after it was replayed or discarded.
        max_letters: letters that the table holds at most.
        journal: is told which letters are lost, before they are.
        source: the producer's stream, where letters are from that are no deliveries.
        prefix: what the app's keys start with.
    """

    name = "dead_letters"

    def __init__(
        self,
        postgres: Postgres,
        *,
        keep_days: int,
        max_letters: int,
        journal: PostgresJournal,
        source: str,
        prefix: str,
    ) -> None:
        self._postgres = postgres
        self._keep_days = keep_days
        self._max_letters = max_letters
        self._journal = journal
        self._source = source
        self._prefix = prefix

    async def run(self) -> AsyncGenerator[int, None]:
        """Remove what is old, then what is too much; gives how many each statement removed."""
        while count := await remove_resolved(self._postgres, keep_days=self._keep_days):
            yield count
        while letters := await surplus(self._postgres, max_letters=self._max_letters):
            count = await self._drop(letters)
            yield count
            if count == 0:  # somebody is at all of them just now
                break
        waiting = await count_open(self._postgres)
        if waiting >= self._max_letters * _FILLING:
            log.warning(
                "the table of dead letters fills up: replay or discard them",
                action="dead_letters_filling",
                letters=waiting,
                max_letters=self._max_letters,
            )

    async def _drop(self, letters: Sequence[Surplus]) -> int:
        lost = [letter for letter in letters if letter.is_open]
        await self._record(lost)
        count = await drop(self._postgres, letters)
        if lost and count:
            log.error(
                "dead letters dropped, as there is no room for more",
                action="dead_letters_dropped",
                letters=len(lost),
                first_id=lost[0].origin_id,
                last_id=lost[-1].origin_id,
                max_letters=self._max_letters,
            )
        return count

    async def _record(self, lost: Sequence[Surplus]) -> None:
        """Have it durable that `lost` are lost; telling it again counts none of them twice."""
        ids: defaultdict[str, list[str]] = defaultdict(list)
        for letter in lost:
            # One entry may be dead at several sinks, and is lost to each of them.
            stream = f"{self._prefix}hooks.{letter.sink}" if letter.sink else self._source
            ids[stream].append(_entry_id(letter.origin_id))
        for stream, of_stream in ids.items():
            await self._journal.record_dropped(stream, of_stream)


def _entry_id(text: str) -> str:
    """Return an id that has the form of one, also for a letter that could not say its own."""
    try:
        return str(EntryId.parse(text))
    except ValueError:
        return "0-0"
