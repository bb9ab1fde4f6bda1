"""Whatever bytes stand where an event should, the answer is one of three and the oracle's.

The same with many more examples, guided by coverage and in a real run: tests/faults/test_fuzz.py.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from streams.events import Bad, CapsuleEvent, EntryId, Skip
from tests.fuzz.mutations import Mutator, mutated_log, seeds
from tests.fuzz.properties import check_delivery, check_payload, nesting
from tests.fuzz.strategies import DELIVERIES, ENTRY_IDS, PAYLOADS

SLOW_TO_MAKE = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=1_000, deadline=None, suppress_health_check=SLOW_TO_MAKE)
@given(payload=PAYLOADS, source_id=ENTRY_IDS)
def test_whatever_the_payload_the_answer_is_one_of_three_and_the_oracles(
    payload: bytes | None, source_id: EntryId
) -> None:
    check_payload(payload, source_id)


@settings(max_examples=400, deadline=None, suppress_health_check=SLOW_TO_MAKE)
@given(raw=DELIVERIES)
def test_what_is_no_delivery_is_refused_with_a_value_error_and_nothing_else(raw: bytes) -> None:
    check_delivery(raw)


def test_mutants_of_real_events_come_to_every_end() -> None:
    events = seeds(100)
    mutator = Mutator(3)
    answers = {
        type(check_payload(mutator.mutant(events[n % 100], events[-n % 100])))
        for n in range(2_000)
        if n % 100 < len(events) and -n % 100 < len(events)
    }
    assert answers == {CapsuleEvent, Skip, Bad}


def test_the_same_seed_makes_the_same_mutants() -> None:
    assert mutated_log(5, events=500, capsules=20) == mutated_log(5, events=500, capsules=20)
    assert mutated_log(5, events=500, capsules=20) != mutated_log(6, events=500, capsules=20)


@pytest.mark.parametrize(
    ("text", "levels"),
    [(b"", 0), (b"{}", 1), (b'{"a":[{}]}', 3), (b'["[[", "\\"[["]', 1), (b"[][][]", 1)],
)
def test_levels_are_those_of_brackets_outside_strings(text: bytes, levels: int) -> None:
    assert nesting(text) == levels
