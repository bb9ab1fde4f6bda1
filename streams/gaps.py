"""Gaps: the lost entries that the journal has, as an operator sees and closes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psycopg2

from streams.errors import DatabaseUnavailableError

__all__ = ["Gap", "close_gap", "count_open_gaps", "read_gaps"]

_COLUMNS = (
    "id, app_id, stream, kind, after_id, before_id, entries, worker, noticed_at, closed_at, note"
)


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries that were lost together."""

    id: int
    app_id: str
    stream: str
    #: A :class:`streams.transport.LossKind`, or ``dead_letters_dropped``.
    kind: str
    #: The lost entries have ids between these two; empty: not known, nothing has come since.
    after_id: str
    before_id: str
    #: How many; None: not known.
    entries: int | None
    #: The worker that noticed, and when.
    worker: str
    noticed_at: datetime
    #: When somebody had dealt with it, and what they wrote.
    closed_at: datetime | None
    note: str | None
    #: The ids, where they are known.
    entry_ids: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape that ``gaps --json`` prints."""
        return asdict(self)


@contextmanager
def _cursor(database_url: str) -> Iterator[Any]:
    try:
        with (
            closing(psycopg2.connect(database_url, connect_timeout=5)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            yield cursor
    except psycopg2.Error as exc:
        raise DatabaseUnavailableError(str(exc).partition("\n")[0]) from exc


def read_gaps(database_url: str, *, app_id: str, closed: bool = False) -> list[Gap]:
    """Return the gaps that nobody has dealt with, oldest first; with `closed`, all.

    Raises:
        DatabaseUnavailableError: Postgres does not answer as it should.
    """
    with _cursor(database_url) as cursor:
        cursor.execute(
            f"select {_COLUMNS}, array(select e.entry_id from capsule_reconciler.gap_entries e"  # noqa: S608
            " where e.account = g.account"
            " order by split_part(e.entry_id, '-', 1)::numeric,"
            " split_part(e.entry_id, '-', 2)::numeric)"
            " from capsule_reconciler.gaps g"
            " where app_id = %s and (closed_at is null or %s) order by id",
            (app_id, closed),
        )
        return [Gap(*row) for row in cursor.fetchall()]


def count_open_gaps(cursor: Any, app_id: str) -> int:
    """Return how many gaps nobody has dealt with."""
    cursor.execute(
        "select count(*) from capsule_reconciler.gaps where app_id = %s and closed_at is null",
        (app_id,),
    )
    (count,) = cursor.fetchone()
    return int(count)


def close_gap(database_url: str, *, app_id: str, gap_id: int, note: str) -> bool:
    """Close an open gap with `note`; return whether there was such a one.

    Raises:
        DatabaseUnavailableError: Postgres does not answer as it should.
    """
    with _cursor(database_url) as cursor:
        cursor.execute(
            "update capsule_reconciler.gaps set closed_at = now(), note = %s"
            " where id = %s and app_id = %s and closed_at is null",
            (note, gap_id, app_id),
        )
        return bool(cursor.rowcount)
