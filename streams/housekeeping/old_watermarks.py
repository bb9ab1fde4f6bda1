"""Watermarks of capsules that are long gone, which nothing else would ever remove.

A watermark keeps an entry that comes again from having its effect again. It may go when no entry
that it has seen can come again: everything that is unread or pending anywhere is newer than the
mark itself. Both are ids of the producer's stream, so no two clocks are compared. For good measure
the capsule has no row, or one that has been stopped, missing or in error for as long.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from streams.events import EntryId
from streams.postgres import Postgres

__all__ = ["OldWatermarks"]

#: There is no index on `updated_at`, which would cost each advance of a mark. So marks are looked
#: at in the order of their key: so many in a statement, of which it removes at most so many.
_LOOK_AT: Final = 10_000
_REMOVE_MAX: Final = 1_000
#: What fits into the columns.
_NO_END: Final = EntryId(2**63 - 1, 2**63 - 1)

_REMOVE: Final = """
    with looked as (
        select capsule_id, ms, seq, updated_at
        from capsule_reconciler.watermarks
        where %(after)s::uuid is null or capsule_id > %(after)s::uuid
        order by capsule_id
        limit %(look_at)s
    ),
    old as (
        select l.capsule_id
        from looked l
        left join sandboxes s on s.id = l.capsule_id
        where l.updated_at < now() - make_interval(days => %(keep_days)s)
          and (l.ms, l.seq) < (%(ms)s::bigint, %(seq)s::bigint)
          and (
              s.id is null
              or s.status in ('stopped', 'missing', 'error')
              and coalesce(s.last_updated, '-infinity')
                  < now() - make_interval(days => %(keep_days)s)
          )
        order by l.capsule_id
        limit %(remove_max)s
    ),
    -- Asks again what a statement of a moment ago may have changed.
    locked as (
        select w.capsule_id
        from capsule_reconciler.watermarks w
        inner join old using (capsule_id)
        where w.updated_at < now() - make_interval(days => %(keep_days)s)
        order by w.capsule_id
        for update of w skip locked
    ),
    removed as (
        delete from capsule_reconciler.watermarks w
        using locked
        where w.capsule_id = locked.capsule_id
        returning 1
    )
    select
        (select count(*) from removed),
        case
            when (select count(*) from old) = %(remove_max)s
                then (select capsule_id::text from old order by capsule_id desc limit 1)
            when (select count(*) from looked) = %(look_at)s
                then (select capsule_id::text from looked order by capsule_id desc limit 1)
        end
"""


class OldWatermarks:
    """The chore that removes them.

    Arguments:
        keep_days: how long a mark is kept after it has moved last.
        oldest_unfinished: gives the oldest entry that has not taken effect yet, None where there
            is none; may raise TransportError.
    """

    name = "watermarks"

    def __init__(
        self,
        postgres: Postgres,
        *,
        keep_days: int,
        oldest_unfinished: Callable[[], Awaitable[EntryId | None]],
        look_at: int = _LOOK_AT,
        remove_max: int = _REMOVE_MAX,
    ) -> None:
        self._postgres = postgres
        self._limits = {"keep_days": keep_days, "look_at": look_at, "remove_max": remove_max}
        self._oldest_unfinished = oldest_unfinished

    async def run(self) -> AsyncGenerator[int, None]:
        """Look at all marks once; gives how many each statement removed."""
        # An entry that comes after this is newer than any mark that is there now.
        oldest = await self._oldest_unfinished() or _NO_END
        ms, seq = (min(part, most) for part, most in zip(oldest, _NO_END, strict=True))
        after: str | None = None
        while True:
            parameters = {**self._limits, "ms": ms, "seq": seq, "after": after}
            count, after = await self._postgres.fetch_row(_REMOVE, parameters)
            yield count
            if after is None:
                break
