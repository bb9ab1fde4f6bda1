from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

import pytest
from hypothesis import given

from streams.events import Bad, CapsuleEvent, EntryId, Skip, read_event
from tests.event_log import STATUSES, EventLog, event_logs, generate, textual_id
from tests.oracle import AuditRow, Delivery, Entry, Outcome, Row, replay

CAPSULE = UUID(int=36)
TEAM = UUID(int=7)
OTHER_TEAM = UUID(int=8)


def event(verb: str, outcome: str | None = "success", **more: object) -> bytes:
    fields = {
        "event": f"capsule.{verb}",
        "outcome": outcome,
        "team_id": textual_id("team-", OTHER_TEAM),
        "actor": {"type": "system"},
        "resource": {"id": textual_id("cl-", CAPSULE), "type": "sandbox"},
    }
    return json.dumps({**fields, **more}).encode()


def after(status: str, *payloads: bytes | None) -> Outcome:
    entries = [(f"5-{number}", payload) for number, payload in enumerate(payloads)]
    return replay({CAPSULE: Row(status, TEAM, "old")}, entries)


@pytest.mark.parametrize(
    ("verb", "outcome", "changes_from", "to"),
    [
        ("create", "success", ["starting"], "running"),
        ("resume", "success", ["resuming"], "running"),
        ("pause", "success", ["running", "pausing"], "paused"),
        ("destroy", "success", ["running", "stopping"], "stopped"),
        *(
            (verb, outcome, ["running", "starting", "pausing", "resuming", "snapshotting"], "error")
            for verb in ("create", "resume")
            for outcome in ("error", "Success", None)
        ),
        ("pause", "error", [], ""),
        ("destroy", None, [], ""),
    ],
)
def test_a_status_changes_only_from_those_of_the_table(
    verb: str, outcome: str | None, changes_from: Sequence[str], to: str
) -> None:
    for status in STATUSES:
        row = after(status, event(verb, outcome)).rows[CAPSULE]
        assert row.status == (to if status in changes_from else status)
        assert row.last_updated_set == (status in changes_from)
        assert row.started_at_set == (status in changes_from and to == "running")


@pytest.mark.parametrize(("host_ip", "kept"), [("new", "new"), ("", "old"), (None, "old")])
def test_only_a_host_ip_that_says_something_is_written(host_ip: str | None, kept: str) -> None:
    outcome = after("starting", event("create", metadata={"host_ip": host_ip}))
    assert outcome.rows[CAPSULE].host_ip == kept


def test_a_failure_is_audited_whether_or_not_a_row_changed() -> None:
    capsule = textual_id("cl-", CAPSULE)
    outcome = after("stopped", event("create", "error", error="why"), event("resume", None))
    assert outcome.audit == [
        AuditRow(OTHER_TEAM, capsule, "create", {"reason": "create_failed", "error": "why"}, "5-0"),
        AuditRow(OTHER_TEAM, capsule, "resume", {"reason": "resume_failed"}, "5-1"),
    ]
    assert not outcome.deliveries


def test_a_transient_timeout_is_not_audited_and_still_an_error() -> None:
    outcome = after("running", event("create", "error", metadata={"reason": "transient_timeout"}))
    assert outcome.audit == []
    assert outcome.rows[CAPSULE].status == "error"


def test_an_audit_row_without_a_team_takes_the_capsules_own() -> None:
    (row,) = after("running", event("create", "error", team_id="?")).audit
    assert row.team_id == TEAM


def test_a_failure_of_no_known_team_is_dead_lettered() -> None:
    outcome = replay({}, [("5-0", event("create", "error", team_id=None))])
    assert (outcome.dead_lettered, outcome.audit, outcome.done) == (["5-0"], [], [])


def test_sinks_get_successes_in_order_whether_or_not_a_row_changed() -> None:
    outcome = after("error", event("destroy"), event("create", metadata={"a": "b"}, team_id=""))
    assert outcome.deliveries == {
        CAPSULE: [
            Delivery("5-0", "destroyed", CAPSULE, OTHER_TEAM, {}),
            Delivery("5-1", "created", CAPSULE, None, {"a": "b"}),
        ]
    }


def test_entries_end_as_skipped_done_or_dead_lettered() -> None:
    outcome = after(
        "running", None, b"{", event("pause", "error"), event("pause", actor=None), event("pause")
    )
    assert outcome.dead_lettered == ["5-0", "5-1"]
    assert outcome.skipped == ["5-2", "5-3"]
    assert outcome.done == ["5-4"]


def test_order_decides_what_a_capsule_ends_as() -> None:
    assert after("running", event("pause"), event("destroy")).rows[CAPSULE].status == "paused"
    assert after("running", event("destroy"), event("pause")).rows[CAPSULE].status == "stopped"


def assert_read_as_the_oracle_reads_it(log: EventLog) -> None:
    """An audit row that finds no team is the one dead letter only the database can tell."""
    outcome = replay(log.rows, log.entries)

    def ids(kind: type[object], entries: Sequence[Entry]) -> set[str]:
        return {
            text for text, raw in entries if isinstance(read_event(EntryId.parse(text), raw), kind)
        }

    assert ids(Skip, log.entries) == set(outcome.skipped)
    assert ids(Bad, log.entries) <= set(outcome.dead_lettered)
    assert ids(CapsuleEvent, log.entries) >= set(outcome.done)
    late = set(outcome.dead_lettered) - ids(Bad, log.entries)
    for text, raw in log.entries:
        if text in late:
            read = read_event(EntryId.parse(text), raw)
            assert isinstance(read, CapsuleEvent)
            assert read.audit_needed
            assert read.team_id is None
            assert read.capsule_id not in log.rows


@given(log=event_logs())
def test_small_logs_are_read_as_the_oracle_reads_them(log: EventLog) -> None:
    assert_read_as_the_oracle_reads_it(log)


def test_a_large_log_is_read_as_the_oracle_reads_it() -> None:
    assert_read_as_the_oracle_reads_it(generate(1, events=10_000, capsules=1_000))


def test_a_log_is_the_same_for_the_same_seed() -> None:
    first = generate(7, events=500, capsules=30)
    assert first == generate(7, events=500, capsules=30)
    assert first != generate(8, events=500, capsules=30)
    ids = [EntryId.parse(text) for text, _ in first.entries]
    assert ids == sorted(set(ids))
    assert len(ids) == 500


def test_a_large_log_has_a_fair_share_of_everything() -> None:
    log = generate(2, events=10_000, capsules=1_000)
    outcome = replay(log.rows, log.entries)
    assert {row.status for row in log.rows.values()} == set(STATUSES)
    assert len(log.rows) < 1_000
    changed = [row for row in outcome.rows.values() if row.last_updated_set]
    assert len(changed) > 500
    assert {row.status for row in changed} >= {"running", "paused", "stopped", "error"}
    assert 100 < len(outcome.dead_lettered) < 400
    assert len(outcome.audit) > 500
    assert len(outcome.skipped) > 500
