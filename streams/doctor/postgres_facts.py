"""What the checks need to know of Postgres, asked once over a connection such as a worker's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg2
from psycopg2.extensions import cursor as Cursor  # noqa: N812 psycopg2 spells its classes so

from config.migrate import MigrationError, check_schema
from config.settings import Settings
from config.urls import mask_text
from streams.errors import DatabaseUnavailableError

__all__ = ["PostgresFacts", "read_postgres_facts"]

_SETTINGS: Final = ("default_transaction_read_only", "synchronous_commit", "fsync")
_ROOM: Final = """
    select current_setting('max_connections')::int
               - current_setting('superuser_reserved_connections')::int,
           (select count(*) from pg_stat_activity where backend_type = 'client backend'
               and pid <> pg_backend_pid()
               and application_name <> 'capsule-reconciler'),
           (select rolconnlimit from pg_roles where rolname = current_user),
           (select datconnlimit from pg_database where datname = current_database())
"""
#: A valid index, or key, whose first column is the table's id.
_IS_INDEXED: Final = """
    select exists (
        select 1 from pg_index i
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
        where i.indrelid = to_regclass('sandboxes') and i.indisvalid and a.attname = 'id'
          and i.indpred is null
    )
"""


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """Postgres at one moment."""

    version: int
    is_replica: bool
    config: Mapping[str, str]
    #: What is missing or not allowed, one line each.
    schema_mistakes: tuple[str, ...]
    #: Connections that there may be, and how many others are there already.
    connections_max: int
    connections_of_others: int
    is_sandboxes_indexed: bool
    #: Postgres' clock minus this machine's, and how wrong that may be.
    clock_offset_s: float
    clock_error_s: float


def read_postgres_facts(settings: Settings) -> PostgresFacts:
    """Ask once.

    Raises:
        DatabaseUnavailableError: Postgres does not answer, or refuses the connection.
    """
    # The worker's own options: a pooler that refuses them refuses the worker.
    options = (
        f"-c statement_timeout={settings.statement_timeout_ms}"
        " -c client_connection_check_interval=1000"
    )
    try:
        connection = psycopg2.connect(
            settings.database_url,
            connect_timeout=max(int(settings.postgres_connect_timeout_s), 2),
            application_name="capsule-reconciler doctor",
            options=options,
        )
        with closing(connection), connection.cursor() as cursor:
            connection.autocommit = True
            facts = _read(cursor, connection.server_version)
            mistakes = tuple(check_schema(settings.database_url))
    except (psycopg2.Error, MigrationError) as exc:
        text = mask_text((str(exc).strip() or type(exc).__name__).splitlines()[0])
        raise DatabaseUnavailableError(text) from exc
    return PostgresFacts(**facts, schema_mistakes=mistakes)


def _read(cursor: Cursor, version: int) -> dict[str, Any]:
    before_s = time.time()
    cursor.execute("select extract(epoch from clock_timestamp())::float8")
    (server_s,) = cursor.fetchone() or (before_s,)
    after_s = time.time()
    cursor.execute("select pg_is_in_recovery()")
    (is_replica,) = cursor.fetchone() or (False,)
    cursor.execute("select name, setting from pg_settings where name = any(%s)", ([*_SETTINGS],))
    config = dict(cursor.fetchall())
    cursor.execute(_ROOM)
    server_max, others, *limits = cursor.fetchone() or (0, 0)
    cursor.execute(_IS_INDEXED)
    (is_indexed,) = cursor.fetchone() or (False,)
    return {
        "version": version,
        "is_replica": is_replica,
        "config": config,
        "connections_max": min([server_max, *(limit for limit in limits if limit >= 0)]),
        "connections_of_others": others,
        "is_sandboxes_indexed": is_indexed,
        "clock_offset_s": server_s - (before_s + after_s) / 2,
        "clock_error_s": (after_s - before_s) / 2,
    }
