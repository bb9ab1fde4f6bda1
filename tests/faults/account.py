"""The account of a run: each published entry is exactly one of done, skipped, dead and lost.

What became of an entry is told by what is found outside the workers: rows, audit rows and
watermarks in Postgres, letters, deliveries at the receivers, and what was recorded as lost. The
oracle, run over the log without what is lost, says what each should have become. Whatever does
not agree is said with the id of the entry.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any
from uuid import UUID, uuid5

from tests.event_log import EventLog
from tests.oracle import AuditRow, Delivery, Entry, Outcome, Row, replay
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground, Receiver

__all__ = ["Books", "Gap", "assert_accounted", "complaints", "left_behind", "read_books", "settled"]

#: What ids of audit rows are made of; rows of older workers must stay recognisable for ever.
AUDIT_IDS = UUID("6f1d2c0e-6d0b-5c7e-9a53-0c1d2f7a9e44")
#: Entries of one capsule that leave no trace but its row, and may be lost or not.
MUTE_MAX = 8
#: More than these are not worth reading.
COMPLAINTS_MAX = 20


@dataclass(frozen=True)
class Gap:
    """Entries of the source that Redis no longer had, by their ids or by what is around them."""

    #: Empty: not known.
    after_id: str = ""
    #: Empty: nothing had come since.
    before_id: str = ""
    entry_ids: tuple[str, ...] = ()

    def candidates(self, ids: Sequence[str], orders: Sequence[tuple[int, int]]) -> Sequence[str]:
        """Which of `ids`, all of the stream in its order, may be among them."""
        if self.entry_ids:
            return self.entry_ids
        start = bisect_right(orders, _order(self.after_id)) if self.after_id else 0
        end = bisect_left(orders, _order(self.before_id)) if self.before_id else len(ids)
        return ids[start:end]


@dataclass
class Books:
    """All that is found outside when the workers have stopped."""

    rows: dict[UUID, Row]
    #: By the row's own id, which follows from the entry's.
    audit: list[tuple[UUID, AuditRow]]
    watermarks: dict[UUID, str]
    #: Ids of the entries that there is a letter for.
    dead: list[str]
    #: Sink and entry id of each delivery that there is a letter for.
    dead_deliveries: list[tuple[str, str]]
    #: What each sink took, in the order it came.
    arrivals: dict[str, list[Delivery]]
    gaps: list[Gap] = field(default_factory=list)
    #: What should be gone and is not.
    left_behind: list[str] = field(default_factory=list)


def settled(ground: Ground) -> bool:
    """Whether nothing is left to do at any stage, the letters included."""
    if not ground.drained():
        return False
    with ground.redis() as client:
        for key in client.keys(f"{PREFIX}dead-letters:[0-9]*"):
            generated = client.xinfo_stream(key)["last-generated-id"]
            for group in client.xinfo_groups(key):
                if group["pending"] or (
                    group["last-delivered-id"] != generated and client.xlen(key)
                ):
                    return False
    return True


def left_behind(ground: Ground) -> list[str]:
    """What no worker is there for any more: pending entries, names, leases, retry states."""
    found: list[str] = []
    with ground.redis() as client:
        ours = client.scan_iter(f"{PREFIX}*:[0-9]*", _type="stream")
        for key in [SOURCE.encode(), *sorted(ours)]:
            for group in client.xinfo_groups(key) if client.exists(key) else ():
                if group["pending"]:
                    found.append(f"{key.decode()}: {group['pending']} pending")
                found.extend(
                    f"{key.decode()}: consumer {consumer['name'].decode()}"
                    for consumer in client.xinfo_consumers(key, group["name"])
                    if group["name"] == GROUP.encode()
                )
        for pattern in ("fleet:*", "retries:*", "parts:*"):
            found.extend(key.decode() for key in sorted(client.keys(PREFIX + pattern)))
        for key in sorted(client.keys(f"{PREFIX}counts:*")):
            counts = client.hgetall(key)
            for name, added in sorted(counts.items()):
                partition = name.partition(b"added:")[2]
                if partition and counts[b"done:" + partition] != added:
                    found.append(f"{key.decode()}, {partition.decode()}: counted as not done")
    return found


def read_books(ground: Ground, receivers: Mapping[str, Receiver]) -> Books:
    """Read all there is to know, once the workers have stopped."""
    outcome = ground.outcome()
    with ground.cursor() as cursor:
        cursor.execute("select id, team_id, resource_id, action, metadata from audit_logs")
        audit = [
            (UUID(row_id), AuditRow(UUID(team_id), resource_id, action, metadata, ""))
            for row_id, team_id, resource_id, action, metadata in cursor.fetchall()
        ]
        dead_deliveries = _select(
            cursor, "dead_letters", "sink, origin_id", "sink <> '' and state = 'dead'"
        )
        source = f"stream = '{SOURCE}'"
        named: dict[str, list[str]] = defaultdict(list)
        for account, entry_id in _select(cursor, "gap_entries", "account, entry_id", source):
            named[account].append(entry_id)
        gaps = [
            Gap(after_id, before_id, tuple(named[account]))
            for after_id, before_id, account in _select(
                cursor, "gaps", "after_id, before_id, account", source
            )
        ]
    return Books(
        rows=outcome.rows,
        audit=audit,
        watermarks=ground.watermarks(),
        dead=outcome.dead_lettered,
        dead_deliveries=dead_deliveries,
        arrivals={sink: receiver.arrivals for sink, receiver in receivers.items()},
        gaps=gaps,
        left_behind=left_behind(ground),
    )


def _select(cursor: Any, table: str, columns: str, where: str) -> list[tuple[Any, ...]]:
    """All rows of one of the reconciler's own tables, where it is there."""
    cursor.execute("select to_regclass(%s)", (f"capsule_reconciler.{table}",))
    if cursor.fetchone()[0] is None:
        return []
    cursor.execute(f"select {columns} from capsule_reconciler.{table} where {where}")  # noqa: S608
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def assert_accounted(
    ground: Ground,
    log: EventLog,
    receivers: Receiver | Mapping[str, Receiver] | None = None,
    *,
    lost: Collection[str] = (),
    lost_deliveries: Collection[str] = (),
) -> Counter[str]:
    """Fail, naming each entry, unless all is accounted for; return how many ended how.

    Arguments:
        receivers: by the name of their sink; one alone is called ``receiver``.
        lost: ids of entries that Redis is known to have lost.
        lost_deliveries: ids of entries that are done, but whose deliveries Redis has lost.
    """
    named = {"receiver": receivers} if isinstance(receivers, Receiver) else receivers or {}
    books = read_books(ground, named)
    found, ends = complaints(books, log, lost=lost, lost_deliveries=lost_deliveries)
    if found:
        more = [f"and {len(found) - COMPLAINTS_MAX} more"] if len(found) > COMPLAINTS_MAX else []
        raise AssertionError("\n".join(["the account is open:", *found[:COMPLAINTS_MAX], *more]))
    return ends


def complaints(
    books: Books,
    log: EventLog,
    *,
    lost: Collection[str] = (),
    lost_deliveries: Collection[str] = (),
) -> tuple[list[str], Counter[str]]:
    """Return what does not agree, and how many entries ended how."""
    account = _Account(books, log, frozenset(lost), frozenset(lost_deliveries))
    found = [
        *account.ends(),
        *account.audit_rows(),
        *account.deliveries(),
        *account.rows(),
        *(f"left behind: {what}" for what in books.left_behind),
    ]
    return found, account.counts


class _Account:
    """One run's books held against what the oracle makes of its log."""

    def __init__(
        self, books: Books, log: EventLog, lost: frozenset[str], lost_deliveries: frozenset[str]
    ) -> None:
        self._books = books
        self._log = log
        everything = replay(log.rows, log.entries)
        self._capsules = {
            entry_id: capsule
            for entry_id, payload in log.entries
            if (capsule := _capsule_of(payload)) is not None
        }
        self._entries_by_audit_id = {
            uuid5(AUDIT_IDS, f"{entry_id}/{capsule}"): entry_id
            for entry_id, capsule in self._capsules.items()
        }
        self._traces = self._find_traces()
        self._lost = lost | self._lost_in_gaps(everything)
        self._lost_deliveries = lost_deliveries
        self._kept = [entry for entry in log.entries if entry[0] not in self._lost]
        self._expected: Outcome = replay(log.rows, self._kept)
        self.counts: Counter[str] = Counter()

    def _find_traces(self) -> dict[str, set[str]]:
        """What each entry has left, as the end that it is a sign of."""
        traces: dict[str, set[str]] = defaultdict(set)
        for entry_id in self._books.dead:
            traces[entry_id].add("dead")
        for row_id, _ in self._books.audit:
            traces[self._entry_of_audit_row(row_id)].add("done")
        for arrivals in self._books.arrivals.values():
            for delivery in arrivals:
                traces[delivery.delivery_id].add("done")
        for _, entry_id in self._books.dead_deliveries:
            traces[entry_id].add("done")
        return traces

    def _entry_of_audit_row(self, row_id: UUID) -> str:
        return self._entries_by_audit_id.get(row_id, f"audit row {row_id}, of no entry")

    def _lost_in_gaps(self, everything: Outcome) -> set[str]:
        """What lies in a gap, and should have left a trace, and has not.

        What was pending when it was trimmed may have had its effects all the same. Where nothing
        had come since, the watermarks tell what came before the loss and what after it.
        """
        traced = {*everything.done, *everything.dead_lettered}
        ids = [entry_id for entry_id, _ in self._log.entries]
        orders = [_order(entry_id) for entry_id in ids]
        lost = {
            entry_id
            for gap in self._books.gaps
            for entry_id in gap.candidates(ids, orders)
            if entry_id in traced
            and not self._traces.get(entry_id)
            and (gap.before_id or gap.entry_ids or not self._is_marked(entry_id))
        }
        loud = {row.entry_id for row in everything.audit}
        for deliveries in everything.deliveries.values():
            loud.update(delivery.delivery_id for delivery in deliveries)
        mute = lost.intersection(everything.done) - loud
        return lost - self._done_all_the_same(lost, mute)

    def _done_all_the_same(self, lost: set[str], mute: set[str]) -> set[str]:
        """Those of the `mute` entries that were not lost: only their capsules' rows can tell."""
        by_capsule: dict[UUID, list[Entry]] = defaultdict(list)
        for entry in self._log.entries:
            if (capsule := self._capsules.get(entry[0])) is not None:
                by_capsule[capsule].append(entry)
        done: set[str] = set()
        for capsule in {self._capsules[entry_id] for entry_id in mute}:
            before = {capsule: self._log.rows[capsule]} if capsule in self._log.rows else {}
            open_ends = [e for e, _ in by_capsule[capsule] if e in mute][:MUTE_MAX]
            for n in range(len(open_ends) + 1):
                fitting = [
                    kept
                    for kept in combinations(open_ends, n)
                    if self._fits(capsule, before, by_capsule[capsule], lost.difference(kept))
                ]
                if fitting:
                    done.update(fitting[0])
                    break
        return done

    def _fits(
        self, capsule: UUID, before: dict[UUID, Row], entries: list[Entry], lost: set[str]
    ) -> bool:
        """Whether the capsule's row is what its entries, but for the lost ones, make of it."""
        kept = [entry for entry in entries if entry[0] not in lost]
        return replay(before, kept).rows.get(capsule) == self._books.rows.get(capsule)

    def _is_marked(self, entry_id: str) -> bool:
        """Whether the watermark of its capsule has come to it, or passed it."""
        capsule = self._capsules.get(entry_id)
        mark = None if capsule is None else self._books.watermarks.get(capsule)
        return mark is not None and _order(mark) >= _order(entry_id)

    # -- The four parts of the account

    def ends(self) -> Iterator[str]:
        """Each entry has one end, and the one that the rules give it."""
        rules = dict.fromkeys(self._expected.done, "done")
        rules |= dict.fromkeys(self._expected.skipped, "skipped")
        rules |= dict.fromkeys(self._expected.dead_lettered, "dead")
        published = {entry_id for entry_id, _ in self._log.entries}
        for entry_id, _ in self._log.entries:
            ends = set(self._traces.get(entry_id, ()))
            if entry_id in self._lost:
                ends.add("lost")
                rules[entry_id] = "lost"
            rule = rules[entry_id]
            if not ends and rule == "skipped":
                ends = {"skipped"}  # it leaves nothing, and nothing is there
            if not ends and rule == "done" and self._is_marked(entry_id):
                ends = {"done"}
            if ends == {rule}:
                self.counts[rule] += 1
            elif not ends:
                yield f"{entry_id}: should be {rule}, and there is no trace of it"
            else:
                yield f"{entry_id}: should be {rule}, and is {' and '.join(sorted(ends))}"
            if rule == "done" and not self._is_marked(entry_id):
                yield f"{entry_id}: done, and its capsule's watermark is below it"
        for entry_id in sorted(self._traces.keys() - published):
            yield f"{entry_id}: never published"
        for entry_id, times in Counter(self._books.dead).items():
            if times > 1:
                yield f"{entry_id}: {times} letters"

    def audit_rows(self) -> Iterator[str]:
        """Each failure that needs an audit row has one, with what the contract says."""
        found: dict[str, list[AuditRow]] = defaultdict(list)
        for row_id, row in self._books.audit:
            found[self._entry_of_audit_row(row_id)].append(row)
        due = {row.entry_id: row for row in self._expected.audit}
        for entry_id in sorted(due.keys() | found.keys(), key=str):
            rows = found.get(entry_id, [])
            if len(rows) != (1 if entry_id in due else 0):
                yield f"{entry_id}: {len(rows)} audit rows, due {1 if entry_id in due else 0}"
            elif rows and _content(rows[0]) != _content(due[entry_id]):
                yield f"{entry_id}: audit row {_content(rows[0])}, due {_content(due[entry_id])}"

    def deliveries(self) -> Iterator[str]:
        """Each sink has taken each delivery, under its own id, in the capsule's order."""
        for sink, arrivals in self._books.arrivals.items():
            excused = self._lost_deliveries | {
                entry_id for name, entry_id in self._books.dead_deliveries if name == sink
            }
            first: dict[UUID, dict[str, Delivery]] = defaultdict(dict)
            for delivery in arrivals:
                if first[delivery.capsule_id].setdefault(delivery.delivery_id, delivery) != (
                    delivery
                ):
                    yield f"{delivery.delivery_id}: repeated at {sink} with other content"
            for capsule in sorted(first.keys() | self._expected.deliveries.keys()):
                due = self._expected.deliveries.get(capsule, [])
                yield from _compare_order(sink, due, list(first[capsule].values()), excused)

    def rows(self) -> Iterator[str]:
        """Each row is as the oracle leaves it."""
        for capsule in sorted(self._expected.rows.keys() | self._books.rows.keys()):
            due, found = self._expected.rows.get(capsule), self._books.rows.get(capsule)
            if due != found:
                changes = ", ".join(self._changes_of(capsule)) or "no entry"
                yield f"{changes}: row of {capsule} is {found}, due {due}"

    def _changes_of(self, capsule: UUID) -> Iterator[str]:
        rows: Mapping[UUID, Row] = {
            capsule_id: row for capsule_id, row in self._log.rows.items() if capsule_id == capsule
        }
        for entry in self._kept:
            if self._capsules.get(entry[0]) == capsule:
                after = replay(rows, [entry]).rows
                if after != rows:
                    yield entry[0]
                rows = after


def _compare_order(
    sink: str, due: Sequence[Delivery], found: Sequence[Delivery], excused: Collection[str]
) -> Iterator[str]:
    due_by_id = {delivery.delivery_id: delivery for delivery in due}
    found_by_id = {delivery.delivery_id: delivery for delivery in found}
    for entry_id in due_by_id.keys() - found_by_id.keys() - set(excused):
        yield f"{entry_id}: not delivered to {sink}"
    for entry_id, delivery in found_by_id.items():
        if entry_id not in due_by_id:
            yield f"{entry_id}: delivered to {sink} and not due"
        elif delivery != due_by_id[entry_id]:
            yield f"{entry_id}: delivered to {sink} as {delivery}, due {due_by_id[entry_id]}"
    both_due = [entry_id for entry_id in due_by_id if entry_id in found_by_id]
    both_found = [entry_id for entry_id in found_by_id if entry_id in due_by_id]
    for wanted, came in zip(both_due, both_found, strict=True):
        if wanted != came:
            yield f"{came}: delivered to {sink} before {wanted}"
            return


def _content(row: AuditRow) -> tuple[str, str, str, str]:
    metadata = json.dumps(row.metadata, sort_keys=True)
    return str(row.team_id), row.resource_id, row.action, metadata


def _capsule_of(payload: bytes | None) -> UUID | None:
    """The capsule that an entry names, where it names one."""
    try:
        text = json.loads(payload or b"")["resource"]["id"]
        return UUID(int=int(text.removeprefix("cl-"), 36))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq or 0)
