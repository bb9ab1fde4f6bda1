"""The acknowledger where some of the streams it looks after are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from faust.types import TP
from yarl import URL

from streams.transport import Entry, StreamConfig, StreamLayout, TransportOptions
from streams.transport.acknowledger import Acknowledger
from streams.transport.connection import connect
from streams.transport.fleet import Holding
from streams.transport.ledger import Ledger
from streams.transport.parts import Parts
from streams.transport.positions import Positions
from streams.transport.recorder import LossRecorder

from .lab import Lab
from .waiting import eventually

GONE, BUSY = TP("gone", 0), TP("busy", 0)


@pytest.fixture
async def ledger() -> Ledger:
    ledger = Ledger(capacity=1000, read_size=500, on_room=lambda: None)
    for tp in (GONE, BUSY):
        ledger.open(tp)
    return ledger


@pytest.fixture
async def acknowledger(lab: Lab, ledger: Ledger) -> AsyncIterator[Acknowledger]:
    layout = StreamLayout(lab.name(""))
    for tp in (GONE, BUSY):
        layout.declare(tp.topic, 1, StreamConfig())
    client = connect(URL(lab.url), timeout_s=5, name="tested")
    options = TransportOptions(trim_interval_s=0.0)
    positions = Positions(
        client, layout, LossRecorder(None), group=lab.app_id, check_interval_s=1.0, journal=None
    )
    acknowledger = Acknowledger(
        client,
        layout,
        ledger,
        group=lab.app_id,
        options=options,
        positions=positions,
        parts=Parts(client, layout, ledger, holding=lambda _: Holding(b"owners", b"", b"")),
    )
    running = asyncio.create_task(acknowledger.run())
    yield acknowledger
    running.cancel()
    await asyncio.wait([running])
    await client.aclose()


async def deliver(lab: Lab, ledger: Ledger, tp: TP, count: int) -> list[Entry]:
    """Have `count` entries of `tp` in hand, as after a read; return them."""
    key = lab.key(tp.topic)
    if not await lab.redis.exists(key):
        await lab.redis.xgroup_create(key, lab.app_id, id="0", mkstream=True)
    ids = await lab.add_and_lose(key, *[b"v"] * count)
    entries = ledger.admit(tp, [(entry_id, []) for entry_id in ids])
    assert len(entries) == count
    return entries


async def test_a_group_that_is_gone_costs_no_other_an_acknowledgement(
    lab: Lab, ledger: Ledger, acknowledger: Acknowledger
) -> None:
    """Trimming cannot go on; what is settled meanwhile is acknowledged all the same."""
    entries = await deliver(lab, ledger, GONE, 1)
    entries += await deliver(lab, ledger, BUSY, 300)
    await lab.redis.delete(lab.key(GONE.topic))
    for entry in entries:
        acknowledger.settle([entry])
        await asyncio.sleep(0)
    await lab.settled(lab.key(BUSY.topic))
    await asyncio.wait_for(acknowledger.flush(), 2)
    await asyncio.wait_for(ledger.wait_finished(BUSY, everything=True), 2)
    assert acknowledger.total == 301


async def test_a_group_that_is_gone_keeps_no_other_stream_from_being_trimmed(
    lab: Lab, ledger: Ledger, acknowledger: Acknowledger
) -> None:
    async def is_empty(tp: TP) -> bool:
        return not await lab.redis.xlen(lab.key(tp.topic))

    of_gone = await deliver(lab, ledger, GONE, 1)
    of_busy = await deliver(lab, ledger, BUSY, 1)
    await lab.redis.xgroup_destroy(lab.key(GONE.topic), lab.app_id)
    acknowledger.settle(of_gone)
    acknowledger.settle(of_busy)
    await eventually(lambda: is_empty(BUSY), what="the other stream trimmed")
    assert not await is_empty(GONE)
    await lab.redis.xgroup_create(lab.key(GONE.topic), lab.app_id, id="$")
    await eventually(lambda: is_empty(GONE), what="this one trimmed as well")
