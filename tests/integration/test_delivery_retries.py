"""Deliveries that fail: attempts and pauses outlive the worker, and there is an end to them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from tests.event_log import textual_id
from tests.reconciliation import PREFIX, SOURCE, Ground, Receiver
from tests.worker_process import WorkerProcess, eventually

ONE, TWO = UUID(int=1), UUID(int=2)


@dataclass
class Choosy(Receiver):
    """A receiver that answers each capsule as it is told to; the others are taken."""

    answers: dict[UUID, web.Response] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def refuse(self, capsule: UUID, status: int, **headers: str) -> None:
        self.answers[capsule] = web.Response(status=status, headers=headers)

    async def _take(self, request: web.Request) -> web.Response:
        data = (await request.json())["data"]
        answer = self.answers.get(UUID(int=int(data["capsule_id"].partition("-")[2], 36)))
        if answer is None:
            return await super()._take(request)
        self.refused.append(request.headers["webhook-id"])
        return web.Response(status=answer.status, headers=answer.headers)


@pytest.fixture
async def receiver() -> AsyncIterator[Choosy]:
    async with Choosy() as receiver:
        yield receiver


def publish(ground: Ground, capsule: UUID) -> str:
    event = {
        "event": "capsule.pause",
        "outcome": "success",
        "actor": {"type": "system"},
        "resource": {"id": textual_id("cl-", capsule), "type": "sandbox"},
    }
    with ground.redis() as client:
        entry_id: bytes = client.xadd(SOURCE, {"payload": json.dumps(event)})
    return entry_id.decode()


def schedule(ground: Ground) -> dict[bytes, list[Any]]:
    """All retry state, by the id of the delivery's entry."""
    with ground.redis() as client:
        keys = client.keys(f"{PREFIX}retries:*")
        return {
            entry_id: json.loads(raw) for k in keys for entry_id, raw in client.hgetall(k).items()
        }


def letters(ground: Ground) -> list[tuple[Any, ...]]:
    with ground.cursor() as cursor:
        cursor.execute(
            "select origin_id, stage, sink, reason, error, attempts, last_at - first_at"
            " from capsule_reconciler.dead_letters order by id"
        )
        return list(cursor.fetchall())


async def started(ground: Ground, receiver: Choosy, directory: Path, **sink: Any) -> WorkerProcess:
    settings = json.loads(receiver.settings()["CAPSULES_SINKS"])[0] | sink
    worker = WorkerProcess(directory, **ground.settings(CAPSULES_SINKS=json.dumps([settings])))
    await worker.wait_for("partitions_taken")
    return worker


async def test_attempts_are_counted_over_workers(
    ground: Ground, receiver: Choosy, tmp_path: Path
) -> None:
    receiver.refuse(ONE, 503)
    first = await started(ground, receiver, tmp_path / "first")
    publish(ground, ONE)
    await eventually(lambda: len(receiver.refused) == 2, what="two attempts")
    await eventually(lambda: [n for n, *_ in schedule(ground).values()] == [2], what="their note")
    first.kill()
    second = await started(ground, receiver, tmp_path / "second")
    await second.wait_for("delivery_retry")
    attempts = [r["attempts"] for r in second.records() if r.get("action") == "delivery_retry"]
    assert attempts[0] == 3
    receiver.answers.clear()
    await eventually(ground.drained, what="all done")
    await eventually(lambda: not schedule(ground), what="the end of the note")
    assert [arrival.delivery_id for arrival in receiver.arrivals] == receiver.refused[:1]
    assert await second.stop() == 0


async def test_a_pause_is_kept_by_the_next_worker(
    ground: Ground, receiver: Choosy, tmp_path: Path
) -> None:
    receiver.refuse(ONE, 429, **{"Retry-After": "600"})
    first = await started(ground, receiver, tmp_path / "first")
    publish(ground, ONE)
    await eventually(lambda: len(schedule(ground)) == 1, what="its note")
    first.kill()
    second = await started(ground, receiver, tmp_path / "second")
    receiver.answers.clear()
    # Same capsule: waits behind the first. Another one: passes it.
    publish(ground, ONE)
    other = publish(ground, TWO)
    await eventually(lambda: bool(receiver.arrivals), what="the other capsule's delivery")
    assert [arrival.delivery_id for arrival in receiver.arrivals] == [other]
    assert len(receiver.refused) == 1
    ((count, _first_at, due_at, error),) = schedule(ground).values()
    assert (count, error) == (1, "HTTP 429")
    with ground.redis() as client:
        assert 500 < due_at - client.time()[0] <= 600
    assert await second.stop() == 0


async def test_a_delivery_refused_for_good_is_a_dead_letter_and_holds_up_nothing(
    ground: Ground, receiver: Choosy, tmp_path: Path
) -> None:
    receiver.refuse(ONE, 410)
    worker = await started(ground, receiver, tmp_path)
    refused = [publish(ground, ONE), publish(ground, ONE)]
    taken = publish(ground, TWO)
    await eventually(lambda: len(letters(ground)) == 2, what="two letters")
    await eventually(ground.drained, what="all done")
    assert [arrival.delivery_id for arrival in receiver.arrivals] == [taken]
    assert receiver.refused == refused
    told = [(r[0], *r[1:6]) for r in letters(ground)]
    assert told == [
        (source_id, "hook.receiver", "receiver", "refused_by_sink", "HTTP 410", 1)
        for source_id in refused
    ]
    assert schedule(ground) == {}
    assert not worker.said("delivery_retry")
    assert await worker.stop() == 0


async def test_a_delivery_is_given_up_after_its_time_whoever_tried(
    ground: Ground, receiver: Choosy, tmp_path: Path
) -> None:
    receiver.refuse(ONE, 500)
    first = await started(ground, receiver, tmp_path / "first", retry_for_s=4)
    source_id = publish(ground, ONE)
    await eventually(lambda: len(receiver.refused) == 2, what="two attempts")
    await eventually(lambda: [n for n, *_ in schedule(ground).values()] == [2], what="their note")
    first.kill()
    second = await started(ground, receiver, tmp_path / "second", retry_for_s=4)
    await eventually(lambda: bool(letters(ground)), what="a letter")
    ((origin_id, _, _, reason, error, attempts, span),) = letters(ground)
    assert (origin_id, reason, error) == (source_id, "gave_up", "HTTP 500")
    assert attempts == len(receiver.refused) > 2
    assert 0.5 < span.total_seconds() < 10
    await eventually(ground.drained, what="all done")
    await eventually(lambda: not schedule(ground), what="the end of the note")
    assert await second.stop() == 0


async def test_notes_of_deliveries_that_are_gone_are_removed_by_the_next_owner(
    ground: Ground, receiver: Choosy, tmp_path: Path
) -> None:
    first = await started(ground, receiver, tmp_path / "first")
    publish(ground, ONE)
    await eventually(lambda: len(receiver.arrivals) == 1, what="a delivery")
    assert await first.stop() == 0
    with ground.redis() as client:
        (key,) = [
            k for k in client.keys(f"{PREFIX}hooks.*") if client.xinfo_stream(k)["entries-added"]
        ]
        notes = key.replace(b":hooks.", b":retries:hooks.")
        client.hset(notes, "5-0", json.dumps([3, 1.0, 9e12, "HTTP 503"]))
        client.hset(notes, "6-0", "no json")
    second = await started(ground, receiver, tmp_path / "second")
    publish(ground, ONE)
    await eventually(lambda: len(receiver.arrivals) == 2, what="the next delivery")
    await eventually(lambda: not schedule(ground), what="the end of the notes")
    assert await second.stop() == 0
