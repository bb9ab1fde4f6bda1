"""A sink goes wrong: its deliveries wait or are kept, nothing else does, and nobody restarts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest
from aiohttp import web

from config.embedded import EphemeralServers
from tests.faults.culprit import counted, is_counted, is_named
from tests.faults.scene import Answer, Scene, hold_scene
from tests.oracle import replay
from tests.reconciliation import Ground
from tests.worker_process import eventually

#: How long the sink's settings have the worker wait for an answer.
TIMEOUT_S = 1
#: What health and topology call it.
CULPRIT = "sink.receiver"


def says(status: int, **headers: str) -> Answer:
    async def answer(_request: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, headers=named)

    return answer


async def hangs(_request: web.Request) -> web.Response:
    await asyncio.sleep(3 * TIMEOUT_S)
    return web.Response(status=500)


async def hangs_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response(status=500)


async def takes_and_hangs_up(request: web.Request) -> web.Response | None:
    """It has the delivery, and the worker does not come to know."""
    await request.read()
    assert request.transport is not None
    request.transport.abort()
    return None


@dataclass(frozen=True)
class Outage:
    """What the receiver does in place of taking a delivery."""

    answer: Answer


OUTAGES = {
    "it answers 503": Outage(says(503)),
    "it answers 429 and asks for a second": Outage(says(429, Retry_After="1")),
    "it answers 503 and asks for a second": Outage(says(503, Retry_After="1")),
    "it hangs": Outage(hangs),
    "it hangs up": Outage(hangs_up),
    "it takes a delivery and hangs up": Outage(takes_and_hangs_up),
}


async def rows_are_right(scene: Scene) -> None:
    """Wait until Postgres has all effects of what is published, whatever the sink does."""
    expected = replay(scene.log.rows, scene.log.entries[: scene.published])
    await eventually(lambda: scene.ground.outcome().rows == expected.rows, what="the rows")


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES.keys())
async def test_a_sink_recovers_and_gets_all_it_has_missed_when(
    servers: EphemeralServers, ground: Ground, tmp_path: Path, outage: Outage
) -> None:
    async with hold_scene(servers, ground, tmp_path) as scene:
        before = scene.said()
        scene.receiver.answer = outage.answer
        began = monotonic()
        scene.publish(len(scene.log.entries) // 3)
        await is_named(scene.worker, CULPRIT, began=began)
        await scene.says("delivery_retry", before)
        await rows_are_right(scene)
        await scene.is_ready()
        scene.receiver.answer = None
        scene.publish()
        await scene.all_done()
        await scene.close_account()


async def test_a_sink_that_nobody_listens_at_gets_all_it_has_missed(
    servers: EphemeralServers, ground: Ground, tmp_path: Path
) -> None:
    async with hold_scene(servers, ground, tmp_path) as scene:
        before = scene.said()
        await scene.receiver.stop_listening()
        began = monotonic()
        scene.publish(len(scene.log.entries) // 3)
        await is_named(scene.worker, CULPRIT, began=began)
        await scene.says("delivery_retry", before)
        await rows_are_right(scene)
        await scene.is_ready()
        await scene.receiver.listen_again()
        scene.publish()
        await scene.all_done()
        await scene.close_account()


async def test_what_a_sink_refuses_for_good_is_kept_as_a_dead_letter(
    servers: EphemeralServers, ground: Ground, tmp_path: Path
) -> None:
    async with hold_scene(servers, ground, tmp_path) as scene:
        before, failed = scene.said(), await counted(scene.worker)
        scene.receiver.answer = says(400)
        scene.publish(len(scene.log.entries) // 3)
        await scene.says("dead_letter", before)
        await is_counted(scene.worker, CULPRIT, before=failed)
        await scene.all_done()
        await scene.is_ready()
        with ground.cursor() as cursor:
            cursor.execute(
                "select distinct reason from capsule_reconciler.dead_letters where sink <> ''"
            )
            assert cursor.fetchall() == [("refused_by_sink",)]
        scene.receiver.answer = None
        scene.publish()
        await scene.all_done()
        await scene.close_account()
