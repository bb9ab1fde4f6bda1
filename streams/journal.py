"""The journal of losses, in Postgres: the tables ``gaps``, ``gap_entries`` and ``positions``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from streams.errors import DatabaseError
from streams.postgres import Postgres
from streams.retry import until_done
from streams.transport import JournalUnavailableError, Loss, LossKind, Position
from streams.transport.loss import id_after, id_before, id_order

__all__ = ["DEAD_LETTERS_DROPPED", "PostgresJournal"]

#: The kind of a gap of dead letters that were given up because there were too many.
DEAD_LETTERS_DROPPED: Final = "dead_letters_dropped"

#: Entries in one row, at most.
_ENTRIES_MAX: Final = 1_000

# Of two that report one account at the same time, one inserts, and the other finds its `prior`
# taken and asks again.
_RECORD: Final = """
with known as (
    select coalesce(max(total), 0) as total from capsule_reconciler.gaps
    where app_id = %(app_id)s and stream = %(stream)s and kind = %(kind)s
      and account = %(account)s
),
added as (
    insert into capsule_reconciler.gaps
        (app_id, stream, kind, after_id, before_id, entries, account, prior, total, worker)
    select %(app_id)s, %(stream)s, %(kind)s, %(after_id)s, %(before_id)s,
        case when %(is_counted)s then %(total)s - known.total else %(entries)s::bigint end,
        %(account)s, known.total, %(total)s, %(worker)s
    from known where known.total < %(total)s
    on conflict (app_id, stream, kind, account, prior) do nothing
    returning id
)
select exists (select from added) or (select total from known) >= %(total)s
"""

_RECORD_IDS: Final = """
with added as (
    insert into capsule_reconciler.gap_entries (app_id, stream, kind, entry_id, account)
    select %(app_id)s, %(stream)s, %(kind)s, entry_id, %(account)s
    from (select distinct unnest(%(ids)s::text[]) as entry_id order by 1) as lost
    on conflict (app_id, stream, kind, entry_id) do nothing
    returning entry_id
),
gap as (
    insert into capsule_reconciler.gaps
        (app_id, stream, kind, after_id, before_id, entries, account, worker)
    select %(app_id)s, %(stream)s, %(kind)s, %(after_id)s, %(before_id)s, count(*),
        %(account)s, %(worker)s
    from added having count(*) > 0
    on conflict (app_id, stream, kind, account, prior) do nothing
    returning id
)
select count(*) from added
"""

_RECALL: Final = """
select max(epoch), max(entry_id), max(accounted), max(last_id), max(entries_added)
from capsule_reconciler.positions where app_id = %(app_id)s and stream = %(stream)s
"""

_REMEMBER: Final = """
insert into capsule_reconciler.positions
    (app_id, stream, epoch, entry_id, accounted, last_id, entries_added)
values (%(app_id)s, %(stream)s, %(epoch)s, %(id)s, %(accounted)s, %(last_id)s, %(added)s)
on conflict (app_id, stream) do update set
    epoch = excluded.epoch, entry_id = excluded.entry_id, accounted = excluded.accounted,
    last_id = excluded.last_id, entries_added = excluded.entries_added, updated_at = now()
returning true
"""


class PostgresJournal:
    """The transport's journal for one app.

    Arguments:
        worker: tells the name of the worker that notices, for people.
    """

    def __init__(self, postgres: Postgres, *, app_id: str, worker: Callable[[], str]) -> None:
        self._postgres = postgres
        self._app_id = app_id
        self._worker = worker

    async def record(self, loss: Loss) -> None:
        """Keep `loss`, each of its entries once; Postgres away is waited out."""
        if loss.ids:
            await self._record_ids(loss.kind.value, loss.stream, loss.ids)
            return
        parameters = {
            "app_id": self._app_id,
            "worker": self._worker(),
            "stream": loss.stream,
            "kind": loss.kind.value,
            "after_id": loss.after_id,
            "before_id": loss.before_id,
            "entries": loss.entries,
            "account": loss.account,
            "total": loss.total,
            "is_counted": loss.kind is LossKind.TRIMMED_UNREAD,
        }
        is_known = False
        while not is_known:
            (is_known,) = await self._insist(_RECORD, parameters)

    async def record_dropped(self, stream: str, ids: Sequence[str]) -> None:
        """Keep the ids of dead letters that were given up, each once; Postgres away is waited out.

        Arguments:
            stream: where the entries were; of one entry, letters of several sinks are told apart
                by it as well.
            ids: entry ids.
        """
        await self._record_ids(DEAD_LETTERS_DROPPED, stream, ids)

    async def _record_ids(self, kind: str, stream: str, ids: Sequence[str]) -> None:
        ordered = sorted(ids, key=id_order)
        for start in range(0, len(ordered), _ENTRIES_MAX):
            portion = ordered[start : start + _ENTRIES_MAX]
            parameters = {
                "app_id": self._app_id,
                "worker": self._worker(),
                "stream": stream,
                "kind": kind,
                "after_id": id_before(portion[0]),
                "before_id": id_after(portion[-1]),
                "account": secrets.token_hex(8),
                "ids": portion,
            }
            await self._insist(_RECORD_IDS, parameters)

    async def _insist(self, statement: str, parameters: dict[str, Any]) -> tuple[Any, ...]:
        return await until_done(
            lambda: self._postgres.fetch_row(statement, parameters), stage="journal"
        )

    async def recall(self, stream: str) -> Position | None:
        """Return what was last remembered of `stream`.

        Raises:
            JournalUnavailableError: Postgres does not answer.
        """
        row = await self._ask(_RECALL, {"app_id": self._app_id, "stream": stream})
        epoch, entry_id, accounted, last_id, added = row
        if epoch is None:
            return None
        return Position(
            stream=stream,
            epoch=epoch,
            id=entry_id,
            accounted=accounted,
            last_id=last_id,
            added=added,
        )

    async def remember(self, position: Position) -> None:
        """Keep `position` in place of what was remembered before.

        Raises:
            JournalUnavailableError: Postgres does not answer.
        """
        parameters = {
            "app_id": self._app_id,
            "stream": position.stream,
            "epoch": position.epoch,
            "id": position.id,
            "accounted": position.accounted,
            "last_id": position.last_id,
            "added": position.added,
        }
        await self._ask(_REMEMBER, parameters)

    async def _ask(self, statement: str, parameters: dict[str, Any]) -> tuple[Any, ...]:
        try:
            return await self._postgres.fetch_row(statement, parameters)
        except DatabaseError as exc:
            raise JournalUnavailableError(str(exc)) from exc
