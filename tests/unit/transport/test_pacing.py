"""When others' streams are read: at once after a pause, together in a flow, alone when behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.transport import StreamConfig, StreamLayout
from streams.transport.layout import Stream
from streams.transport.pacing import Pacing

from .clock import Clock

#: A power of two, so that what is added up is exact.
GATHER_S = 2**-7


def pacing() -> tuple[Pacing, Clock, Stream, Stream]:
    """Also one stream of somebody else and one of ours."""
    clock = Clock()
    layout = StreamLayout("{a}:")
    layout.declare("theirs", 1, StreamConfig(external_key="theirs"))
    layout.declare("ours", 1, StreamConfig())
    theirs, ours = layout.all_streams(["theirs", "ours"])
    return Pacing(gather_ms=GATHER_S * 1000, clock=clock), clock, theirs, ours


def test_what_comes_after_a_pause_is_read_at_once_and_so_is_what_follows_it_later() -> None:
    paced, clock, theirs, ours = pacing()
    for _ in range(3):
        paced.note(theirs.tp, 1, full=False)
        assert paced.ready([theirs, ours]) == ([theirs, ours], 0.0)
        clock.now_s += GATHER_S


def test_what_comes_faster_gathers_while_ours_is_read() -> None:
    paced, clock, theirs, ours = pacing()
    paced.note(theirs.tp, 1, full=False)
    clock.now_s += GATHER_S / 2
    paced.note(theirs.tp, 1, full=False)
    ready, wait_s = paced.ready([theirs, ours])
    assert ready == [ours]
    assert 0 < wait_s <= GATHER_S
    assert paced.alone(ready) == []
    clock.now_s += wait_s
    assert paced.ready([theirs, ours]) == ([theirs, ours], 0.0)


def test_several_at_once_are_a_flow_and_the_next_read_is_for_it_alone() -> None:
    paced, clock, theirs, ours = pacing()
    paced.note(theirs.tp, 2, full=False)
    assert paced.ready([theirs, ours])[0] == [ours]
    clock.now_s += GATHER_S
    ready, _ = paced.ready([theirs, ours])
    assert paced.alone(ready) == [theirs]
    paced.note(theirs.tp, 0, full=False)
    assert paced.alone([theirs, ours]) == []


def test_a_full_read_is_followed_by_the_next_at_once_but_not_for_ever() -> None:
    paced, _, theirs, ours = pacing()
    turns = []
    for _ in range(10):
        paced.note(theirs.tp, 500, full=True)
        assert paced.ready([theirs, ours]) == ([theirs, ours], 0.0)
        turns.append(paced.alone([theirs, ours]) == [theirs])
    assert turns == [True, True, True, True, False] * 2


def test_one_entry_where_no_more_was_asked_for_is_followed_by_a_read_of_that_stream_alone() -> None:
    paced, _, theirs, ours = pacing()
    paced.note(theirs.tp, 1, full=True)
    assert paced.alone([theirs, ours]) == [theirs]


def test_of_a_stream_that_was_given_up_nothing_is_known() -> None:
    paced, _, theirs, ours = pacing()
    paced.note(theirs.tp, 2, full=False)
    paced.forget(theirs.tp)
    assert paced.ready([theirs, ours]) == ([theirs, ours], 0.0)
    assert paced.alone([theirs, ours]) == []


@given(
    reads=st.lists(
        st.tuples(st.integers(0, 600), st.booleans(), st.floats(0, 3 * GATHER_S)), max_size=30
    )
)
def test_nothing_gathers_for_longer_than_it_may(reads: list[tuple[int, bool, float]]) -> None:
    paced, clock, theirs, ours = pacing()
    for came, full, pause_s in reads:
        paced.note(theirs.tp, came, full=full)
        ready, wait_s = paced.ready([theirs, ours])
        assert wait_s <= GATHER_S + 1e-9
        assert ours in ready
        assert (theirs in ready) == (wait_s == 0.0)
        clock.now_s += pause_s
        if pause_s > GATHER_S:
            assert paced.ready([theirs, ours])[0] == [theirs, ours]
