"""Dead letters as the worker sees them: how many are open, and which may go.

What was replayed or discarded goes after a while. The table is bounded as well: what is too much
goes in two steps, :func:`surplus` and :func:`drop`, so that the caller can record letters that
nobody has dealt with as lost before they are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from streams.dead_letters.letters import State
from streams.postgres import Postgres

__all__ = ["Surplus", "count_open", "drop", "remove_resolved", "surplus"]

#: Letters in one statement.
_STEP_MAX: Final = 1_000

_REMOVE_RESOLVED: Final = """
    with old as (
        select id
        from capsule_reconciler.dead_letters
        where state in ('replayed', 'discarded')
          and resolved_at < now() - make_interval(days => %(keep_days)s)
        order by resolved_at, id
        limit %(step_max)s
        for update skip locked
    ),
    removed as (
        delete from capsule_reconciler.dead_letters d using old where d.id = old.id returning 1
    )
    select count(*) from removed
"""
_SURPLUS: Final = """
    with too_many as (
        select greatest(count(*) - %(max_letters)s, 0) as n from capsule_reconciler.dead_letters
    ),
    chosen as (
        select row_number() over () as position, c.*
        from (
            select id, origin_id, sink, state, source_id
            from capsule_reconciler.dead_letters
            where state <> 'replaying'
            order by state = 'dead', case when state <> 'dead' then resolved_at end, id
            limit (select least(n, %(step_max)s) from too_many)
        ) c
    )
    select coalesce(
        jsonb_agg(jsonb_build_array(id, origin_id, sink, state, source_id) order by position),
        '[]'
    )
    from chosen
"""
_DROP: Final = """
    with named as (
        select *
        from unnest(%(ids)s::bigint[], %(states)s::text[], %(source_ids)s::text[])
            as n (id, state, source_id)
    ),
    same as (
        select d.id
        from capsule_reconciler.dead_letters d
        inner join named using (id, state, source_id)
        order by d.id
        for update of d skip locked
    ),
    dropped as (
        delete from capsule_reconciler.dead_letters d using same where d.id = same.id returning 1
    )
    select count(*) from dropped
"""


@dataclass(frozen=True, slots=True)
class Surplus:
    """A letter that there is no room for."""

    id: int
    origin_id: str
    sink: str
    state: State
    #: The entry that died last: tells whether it is the same death when it is dropped.
    source_id: str

    @property
    def is_open(self) -> bool:
        """Whether nobody has dealt with it: it is lost when it goes."""
        return self.state is State.DEAD


#: How many letters nobody has dealt with.
COUNT_OPEN: Final = (
    "select count(*) from capsule_reconciler.dead_letters where state in ('dead', 'replaying')"
)


async def count_open(postgres: Postgres) -> int:
    """Return how many letters nobody has dealt with; raises DatabaseError."""
    (count,) = await postgres.fetch_row(COUNT_OPEN, {})
    return int(count)


async def remove_resolved(postgres: Postgres, *, keep_days: int) -> int:
    """Remove letters that were resolved more than `keep_days` ago, at most 1,000; return how many.

    Raises DatabaseError.
    """
    (count,) = await postgres.fetch_row(
        _REMOVE_RESOLVED, {"keep_days": keep_days, "step_max": _STEP_MAX}
    )
    return int(count)


async def surplus(postgres: Postgres, *, max_letters: int) -> list[Surplus]:
    """Return which letters have to go for at most `max_letters` to be left, at most 1,000.

    First those resolved, in the order in which they were, then those dead, in the order in which
    they came; none that is being replayed. Raises DatabaseError.
    """
    (found,) = await postgres.fetch_row(
        _SURPLUS, {"max_letters": max_letters, "step_max": _STEP_MAX}
    )
    return [
        Surplus(number, origin_id, sink, State(state), source_id)
        for number, origin_id, sink, state, source_id in found
    ]


async def drop(postgres: Postgres, letters: Sequence[Surplus]) -> int:
    """Remove those of `letters` that are what they were, and return how many that is.

    One that somebody has replayed or discarded meanwhile, or that has died again, stays. Raises
    DatabaseError.
    """
    (count,) = await postgres.fetch_row(
        _DROP,
        {
            "ids": [letter.id for letter in letters],
            "states": [letter.state.value for letter in letters],
            "source_ids": [letter.source_id for letter in letters],
        },
    )
    return int(count)
