"""Metrics are the truth, bounded in number, and there also while a server is not."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from config.embedded import EphemeralServers
from streams.events import SkipRule
from streams.operations.series import SERIES
from streams.outcomes import Outcome, Reason
from tests.event_log import generate
from tests.integration.watching import Samples, WatchedWorker, frozen
from tests.oracle import replay
from tests.reconciliation import SOURCE, Ground, Receiver
from tests.worker_process import eventually


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all series that have these labels."""
    return sum(
        value for found, value in samples[name].items() if labels.items() <= dict(found).items()
    )


def by(samples: Samples, name: str, label: str) -> dict[str, float]:
    return {dict(found)[label]: value for found, value in samples[name].items()}


async def test_after_a_run_of_a_known_log_the_counters_are_what_the_oracle_says(
    ground: Ground, tmp_path: Path
) -> None:
    log = generate(61, events=2_000, capsules=100)
    expected = replay(log.rows, log.entries)
    delivered = sum(map(len, expected.deliveries.values()))
    ground.load(log.rows)
    async with Receiver() as receiver:
        worker = WatchedWorker(tmp_path, **ground.settings(**receiver.settings()))
        await worker.wait_for("partitions_taken")
        ground.publish(log.entries)
        await eventually(ground.drained, what="all done")
        await asyncio.sleep(3)  # what is asked of the servers is kept for so long
        found = await worker.scrape()
        assert await worker.stop() == 0
    name = "capsules_stage_outcomes_total"
    assert total(found, "capsules_stage_received_total", stage="route") == len(log.entries)
    assert total(found, name, stage="route") == len(log.entries)
    assert total(found, name, outcome="dead") == len(expected.dead_lettered)
    assert total(found, name, stage="hook.receiver", outcome="done") == delivered
    routed = total(found, name, stage="route", outcome="done")
    assert total(found, "capsules_flow_entries_total", target="capsules") == routed
    verbs = ("create", "resume", "pause", "destroy", "failure")
    assert sum(total(found, name, stage=verb) for verb in verbs) == routed
    assert total(found, "capsules_flow_entries_total", target="audit_logs") == len(expected.audit)
    for stage in ("route", "hook.receiver", *verbs):
        ended = total(found, name, stage=stage) - total(found, name, stage=stage, outcome="retry")
        assert total(found, "capsules_stage_waited_seconds_count", stage=stage) == ended
        buckets = by_bound(found, "capsules_stage_waited_seconds_bucket", stage)
        assert buckets == sorted(buckets)
        assert buckets[-1] == ended
    ends = total(found, "capsules_stage_end_to_end_seconds_count", stage="hook.receiver")
    assert ends == delivered
    held = by(found, "capsules_partitions_held", "topic")
    assert held == {SOURCE: 1, "capsules": 16, "hooks.receiver": 16, "dead-letters": 1}
    assert held == by(found, "capsules_partitions", "topic")
    assert total(found, "capsules_in_hand_entries") == 0
    assert total(found, "capsules_backlog_entries") == 0
    assert len(found["capsules_backlog_entries"]) == 2 * len(held)
    assert found["capsules_dead_letters_open"] == {frozenset(): len(expected.dead_lettered)}
    assert found["capsules_gaps_open"] == {frozenset(): 0}
    assert found["capsules_ready"] == {frozenset(): 1}
    assert found["capsules_fleet_workers"] == {frozenset(): 1}
    assert total(found, "process_resident_memory_bytes") > 0


def by_bound(samples: Samples, name: str, stage: str) -> list[float]:
    """The counts of a histogram's buckets, in the order of their bounds."""
    found = [(dict(labels), n) for labels, n in samples[name].items()]
    of_stage = [(float(labels["le"]), n) for labels, n in found if labels["stage"] == stage]
    return [n for _, n in sorted(of_stage)]


def hostile(number: int) -> dict[bytes, bytes]:
    """Entries that would like to become labels."""
    name = f'x{number}"}} 1\ncapsules_ready{{a="'
    event = {
        "event": name if number % 2 else "capsule.create",
        "outcome": name if number % 3 else "error",
        "timestamp": name,
        "team_id": name,
        "actor": {"type": name if number % 5 == 0 else "system"},
        "resource": {"id": name if number % 7 else "cl-0000000000000000000000001", "type": name},
        "metadata": {name: name},
        "error": name,
    }
    payload = name.encode() if number % 11 == 0 else json.dumps(event).encode()
    return {name.encode() if number % 13 == 0 else b"payload": payload, b"traceparent": b"00-zz"}


async def test_no_label_has_a_value_that_came_in_an_entry(ground: Ground, tmp_path: Path) -> None:
    async with Receiver() as receiver:
        worker = WatchedWorker(tmp_path, **ground.settings(**receiver.settings()))
        await worker.wait_for("partitions_taken")
        with ground.redis() as client:
            client.xadd(SOURCE, {"payload": b"x"})
            await eventually(ground.drained, what="all done")
            before = await worker.scrape()
            for number in range(1_000):
                client.xadd(SOURCE, hostile(number))
        await eventually(ground.drained, what="all done")
        after = await worker.scrape()
        assert await worker.stop() == 0
    assert total(after, "capsules_stage_received_total", stage="route") == 1_001
    for name in SERIES:
        if SERIES[name].labels and name != "capsules_stage_outcomes_total":
            assert set(after[name]) == set(before[name]), name
    outcomes = [dict(labels) for labels in after["capsules_stage_outcomes_total"]]
    assert {labels["stage"] for labels in outcomes} <= set(
        by(before, "capsules_stage_received_total", "stage")
    )
    assert {labels["outcome"] for labels in outcomes} <= set(Outcome)
    assert {labels["reason"] for labels in outcomes} <= {"", *SkipRule, *Reason}


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_a_scrape_while_redis_is_away_says_what_the_worker_knows(
    servers: EphemeralServers, ground: Ground, tmp_path: Path, how: str
) -> None:
    log = generate(62, events=300, capsules=20)
    ground.load(log.rows)
    worker = WatchedWorker(tmp_path, **ground.settings())
    await worker.wait_for("partitions_taken")
    ground.publish(log.entries)
    await eventually(ground.drained, what="all done")
    before = await worker.scrape()
    if how == "stopped":
        servers.stop_redis()
        await _scrape_without_redis(worker, before)
        servers.start_redis()
    else:
        with frozen(servers.redis.running_pid()):
            await _scrape_without_redis(worker, before)
    await worker.answers("/readyz", 200, timeout_s=20)
    assert await worker.stop() == 0


async def _scrape_without_redis(worker: WatchedWorker, before: Samples) -> None:
    await asyncio.sleep(3.5)
    begun = time.monotonic()
    found = await worker.scrape()
    assert time.monotonic() - begun < 5
    name = "capsules_stage_outcomes_total"
    assert found[name] == before[name]
    assert by(found, "capsules_component_up", "component")["redis"] == 0
    assert found["capsules_ready"] == {frozenset(): 0}
    assert found["capsules_dead_letters_open"] == before["capsules_dead_letters_open"]
    assert by(found, "capsules_sounding_age_seconds", "server")["redis"] > 3


async def test_scrapes_ask_redis_no_more_than_once_a_second(ground: Ground, tmp_path: Path) -> None:
    worker = WatchedWorker(tmp_path, **ground.settings())
    await worker.wait_for("partitions_taken")

    def asked() -> int:
        with ground.redis() as client:
            stats = client.info("commandstats")
        return sum(
            stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "hgetall")
        )

    async def scraped(seconds: float) -> int:
        end = time.monotonic() + seconds
        scrapes = 0
        while time.monotonic() < end:
            await asyncio.gather(*(worker.get("/metrics") for _ in range(4)))
            scrapes += 4
        return scrapes

    before = asked()
    await asyncio.sleep(6)
    by_itself = asked() - before
    before = asked()
    scrapes = await scraped(6)
    assert scrapes > 30
    # A look is one EVAL and one HGETALL; that of the fleet is two HGETALL. Each comes every 3 s.
    assert asked() - before - by_itself <= 3 * 4
    assert await worker.stop() == 0
