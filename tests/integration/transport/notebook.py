"""A journal in memory, which keeps what the protocol asks of one; Postgres' is tested elsewhere."""

from __future__ import annotations

import asyncio

from streams.transport import JournalUnavailableError, Loss, LossKind, Position

__all__ = ["Notebook"]


class Notebook:
    """Shared by all workers of a test, as a database is."""

    def __init__(self) -> None:
        #: What was new in each loss reported.
        self.losses: list[Loss] = []
        self.positions: dict[str, Position] = {}
        #: Clear: nothing can be written or asked.
        self.answers = asyncio.Event()
        self.answers.set()
        #: Questions that went unanswered.
        self.refused = 0
        self._totals: dict[tuple[str, str, str], int] = {}
        self._ids: set[tuple[str, str]] = set()

    async def record(self, loss: Loss) -> None:
        await self.answers.wait()
        if loss.ids:
            ids = [i for i in loss.ids if (loss.stream, i) not in self._ids]
            self._ids |= {(loss.stream, i) for i in ids}
            if ids:
                self.losses.append(_with(loss, len(ids), tuple(ids)))
            return
        account = (loss.stream, loss.kind.value, loss.account)
        known = self._totals.get(account, 0)
        if loss.total > known:
            counted = loss.kind is LossKind.TRIMMED_UNREAD
            self._totals[account] = loss.total
            self.losses.append(_with(loss, loss.total - known if counted else loss.entries, ()))

    async def recall(self, stream: str) -> Position | None:
        self._ask()
        return self.positions.get(stream)

    async def remember(self, position: Position) -> None:
        self._ask()
        self.positions[position.stream] = position

    def _ask(self) -> None:
        if not self.answers.is_set():
            self.refused += 1
            raise JournalUnavailableError("closed")

    def entries(self) -> int:
        """All entries that were lost."""
        return sum(loss.entries or 0 for loss in self.losses)

    def kinds(self) -> list[str]:
        """What was lost how, in order."""
        return [loss.kind.value for loss in self.losses]


def _with(loss: Loss, entries: int | None, ids: tuple[str, ...]) -> Loss:
    return Loss(
        kind=loss.kind,
        stream=loss.stream,
        after_id=loss.after_id,
        before_id=loss.before_id,
        entries=entries,
        ids=ids,
        account=loss.account,
        total=loss.total,
    )
