"""The cap on a sink's backlog: full at once, free again with some room, and who gives way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from agents.backlog_cap import BacklogCap
from agents.overflow import apportion
from config.settings import DeliverySettings
from streams.figures.meter import StageMeter
from streams.figures.sink_meter import SinkMeter


def cap(most: int = 100, **given: Any) -> BacklogCap:
    settings = DeliverySettings(name="billing", backlog_max=most, **given)
    return BacklogCap(settings, SinkMeter("billing"))


async def holds(cap: BacklogCap, stage: StageMeter) -> asyncio.Task[bool]:
    """A stage that is held up."""
    waiting = asyncio.ensure_future(cap.wait_for_room(stage, lambda: False))
    await asyncio.sleep(0)
    assert stage.blocked_by
    return waiting


async def test_what_this_worker_sends_counts_before_it_is_found() -> None:
    found, stage = cap(), StageMeter("pause")
    found.note_found(60, sent_before=0)
    found.note_sent(39)
    assert await found.wait_for_room(stage, lambda: False)
    found.note_sent(1)
    waiting = await holds(found, stage)
    assert stage.blocked_by == "sink.billing"
    # What was sent before it was asked for is in what is found; what is sent since is not.
    found.note_found(96, sent_before=40)
    await asyncio.sleep(0)
    assert not waiting.done()
    found.note_found(95, sent_before=40)
    assert await asyncio.wait_for(waiting, 5)
    assert stage.blocked_by == ""
    assert found.left == 5


async def test_who_waits_for_room_gives_up_when_the_worker_stops() -> None:
    found, stage = cap(), StageMeter("pause")
    found.note_found(100, sent_before=0)
    assert not await found.wait_for_room(stage, lambda: True)
    assert stage.blocked_by == ""


async def test_where_the_oldest_give_way_nobody_waits() -> None:
    found = cap(at_backlog_max="dead_letter_oldest")
    found.note_found(130, sent_before=0)
    assert await found.wait_for_room(StageMeter("pause"), lambda: False)
    assert (found.over, found.holds) == (30, False)


PARTITIONS = [TP("hooks.billing", n) for n in range(4)]


@given(
    depths=st.lists(st.integers(0, 1000), min_size=4, max_size=4),
    most=st.integers(0, 5000),
    owners=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_all_workers_together_end_as_many_as_are_too_many(
    depths: list[int], most: int, owners: list[int]
) -> None:
    by_partition = dict(zip(PARTITIONS, depths, strict=True))
    over = max(sum(depths) - most, 0)
    ended: dict[TP, int] = {}
    for worker in range(3):
        held = [tp for tp, owner in zip(PARTITIONS, owners, strict=True) if owner == worker]
        ended |= apportion(over, by_partition, held)
    assert sum(ended.values()) == over
    assert all(count <= by_partition[tp] for tp, count in ended.items())


@pytest.mark.parametrize("total", [1, 1_000_000])
def test_none_is_ended_where_none_is_too_many(total: int) -> None:
    assert apportion(0, {PARTITIONS[0]: total}, PARTITIONS) == {}
