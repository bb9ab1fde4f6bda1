"""The simulated control plane: the same for the same seed, and nothing a real one would not do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from uuid import UUID

import orjson
import pytest

from streams.events import Bad, CapsuleEvent, EntryId, Skip, SkipRule, Verb, read_event
from streams.simulation.rows import Batch
from streams.simulation.simulation import Kind, NewSandbox, Simulation, StatusChange, Step
from tests.oracle import Row, replay

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
#: By status of the capsule: what its host may report, and what the capsule then is.
LEGAL = {
    "": {"create": "running"},
    "running": {"pause": "paused", "destroy": "stopped"},
    "paused": {"resume": "running", "destroy": "stopped"},
    "error": {"destroy": "stopped"},
}
STEPS = 20_000


def simulate(
    *, seed: int = 1, steps: int = STEPS, capsules: int = 50, noise: float = 0.0, bad: float = 0.0
) -> list[Step]:
    simulation = Simulation(seed, capsules=capsules, noise=noise, bad=bad, clock=lambda: NOON)
    return list(islice(simulation.steps(), steps))


def reports(steps: list[Step]) -> Iterator[dict[str, Any]]:
    for step in steps:
        if step.kind is Kind.REPORT:
            assert step.payload is not None
            yield orjson.loads(step.payload)


def failed(report: dict[str, Any]) -> bool:
    return bool(report["outcome"] != "success")


def described(step: Step) -> tuple[object, ...]:
    """All that is in a step; capsules compare by identity."""
    rows = [
        (row.capsule_id, row.capsule.team_id, row.vcpus, row.guest_ip)
        if isinstance(row, NewSandbox)
        else row
        for row in step.rows
    ]
    return (rows, step.payload, step.kind, step.capsule_id)


def test_the_same_seed_gives_the_same_steps() -> None:
    first, second = (simulate(seed=7, steps=3000, noise=0.1, bad=0.05) for _ in range(2))
    assert [described(step) for step in first] == [described(step) for step in second]


def test_another_seed_gives_other_capsules() -> None:
    first, second = (simulate(seed=seed, steps=3000) for seed in (7, 8))
    ids = [{step.capsule_id for step in steps} - {None} for steps in (first, second)]
    assert not ids[0] & ids[1]


def test_each_capsule_lives_a_legal_life() -> None:
    statuses: dict[str, str] = defaultdict(str)
    for report in reports(simulate()):
        capsule = report["resource"]["id"]
        verb = report["event"].removeprefix("capsule.")
        assert verb in LEGAL[statuses[capsule]], f"{verb} while {statuses[capsule]}"
        if not failed(report):
            statuses[capsule] = LEGAL[statuses[capsule]][verb]
        elif verb in ("create", "resume"):
            statuses[capsule] = "error"
    assert set(statuses.values()) == {"running", "paused", "error", "stopped"}


def test_a_reconciler_that_keeps_up_has_each_row_right() -> None:
    """Played against the contract itself: no row is left in a passing status after its report."""
    rows: dict[UUID, Row] = {}
    for number, step in enumerate(simulate(steps=4000)):
        write(rows, step)
        if step.capsule_id is None:
            continue
        own = {step.capsule_id: rows[step.capsule_id]}
        rows |= replay(own, [(f"{number + 1}-0", step.payload)]).rows
        assert rows[step.capsule_id].status in {"running", "paused", "stopped", "error"}


def write(rows: dict[UUID, Row], step: Step) -> None:
    for write in step.rows:
        if isinstance(write, NewSandbox):
            assert write.capsule_id not in rows
            rows[write.capsule_id] = Row("starting", write.capsule.team_id)
        else:
            rows[write.capsule_id].status = write.status


def test_no_row_is_touched_before_a_host_acts_on_its_own_account() -> None:
    asked: set[UUID | None] = set()
    autonomous = 0
    for step in simulate():
        if step.kind is not Kind.REPORT:
            asked |= {row.capsule_id for row in step.rows}
        elif step.capsule_id in asked:
            asked.remove(step.capsule_id)
        else:
            autonomous += 1
            assert step.rows == ()
    assert autonomous > 100


def test_of_what_users_ask_for_the_control_plane_often_knows_the_end_itself() -> None:
    known = total = 0
    for step in simulate():
        if step.payload is None or orjson.loads(step.payload)["metadata"].get("reason"):
            continue
        total += 1
        known += any(isinstance(row, StatusChange) for row in step.rows)
    assert known / total == pytest.approx(0.3, abs=0.03)


def test_what_failed_has_a_reason_and_some_of_it_was_audited_already() -> None:
    events = [
        event
        for step in simulate()
        if isinstance(event := read_event(EntryId(1, 0), step.payload), CapsuleEvent)
        and not event.succeeded
    ]
    assert {event.verb for event in events} == {Verb.CREATE, Verb.RESUME}
    assert all(event.error for event in events)
    audited = [event.audit_needed for event in events].count(False)
    assert audited / len(events) == pytest.approx(0.25, abs=0.06)


def test_each_event_is_read_as_what_it_is_meant_to_be() -> None:
    steps = simulate(noise=0.2, bad=0.1)
    found = Counter((step.kind, type(read(step))) for step in steps if step.payload is not None)
    assert set(found) == {
        (Kind.REPORT, CapsuleEvent),
        (Kind.REPORT, Skip),  # a pause or a destroy that failed has no effect
        (Kind.NOISE, Skip),
        (Kind.BAD, Bad),
    }
    rules = {answer.rule for step in steps if isinstance(answer := read(step), Skip)}
    assert rules == set(SkipRule)


def read(step: Step) -> CapsuleEvent | Skip | Bad:
    return read_event(EntryId(1, 0), step.payload) if step.payload else Skip(SkipRule.NO_EFFECT)


def test_noise_and_bad_events_have_the_shares_asked_for() -> None:
    kinds = Counter(step.kind for step in simulate(noise=0.2, bad=0.1))
    events = kinds.total() - kinds[Kind.NOTHING]
    assert kinds[Kind.NOISE] / events == pytest.approx(0.2, abs=0.02)
    assert kinds[Kind.BAD] / events == pytest.approx(0.1, abs=0.02)


def test_as_many_capsules_live_as_asked_for() -> None:
    living: set[UUID | None] = set()
    for step in simulate(capsules=30):
        living |= {row.capsule_id for row in step.rows if isinstance(row, NewSandbox)}
        if step.kind is Kind.REPORT and b"capsule.destroy" in (step.payload or b""):
            event = read(step)
            if isinstance(event, CapsuleEvent):
                living.remove(step.capsule_id)
        assert len(living) <= 30
    assert len(living) > 15


def test_a_batch_lets_no_row_get_ahead_of_an_event_of_its_capsule() -> None:
    batch, reported, batches = Batch(), set[UUID](), 1
    for step in simulate():
        if not batch.has_room_for(step):
            batch, reported, batches = Batch(), set(), batches + 1
        batch.add(step)
        assert not reported & {row.capsule_id for row in step.rows}
        reported |= {step.capsule_id} if step.capsule_id else set()
    assert batches < STEPS / 10
