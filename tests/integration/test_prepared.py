"""Statements are planned once for each connection, and run all the same where that is not to be."""

from __future__ import annotations

import pytest

from streams.errors import DatabaseUnavailableError
from streams.postgres import Postgres

STATEMENT = "select %(texts)s::text[], (select count(*) from pg_prepared_statements)"


async def run(postgres: Postgres, texts: str) -> tuple[list[str], int]:
    found, prepared = await postgres.fetch_row(STATEMENT, {"texts": texts}, prepared=True)
    return found, prepared


async def test_a_statement_is_prepared_once(postgres: Postgres) -> None:
    assert await run(postgres, "{a,b}") == (["a", "b"], 1)
    assert await run(postgres, '{"it\'s \\"%s\\" {x}"}') == (['it\'s "%s" {x}'], 1)


async def test_where_connections_are_shared_by_a_pooler_statements_are_sent_whole(
    postgres: Postgres,
) -> None:
    assert await run(postgres, "{a}") == (["a"], 1)
    # As a pooler does between two transactions, or by giving the second another connection.
    await postgres.fetch_row("deallocate all; select 1", {})
    with pytest.raises(DatabaseUnavailableError, match="does not exist"):
        await run(postgres, "{b}")
    assert await run(postgres, "{c}") == (["c"], 0)
