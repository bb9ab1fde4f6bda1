"""`sinks redeliver`: what is recorded goes again, to one sink alone, under the same delivery id."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis.asyncio

from streams.events import SandboxEvent
from streams.ids import format_capsule_id
from streams.sinks.deliveries import Delivery, DeliveryRecord, Status, Wanted
from streams.sinks.redelivery import Redelivery, WrongDeliveriesError
from streams.transport import StreamLayout, partition_of
from tests.command_line import run_command
from tests.integration.test_delivery_retries import ONE, TWO, Choosy, publish
from tests.integration.webhook_receiver import OCCURRED_AT
from tests.letters import PARTITIONS, SINKS, complaint, everything, letter_table, prepare
from tests.reconciliation import GROUP, PREFIX, Ground
from tests.worker_process import WorkerProcess, eventually

THREE = UUID(int=3)
LAYOUT = StreamLayout(PREFIX)


async def redeliver(
    ground: Ground, directory: Path, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = ground.settings(**(SINKS | settings))
    return await asyncio.to_thread(
        run_command, directory, environment, "sinks", "redeliver", *arguments
    )


def delivery(number: int, capsule: UUID = ONE, **more: Any) -> Delivery:
    event = SandboxEvent(f"{number}-0", capsule, None, "created", OCCURRED_AT, {})
    capsule_id, at_ms, entry_id = format_capsule_id(capsule), 1_000 + number, f"{number}-1"
    made = Delivery(event.delivery_id, capsule_id, "created", Status.DELIVERED, 1, 1.5, "", at_ms,
                    entry_id, event.to_bytes())  # fmt: skip
    return replace(made, **more)


async def record(ground: Ground, *deliveries: Delivery) -> None:
    async with redis.asyncio.Redis.from_url(ground.redis_url) as client:
        await DeliveryRecord(client, LAYOUT).write("billing", deliveries, keep=100)


def sent(ground: Ground, sink: str = "billing") -> list[tuple[int, dict[bytes, bytes]]]:
    """What is in the topic of a sink, with the partition."""
    with ground.redis() as client:
        return [
            (n, fields)
            for n in range(PARTITIONS)
            for _, fields in client.xrange(f"{PREFIX}hooks.{sink}:{n}")
        ]


async def test_an_order_that_cannot_be_carried_out_changes_nothing(
    ground: Ground, tmp_path: Path
) -> None:
    prepare(ground)
    partition = partition_of(ONE.bytes, PARTITIONS)
    stream = f"{PREFIX}hooks.billing:{partition}"
    with ground.redis() as client:
        client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        tried = client.xadd(stream, {"v": "{}"})
        client.xreadgroup(GROUP, "owner", {stream: ">"})
    trying = delivery(2, status=Status.RETRYING, entry_id=tried.decode())
    another = delivery(4, event=delivery(5).event)
    await record(ground, delivery(1), trying, delivery(3, event=None), another)
    before = everything(ground)
    for order, told in (
        (["9-9"], "no such delivery to billing is recorded: 9-9"),
        (["1-0", "9-9"], "no such delivery to billing is recorded: 9-9"),
        (["1-0", "2-0"], "2-0: it is still being tried"),
        (["3-0", "1-0"], "3-0: its event is too large to be kept"),
        (["4-0", "1-0"], "4-0: its event is too large to be kept"),
    ):
        async with redis.asyncio.Redis.from_url(ground.redis_url) as client:
            with pytest.raises(WrongDeliveriesError) as caught:
                await Redelivery(client, "billing", group=GROUP, layout=LAYOUT).named(order)
        assert str(caught.value) == told
    there_are = "gone: no such sink; there are: audit, billing"
    assert complaint(await redeliver(ground, tmp_path, "gone", "--since", "1h"), 2) == there_are
    told = complaint(await redeliver(ground, tmp_path, "billing", "1-0", "2-0"), 2)
    assert told == "2-0: it is still being tried"
    assert everything(ground) == before


async def test_where_no_worker_has_the_sink_nothing_is_sent(ground: Ground, tmp_path: Path) -> None:
    await record(ground, delivery(1))
    before = everything(ground)
    told = complaint(await redeliver(ground, tmp_path, "billing", "1-0"), 1)
    assert told == "topic hooks.billing: no worker has declared it; start one first"
    assert everything(ground) == before


async def test_what_is_chosen_goes_in_the_order_of_the_source_to_its_partition(
    ground: Ground, tmp_path: Path
) -> None:
    prepare(ground)
    # Attempted in another order than they came.
    await record(
        ground,
        *(delivery(n, (ONE, TWO)[n % 2], at_ms=9_000 - n) for n in (2, 3, 8, 9, 10)),
        delivery(4, event=None),
        # Its worker was killed before it could say how it ended.
        delivery(11, status=Status.RETRYING),
    )
    before = everything(ground)
    looked = await redeliver(ground, tmp_path, "billing", "--capsule", format_capsule_id(ONE),
                             "--dry-run")  # fmt: skip
    assert (looked.returncode, looked.stdout.splitlines()[-1]) == (
        0,
        "would send 4 deliveries to billing; nothing is changed",
    )
    assert everything(ground) == before
    done = await redeliver(ground, tmp_path, "billing", "--capsule", format_capsule_id(ONE))
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        ["left out 4-0: its event is too large to be kept", "sent 4 deliveries to billing again"],
    )
    at = partition_of(ONE.bytes, PARTITIONS)
    assert sent(ground) == [
        (at, {b"k": ONE.bytes, b"v": d.event, b"h:source-id": d.delivery_id.encode()})
        for d in (delivery(2), delivery(8), delivery(10), delivery(11))
    ]
    assert sent(ground, "audit") == []


@pytest.mark.parametrize("dry", [True, False])
async def test_what_is_sent_is_told_as_one_document(
    ground: Ground, tmp_path: Path, dry: bool
) -> None:
    prepare(ground)
    hostile = "\x1b]0;owned\x07"
    await record(ground, delivery(2), delivery(3, type=hostile), delivery(4, event=None))
    order = ["billing", "--since", "2026-01-01T00:00:00Z", "--json"]
    # Attempted in 1970, as far as the record knows.
    nothing = await redeliver(ground, tmp_path, *order, "--dry-run")
    assert json.loads(nothing.stdout)["deliveries"] == []
    order[2] = "1970-01-01T00:00:00Z"
    done = await redeliver(ground, tmp_path, *order, *(["--dry-run"] if dry else []))
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace("\n", "").isprintable()
    capsule_id = format_capsule_id(ONE)
    assert json.loads(done.stdout) == {
        "version": 1,
        "sink": "billing",
        "dry_run": dry,
        "sent": 0 if dry else 2,
        "left": 2 if dry else 0,
        "deliveries": [
            {
                "delivery_id": f"{n}-0",
                "capsule_id": capsule_id,
                "type": told,
                "status": "delivered",
            }
            for n, told in ((2, "created"), (3, hostile))
        ],
        "left_out": [{"delivery_id": "4-0", "why": "its event is too large to be kept"}],
    }
    assert len(sent(ground)) == (0 if dry else 2)


async def test_a_delivery_comes_again_and_a_dead_letter_is_replayed(
    ground: Ground, tmp_path: Path
) -> None:
    async with Choosy() as receiver:
        receiver.refuse(TWO, 410)
        receiver.refuse(THREE, 503, **{"Retry-After": "600"})
        hook = json.loads(receiver.settings()["CAPSULES_SINKS"])[0]
        settings = {"CAPSULES_SINKS": json.dumps([hook, {"name": "other", "type": "log"}])}
        worker = WorkerProcess(tmp_path, **ground.settings(**settings))
        await worker.wait_for("partitions_taken")
        delivered, dead, trying = (publish(ground, capsule) for capsule in (ONE, TWO, THREE))
        await eventually(lambda: letter_table(ground), what="a letter")
        with ground.redis() as client:
            rows = f"{PREFIX}deliveries:receiver:rows"
            await eventually(lambda: client.hlen(rows) == 3, what="three rows")
            added = [
                client.xinfo_stream(key)["entries-added"]
                for key in sorted(client.keys(f"{PREFIX}hooks.other:*"))
            ]
        receiver.answers.pop(TWO)

        done = await redeliver(ground, tmp_path, "receiver", "--since", "1h", **settings)

        assert (done.returncode, done.stdout.splitlines()) == (
            0,
            [
                f"left out {trying}: it is still being tried",
                "sent 2 deliveries to receiver again",
            ],
        ), done.stderr
        await eventually(lambda: len(receiver.arrivals) == 3, what="both")
        assert [a.delivery_id for a in receiver.arrivals] == [delivered, delivered, dead]
        assert receiver.arrivals[0] == receiver.arrivals[1]
        [letter] = letter_table(ground).values()
        assert (letter["state"], letter["origin_id"]) == ("replayed", dead)
        with ground.redis() as client:
            assert added == [
                client.xinfo_stream(key)["entries-added"]
                for key in sorted(client.keys(f"{PREFIX}hooks.other:*"))
            ]
        assert await worker.stop() == 0
    async with redis.asyncio.Redis.from_url(ground.redis_url) as looking:
        found = await DeliveryRecord(looking, LAYOUT).newest("receiver", Wanted(), limit=9)
    assert {d.delivery_id: d.status for d in found} == {
        delivered: Status.DELIVERED,
        dead: Status.DELIVERED,
        trying: Status.RETRYING,
    }
