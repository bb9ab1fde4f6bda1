"""Going through pending entries: each partition has its turn, and none is missed or asked twice."""

from __future__ import annotations

from typing import NoReturn

import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from streams.transport import StreamConfig, StreamLayout
from streams.transport.layout import Stream
from streams.transport.ledger import Ledger
from streams.transport.parts import Parts
from streams.transport.pending import PendingEntries, Records, Sweep

from .clock import Clock
from .test_ledger import STREAMS

A, B, C = STREAMS.values()
INTERVAL_S = 12.0


def sweep() -> tuple[Sweep, Clock]:
    clock = Clock()
    sweep = Sweep(interval_s=INTERVAL_S, clock=clock)
    for stream in (A, B, C):
        sweep.had_turn(stream)
    return sweep, clock


def test_one_has_its_turn_after_the_other_and_each_once_in_the_interval() -> None:
    turns, clock = sweep()
    found = []
    for _ in range(24):
        clock.now_s += 1
        found.append(turns.due())
    expected = [[], [], [], [A], [], [], [], [B], [], [], [], [C]]
    assert found == expected * 2


def test_who_has_just_been_gone_through_has_the_last_turn() -> None:
    turns, clock = sweep()
    turns.had_turn(A)
    clock.now_s += 4
    assert turns.due() == [B]


def test_who_looks_late_finds_all_whose_turn_it_was_once() -> None:
    turns, clock = sweep()
    clock.now_s += 9
    assert turns.due() == [A, B]
    clock.now_s += 3
    assert turns.due() == [C]
    clock.now_s += 100 * INTERVAL_S
    assert turns.due() == [A, B, C]
    assert turns.due() == []


def test_what_is_given_up_has_no_turn_and_an_empty_sweep_saves_none_up() -> None:
    turns, clock = sweep()
    turns.forget(A)
    clock.now_s += INTERVAL_S
    assert turns.due() == [B, C]
    turns.forget(B)
    turns.forget(C)
    clock.now_s += INTERVAL_S
    assert turns.due() == []
    turns.had_turn(A)
    clock.now_s += INTERVAL_S / 2
    assert turns.due() == []


@given(waits_s=st.lists(st.sampled_from([0.5, 1.0, 3.0, 4.0, 7.0, 20.0]), min_size=1))
def test_whenever_it_is_looked_no_turn_is_later_than_one_interval_and_the_look(
    waits_s: list[float],
) -> None:
    turns, clock = sweep()
    last = dict.fromkeys((A, B, C), clock.now_s)
    for wait_s in waits_s:
        clock.now_s += wait_s
        for stream in turns.due():
            last[stream] = clock.now_s
        assert all(clock.now_s - at_s < INTERVAL_S for at_s in last.values())


class Course:
    """Pending entries of one stream, which holds `ids`, read with a COUNT of two and more."""

    def __init__(self, *ids: bytes) -> None:
        layout = StreamLayout("{a}:")
        layout.declare("t", 1, StreamConfig())
        (self.stream,) = layout.all_streams(["t"])
        self.ids = ids
        self.asked: list[tuple[bytes, int]] = []
        self.begin_anew_at: bytes | None = None
        self.ledger = Ledger(capacity=100, read_size=2, on_room=lambda: None)
        self.ledger.open(self.stream.tp)
        self.pending = PendingEntries(
            self.ledger,
            Parts(redis.asyncio.Redis(), layout, self.ledger, holding=lambda _: _never()),
            sweep_s=INTERVAL_S,
            read=self._read,
            read_size=lambda _: 2,
            count_max=6,
            hand_on=self._hand_on,
            lose=lambda *_: None,
        )

    async def _read(
        self, streams: list[Stream], after: list[bytes], count: int
    ) -> dict[bytes, Records]:
        assert streams == [self.stream]
        self.asked.append((after[0], count))
        if after[0] == self.begin_anew_at:
            self.begin_anew_at = None
            self.pending.begin(self.stream)
        records: Records = [(found, [b"v", b""]) for found in self.ids if found > after[0]]
        return {self.stream.key: records[:count]}

    async def _hand_on(self, stream: Stream, records: Records) -> None:
        self.ledger.admit(stream.tp, ((entry_id, fields or []) for entry_id, fields in records))

    async def go_through(self) -> list[tuple[bytes, int]]:
        """Return what was asked for: behind which id, and how many."""
        self.asked = []
        self.pending.begin(self.stream)
        while left := self.pending.left([self.stream]):
            await self.pending.go_on(left)
        return self.asked


def _never() -> NoReturn:
    raise AssertionError("nothing is noted here")


async def test_an_answer_that_is_not_full_was_the_last() -> None:
    course = Course(b"1-0", b"2-0", b"3-0")
    assert await course.go_through() == [(b"0", 2), (b"2-0", 2)]
    assert course.ledger.unsettled(course.stream.tp) == 3


async def test_of_what_is_in_hand_one_read_goes_through_all() -> None:
    course = Course(b"1-0", b"2-0", b"3-0")
    await course.go_through()
    assert await course.go_through() == [(b"0", 5)]


async def test_no_read_asks_for_more_than_it_may() -> None:
    course = Course(*[b"%d-0" % n for n in range(1, 8)])
    await course.go_through()
    assert await course.go_through() == [(b"0", 6), (b"6-0", 2)]


async def test_what_is_begun_anew_during_a_read_is_gone_through_once_more() -> None:
    for moment in (b"0", b"2-0"):
        course = Course(b"1-0", b"2-0", b"3-0")
        course.begin_anew_at = moment
        asked = [after for after, _ in await course.go_through()]
        assert (asked[-1], asked.count(b"0")) == (b"0", 2)
