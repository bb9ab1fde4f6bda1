"""A sink that keeps each event as a row of a table, once: to meter what ran, and how long.

The table is the operator's own; ``docs/sinks.md`` has one, and a query for the hours that each
team's capsules ran. Its ``delivery_id`` must be unique: by it, an event that is delivered again
changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, cast

from psycopg2 import sql
from pydantic import AfterValidator, BaseModel, Field, SecretStr

from config.urls import EMBEDDED, check_postgres_url
from streams.errors import (
    DatabaseRejectedError,
    DatabaseUnavailableError,
    DeliveryError,
    DeliveryRefusedError,
)
from streams.events import SandboxEvent
from streams.postgres import Postgres

__all__ = ["COLUMNS", "PostgresSink"]

COLUMNS: Final = ("delivery_id", "capsule_id", "team_id", "type", "occurred_at", "metadata")

_STATEMENT: Final = sql.SQL(
    """
    with added as (
        insert into {table} ({columns})
        values (%(delivery_id)s, %(capsule_id)s, %(team_id)s, %(type)s, %(occurred_at)s,
                %(metadata)s)
        on conflict (delivery_id) do nothing
        returning 1
    )
    select count(*) from added
    """
)
#: Plans the same insert and runs it without a row: columns, rights and the unique index are there.
_CHECK: Final = sql.SQL(
    """
    with added as (
        insert into {table} ({columns})
        select %(delivery_id)s, %(capsule_id)s::uuid, %(team_id)s::uuid, %(type)s,
               %(occurred_at)s::timestamptz, %(metadata)s::jsonb
        where false
        on conflict (delivery_id) do nothing
        returning 1
    )
    select count(*) from added
    """
)


def _check_url(secret: SecretStr) -> SecretStr:
    if check_postgres_url(secret.get_secret_value()) == EMBEDDED:
        raise ValueError("expected postgresql://[user:password@]host[:port]/database")
    return secret


class PostgresSink:
    """Inserts into one table."""

    class Options(BaseModel):
        """Where to."""

        #: May hold a password: better in `url_env` or `url_file`.
        url: Annotated[SecretStr, AfterValidator(_check_url)]
        #: Of the table; names are taken as they are, capital letters too.
        table: str = Field(min_length=1, max_length=63, pattern=r"^[^\x00]+$")
        #: None: the first of the user's search path that has it.
        schema_name: str | None = Field(
            default=None, min_length=1, max_length=63, pattern=r"^[^\x00]+$", alias="schema"
        )
        #: Inserts at the same time.
        pool_size: int = Field(default=4, ge=1, le=100)
        statement_timeout_ms: int = Field(default=5_000, ge=1, le=300_000)

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        named = [options.schema_name, options.table] if options.schema_name else [options.table]
        self._parts = {
            "table": sql.Identifier(*named),
            "columns": sql.SQL(", ").join(sql.Identifier(column) for column in COLUMNS),
        }
        self._target = ".".join(named)
        self._postgres = Postgres(
            options.url.get_secret_value(),
            pool_size=options.pool_size,
            connect_timeout_s=5,
            statement_timeout_ms=options.statement_timeout_ms,
            lock_timeout_ms=options.statement_timeout_ms,
        )

    @property
    def target(self) -> str:
        """Where it delivers to, for operators."""
        return f"table {self._target}"

    async def open(self) -> None:
        """Make the pool; connections are made when they are needed."""
        await self._postgres.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._postgres.close()

    async def check(self) -> None:
        """Have the insert planned, and run without a row; DeliveryError if that fails."""
        await self._run(_CHECK, dict.fromkeys(COLUMNS))

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        """Insert the event, unless it is there.

        Raises:
            DeliveryError: It may or may not be there now.
            DeliveryRefusedError: The table does not take these values.
        """
        await self._run(
            _STATEMENT,
            {
                "delivery_id": event.delivery_id,
                "capsule_id": str(event.capsule_id),
                "team_id": None if event.team_id is None else str(event.team_id),
                "type": event.type,
                "occurred_at": event.occurred_at,
                "metadata": json.dumps(dict(event.metadata)),
            },
        )

    async def _run(self, statement: sql.SQL, values: Mapping[str, Any]) -> None:
        # psycopg2 takes what is composed wherever it takes a text, and quotes the names itself.
        composed = cast("str", statement.format(**self._parts))
        try:
            await self._postgres.fetch_row(composed, values)
        except (DatabaseRejectedError, DatabaseUnavailableError) as exc:
            # Only SQLSTATE, or which exception: the rest may quote values or name the server.
            told = f"Postgres: {str(exc).partition(':')[0]}"
            refused = isinstance(exc, DatabaseRejectedError)
            raise (DeliveryRefusedError if refused else DeliveryError)(told) from None
