"""Real servers for the tests: one Valkey and one Postgres per run, a fresh database per test."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import redis

from config.embedded import EphemeralServers
from config.migrate import migrate
from config.settings import Settings
from streams.dead_letters.store import LetterStore
from streams.postgres import Postgres
from tests.integration.checkout import server_pids
from tests.letters import prepare
from tests.reconciliation import Ground
from tests.worker_process import WorkerProcess

TEMPLATE = "migrated"


def execute(url: str, *statements: str) -> None:
    """Run statements outside a transaction, as `create database` wants it."""
    with closing(psycopg2.connect(url, connect_timeout=5)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@pytest.fixture(scope="session")
def servers() -> Iterator[EphemeralServers]:
    """A Valkey and a Postgres that a test may stop, kill and start again."""
    # Not in pytest's own directory: that is closed to the system user Postgres runs as.
    directory = Path(tempfile.mkdtemp(prefix="capsules-"))
    try:
        with EphemeralServers(directory) as servers:
            execute(servers.database_url, f"create database {TEMPLATE}")
            migrate(servers.postgres.url_of(TEMPLATE), dev=True)
            yield servers
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def empty_database_url(servers: EphemeralServers) -> Iterator[str]:
    """A database of its own for the test, with nothing in it."""
    yield from _database(servers, "template1")


@pytest.fixture
def database_url(servers: EphemeralServers) -> Iterator[str]:
    """A database of its own for the test, with the reconciler's schema and the dev tables."""
    yield from _database(servers, TEMPLATE)


@pytest.fixture
def redis_url(servers: EphemeralServers) -> str:
    """The Valkey of the run, emptied, also when the test before had stopped it."""
    WorkerProcess.end_all()
    servers.start_redis()
    with closing(redis.Redis.from_url(servers.redis_url)) as client:
        client.flushall()
    return servers.redis_url


@pytest.fixture
def ground(redis_url: str, database_url: str) -> Ground:
    return Ground(redis_url, database_url)


@pytest.fixture
def prepared(ground: Ground) -> None:
    """Have Redis as workers leave it, for what may be sent to them again."""
    prepare(ground)


@pytest.fixture
def store(ground: Ground) -> Iterator[LetterStore]:
    """The table of dead letters."""
    with LetterStore.opened(Settings(database_url=ground.database_url)) as store:
        yield store


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[Postgres]:
    postgres = Postgres(
        database_url,
        pool_size=1,
        connect_timeout_s=5,
        statement_timeout_ms=5_000,
        lock_timeout_ms=1_000,
    )
    await postgres.open()
    yield postgres
    await postgres.close()


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A directory such as a checkout: `.data` in it belongs to the embedded servers."""
    directory = Path(tempfile.mkdtemp(prefix="capsules-"))
    yield directory
    # Whatever a test has left running, also after it failed.
    for pid in server_pids(directory):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory)


def _database(servers: EphemeralServers, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    servers.start_postgres()
    execute(servers.database_url, f"create database {name} template {template}")
    yield servers.postgres.url_of(name)
    servers.start_postgres()
    execute(servers.database_url, f"drop database {name} with (force)")
