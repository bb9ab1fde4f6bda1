"""Gaps that somebody closed long ago."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from streams.postgres import Postgres

__all__ = ["OldGaps"]

#: Gaps in one statement; a gap has 1,000 entries at most.
_REMOVE_MAX: Final = 100
_KEEP_DAYS: Final = 90

#: The last gap of an account that is still counted on stays: without its total, what it tells
#: would be told as new with the next loss.
_REMOVE: Final = """
    with old as (
        select g.id, g.app_id, g.account
        from capsule_reconciler.gaps g
        where g.closed_at < now() - make_interval(days => %(keep_days)s)
          and (
              not exists (
                  select from capsule_reconciler.positions p
                  where (p.app_id, p.stream, p.epoch) = (g.app_id, g.stream, g.account)
              )
              or exists (
                  select from capsule_reconciler.gaps later
                  where (later.app_id, later.stream, later.kind, later.account)
                      = (g.app_id, g.stream, g.kind, g.account)
                    and later.total > g.total
              )
          )
        order by g.id
        limit %(remove_max)s
        for update of g skip locked
    ),
    entries as (
        delete from capsule_reconciler.gap_entries e
        using old
        where e.account = old.account and e.app_id = old.app_id
    ),
    removed as (
        delete from capsule_reconciler.gaps g using old where g.id = old.id returning 1
    )
    select count(*) from removed
"""


class OldGaps:
    """The chore that removes them, 90 days after they were closed."""

    name = "gaps"

    def __init__(self, postgres: Postgres, *, keep_days: int = _KEEP_DAYS) -> None:
        self._postgres = postgres
        self._parameters = {"keep_days": keep_days, "remove_max": _REMOVE_MAX}

    async def run(self) -> AsyncGenerator[int, None]:
        """Remove what is old; gives how many each statement removed."""
        count = 1
        while count:
            (count,) = await self._postgres.fetch_row(_REMOVE, self._parameters)
            yield count
