"""No answer is taken for another's, no cancellation is lost, no command is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from yarl import URL

from streams.transport.connection import ReaderConnection, connect
from streams.transport.errors import (
    BrokerRefusedError,
    BrokerUnavailableError,
    GroupLostError,
)

from .lab import Lab


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect(URL(redis_url), timeout_s=0.3, name="tested")
    yield client
    await client.aclose()


@pytest.fixture
async def reader(client: redis.asyncio.Redis) -> AsyncIterator[ReaderConnection]:
    reader = ReaderConnection(client, timeout_s=0.3)
    await reader.open()
    yield reader
    await reader.close()


async def test_the_reader_knows_its_number(lab: Lab, reader: ReaderConnection) -> None:
    clients = {client["id"]: client["name"] for client in await lab.connections()}
    assert clients == {str(reader.client_id): "tested"}
    assert await reader.execute("PING") == b"PONG"


async def test_an_answer_that_comes_too_late_closes_the_reader(
    lab: Lab, reader: ReaderConnection
) -> None:
    await lab.redis.client_pause(600)
    with pytest.raises(BrokerUnavailableError, match="ECHO"):
        await reader.execute("ECHO", "late")
    assert not reader.is_open
    with pytest.raises(BrokerUnavailableError, match="not open"):
        await reader.execute("ECHO", "next")
    await lab.redis.client_unpause()
    await reader.open()
    assert await reader.execute("ECHO", "another") == b"another"


async def test_a_read_may_wait_longer_than_the_time_out(lab: Lab, reader: ReaderConnection) -> None:
    await lab.redis.xgroup_create("s", "g", mkstream=True)
    answer = await reader.execute(
        *("XREADGROUP", "GROUP", "g", "c", "BLOCK", 500, "STREAMS", "s", ">"), wait_s=0.5
    )
    assert answer is None
    assert reader.is_open


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "none", ">"), GroupLostError),
        (("NONSENSE",), BrokerRefusedError),
    ],
)
async def test_an_error_is_the_transports_own_and_closes_the_reader(
    reader: ReaderConnection, command: tuple[str, ...], error: type[Exception]
) -> None:
    with pytest.raises(error, match=command[0]):
        await reader.execute(*command)
    assert not reader.is_open


async def test_a_reader_that_redis_hung_up_on_is_unavailable(
    lab: Lab, reader: ReaderConnection
) -> None:
    await lab.redis.client_kill_filter(_id=str(reader.client_id))
    with pytest.raises(BrokerUnavailableError):
        await reader.execute("PING")
    assert not reader.is_open


async def test_a_cancelled_read_closes_the_reader(lab: Lab, reader: ReaderConnection) -> None:
    await lab.redis.xgroup_create("s", "g", mkstream=True)
    read = asyncio.create_task(
        reader.execute(
            *("XREADGROUP", "GROUP", "g", "c", "BLOCK", 5000, "STREAMS", "s", ">"), wait_s=5
        )
    )
    await asyncio.sleep(0)
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read
    assert not reader.is_open


async def test_no_cancellation_is_lost_whenever_it_comes(client: redis.asyncio.Redis) -> None:
    """In Python 3.11 `asyncio.wait_for`, which redis-py sends with, may swallow it."""
    await client.ping()  # connected
    for steps in range(40):

        async def talk() -> None:
            for _ in range(20):
                await client.echo("x")

        talking = asyncio.create_task(talk())
        for _ in range(steps):
            await asyncio.sleep(0)
        talking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talking
        assert await client.echo(str(steps)) == str(steps).encode()


async def test_a_command_is_not_repeated_after_a_lost_answer(
    lab: Lab, client: redis.asyncio.Redis
) -> None:
    """One that redis-py repeated by itself could be in the stream twice."""

    async def dialled() -> int:
        return int((await lab.redis.info("stats"))["total_connections_received"])

    await client.ping()
    before = await dialled()
    await lab.redis.client_pause(600, all=False)  # writes wait
    with pytest.raises(redis.TimeoutError):
        await client.xadd("s", {"f": "v"})
    assert await dialled() == before
    await lab.redis.client_unpause()
