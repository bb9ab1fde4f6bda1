"""What changes in `sandboxes`, found by asking again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 psycopg2 spells its classes so

from streams.errors import DatabaseUnavailableError
from streams.ids import format_capsule_id

__all__ = ["SandboxChange", "SandboxChanges"]

_CONNECT_TIMEOUT_S: Final = 5
# `last_updated` is the start of a transaction: rows with an older one may turn up later.
_OVERLAP: Final = timedelta(seconds=2)
_KNOWN: Final = "select id, status, last_updated from sandboxes order by 3 desc nulls last limit %s"
# Of more than this at once nobody could read all; the newest do.
_NEWEST: Final = """
    select id, status, last_updated from sandboxes where last_updated >= %s order by 3 desc limit %s
"""
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
_KNOWN_MAX: Final = 100_000
_CHANGES_MAX: Final = 2_000


@dataclass(frozen=True, slots=True)
class SandboxChange:
    """A row that has another status than when it was last looked at."""

    capsule_id: str
    #: Empty: the row is new.
    before: str
    after: str
    at: datetime


class SandboxChanges:
    """Compares the rows that were written lately with what they were before.

    One connection, made anew after an error. A status that did not last until the next look is
    not seen.
    """

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection: Connection | None = None
        self._statuses: dict[str, str] | None = None
        self._newest: datetime | None = None

    def poll(self) -> list[SandboxChange]:
        """Return what has changed since the last call, oldest first; the first finds nothing.

        Raises DatabaseUnavailableError.
        """
        if self._statuses is None:
            rows = self._select(_KNOWN, (_KNOWN_MAX,))
            self._statuses = {capsule_id: status for capsule_id, status, _ in rows}
            self._note(rows)
            return []
        since = self._newest - _OVERLAP if self._newest else _LONG_AGO
        rows = self._select(_NEWEST, (since, _CHANGES_MAX))
        self._note(rows)
        return list(self._compare(reversed(rows), self._statuses))

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @staticmethod
    def _compare(
        rows: Iterator[tuple[Any, ...]], statuses: dict[str, str]
    ) -> Iterator[SandboxChange]:
        for capsule_id, status, at in rows:
            before = statuses.get(capsule_id, "")
            if before != status:
                statuses[capsule_id] = status
                yield SandboxChange(format_capsule_id(UUID(capsule_id)), before, status, at)

    def _note(self, rows: list[tuple[Any, ...]]) -> None:
        moments = [at for _, _, at in rows if at is not None]
        self._newest = max([*moments, *([self._newest] if self._newest else [])], default=None)

    def _select(self, statement: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._connected() as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            if self._connection is None:
                self._connection = psycopg2.connect(
                    self._url,
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    application_name="capsule-reconciler run",
                )
                self._connection.autocommit = True
            yield self._connection
        except psycopg2.Error as exc:
            self.close()
            text = str(exc).strip() or type(exc).__name__
            raise DatabaseUnavailableError(text.partition("\n")[0]) from exc
