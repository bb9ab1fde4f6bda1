"""The record of deliveries: bounded, behind the deliveries, and true of the last attempt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis.asyncio

from agents.recorder import SinkRecord
from streams.figures.meter import Clock
from streams.sinks.deliveries import EVENT_MAX_BYTES, Delivery, DeliveryRecord, Status, Wanted
from streams.transport import Entry, StreamLayout, TransportError
from tests.command_line import run_command
from tests.event_log import textual_id
from tests.integration.test_delivery_retries import ONE, TWO, Choosy, publish
from tests.integration.webhook_receiver import sandbox_event
from tests.reconciliation import PREFIX, Ground
from tests.worker_process import WorkerProcess, eventually

THREE = UUID(int=3)
LAYOUT = StreamLayout(PREFIX)
KEYS = DeliveryRecord.keys(LAYOUT, "billing")


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
async def receiver() -> AsyncIterator[Choosy]:
    async with Choosy() as receiver:
        yield receiver


def delivery(number: int, **more: Any) -> Delivery:
    values: dict[str, Any] = {
        "delivery_id": f"{number}-0",
        "capsule_id": textual_id("cl-", ONE),
        "type": "created",
        "status": Status.DELIVERED,
        "attempts": 1,
        "took_ms": 1.5,
        "error": "",
        "at_ms": 1_000 + number,
        "entry_id": f"{number}-1",
        "event": b"{}",
    }
    return Delivery(**values | more)


async def test_the_record_holds_the_newest_and_nothing_else(client: redis.asyncio.Redis) -> None:
    record = DeliveryRecord(client, LAYOUT)
    await record.write("billing", [delivery(n) for n in range(600)], keep=300)
    await record.write("billing", [delivery(7), delivery(8, at_ms=5_000)], keep=300)

    found = await record.newest("billing", Wanted(), limit=1_000)

    # What is older than all of them does not come back.
    assert [d.delivery_id for d in found] == ["8-0", *(f"{n}-0" for n in range(599, 300, -1))]
    assert [await client.zcard(KEYS[0]), *[await client.hlen(k) for k in KEYS[1:]]] == [300] * 3
    assert await record.newest("billing", Wanted(since_ms=1_599), limit=9) == found[:2]
    assert await record.newest("billing", Wanted(statuses=frozenset({Status.DEAD})), limit=9) == []
    assert await record.newest("other", Wanted(), limit=9) == []


async def test_a_late_word_of_a_former_owner_changes_nothing(client: redis.asyncio.Redis) -> None:
    record = DeliveryRecord(client, LAYOUT)
    now = delivery(1, at_ms=2_000, attempts=3)
    await record.write("billing", [now], keep=10)
    late = delivery(1, at_ms=1_999, status=Status.RETRYING, attempts=2, event=b"late")
    await record.write("billing", [late], keep=10)
    assert await record.find("billing", ["1-0", "2-0"]) == {"1-0": now}
    assert await client.hgetall(KEYS[2].decode()) == {b"1-0": b"{}"}


async def test_large_events_are_not_kept_and_long_errors_are_cut(
    client: redis.asyncio.Redis,
) -> None:
    record = DeliveryRecord(client, LAYOUT)
    large = delivery(1, event=b"x" * (EVENT_MAX_BYTES + 1), error="e" * 5_000)
    await record.write("billing", [large, delivery(2, event=b"x" * EVENT_MAX_BYTES)], keep=10)
    found = await record.find("billing", ["1-0", "2-0"])
    assert found["1-0"].event is None
    assert len(found["1-0"].error) == 200
    assert found["2-0"].event == b"x" * EVENT_MAX_BYTES


async def test_without_redis_notes_are_kept_for_later_and_stay_few(
    client: redis.asyncio.Redis, unused_tcp_port: int
) -> None:
    sink = SinkRecord("billing", keep=2, clock=Clock())
    event = sandbox_event()

    def note(number: int) -> None:
        entry = Entry(("hooks.billing", 0), f"{number}-0".encode(), {b"v": b"{}"}, 0)  # type: ignore[arg-type]
        numbered = type(event)(
            f"{number}-0", event.capsule_id, None, "created", event.occurred_at, {}
        )
        sink.note(numbered, entry, Status.DELIVERED, attempts=1, took_s=0.1)

    note(1)
    note(2)
    async with redis.asyncio.Redis(port=unused_tcp_port) as away:
        with pytest.raises(TransportError):
            await sink.write(DeliveryRecord(away, LAYOUT))
    note(3)
    record = DeliveryRecord(client, LAYOUT)
    await sink.write(record)
    assert {d.delivery_id for d in await record.newest("billing", Wanted(), limit=9)} == {
        "2-0",
        "3-0",
    }


async def deliveries(ground: Ground, where: Path, settings: dict[str, str], *line: str) -> Any:
    arguments = ("sinks", "deliveries", *line)
    done = await asyncio.to_thread(run_command, where, ground.settings(**settings), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)["deliveries"] if "--json" in line else done.stdout


async def test_what_became_of_each_delivery_is_told(
    ground: Ground, client: redis.asyncio.Redis, receiver: Choosy, tmp_path: Path
) -> None:
    receiver.refuse(TWO, 410)
    receiver.refuse(THREE, 503, **{"Retry-After": "600"})
    hook = json.loads(receiver.settings()["CAPSULES_SINKS"])[0]
    other = {"name": "other", "type": "log", "events": ["destroyed"]}
    settings = {"CAPSULES_SINKS": json.dumps([hook, other])}
    worker = WorkerProcess(tmp_path, **ground.settings(**settings))
    await worker.wait_for("partitions_taken")
    ids = [publish(ground, capsule) for capsule in (ONE, TWO, THREE)]
    record = DeliveryRecord(client, LAYOUT)
    with ground.redis() as blocking:
        rows = KEYS[1].replace(b"billing", b"receiver")
        await eventually(lambda: blocking.hlen(rows) == 3, what="three rows")

    every = await deliveries(ground, tmp_path, settings, "receiver", "--json")
    of_two = await deliveries(ground, tmp_path, settings, "--capsule", textual_id("cl-", TWO))
    told = {d["delivery_id"]: (d["status"], d["attempts"], d["error"], d["type"]) for d in every}
    assert told == {
        ids[0]: ("delivered", 1, "", "paused"),
        ids[1]: ("dead", 1, "HTTP 410", "paused"),
        ids[2]: ("retrying", 1, "HTTP 503", "paused"),
    }
    assert all(d["took_ms"] > 0 and d["sink"] == "receiver" for d in every)
    # As what the log sink does not want is no delivery.
    assert [ids[n] in of_two for n in range(3)] == [False, True, False]
    assert await record.newest("other", Wanted(), limit=9) == []

    # What was delivered just before the end is recorded as well.
    last = publish(ground, ONE)
    await eventually(lambda: len(receiver.arrivals) == 2, what="the last delivery")
    assert await worker.stop() == 0
    assert (await record.find("receiver", [last]))[last].status is Status.DELIVERED

    wrong = await asyncio.to_thread(
        run_command, tmp_path, ground.settings(**settings), "sinks", "deliveries", "nope"
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "nope: no such sink; there are: other, receiver\n"
