"""A worker's memory does not grow with what waits for it."""

from __future__ import annotations

import itertools
from pathlib import Path

import psutil
import pytest

from tests.event_log import generate
from tests.oracle import Entry
from tests.reconciliation import Ground
from tests.worker_process import WorkerProcess, eventually

#: What is measured here is measured on a machine that does nothing else.
pytestmark = pytest.mark.alone

BACKLOG = 1_000_000
RSS_MAX_BYTES = 200 * 2**20


def backlog() -> itertools.chain[Entry]:
    """A million entries: one log again and again, under ids that go on."""
    log = generate(7, events=50_000, capsules=5_000)
    first_ms = 1_800_000_000_000
    rounds = BACKLOG // len(log.entries)
    return itertools.chain.from_iterable(
        [
            (f"{first_ms + turn * len(log.entries) + n}-0", payload)
            for n, (_, payload) in enumerate(log.entries)
        ]
        for turn in range(rounds)
    )


@pytest.mark.timeout(600)
async def test_a_million_entries_of_backlog_do_not_show_in_a_workers_memory(
    ground: Ground, tmp_path: Path
) -> None:
    ground.load(generate(7, events=0, capsules=5_000).rows)
    ground.publish(backlog())
    worker = WorkerProcess(tmp_path, **ground.settings(LOG_LEVEL="error"))
    process = psutil.Process(worker.process.pid)
    highest = 0

    def drained() -> bool:
        nonlocal highest
        highest = max(highest, process.memory_info().rss)
        return ground.drained()

    await eventually(drained, what="the backlog worked off", timeout_s=500)
    assert await worker.stop() == 0
    assert highest < RSS_MAX_BYTES, f"{highest / 2**20:.0f} MiB"
