"""Keeping dead letters: from their topic into their table.

A letter that the table refuses stays pending, whole, and stops no other.
"""

from __future__ import annotations

from typing import Any

import faust
import structlog

from agents.reconciler import Reconciler
from streams.dead_letters.record import DeadLetter, batches, rows
from streams.errors import DatabaseRejectedError
from streams.transport import Entry

__all__ = ["Keep"]

log = structlog.get_logger(__name__)


class Keep:
    """The agent ``keep``."""

    name = "keep"

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._stage = reconciler.stage(self.name, dead_letters=False)
        self._statement = reconciler.statement(self.name, "dead_letters")
        reconciler.app.agent(reconciler.topics.dead_letters, name=self.name)(self.run)

    async def run(self, stream: faust.StreamT[Any]) -> None:
        """Store batch after batch."""
        async for entries in stream:
            self._stage.receive(entries)
            letters = {DeadLetter.from_entry(entry): entry for entry in entries}
            for batch in batches(letters):
                if self._reconciler.is_leaving:
                    break
                await self._keep([(letter, letters[letter]) for letter in batch])

    async def _keep(self, letters: list[tuple[DeadLetter, Entry]]) -> None:
        with self._reconciler.working([entry for _, entry in letters]) as ours:
            mine = [(letter, entry) for letter, entry in letters if entry in ours]
            if mine:
                await self._store(mine)

    async def _store(self, letters: list[tuple[DeadLetter, Entry]]) -> None:
        parameters = {"letters": rows(letter for letter, _ in letters)}
        try:
            await self._stage.insist(
                lambda: self._statement.run(parameters), give_up_on=(DatabaseRejectedError,)
            )
        except DatabaseRejectedError as exc:
            if len(letters) > 1:
                for pair in letters:
                    await self._store([pair])
                return
            letter, entry = letters[0]
            log.error(
                "a dead letter does not fit into its table; it stays in its stream",
                action="dead_letter_unstorable",
                entry=entry.id.decode(),
                source_id=letter.source_id,
                error=str(exc),
            )
            return
        self._stage.done([entry for _, entry in letters])
