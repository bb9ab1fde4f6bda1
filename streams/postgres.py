"""Postgres: a pool, and one statement at a time.

aiopg's connections commit by themselves, so a unit of work is one statement. Its errors are
translated here and nowhere else:

* ``statement_timeout`` and ``pg_cancel_backend`` reach aiopg's caller as ``CancelledError``,
  which Faust takes for a rebalance. Where nobody has cancelled this task, it is Postgres that
  speaks.
* A time-out on this side leaves the statement running on the other. The server is told to look
  after its client (``client_connection_check_interval``, Postgres 14 and newer), so that the
  locks go soon after the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from time import monotonic
from typing import Any

import aiopg
import psycopg2

from streams.errors import DatabaseRejectedError, DatabaseUnavailableError
from streams.prepared import PARAMETER, PreparedStatements

__all__ = ["Postgres"]

#: SQLSTATE classes that are about the values: data exception, integrity violation.
_REJECTED_CLASSES = frozenset({"22", "23"})
#: SQLSTATEs after which each pooled connection talks to a server that is no longer the primary.
_NOT_PRIMARY = frozenset({"25006"})
#: Longer than the pause before a statement that failed is tried again.
_PAUSE_MAX_S = 10.0


class Postgres:
    """A pool of connections to the control plane's database.

    Arguments:
        url: a libpq connection string or URL.
        pool_size: connections at most; as many statements run at once.
        connect_timeout_s: bound on making one connection.
        statement_timeout_ms: bound on one statement, kept by the server.
        lock_timeout_ms: bound on waiting for a row that somebody else holds.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        connect_timeout_s: float,
        statement_timeout_ms: int,
        lock_timeout_ms: int,
    ) -> None:
        self._url = url
        self._pool_size = pool_size
        self._connect_timeout_s = connect_timeout_s
        # The server's own time-out comes first; this one is for a server that is silent.
        self._answer_timeout_s = statement_timeout_ms / 1000 + 2
        self._options = (
            f"-c statement_timeout={statement_timeout_ms}"
            f" -c lock_timeout={lock_timeout_ms}"
            " -c idle_in_transaction_session_timeout=10000"
            " -c client_connection_check_interval=1000"
            " -c plan_cache_mode=force_generic_plan"
        )
        self._pool: aiopg.Pool | None = None
        self._prepared = PreparedStatements()
        self._cursors: dict[aiopg.Connection, aiopg.Cursor] = {}
        # A statement that failed is tried again after a pause, and has an answer or none by then.
        self._tried_again_within_s = self._answer_timeout_s + connect_timeout_s + _PAUSE_MAX_S
        #: When the last statement went unanswered, by the monotonic clock; None: it was answered.
        self._unanswered_at: float | None = None

    @property
    def is_answering(self) -> bool:
        """Whether the last statement was answered, or none was needed lately.

        What failed long ago and was not tried again is somebody else's to do by now.
        """
        failed_at = self._unanswered_at
        return failed_at is None or monotonic() - failed_at > self._tried_again_within_s

    @property
    def connections(self) -> tuple[int, int]:
        """How many connections run a statement, and how many are open and free."""
        if self._pool is None:
            return 0, 0
        return self._pool.size - self._pool.freesize, self._pool.freesize

    async def open(self) -> None:
        """Make the pool; connections are made when they are needed."""
        self._pool = await aiopg.create_pool(
            self._url,
            minsize=0,
            maxsize=self._pool_size,
            timeout=self._answer_timeout_s,
            enable_json=False,
            enable_hstore=False,
            enable_uuid=False,
            options=self._options,
            connect_timeout=max(int(self._connect_timeout_s), 2),
            application_name="capsule-reconciler",
            keepalives_idle=10,
            keepalives_interval=3,
            keepalives_count=3,
            tcp_user_timeout=int(self._answer_timeout_s * 1000),
        )

    async def close(self) -> None:
        """Close all connections, also those in use."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()
            await pool.wait_closed()

    async def fetch_row(
        self, statement: str, *parameters: Mapping[str, Any], prepared: bool = False
    ) -> tuple[Any, ...]:
        """Run `statement`, which commits, and return its one row.

        Arguments:
            parameters: more than one: run it with each of them, in one transaction, and return
                the row of the last.
            prepared: plan it once for each connection (:mod:`streams.prepared`).

        Raises:
            DatabaseUnavailableError: it may or may not have taken effect; run it again.
            DatabaseRejectedError: it never will.
        """
        if self._pool is None:
            raise DatabaseUnavailableError("the pool is not open")
        try:
            row = await self._fetch_row(self._pool, statement, parameters, prepared=prepared)
        except DatabaseUnavailableError:
            self._unanswered_at = monotonic()
            raise
        except DatabaseRejectedError:
            self._unanswered_at = None
            raise
        self._unanswered_at = None
        return row

    async def _fetch_row(
        self,
        pool: aiopg.Pool,
        statement: str,
        parameters: Sequence[Mapping[str, Any]],
        *,
        prepared: bool,
    ) -> tuple[Any, ...]:
        try:
            async with pool.acquire() as connection:
                cursor = await self._cursor_of(connection)
                sql = await self._prepared.sql(cursor, statement) if prepared else statement
                await cursor.execute(*_as_one(sql, parameters))
                row: tuple[Any, ...] = await cursor.fetchone()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise DatabaseUnavailableError("the statement was cancelled by the server") from None
        except psycopg2.Error as exc:
            raise await self._translate(exc) from exc
        except (TimeoutError, OSError) as exc:
            raise DatabaseUnavailableError(f"{type(exc).__name__}: {exc}") from exc
        except ValueError as exc:
            # psycopg2 refuses some values (a NUL) before anything is sent.
            raise DatabaseRejectedError(f"{type(exc).__name__}: {exc}") from exc
        return row

    async def _cursor_of(self, connection: aiopg.Connection) -> aiopg.Cursor:
        """Return the cursor of `connection`: one for all its statements.

        A cursor of aiopg's holds itself, and with it the text of what it ran, payloads and all,
        until Python's collector comes by; one for each statement was a third of a worker's memory.
        """
        cursor = self._cursors.get(connection)
        if cursor is None:
            cursor = await connection.cursor()
            self._cursors = {c: its for c, its in self._cursors.items() if not c.closed}
            self._cursors[connection] = cursor
        return cursor

    async def _translate(self, exc: psycopg2.Error) -> Exception:
        self._prepared.note(exc)
        code = exc.pgcode or ""
        # The first line says what it is; the rest may quote values.
        text = str(exc).partition("\n")[0]
        if code in _NOT_PRIMARY and self._pool is not None:
            await self._pool.clear()
        if code[:2] in _REJECTED_CLASSES:
            return DatabaseRejectedError(f"{code}: {text}")
        if isinstance(exc, psycopg2.ProgrammingError) and not code:
            return DatabaseRejectedError(text)
        return DatabaseUnavailableError(f"{code or type(exc).__name__}: {text}")


def _as_one(
    sql: str, parameters: Sequence[Mapping[str, Any]]
) -> tuple[str, Mapping[str, Any] | None]:
    """Return one query that runs `sql` with each of `parameters`: one transaction for Postgres."""
    if len(parameters) < 2:
        return sql, parameters[0] if parameters else None
    numbered = {
        f"{name}_{number}": value
        for number, times in enumerate(parameters)
        for name, value in times.items()
    }
    return _repeated(sql, len(parameters)), numbered


@lru_cache
def _repeated(sql: str, times: int) -> str:
    return ";\n".join(
        PARAMETER.sub(lambda match: f"%({match[1]}_{number})s", sql)  # noqa: B023 - used at once
        for number in range(times)
    )
