"""What was read before is told again for the same bytes only, and not for ever."""

from __future__ import annotations

from unittest.mock import patch

import agents.readings
from agents.readings import Readings
from benchmarks.mixes import make_log
from streams.events import Bad, CapsuleEvent

PAYLOADS = [payload for _, payload in make_log("all", events=20, seed=1).entries]


def test_an_event_is_read_once() -> None:
    readings = Readings(payload_max_bytes=10_000)
    first = readings.read(b"5-1", PAYLOADS[0])
    with patch.object(agents.readings, "read_event", side_effect=AssertionError("read twice")):
        assert readings.read_again(b"5-1", PAYLOADS[0]) is first


def test_other_bytes_under_the_same_id_are_read() -> None:
    readings = Readings(payload_max_bytes=10_000)
    readings.read(b"5-1", PAYLOADS[0])
    other = readings.read_again(b"5-1", PAYLOADS[1])
    assert other == Readings(payload_max_bytes=10_000).read(b"5-1", PAYLOADS[1])
    assert isinstance(readings.read_again(b"5-2", b"no JSON"), Bad)


def test_what_is_kept_is_bounded_and_what_is_gone_is_read_again() -> None:
    with patch.object(agents.readings, "_KEPT", 8):
        readings = Readings(payload_max_bytes=10_000)
        for n, payload in enumerate(PAYLOADS):
            readings.read(b"%d-0" % n, payload)
            assert len(readings._recent) + len(readings._older) <= 8
        for n, payload in enumerate(PAYLOADS):
            event = readings.read_again(b"%d-0" % n, payload)
            assert isinstance(event, CapsuleEvent)
            assert event.source_id.ms == n
    assert not readings._recent
    assert not readings._older
