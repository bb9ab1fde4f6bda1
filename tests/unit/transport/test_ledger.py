"""The ledger against a plain model: a list of what was admitted, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count
from typing import Any

import pytest
from faust.types import TP
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from streams.transport import Entry, StreamConfig, StreamLayout
from streams.transport.ledger import Ledger

CAPACITY, READ_SIZE = 7, 3
PARTITIONS = [TP("t", 0), TP("t", 1), TP("u", 0)]
LAYOUT = StreamLayout("{a}:")
LAYOUT.declare("t", 2, StreamConfig())
LAYOUT.declare("u", 1, StreamConfig())
STREAMS = {stream.tp: stream for stream in LAYOUT.all_streams(["t", "u"])}


def _some_of(data: Any, ids: Iterable[bytes]) -> list[bytes]:
    found = sorted(ids)
    return data.draw(st.lists(st.sampled_from(found), unique=True)) if found else []


class LedgerMachine(RuleBasedStateMachine):
    """Deliveries, settlements, acknowledgements, trimming and terms in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.woken = 0
        self.ledger = Ledger(capacity=CAPACITY, read_size=READ_SIZE, on_room=self._wake)
        self.ids = count(1)
        self.partitions: set[TP] = set()
        self.closing: set[TP] = set()
        #: Of the present term, as Redis has them: pending ids by partition.
        self.pending: dict[TP, set[bytes]] = {tp: set() for tp in PARTITIONS}
        self.in_hand: dict[TP, dict[bytes, Entry]] = {tp: {} for tp in PARTITIONS}
        self.unsent: dict[TP, set[bytes]] = {tp: set() for tp in PARTITIONS}
        self.lost: set[tuple[TP, bytes]] = set()
        self.stale: list[Entry] = []

    def _wake(self) -> None:
        self.woken += 1

    def _end_term(self, tp: TP) -> None:
        self.stale += self.in_hand[tp].values()
        self.in_hand[tp] = {}
        self.unsent[tp] = set()
        self.closing.discard(tp)

    @rule(tp=st.sampled_from(PARTITIONS))
    def begin_term(self, tp: TP) -> None:
        self._end_term(tp)
        self.partitions.add(tp)
        self.ledger.open(tp)

    @rule(tp=st.sampled_from(PARTITIONS))
    def end_term(self, tp: TP) -> None:
        self._end_term(tp)
        self.partitions.discard(tp)
        self.ledger.close(tp)

    @rule(tp=st.sampled_from(PARTITIONS))
    def begin_to_end_term(self, tp: TP) -> None:
        self.ledger.begin_closing(tp)
        if tp in self.partitions:
            self.closing.add(tp)
        assert not self.ledger.is_open(tp)
        assert self.ledger.admit(tp, [(b"1-1", [])]) == []

    @rule(data=st.data())
    def work(self, data: Any) -> None:
        """Work may be begun on what is in hand of partitions that do not end."""
        everything = [entry for entries in self.in_hand.values() for entry in entries.values()]
        chosen = (
            data.draw(st.lists(st.sampled_from([*everything, *self.stale]), unique=True))
            if (everything or self.stale)
            else []
        )
        with self.ledger.working(chosen) as ours:
            expected = {e for e in chosen if e in everything and e.tp not in self.closing}
            assert ours == expected

    @rule(tp=st.sampled_from(PARTITIONS), size=st.integers(1, READ_SIZE))
    def read_new(self, tp: TP, size: int) -> None:
        if not self.ledger.has_room(tp):
            return
        ids = [b"%d-0" % next(self.ids) for _ in range(size)]
        self.pending[tp].update(ids)
        admitted = self.ledger.admit(tp, [(entry_id, [b"v", entry_id]) for entry_id in ids])
        assert [entry.id for entry in admitted] == ids
        assert all(entry.tp == tp for entry in admitted)
        self.in_hand[tp] |= {entry.id: entry for entry in admitted}

    @rule(tp=st.sampled_from(PARTITIONS), size=st.integers(1, READ_SIZE))
    def read_pending_again(self, tp: TP, size: int) -> None:
        """What is under way is no news; what is not, is."""
        if not self.ledger.has_room(tp):
            return
        order = sorted(self.pending[tp], key=lambda entry_id: int(entry_id[:-2]))
        known = self.in_hand[tp].keys() | self.unsent[tp]
        fresh = [entry_id for entry_id in order if entry_id not in known][:size]
        shown = [entry_id for entry_id in order if entry_id in known or entry_id in fresh]
        admitted = self.ledger.admit(tp, [(entry_id, []) for entry_id in shown])
        assert [entry.id for entry in admitted] == fresh
        self.in_hand[tp] |= {entry.id: entry for entry in admitted}

    @rule(tp=st.sampled_from(PARTITIONS), data=st.data(), trimmed=st.booleans())
    def acknowledge_while_pending_is_read(self, tp: TP, data: Any, trimmed: bool) -> None:
        """What is settled between the question and the answer is neither new nor lost."""
        asked = sorted(self.in_hand[tp].keys() | self.unsent[tp])
        with self.ledger.reading_pending([tp]):
            settled = _some_of(data, self.in_hand[tp])
            self.ledger.settle([self.in_hand[tp].pop(entry_id) for entry_id in settled])
            self.unsent[tp].update(settled)
            self.acknowledge(tp, data)
            if trimmed:
                assert self.ledger.lose(tp, asked) == []
            else:
                assert self.ledger.admit(tp, [(entry_id, []) for entry_id in asked]) == []

    @rule(data=st.data())
    def settle(self, data: Any) -> None:
        everything = [entry for entries in self.in_hand.values() for entry in entries.values()]
        if not everything:
            return
        chosen = data.draw(st.lists(st.sampled_from(everything)))  # some of them twice
        full = {tp for tp in PARTITIONS if not self.ledger.has_room(tp)} & self.partitions
        woken = self.woken
        settled = self.ledger.settle(chosen)
        expected: dict[TP, list[bytes]] = {}
        for entry in dict.fromkeys(chosen):
            expected.setdefault(entry.tp, []).append(entry.id)
            del self.in_hand[entry.tp][entry.id]
            self.unsent[entry.tp].add(entry.id)
        assert settled == expected
        opened = {tp for tp in full if self.ledger.has_room(tp)}
        assert self.woken - woken == len(opened)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def settle_what_is_of_an_earlier_term(self, data: Any) -> None:
        entry = data.draw(st.sampled_from(self.stale))
        assert self.ledger.settle([entry]) == {}

    @rule(tp=st.sampled_from(PARTITIONS), data=st.data())
    def acknowledge(self, tp: TP, data: Any) -> None:
        sent = _some_of(data, self.unsent[tp])
        self.ledger.acknowledged(tp, sent)
        self.unsent[tp] -= set(sent)
        self.pending[tp] -= set(sent)

    @rule(tp=st.sampled_from(PARTITIONS))
    def find_everything_pending_trimmed(self, tp: TP) -> None:
        """Lost is what is neither in hand nor settled, and each is told once."""
        lost = self.ledger.lose(tp, sorted(self.pending[tp]))
        if tp not in self.partitions:
            assert lost == []
            return
        known = self.in_hand[tp].keys() | self.unsent[tp]
        assert lost == sorted(self.pending[tp] - known)
        assert self.ledger.lose(tp, lost) == []
        self.unsent[tp] |= set(lost)

    @invariant()
    def counts_are_right_and_bounded(self) -> None:
        total = 0
        for tp in PARTITIONS:
            in_hand = len(self.in_hand[tp])
            total += in_hand
            assert self.ledger.unsettled(tp) == in_hand <= CAPACITY
            open_here = tp in self.partitions and tp not in self.closing
            roomy = open_here and in_hand + READ_SIZE <= CAPACITY
            assert self.ledger.has_room(tp) == roomy
            assert self.ledger.with_room([STREAMS[tp]]) == [STREAMS[tp]] * roomy
            assert self.ledger.in_hand(tp) == in_hand + len(self.unsent[tp])
        assert self.ledger.total_unsettled() == total


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_partition_that_is_not_ours_takes_nothing_in() -> None:
    ledger = Ledger(capacity=4, read_size=2, on_room=lambda: None)
    assert ledger.admit(PARTITIONS[0], [(b"1-0", [])]) == []
    assert not ledger.has_room(PARTITIONS[0])


async def test_waiting_for_the_end_waits_for_the_work_and_its_acknowledgement() -> None:
    tp = PARTITIONS[0]
    ledger = Ledger(capacity=4, read_size=2, on_room=lambda: None)
    ledger.open(tp)
    first, second = ledger.admit(tp, [(b"1-0", []), (b"2-0", [])])
    ledger.begin_closing(tp)
    await ledger.wait_finished(tp, everything=False)  # nothing was begun
    waiting = asyncio.create_task(ledger.wait_finished(tp, everything=True))
    await asyncio.sleep(0)
    assert not waiting.done()
    ledger.settle([first, second])
    await asyncio.sleep(0)
    assert not waiting.done()
    ledger.acknowledged(tp, [first.id, second.id])
    await asyncio.wait_for(waiting, 5)


async def test_work_that_fails_is_over_as_well() -> None:
    tp = PARTITIONS[0]
    ledger = Ledger(capacity=4, read_size=2, on_room=lambda: None)
    ledger.open(tp)
    entries = ledger.admit(tp, [(b"1-0", [])])
    with pytest.raises(RuntimeError), ledger.working(entries):
        raise RuntimeError
    await asyncio.wait_for(ledger.wait_finished(tp, everything=False), 5)


def test_of_a_topic_that_is_held_only_a_little_is_in_hand() -> None:
    woken: list[None] = []
    ledger = Ledger(capacity=200, read_size=20, on_room=lambda: woken.append(None))
    tp, other = TP("held", 0), TP("other", 0)
    for partition in (tp, other):
        ledger.open(partition)
        ledger.admit(partition, [(b"%d-0" % n, []) for n in range(60)])
    ledger.hold("held")
    assert (ledger.has_room(tp), ledger.has_room(other)) == (False, True)
    ledger.settle(ledger.admit(tp, [(b"%d-0" % n, []) for n in range(60, 70)]))
    assert not woken
    later = TP("held", 1)
    ledger.open(later)
    ledger.admit(later, [(b"%d-0" % n, []) for n in range(60)])
    assert not ledger.has_room(later)
    ledger.let_go("held")
    assert ledger.has_room(later)
    assert (ledger.has_room(tp), len(woken)) == (True, 1)
    ledger.let_go("held")
    assert len(woken) == 1
