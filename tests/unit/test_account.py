"""The account of a run is closed when all is right, and names the entry when something is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid5

import pytest

from tests.event_log import EventLog, generate, textual_id
from tests.faults.account import AUDIT_IDS, Books, Gap, complaints
from tests.oracle import Row, replay

LOG = generate(3, events=300, capsules=15)
SINKS = ("billing", "webhook")


def books_of(log: EventLog) -> Books:
    """The books of a run in which all went well."""
    outcome = replay(log.rows, log.entries)
    capsules = {d.delivery_id: d.capsule_id for ds in outcome.deliveries.values() for d in ds}
    capsules |= {
        row.entry_id: UUID(int=int(row.resource_id.removeprefix("cl-"), 36))
        for row in outcome.audit
    }
    arrivals = sorted(
        (delivery for deliveries in outcome.deliveries.values() for delivery in deliveries),
        key=lambda delivery: delivery.delivery_id,
    )
    return Books(
        rows=outcome.rows,
        audit=[
            (uuid5(AUDIT_IDS, f"{row.entry_id}/{capsules[row.entry_id]}"), row)
            for row in outcome.audit
        ],
        # Above all entries: which of them are done the other books say.
        watermarks=dict.fromkeys(_all_capsules(log), "9999999999999-0"),
        dead=list(outcome.dead_lettered),
        dead_deliveries=[],
        arrivals={sink: list(arrivals) for sink in SINKS},
    )


def _all_capsules(log: EventLog) -> set[UUID]:
    return {*log.rows, *replay(log.rows, log.entries).deliveries} | {
        UUID(int=int(row.resource_id.removeprefix("cl-"), 36))
        for row in replay(log.rows, log.entries).audit
    }


def found_in(books: Books, **more: object) -> list[str]:
    return complaints(books, LOG, **more)[0]  # type: ignore[arg-type]


def test_an_account_in_order_counts_each_entry_once() -> None:
    found, ends = complaints(books_of(LOG), LOG)
    assert found == []
    assert sum(ends.values()) == len(LOG.entries)
    assert set(ends) == {"done", "skipped", "dead"}


def without_an_audit_row(books: Books) -> str:
    _, row = books.audit.pop(5)
    return row.entry_id


def with_an_audit_row_twice(books: Books) -> str:
    books.audit.append(books.audit[5])
    return books.audit[5][1].entry_id


def with_an_audit_row_of_other_content(books: Books) -> str:
    row_id, row = books.audit[5]
    books.audit[5] = (row_id, replace(row, metadata={"reason": "another"}))
    return row.entry_id


def without_a_delivery(books: Books) -> str:
    return books.arrivals["billing"].pop(7).delivery_id


def with_two_deliveries_swapped(books: Books) -> str:
    arrivals = books.arrivals["billing"]
    first = arrivals[0]
    second = next(n for n in range(1, len(arrivals)) if arrivals[n].capsule_id == first.capsule_id)
    arrivals[0], arrivals[second] = arrivals[second], first
    return first.delivery_id


def with_a_repeat_that_differs(books: Books) -> str:
    again = replace(books.arrivals["billing"][3], type="paused", metadata={"n": "other"})
    books.arrivals["billing"].append(again)
    return again.delivery_id


def without_a_change_of_a_row(books: Books) -> str:
    # The last event of the log that changes a row, undone.
    for n in reversed(range(len(LOG.entries))):
        before = replay(LOG.rows, LOG.entries[:n]).rows
        changed = [c for c, row in before.items() if row != books.rows[c]]
        if changed:
            books.rows[changed[0]] = before[changed[0]]
            return LOG.entries[n][0]
    raise AssertionError("the log changes nothing")


def without_a_letter(books: Books) -> str:
    return books.dead.pop(0)


def with_a_letter_twice(books: Books) -> str:
    books.dead.append(books.dead[0])
    return books.dead[0]


def with_a_letter_for_what_was_done(books: Books) -> str:
    books.dead.append(books.arrivals["billing"][4].delivery_id)
    return books.dead[-1]


def with_a_delivery_of_what_is_skipped(books: Books) -> str:
    skipped = replay(LOG.rows, LOG.entries).skipped[3]
    books.arrivals["webhook"].append(replace(books.arrivals["webhook"][0], delivery_id=skipped))
    return skipped


def with_a_delivery_of_what_nobody_published(books: Books) -> str:
    books.arrivals["webhook"].append(replace(books.arrivals["webhook"][0], delivery_id="5-5"))
    return "5-5"


def with_a_watermark_that_stayed_behind(books: Books) -> str:
    delivery = books.arrivals["webhook"][-1]
    books.watermarks[delivery.capsule_id] = "0-1"
    return delivery.delivery_id


def with_something_pending(books: Books) -> str:
    books.left_behind.append("wrenn:events: 1 pending")
    return "wrenn:events: 1 pending"


@pytest.mark.parametrize(
    "spoil",
    [
        without_an_audit_row,
        with_an_audit_row_twice,
        with_an_audit_row_of_other_content,
        without_a_delivery,
        with_two_deliveries_swapped,
        with_a_repeat_that_differs,
        without_a_change_of_a_row,
        without_a_letter,
        with_a_letter_twice,
        with_a_letter_for_what_was_done,
        with_a_delivery_of_what_is_skipped,
        with_a_delivery_of_what_nobody_published,
        with_a_watermark_that_stayed_behind,
        with_something_pending,
    ],
    ids=lambda spoil: spoil.__name__.replace("_", " "),
)
def test_the_account_names_the_entry(spoil: Callable[[Books], str]) -> None:
    books = books_of(LOG)
    name = spoil(books)
    found = found_in(books)
    assert any(name in complaint for complaint in found), found


def test_what_is_lost_must_have_had_no_effect() -> None:
    delivered = books_of(LOG).arrivals["billing"][0].delivery_id
    found = found_in(books_of(LOG), lost=[delivered])
    assert f"{delivered}: should be lost, and is done and lost" in found


def test_what_is_lost_is_left_out_of_what_is_due() -> None:
    kept = [entry for n, entry in enumerate(LOG.entries) if n % 7]
    lost = [entry_id for n, (entry_id, _) in enumerate(LOG.entries) if n % 7 == 0]
    books = books_of(EventLog(LOG.rows, kept))
    found, ends = complaints(books, LOG, lost=lost)
    assert found == []
    assert ends["lost"] == len(lost)
    assert found_in(books) != []


def test_a_gap_without_names_excuses_what_lies_in_it_and_has_left_no_trace() -> None:
    kept = EventLog(LOG.rows, LOG.entries[:100] + LOG.entries[200:])
    books = books_of(kept)
    books.gaps = [Gap(LOG.entries[99][0], LOG.entries[200][0])]
    found, ends = complaints(books, LOG)
    assert found == []
    assert sum(ends.values()) == len(LOG.entries)
    assert ends["lost"] == len(replay(LOG.rows, LOG.entries[100:200]).done) + len(
        set(replay(LOG.rows, LOG.entries).dead_lettered) & {id_ for id_, _ in LOG.entries[100:200]}
    )


def test_a_gap_with_names_excuses_those_alone() -> None:
    done = replay(LOG.rows, LOG.entries).done[3:9]
    books = books_of(EventLog(LOG.rows, [entry for entry in LOG.entries if entry[0] not in done]))
    books.gaps = [Gap(entry_ids=tuple(done[1:]))]
    found = found_in(books)
    assert found != []
    assert all(complaint.startswith(done[0]) for complaint in found)
    books.gaps.append(Gap(entry_ids=(done[0],)))
    assert found_in(books) == []


def test_a_letter_for_a_delivery_excuses_this_sink_alone() -> None:
    books = books_of(LOG)
    gone = books.arrivals["billing"].pop(7).delivery_id
    books.dead_deliveries.append(("webhook", gone))
    assert found_in(books) == [f"{gone}: not delivered to billing"]
    books.dead_deliveries.append(("billing", gone))
    assert found_in(books) == []


@pytest.mark.parametrize("was_lost", [False, True])
def test_what_only_a_row_can_tell_is_told_by_it_also_inside_a_gap(was_lost: bool) -> None:
    """A failure by `transient_timeout` has neither audit row nor delivery."""
    capsule = UUID(int=2**127)
    event = {
        "event": "capsule.create",
        "outcome": "error",
        "actor": {"type": "system"},
        "resource": {"id": textual_id("cl-", capsule), "type": "sandbox"},
        "metadata": {"reason": "transient_timeout"},
    }
    rows = {capsule: Row("running", UUID(int=7), host_ip="192.0.2.1")}
    log = EventLog(rows, [("5-0", json.dumps(event).encode())])
    books = books_of(log)
    books.watermarks = {capsule: "9-0"}
    if was_lost:
        books.rows = replay(rows, []).rows
    books.gaps = [Gap("1-0", "9-0")]
    found, ends = complaints(books, log)
    assert found == []
    assert ends == {"lost" if was_lost else "done": 1}
