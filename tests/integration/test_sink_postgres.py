"""The table of the metering page: names are quoted, rows are once, and the query adds up."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2
import pytest

from agents.hooks.postgres import PostgresSink
from agents.hooks.testing import example_events
from streams.errors import DeliveryError, DeliveryRefusedError
from streams.events import HookType, SandboxEvent
from tests.integration.conftest import execute

PAGE = (Path(__file__).parents[2] / "docs" / "sinks.md").read_text(encoding="utf-8")
CREATE, QUERY = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


def sink_of(url: str, **options: Any) -> PostgresSink:
    return PostgresSink("metering", PostgresSink.Options.model_validate({"url": url} | options))


async def delivered(sink: PostgresSink, *events: SandboxEvent) -> None:
    await sink.open()
    try:
        await sink.check()
        for event in events:
            await sink.on_sandbox_event(event)
    finally:
        await sink.close()


def at(day: int, hour: int, hook_type: HookType, capsule: int, number: int) -> SandboxEvent:
    return SandboxEvent(
        delivery_id=f"1772000000000-{number}",
        capsule_id=UUID(int=capsule),
        team_id=UUID(int=7),
        type=hook_type,
        occurred_at=datetime(2026, 3, day, hour, tzinfo=UTC),
        metadata={},
    )


async def test_the_query_of_the_page_says_how_long_capsules_ran(database_url: str) -> None:
    execute(database_url, "create schema metering", *CREATE.strip().split(";\n"))
    events = [
        at(1, 0, "created", 1, 1),
        at(1, 2, "paused", 1, 2),  # 2 hours
        at(2, 0, "resumed", 1, 9),
        at(2, 3, "destroyed", 1, 10),  # 3 hours
        at(31, 12, "created", 2, 11),  # 12 hours, until the month ends
        replace(at(1, 0, "created", 3, 12), delivery_id="test-1", metadata={"test": "true"}),
    ]
    sink = sink_of(database_url, table="capsule_events", schema="metering")
    await delivered(sink, *events, *events)

    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(QUERY)
        assert [(str(team), n, float(h)) for team, n, h in cursor.fetchall()] == [
            (str(UUID(int=7)), 2, 17.0)
        ]


async def test_a_hostile_name_of_a_table_is_a_name(database_url: str) -> None:
    name = 'x"; drop table sandboxes; --'
    quoted = '"x""; drop table sandboxes; --"'
    execute(database_url, "create schema metering", CREATE.partition(";")[0])
    execute(database_url, f"alter table metering.capsule_events rename to {quoted}")
    hostile = replace(example_events(1)[0], metadata={"a": "'; drop table sandboxes; --"})
    await delivered(sink_of(database_url, table=name, schema="metering"), hostile)

    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"select metadata from metering.{quoted}")  # noqa: S608 - in this test
        assert cursor.fetchall() == [({"a": "'; drop table sandboxes; --"},)]
        cursor.execute("select count(*) from sandboxes")


async def test_a_row_that_the_table_does_not_take_is_refused_and_not_quoted(
    database_url: str,
) -> None:
    execute(database_url, "create schema metering", CREATE.partition(";")[0])
    execute(database_url, "alter table metering.capsule_events add check (metadata->>'a' <> 'no')")
    sink = sink_of(database_url, table="capsule_events", schema="metering")
    with pytest.raises(DeliveryRefusedError, match=r"^Postgres: 23514$"):
        await delivered(sink, replace(example_events(1)[0], metadata={"a": "no"}))


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("drop table metering.capsule_events", "42P01"),
        ("alter table metering.capsule_events drop column metadata", "42703"),
        ("alter table metering.capsule_events drop constraint capsule_events_pkey", "42P10"),
    ],
)
async def test_the_check_finds_a_table_that_would_not_do(
    database_url: str, change: str, state: str
) -> None:
    execute(database_url, "create schema metering", CREATE.partition(";")[0], change)
    sink = sink_of(database_url, table="capsule_events", schema="metering")
    with pytest.raises(DeliveryError, match=state):
        await delivered(sink)
