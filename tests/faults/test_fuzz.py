"""A hundred thousand payloads that nobody would send: none stops the stream, none is unaccounted.

The small version is tests/unit/test_fuzz.py; what has to hold is in tests/fuzz/properties.py.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, seed, settings

from streams.events import EntryId
from tests.event_log import EventLog
from tests.faults.account import assert_accounted, settled
from tests.fuzz.mutations import mutated_log, odd_fields, seeds
from tests.fuzz.properties import check_delivery, check_payload, oracle_entries, room_to_recurse
from tests.fuzz.strategies import DELIVERIES, ENTRY_IDS, PAYLOADS
from tests.reconciliation import SOURCE, Ground, Receiver
from tests.worker_process import ROOT, WorkerProcess

PAYLOADS_IN_ALL = 100_000
RSS_MAX_BYTES = 200 * 2**20
SLOW_TO_MAKE = [HealthCheck.too_slow, HealthCheck.data_too_large]

#: Where there are wheels of atheris; pyproject.toml asks for it there and nowhere else.
COVERAGE_GUIDED = sysconfig.get_platform() == "linux-x86_64" and sys.version_info < (3, 14)


@pytest.mark.timeout(600)
@seed(1)
@settings(max_examples=17_000, deadline=None, suppress_health_check=SLOW_TO_MAKE)
@given(payload=PAYLOADS, source_id=ENTRY_IDS)
def test_seventeen_thousand_payloads_have_one_of_three_answers_and_the_oracles(
    payload: bytes | None, source_id: EntryId
) -> None:
    check_payload(payload, source_id)


@pytest.mark.timeout(300)
@seed(2)
@settings(max_examples=3_000, deadline=None, suppress_health_check=SLOW_TO_MAKE)
@given(raw=DELIVERIES)
def test_three_thousand_deliveries_are_read_or_refused_with_a_value_error(raw: bytes) -> None:
    check_delivery(raw)


def search(
    directory: Path, payloads: list[bytes], *options: str
) -> subprocess.CompletedProcess[str]:
    """Run the coverage-guided search from these payloads on."""
    corpus = directory / "corpus"
    corpus.mkdir()
    for index, payload in enumerate(payloads):
        (corpus / f"{index:04}").write_bytes(payload)
    (directory / "found").mkdir()
    return subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.target", *options, "-seed=1", "-timeout=10"),
            *(f"-artifact_prefix={directory}/", str(directory / "found"), str(corpus)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
    )


@pytest.mark.timeout(300)
@pytest.mark.skipif(not COVERAGE_GUIDED, reason="atheris has no wheel for this platform")
def test_a_search_guided_by_coverage_finds_no_payload_that_breaks_the_reading(
    tmp_path: Path,
) -> None:
    done = search(tmp_path, seeds(300), "-runs=80000", "-max_len=4096")
    assert done.returncode == 0, done.stderr[-5_000:]
    assert "Done 80000 runs" in done.stderr


@pytest.mark.skipif(not COVERAGE_GUIDED, reason="atheris has no wheel for this platform")
def test_the_search_finds_a_fault_that_was_planted_and_says_by_which_bytes(tmp_path: Path) -> None:
    sound = next(p for p in seeds(300) if b"capsule.create" in p and b'"system"' in p)
    done = search(tmp_path, [sound], "-runs=80000", "-max_len=4096", "--planted")
    assert done.returncode != 0
    assert "broken by: check_payload(b'" in done.stderr
    assert list(tmp_path.glob("crash-*"))


def fuzzed_fields(log: EventLog) -> Iterator[tuple[str, Mapping[bytes, bytes]]]:
    """What to publish: each entry's id and fields."""
    odd = odd_fields(9)
    for entry_id, payload in log.entries:
        yield entry_id, next(odd) if payload is None else {b"payload": payload}


def fuzzed_log() -> EventLog:
    """Mutants; one in a hundred without a payload, and the last with ids that no bigint holds."""
    log = mutated_log(9, events=PAYLOADS_IN_ALL - 2, capsules=2_000)
    rng = random.Random(9)
    entries = [(i, None if rng.random() < 0.01 else payload) for i, payload in log.entries]
    sound = next(payload for _, payload in log.entries if payload)
    last = [(f"{2**63}-0", sound), (f"{2**64 - 1}-{2**64 - 2}", sound)]
    return EventLog(log.rows, [*entries, *last])


def publish(ground: Ground, log: EventLog) -> None:
    """Append the entries as they are."""
    with ground.redis() as client:
        pipeline = client.pipeline(transaction=False)
        for number, (entry_id, fields) in enumerate(fuzzed_fields(log), 1):
            pipeline.xadd(SOURCE, dict(fields), id=entry_id)
            if number % 1_000 == 0:
                pipeline.execute()
        pipeline.execute()


async def highest_rss_until_settled(ground: Ground, worker: WorkerProcess) -> int:
    """Wait until all is worked off, and return the most memory that the worker had in bytes."""
    process = psutil.Process(worker.process.pid)
    highest = 0
    async with asyncio.timeout(360):
        # In a thread and now and then: the receiver runs here.
        while not await asyncio.to_thread(settled, ground):
            highest = max(highest, process.memory_info().rss)
            await asyncio.sleep(0.25)
    return highest


@pytest.mark.timeout(600)
async def test_a_hundred_thousand_fuzzed_entries_stop_nothing_and_are_all_accounted_for(
    ground: Ground, tmp_path: Path
) -> None:
    log = fuzzed_log()
    ground.load(log.rows)
    await asyncio.to_thread(publish, ground, log)
    async with Receiver() as receiver:
        worker = WorkerProcess(tmp_path, **ground.settings(**receiver.settings()))
        try:
            highest = await highest_rss_until_settled(ground, worker)
            assert await worker.stop() == 0
        finally:
            if worker.process.poll() is None:
                worker.kill()
        with room_to_recurse():
            known = EventLog(log.rows, list(oracle_entries(log.entries)))
            ends = assert_accounted(ground, known, receiver)
    assert sum(ends.values()) == PAYLOADS_IN_ALL
    assert min(ends["done"], ends["skipped"], ends["dead"]) > PAYLOADS_IN_ALL // 20, ends
    assert not worker.said("stage_stuck")
    assert "Traceback" not in worker.log_path.read_text(encoding="utf-8")
    assert highest < RSS_MAX_BYTES, f"{highest / 2**20:.0f} MiB"
