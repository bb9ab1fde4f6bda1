"""The rows of a simulated control plane, written to a development database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Final
from uuid import UUID

import psycopg2
import psycopg2.errors
from psycopg2.extensions import cursor as Cursor  # noqa: N812 psycopg2 spells its classes so
from psycopg2.extras import execute_values

from config.migrate import SCHEMA
from streams.errors import DatabaseRejectedError, DatabaseUnavailableError
from streams.simulation.simulation import NewSandbox, StatusChange, Step

__all__ = ["Batch", "Origin", "SandboxRows", "find_sandboxes"]

_BATCH_MAX: Final = 1000
_CONNECT_TIMEOUT_S: Final = 5
_TEMPLATES: Final = ("python-3.12", "node-22", "ubuntu-24.04", "browser")

# The same seed twice gives the same ids: what is left of the first time starts anew.
_INSERT: Final = """
    insert into sandboxes (
        id, team_id, host_id, template, status, vcpus, memory_mb, timeout_sec, disk_size_mb,
        guest_ip, created_at, last_updated, metadata
    ) values %s
    on conflict (id) do update
    set status = excluded.status, host_ip = null, last_updated = excluded.last_updated
"""
_INSERT_ROW: Final = "(%s, %s, %s, %s, 'starting', %s, %s, %s, %s, %s, now(), now(), '{}')"
# In the order in which the worker locks rows, so that the two do not wait for each other.
_LOCK: Final = "select 1 from sandboxes where id = any (%s::uuid[]) order by id for update"
_UPDATE: Final = """
    update sandboxes as s
    set
        status = written.status,
        host_ip = coalesce(nullif(written.host_ip, ''), s.host_ip),
        started_at = case when written.status = 'running' then now() else s.started_at end,
        last_active_at = case when written.status = 'running' then now() else s.last_active_at end,
        last_updated = now()
    from (values %s) as written (id, status, host_ip)
    where s.id = written.id::uuid
"""


class Origin(StrEnum):
    """Whose the table `sandboxes` of a database is."""

    NONE = "none"
    #: Made by ``migrate --dev``: made-up rows do no harm.
    DEVELOPMENT = "development"
    CONTROL_PLANE = "control plane"


class Batch:
    """Steps that may be played at once: first all of their rows, then all of their events."""

    def __init__(self) -> None:
        self.new: list[NewSandbox] = []
        self.changes: dict[UUID, StatusChange] = {}
        self.payloads: list[bytes] = []
        self._reported: set[UUID] = set()

    def __len__(self) -> int:
        return len(self.new) + len(self.changes) + len(self.payloads)

    def has_room_for(self, step: Step) -> bool:
        """Whether `step` may go in: no row gets ahead of an event of its capsule."""
        return len(self) < _BATCH_MAX and not any(
            row.capsule_id in self._reported for row in step.rows
        )

    def add(self, step: Step) -> None:
        """Put `step` behind the others."""
        for row in step.rows:
            if isinstance(row, NewSandbox):
                self.new.append(row)
            else:
                self.changes[row.capsule_id] = row
        if step.payload is not None:
            self.payloads.append(step.payload)
        if step.capsule_id is not None:
            self._reported.add(step.capsule_id)


class SandboxRows:
    """Writes to `sandboxes` as the control plane does."""

    def __init__(self, database_url: str) -> None:
        with _translated():
            self._connection = psycopg2.connect(
                database_url,
                connect_timeout=_CONNECT_TIMEOUT_S,
                application_name="simulated control plane",
            )

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def write(self, batch: Batch) -> None:
        """Write all rows of `batch` in one transaction.

        Raises:
            DatabaseUnavailableError: Postgres did not answer.
            DatabaseRejectedError: the table is not what it is in development.
        """
        if not (batch.new or batch.changes):
            return
        with _translated():
            while True:
                with contextlib.suppress(psycopg2.errors.DeadlockDetected):
                    with self._connection, self._connection.cursor() as cursor:
                        _insert(cursor, batch.new)
                        _update(cursor, list(batch.changes.values()))
                    return


def find_sandboxes(database_url: str) -> Origin:
    """Say whose table `sandboxes` is; raises DatabaseUnavailableError."""
    with _translated():
        connection = psycopg2.connect(database_url, connect_timeout=_CONNECT_TIMEOUT_S)
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(
                "select to_regclass('sandboxes') is null, to_regclass(%s) is null",
                (f"{SCHEMA}.schema_migrations",),
            )
            no_table, no_migrations = cursor.fetchone() or (False, True)
            if no_table:
                return Origin.NONE
            if no_migrations:
                return Origin.CONTROL_PLANE
            cursor.execute(f"select 1 from {SCHEMA}.schema_migrations where name like 'dev/%'")  # noqa: S608
            return Origin.DEVELOPMENT if cursor.fetchone() else Origin.CONTROL_PLANE


def _insert(cursor: Cursor, rows: list[NewSandbox]) -> None:
    values = [
        (
            *(str(row.capsule.id), str(row.capsule.team_id), str(row.capsule.host_id)),
            _TEMPLATES[row.capsule.id.int % len(_TEMPLATES)],
            *(row.vcpus, row.memory_mb, row.timeout_sec, row.disk_size_mb, row.guest_ip),
        )
        for row in rows
    ]
    if values:
        execute_values(cursor, _INSERT, values, _INSERT_ROW, page_size=_BATCH_MAX)


def _update(cursor: Cursor, changes: list[StatusChange]) -> None:
    if changes:
        cursor.execute(_LOCK, ([str(change.capsule_id) for change in changes],))
        values = [(str(change.capsule_id), change.status, change.host_ip) for change in changes]
        execute_values(cursor, _UPDATE, values, page_size=_BATCH_MAX)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg2.ProgrammingError as exc:
        raise DatabaseRejectedError(str(exc).partition("\n")[0]) from exc
    except psycopg2.Error as exc:
        text = str(exc).strip() or type(exc).__name__
        raise DatabaseUnavailableError(text.partition("\n")[0]) from exc
