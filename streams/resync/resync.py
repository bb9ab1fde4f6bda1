"""Bring `sandboxes` in line with what the hosts report, where events were lost.

`compare` reads and `write` writes; `resync` is both. The rules are in :mod:`streams.resync.rules`,
the report in :mod:`streams.resync.host_report`. A row that has changed since the hosts were asked
is never touched: each write names the status that was compared and asks that the row is no newer
than the report, in the same statement.

Rows are read and written in chunks, so memory holds the report and the differences, and no
statement holds many rows for long. A row that somebody else has locked is left out rather than
waited for, and told as not written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 psycopg2 spells its classes so

from streams.errors import DatabaseUnavailableError
from streams.resync.host_report import HostReport, ReportedCapsule, ReportError
from streams.resync.rules import ENDS, Kind, Verdict, judge

__all__ = ["Difference", "Result", "compare", "resync", "write"]

T = TypeVar("T")

#: Rows per statement.
_READ_CHUNK: Final = 5_000
_WRITE_CHUNK: Final = 1_000
#: A clock that is ahead by more would make newer rows look older.
_AHEAD_MAX: Final = timedelta(seconds=5)
#: How long a transition may take before nobody is thought to be at it.
_SETTLE: Final = timedelta(minutes=5)
#: What a create or a resume, whose event these changes stand in for, makes running.
_STARTS_FROM: Final = frozenset({"starting", "resuming"})

_LIMITS: Final = """
    select set_config('lock_timeout', '3s', true), set_config('statement_timeout', '10s', true)
"""
_REPORTED: Final = """
    select b.id::text, s.id is not null, s.status, s.host_id::text,
           greatest(s.last_updated, s.created_at)
    from unnest(%(ids)s::uuid[]) as b (id)
    left join sandboxes s on s.id = b.id
    order by b.id
"""
_ALIVE: Final = """
    select s.id::text, true, s.status, s.host_id::text, greatest(s.last_updated, s.created_at)
    from sandboxes s
    where (%(after)s::uuid is null or s.id > %(after)s::uuid)
      and (s.status is null or s.status <> all (%(ends)s::text[]))
      and (%(hosts)s::uuid[] is null or s.host_id = any (%(hosts)s::uuid[]))
    order by s.id
    limit %(limit)s
"""
_WRITE: Final = """
    with batch as (
        select * from unnest(
            %(ids)s::uuid[], %(before)s::text[], %(after)s::text[],
            %(starts)s::boolean[], %(host_ips)s::text[]
        ) as b (id, before, after, starts, host_ip)
    ),
    due as (
        select s.id from sandboxes s
        inner join batch b on s.id = b.id
        where s.status = b.before and (s.last_updated is null or s.last_updated <= %(as_of)s)
        order by s.id
        for update of s skip locked
    )
    update sandboxes s
    set status = b.after,
        host_ip = coalesce(nullif(s.host_ip, ''), nullif(b.host_ip, ''), s.host_ip),
        started_at = case when b.starts then now() else s.started_at end,
        last_active_at = case when b.starts then now() else s.last_active_at end,
        last_updated = now()
    from batch b inner join due using (id)
    where s.id = b.id
    returning s.id::text
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A capsule whose row and report differ."""

    capsule_id: UUID
    kind: Kind
    #: None: there is no row, or its status is null.
    row_status: str | None
    #: None: nobody reports it.
    reported: str | None
    #: The status that the row gets; empty where it is left alone.
    to: str = ""
    host_ip: str = ""
    #: When the row last changed, as far as it says so.
    changed_at: datetime | None = None
    written: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What was compared, and how it differs, in the order of the capsules' ids."""

    as_of: datetime
    compared: int
    differences: Sequence[Difference]

    def counts(self) -> dict[str, int]:
        """How many capsules there are of each kind, those that agree, and those written."""
        kinds = Counter(difference.kind for difference in self.differences)
        return {
            "compared": self.compared,
            "agree": self.compared - len(self.differences),
            **{kind.value: kinds[kind] for kind in Kind},
            "written": sum(difference.written for difference in self.differences),
        }

    @property
    def is_done(self) -> bool:
        """Whether nothing is left for anybody to do: the rest has changed by itself, or will."""
        return all(
            difference.written or difference.kind in (Kind.NEWER, Kind.UNDER_WAY)
            for difference in self.differences
        )


def resync(
    connection: Connection, report: HostReport, *, apply: bool, settle: timedelta = _SETTLE
) -> Result:
    """Compare, and with `apply` write what is to change.

    Raises:
        ReportError: the report is from the future, by Postgres' clock.
        DatabaseUnavailableError: Postgres failed; what was written before stays, and doing it
            again does the rest.
    """
    result = compare(connection, report, settle=settle)
    return write(connection, result) if apply else result


def compare(connection: Connection, report: HostReport, *, settle: timedelta = _SETTLE) -> Result:
    """Return how the rows differ from `report`; changes nothing. Raises as `resync` does."""
    try:
        _check_clock(connection, report.as_of)
        comparing = _Comparing(report, settle)
        for rows in _read(connection, report):
            comparing.add(rows)
    except psycopg2.Error as exc:
        raise _unavailable(exc) from exc
    differences = sorted(comparing.differences, key=lambda found: found.capsule_id.int)
    return Result(report.as_of, comparing.compared, differences)


def write(connection: Connection, result: Result) -> Result:
    """Write the changes of `result`, and return it with those marked that were written.

    Raises DatabaseUnavailableError.
    """
    changes = [found for found in result.differences if found.kind is Kind.CHANGE]
    written: set[UUID] = set()
    try:
        for batch in _chunks(changes, _WRITE_CHUNK):
            written |= _write_batch(connection, batch, result.as_of)
    except psycopg2.Error as exc:
        raise _unavailable(exc) from exc
    return replace(
        result,
        differences=[
            replace(found, written=True) if found.capsule_id in written else found
            for found in result.differences
        ],
    )


class _Comparing:
    """Collects differences, chunk after chunk of rows."""

    def __init__(self, report: HostReport, settle: timedelta) -> None:
        self.compared = 0
        self.differences: list[Difference] = []
        self._report = report
        self._settle = settle

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        for text, exists, status, host_id, changed_at in rows:
            self.compared += 1
            capsule_id = UUID(text)
            capsule = self._report.capsules.get(capsule_id)
            verdict = self._judge(capsule, exists, status, host_id, changed_at)
            if verdict is not None:
                self.differences.append(
                    Difference(
                        capsule_id,
                        verdict.kind,
                        status,
                        capsule.status if capsule else None,
                        verdict.to,
                        capsule.host_ip if capsule else "",
                        changed_at,
                    )
                )

    def _judge(
        self,
        capsule: ReportedCapsule | None,
        exists: bool,
        status: str | None,
        host_id: str | None,
        changed_at: datetime | None,
    ) -> Verdict | None:
        if not exists:
            return Verdict(Kind.UNKNOWN)
        as_of, reported = self._report.as_of, capsule.status if capsule else None
        settled = changed_at is None or as_of - changed_at >= self._settle
        verdict = judge(status, reported, settled=settled)
        hosts = self._report.hosts
        if hosts is not None and host_id is not None and UUID(host_id) not in hosts:
            # A host that has it not is no news; one that has it, and a row that says another.
            both_ended = verdict is None and status in ENDS
            verdict = None if both_ended or reported == "missing" else Verdict(Kind.CONFLICT)
        if verdict is not None and changed_at is not None and changed_at > as_of:
            return Verdict(Kind.NEWER)
        return verdict


def _check_clock(connection: Connection, as_of: datetime) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("select clock_timestamp()")
        (now,) = cursor.fetchone() or (as_of,)
    if as_of > now + _AHEAD_MAX:
        raise ReportError([f"as_of: later than Postgres' clock, which says {now.isoformat()}"])


def _read(connection: Connection, report: HostReport) -> Iterator[list[tuple[Any, ...]]]:
    """Give the rows to compare: those of reported capsules, then the others that are alive."""
    for ids in _chunks(sorted(report.capsules, key=lambda found: found.int), _READ_CHUNK):
        yield _select(connection, _REPORTED, {"ids": [str(capsule_id) for capsule_id in ids]})
    parameters: dict[str, Any] = {
        "ends": sorted(ENDS),
        "hosts": None if report.hosts is None else sorted(map(str, report.hosts)),
        "limit": _READ_CHUNK,
    }
    after: str | None = None
    while rows := _select(connection, _ALIVE, parameters | {"after": after}):
        after = rows[-1][0]
        yield [row for row in rows if UUID(row[0]) not in report.capsules]


def _select(connection: Connection, statement: str, parameters: dict[str, Any]) -> list[Any]:
    with connection, connection.cursor() as cursor:
        cursor.execute(_LIMITS)
        cursor.execute(statement, parameters)
        return cursor.fetchall()


def _write_batch(connection: Connection, batch: Sequence[Difference], as_of: datetime) -> set[UUID]:
    rows = _select(
        connection,
        _WRITE,
        {
            "ids": [str(found.capsule_id) for found in batch],
            "before": [found.row_status for found in batch],
            "after": [found.to for found in batch],
            "starts": [
                found.to == "running" and found.row_status in _STARTS_FROM for found in batch
            ],
            "host_ips": [found.host_ip for found in batch],
            "as_of": as_of,
        },
    )
    return {UUID(text) for (text,) in rows}


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _unavailable(exc: psycopg2.Error) -> DatabaseUnavailableError:
    text = str(exc).strip() or type(exc).__name__
    return DatabaseUnavailableError(text.partition("\n")[0])
