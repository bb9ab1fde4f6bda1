"""The logs that the benchmarks measure with are what their names say."""

from __future__ import annotations

import json
from collections import Counter
from copy import copy
from functools import partial
from uuid import UUID

import pytest

from benchmarks.comparison import Comparison
from benchmarks.contenders import Run
from benchmarks.cpu import Used
from benchmarks.growth import Cost, Growth
from benchmarks.latency import Latency, Paced
from benchmarks.mixes import MIXES, Log, make_log
from benchmarks.targets import verdicts
from tests.oracle import Entry, replay

EVENTS = 4_000


def capsule_of(entry: Entry) -> UUID:
    _, payload = entry
    assert payload is not None
    text = json.loads(payload)["resource"]["id"]
    return UUID(int=int(text.removeprefix("cl-"), 36))


def changing_share(log: Log) -> float:
    """Replay entry by entry, and say which part of them changed a row."""
    rows = {capsule_id: copy(row) for capsule_id, row in log.rows.items()}
    changed = 0
    for entry in log.entries:
        capsule_id = capsule_of(entry)
        before = rows[capsule_id]
        outcome = replay({capsule_id: before}, [entry])
        assert len(outcome.done) == 1, "every event is one that the reconciler deals with"
        rows[capsule_id] = outcome.rows[capsule_id]
        changed += rows[capsule_id].status != before.status
    return changed / len(log.entries)


def test_in_all_each_event_changes_a_row() -> None:
    assert changing_share(make_log("all", events=EVENTS, seed=1)) == 1.0


def test_in_tenth_about_one_event_in_ten_changes_a_row() -> None:
    assert 0.08 <= changing_share(make_log("tenth", events=EVENTS, seed=1)) <= 0.12


def test_in_hot_one_capsule_in_a_hundred_gets_half_of_the_events() -> None:
    log = make_log("hot", events=EVENTS, seed=1)
    counts = Counter(capsule_of(entry) for entry in log.entries)
    hottest = counts.most_common(len(log.rows) // 100)
    assert 0.47 <= sum(count for _, count in hottest) / EVENTS <= 0.53
    assert min(count for _, count in hottest) > 5 * max(
        count for capsule, count in counts.items() if capsule not in dict(hottest)
    )


@pytest.mark.parametrize("mix", MIXES)
def test_the_same_seed_makes_the_same_log(mix: str) -> None:
    log = make_log(mix, events=500, seed=1)
    assert len(log.entries) == 500
    assert make_log(mix, events=500, seed=1) == log
    assert make_log(mix, events=500, seed=2) != log


def test_what_misses_its_target_is_said_to() -> None:
    run = partial(Run, cpu_us=Used(1, 1, 1), wrong_rows=0)
    runs = {"one-at-a-time": [run(1_000)], "plain-loop": [run(20_000)], "reconciler": [run(8_000)]}
    slow = Paced(1_000, 1_000, p50_ms=9, p99_ms=31, max_ms=40, cpu_percent=1)
    found = verdicts(
        [Comparison("all", 1, 1, runs, {})],
        Latency(2.9, 1.4, 100, [slow]),
        [
            Growth("backlog", {10: Cost(1, Used(10, 1, 1)), 20: Cost(1, Used(11, 1, 1))}),
            Growth("workers", {1: Cost(10, Used(1, 1, 1)), 2: Cost(9, Used(1, 1, 1))}),
        ],
    )
    assert {verdict.what: verdict.met for verdict in found} == {
        "all: x one-at-a-time": True,
        "all: x plain-loop": False,
        "p99 at 1,000/s, ms": False,
        "idle CPU, %": True,
        "start to first effect, s": True,
        "cost, backlog 10 to 20": True,
        "two workers: x one": False,
    }
