"""Any course of events: workers come, stop and crash, answers are lost, entries are settled."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import faust
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.transport import Entry

from .lab import EXPLICIT, Lab, LabApp
from .waiting import eventually

PARTITIONS = 2


#: A partition and an id there.
Place = tuple[int, bytes]


def place(entry: Entry) -> Place:
    return entry.tp.partition, entry.id


def number(entry_id: bytes) -> tuple[int, int]:
    ms, _, seq = entry_id.partition(b"-")
    return int(ms), int(seq)


@dataclass
class Life:
    """One worker's life, and what it was given in it."""

    app: LabApp
    #: What was settled, and acknowledged, before it.
    settled_before: frozenset[Place]
    given: list[Entry] = field(default_factory=list)

    def numbers(self, partition: int) -> list[tuple[int, int]]:
        return [number(entry.id) for entry in self.given if entry.tp.partition == partition]


class Course:
    """What was sent and settled so far, over all lives."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.unsettled: set[Place] = set()
        self.settled: set[Place] = set()
        self.life: Life | None = None

    def key(self, partition: int) -> str:
        return self.lab.key(self.name, partition)

    async def begin(self) -> Life:
        """Begin a life, if there is none, and wait until it has all that is not settled."""
        if self.life is None:
            app = self.lab.app(fetch_count=4, prefetch_entries=100, sweep_s=60, block_ms=20_000)
            life = self.life = Life(app, frozenset(self.settled))

            async def agent(stream: faust.StreamT[list[Entry]]) -> None:
                async for entries in stream:
                    life.given += entries

            topic = app.stream_topic(self.name, EXPLICIT, partitions=PARTITIONS)
            app.agent(topic, name="agent")(agent)
            await self.lab.start_and_own(app)
        life = self.life
        missing = "what is not settled"
        await eventually(lambda: self.unsettled <= set(map(place, life.given)), what=missing)
        return life

    async def send(self, partition: int, count: int) -> None:
        ids = await self.lab.add(self.key(partition), *[b"v"] * count)
        self.unsettled |= {(partition, entry_id) for entry_id in ids}

    async def lose_answer(self, partition: int, count: int) -> None:
        await self.begin()
        reader = await self.lab.reader_id()
        ids = await self.lab.add_and_lose(self.key(partition), *[b"v"] * count)
        self.unsettled |= {(partition, entry_id) for entry_id in ids}
        await self.lab.redis.client_kill_filter(_id=str(reader))

    async def settle(self, seed: int) -> None:
        life = await self.begin()
        chosen = random.Random(seed).sample(
            open_ := [entry for entry in life.given if place(entry) in self.unsettled],
            k=random.Random(seed).randint(0, len(open_)),
        )
        life.app.redis_consumer.settle(chosen)
        self.unsettled -= set(map(place, chosen))
        self.settled |= set(map(place, chosen))
        for partition in range(PARTITIONS):
            await eventually(
                lambda partition=partition: self._pending_as_expected(partition),  # type: ignore[misc]
                what="the acknowledgements",
            )

    async def _pending_as_expected(self, partition: int) -> bool:
        expected = [entry_id for where, entry_id in self.unsettled if where == partition]
        return await self.lab.pending(self.key(partition)) == sorted(expected, key=number)

    async def end(self, how: str) -> None:
        life, self.life = self.life, None
        if life is None:
            return
        await (self.lab.stop(life.app) if how == "stop" else self.lab.crash(life.app))
        for partition in range(PARTITIONS):
            numbers = life.numbers(partition)
            assert numbers == sorted(set(numbers)), "in order, and each once in a life"
        assert life.settled_before.isdisjoint(map(place, life.given))


_partition = st.integers(0, PARTITIONS - 1)
_count = st.integers(1, 12)
STEPS = st.one_of(
    st.tuples(st.just("send"), _partition, _count),
    st.tuples(st.just("lose_answer"), _partition, _count),
    st.tuples(st.just("settle"), st.integers(0, 1000)),
    st.tuples(st.just("end"), st.sampled_from(["stop", "crash"])),
    st.tuples(st.just("begin")),
)


@settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=14), name=st.uuids().map(str))
async def test_whatever_happens_all_comes_in_order_until_it_is_settled(
    lab: Lab, steps: list[tuple[Any, ...]], name: str
) -> None:
    course = Course(lab, name)
    try:
        for step, *arguments in steps:
            await getattr(course, step)(*arguments)
        life = await course.begin()
        life.app.redis_consumer.settle(life.given)
        for partition in range(PARTITIONS):
            await lab.settled(course.key(partition))
        await course.end("stop")
    finally:
        if course.life is not None:  # it failed: the next example has its own worker
            await lab.crash(course.life.app)
