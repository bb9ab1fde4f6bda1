"""The servers of one run, put back to the same state before each contender.

The rows of a log are loaded once, into a table beside ``sandboxes``, and its entries into a
stream in Redis' database 1. Before each contender both are copied to where they are used, which
takes a moment and leaves the same bytes each time.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import psycopg2
import psycopg2.extras
import redis
from psycopg2 import sql

from benchmarks.mixes import Log
from config.embedded import EphemeralServers
from config.migrate import migrate
from config.server_process import LOOPBACK, ServerProcess
from tests.oracle import Entry, Row
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground

__all__ = ["GROUP", "SOURCE", "Arena", "beginning_of"]

_KEPT_DATABASE: Final = 1
_BEGINNING: Final = f"{SOURCE}:beginning"
_BEGINNING_PART: Final = 10
_POLL_S: Final = 0.02
_SHARED_AFTER_S: Final = 30.0
#: A quarter of a small server's memory, as its documentation advises; the default is far below
#: what a million rows and their index take.
_SHARED_BUFFERS: Final = "512MB"
_ENTRIES_AT_ONCE: Final = 1_000

#: The ids are those of `benchmarks.growth.capsule_uuid`; one row in ten waits for an event.
_FILL: Final = """
    truncate sandboxes, audit_logs, capsule_reconciler.watermarks;
    insert into sandboxes (id, team_id, status)
        select
            md5(n::text)::uuid, '00000000-0000-0000-0000-000000000007',
            case when n %% 10 = 0 then 'starting' else 'error' end
        from generate_series(0, %(capsules)s - 1) as n;
    insert into capsule_reconciler.watermarks (capsule_id, ms, seq) select id, 1, 0 from sandboxes;
"""

#: KEYS[1] the stream, ARGV the payloads, one for each entry.
_APPEND: Final = """
    for _, payload in ipairs(ARGV) do
        redis.call('XADD', KEYS[1], '*', 'payload', payload)
    end
"""

_RESTORE: Final = """
    truncate sandboxes, audit_logs, capsule_reconciler.watermarks;
    insert into sandboxes select * from rows_before;
"""

#: Or Postgres does so by itself, a minute later and in the middle of what is measured.
_TIDY_UP: Final = "vacuum (analyze) sandboxes, capsule_reconciler.watermarks"


class Arena:
    """A Valkey and a Postgres of their own, which are gone afterwards."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="capsules-bench-"))
        self.servers = EphemeralServers(self.directory)
        self._clients: list[Any] = []

    def __enter__(self) -> Self:
        try:
            self.servers.start()
            self.set_in_postgres("shared_buffers", _SHARED_BUFFERS)
            migrate(self.database_url, dev=True)
            self._clients = [
                redis.Redis(host=LOOPBACK, port=self.servers.redis.port, db=db)
                for db in (0, _KEPT_DATABASE)
            ]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        self.servers.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def set_in_postgres(self, name: str, value: str) -> None:
        """Start Postgres anew with another value of one of its settings."""
        change = sql.SQL("alter system set {} = {}")
        with self.cursor() as cursor:
            cursor.execute(change.format(sql.Identifier(name), sql.Literal(value)))
        self.servers.stop_postgres()
        self.servers.start_postgres()

    def new_directory(self, name: str) -> Path:
        """Return a directory that nobody has written to, for the logs of a process."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))

    @property
    def redis_url(self) -> str:
        """Where the contender's stream is."""
        return self.servers.redis_url

    @property
    def database_url(self) -> str:
        """Where the contender's rows are."""
        return self.servers.database_url

    @property
    def redis_pid(self) -> int:
        """The process id of Valkey."""
        return _running(self.servers.redis)

    @property
    def postgres_pid(self) -> int:
        """The process id of Postgres, whose backends are its children."""
        return _running(self.servers.postgres)

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Any]:
        """Give a cursor whose statements commit one by one."""
        with closing(psycopg2.connect(self.database_url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor

    def load(self, log: Log) -> None:
        """Keep `log` for :meth:`restore`, and the beginning of it beside."""
        with self.cursor() as cursor:
            cursor.execute("drop table if exists rows_before")
            cursor.execute("create table rows_before (like sandboxes)")
            psycopg2.extras.execute_values(
                cursor,
                "insert into rows_before (id, team_id, status) values %s",
                [(str(key), str(row.team_id), row.status) for key, row in log.rows.items()],
                page_size=1_000,
            )
        _, kept = self._clients
        kept.flushdb()
        _append(kept, SOURCE, log.entries)
        _append(kept, _BEGINNING, beginning_of(log).entries)

    def restore(self, *, entries: bool = True, beginning: bool = False) -> None:
        """Put rows and stream back, as if nothing had run.

        Arguments:
            entries: without, the stream is empty.
            beginning: only the entries of :func:`beginning_of` the log.
        """
        own, kept = self._clients
        own.flushdb()
        if entries:
            kept.copy(_BEGINNING if beginning else SOURCE, SOURCE, destination_db=0)
        own.xgroup_create(SOURCE, GROUP, id="0", mkstream=True)
        self._have_rows(_RESTORE)

    def fill(self, capsules: int) -> None:
        """Have rows and marks of so many capsules, and nothing in Redis but an empty stream."""
        own, _ = self._clients
        own.flushdb()
        own.xgroup_create(SOURCE, GROUP, id="0", mkstream=True)
        self._have_rows(_FILL, {"capsules": capsules})

    def _have_rows(self, statements: str, parameters: Mapping[str, int] | None = None) -> None:
        with self.cursor() as cursor:
            cursor.execute(statements, parameters)
            cursor.execute(_TIDY_UP)
            cursor.execute("checkpoint")

    def publish_many(self, payloads: Sequence[bytes], count: int) -> None:
        """Append `count` entries with these payloads, over and over.

        By a script, so that whoever is measured meanwhile has the processors.
        """
        append = self._clients[0].register_script(_APPEND)
        entries = islice(cycle(payloads), count)
        while portion := list(islice(entries, _ENTRIES_AT_ONCE)):
            append(keys=[SOURCE], args=portion)

    def wait_shared(self, workers: int) -> None:
        """Wait until so many workers are there and none has anything to take or to give up.

        Raises:
            TimeoutError: that takes too long.
        """
        ground = Ground(self.redis_url, self.database_url)
        deadline = time.monotonic() + _SHARED_AFTER_S
        while not ground.is_shared_by(workers):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the partitions are not shared by {workers} workers")
            time.sleep(0.1)

    def publish(self, payload: bytes) -> None:
        """Append one entry, under an id of Redis' own."""
        self._clients[0].xadd(SOURCE, {"payload": payload})

    def wait_drained(self, *, topics: bool, timeout_s: float) -> float:
        """Return the time at which nothing was left to do.

        Arguments:
            topics: whether the reconciler's own topics count, or the source stream alone.

        Raises:
            TimeoutError: something was left after `timeout_s`.
        """
        return self._wait_drained(("capsules:*", "hooks.*") if topics else (), timeout_s)

    def wait_applied(self, *, timeout_s: float) -> float:
        """Return the time at which nothing was left to do before the hooks.

        Raises:
            TimeoutError: something was left after `timeout_s`.
        """
        return self._wait_drained(("capsules:*",), timeout_s)

    def _wait_drained(self, topics: Sequence[str], timeout_s: float) -> float:
        deadline = time.monotonic() + timeout_s
        while True:
            asked = time.time()
            if self._drained([SOURCE.encode()]) and self._topics_drained(topics):
                return asked
            if time.monotonic() > deadline:
                raise TimeoutError(f"not drained within {timeout_s:g} s")
            time.sleep(_POLL_S)

    def _topics_drained(self, topics: Sequence[str]) -> bool:
        # What is acknowledged upstream is in the stream downstream: this order misses nothing.
        own = self._clients[0]
        keys = [sorted(own.keys(f"{PREFIX}{pattern}")) for pattern in topics]
        return not keys or (bool(keys[0]) and self._drained(chain.from_iterable(keys)))

    def _drained(self, keys: Iterable[bytes]) -> bool:
        """Whether the group has read and acknowledged all there ever was in these streams."""
        own = self._clients[0]
        for key in keys:
            generated = own.xinfo_stream(key)["last-generated-id"]
            groups = [info for info in own.xinfo_groups(key) if info["name"] == GROUP.encode()]
            if not groups or groups[0]["pending"]:
                return False
            if groups[0]["last-delivered-id"] != generated and own.xlen(key):
                return False
        return True

    def wrong_rows(self, expected: Mapping[UUID, Row]) -> int:
        """Count the rows whose status is not the expected one."""
        with self.cursor() as cursor:
            cursor.execute("select id, status from sandboxes")
            return sum(expected[UUID(key)].status != status for key, status in cursor.fetchall())


def _running(server: ServerProcess) -> int:
    pid = server.running_pid()
    assert pid is not None, f"{server.name} is gone"
    return pid


def beginning_of(log: Log) -> Log:
    """Return the log that those are given for whom all of it would take too long."""
    return Log(log.rows, log.entries[: max(len(log.entries) // _BEGINNING_PART, 1)])


def _append(client: Any, key: str, entries: Iterable[Entry]) -> None:
    pipeline = client.pipeline(transaction=False)
    for number, (entry_id, payload) in enumerate(entries, start=1):
        pipeline.xadd(key, {"payload": payload}, id=entry_id)
        if number % _ENTRIES_AT_ONCE == 0:
            pipeline.execute()
    pipeline.execute()
