"""Each sink that comes with this project, run through the kit against what it really talks to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import orjson
import psycopg2
import pytest
import redis
from aiohttp import web

from agents.hooks import WebhookSink
from agents.hooks.http_batch import HttpBatchSink
from agents.hooks.postgres import PostgresSink
from agents.hooks.redis_stream import RedisStreamSink
from agents.hooks.signing import Scheme
from agents.hooks.testing import check_sink
from config.embedded import EphemeralServers
from tests.integration.conftest import execute
from tests.integration.webhook_receiver import (
    PASSWORD,
    SECRET,
    TOKEN,
    Answer,
    Receiver,
    answering,
    running_receiver,
)

ALL_CHECKS = 8
TABLE = """
    create table "Capsule events" (
        delivery_id text primary key, capsule_id uuid not null, team_id uuid, type text not null,
        occurred_at timestamptz not null, metadata jsonb not null)
"""


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as receiver:
        yield receiver


def taking(receiver: Receiver, ids: Callable[[bytes, dict[str, str]], list[str]]) -> list[str]:
    """Have the receiver keep what it takes, as one that is idempotent; returns what it has."""
    kept: list[str] = []

    async def take(_request: web.Request) -> web.Response:
        request = receiver.received[-1]
        kept.extend(i for i in ids(request.body, request.headers) if i not in kept)
        return web.Response(status=204)

    receiver.answer = take
    return kept


@asynccontextmanager
async def answers(receiver: Receiver, answer: Answer) -> AsyncIterator[None]:
    before, receiver.answer = receiver.answer, answer
    try:
        yield
    finally:
        receiver.answer = before


def hanging(receiver: Receiver) -> Answer:
    async def hang(_request: web.Request) -> web.Response:
        await receiver.over.wait()
        return web.Response()

    return hang


@pytest.mark.parametrize(
    ("scheme", "header"), [("standard", "webhook-id"), ("wrenn", "x-wrenn-delivery")]
)
async def test_webhook(receiver: Receiver, scheme: Scheme, header: str) -> None:
    kept = taking(receiver, lambda _, headers: [headers[header]])
    report = await check_sink(
        lambda: WebhookSink("w", receiver.url(), (SECRET,), 1.0, scheme=scheme, allow_private=True),
        delivered=lambda: kept,
        broken=lambda: answers(receiver, answering(503)),
        hanging=lambda: answers(receiver, hanging(receiver)),
        timeout_s=2.0,
        secrets=(SECRET, PASSWORD, TOKEN),
    )
    assert len(report.shown) == ALL_CHECKS


async def test_http_batch(receiver: Receiver) -> None:
    def ids(body: bytes, headers: dict[str, str]) -> list[str]:
        # The receiver's server has unpacked it, by what the headers say.
        assert headers["content-encoding"] == "gzip"
        lines = body.splitlines()
        return [orjson.loads(line)["delivery_id"] for line in lines]

    kept = taking(receiver, ids)
    url = f"http://127.0.0.1:{receiver.port}/audit"
    options = HttpBatchSink.Options.model_validate(
        {"url": url, "token": TOKEN, "allow_private": True, "request_timeout_s": 1}
    )
    report = await check_sink(
        lambda: HttpBatchSink("b", options),
        delivered=lambda: kept,
        broken=lambda: answers(receiver, answering(503)),
        hanging=lambda: answers(receiver, hanging(receiver)),
        secrets=(TOKEN,),
    )
    assert len(report.shown) == ALL_CHECKS
    assert {r.headers["authorization"] for r in receiver.received} == {f"Bearer {TOKEN}"}
    assert max(len(r.body.splitlines()) for r in receiver.received) == 16


async def test_redis_stream(servers: EphemeralServers, redis_url: str) -> None:
    options = RedisStreamSink.Options.model_validate({"url": redis_url, "stream": "capsules out"})

    def delivered() -> list[str]:
        with closing(redis.Redis.from_url(redis_url)) as client:
            found: Any = client.xrange("capsules out")
        return [fields[b"delivery_id"].decode() for _, fields in found]

    @asynccontextmanager
    async def refusing() -> AsyncIterator[None]:
        with closing(redis.Redis.from_url(redis_url)) as client:
            client.config_set("maxmemory", "1")
            try:
                yield
            finally:
                client.config_set("maxmemory", "0")

    @asynccontextmanager
    async def paused() -> AsyncIterator[None]:
        with closing(redis.Redis.from_url(redis_url)) as client:
            client.client_pause(60_000, all=False)
            try:
                yield
            finally:
                client.client_unpause()

    report = await check_sink(
        lambda: RedisStreamSink("r", options),
        delivered=delivered,
        broken=refusing,
        hanging=paused,
        copies="marked",
        timeout_s=1.0,
    )
    assert len(report.shown) == ALL_CHECKS


async def test_postgres(database_url: str) -> None:
    execute(database_url, TABLE)
    options = PostgresSink.Options.model_validate(
        {"url": database_url, "table": "Capsule events", "schema": "public"}
    )

    def delivered() -> list[str]:
        with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
            cursor.execute('select delivery_id from "Capsule events"')
            return [delivery_id for (delivery_id,) in cursor.fetchall()]

    @asynccontextmanager
    async def renamed() -> AsyncIterator[None]:
        execute(database_url, 'alter table "Capsule events" rename to away')
        yield
        execute(database_url, 'alter table away rename to "Capsule events"')

    @asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
            cursor.execute('lock table "Capsule events"')
            yield

    report = await check_sink(
        lambda: PostgresSink("p", options),
        delivered=delivered,
        broken=renamed,
        hanging=locked,
        timeout_s=1.0,
    )
    assert len(report.shown) == ALL_CHECKS
