"""What a connection to Postgres costs: one cursor, and nothing for each statement."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import aiopg
import pytest

from streams.errors import DatabaseUnavailableError
from streams.postgres import Postgres


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Leave circular garbage where it is."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def cursors() -> int:
    return sum(isinstance(found, aiopg.Cursor) for found in gc.get_objects())


@pytest.mark.usefixtures("no_collector")
async def test_statements_leave_no_cursor_with_what_they_ran_behind(postgres: Postgres) -> None:
    before = cursors()
    for number in range(50):
        assert await postgres.fetch_row("select %(n)s", {"n": number}) == (number,)
    assert cursors() - before == 1


async def test_who_loses_a_connection_has_another_and_keeps_nothing_of_the_lost_one(
    postgres: Postgres,
) -> None:
    for _ in range(5):
        with pytest.raises(DatabaseUnavailableError):
            await postgres.fetch_row("select pg_terminate_backend(pg_backend_pid())", {})
        assert await postgres.fetch_row("select 1", {}) == (1,)
    gc.collect()
    assert cursors() == 1
