"""The same real servers as in the integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.event_log import generate
from tests.faults.crew import Crew
from tests.integration.conftest import (
    checkout,
    database_url,
    empty_database_url,
    ground,
    redis_url,
    servers,
)
from tests.reconciliation import Ground, Receiver

__all__ = ["checkout", "database_url", "empty_database_url", "ground", "redis_url", "servers"]


@pytest.fixture
async def crew(ground: Ground, tmp_path: Path) -> AsyncIterator[Crew]:
    log = generate(61, events=600, capsules=40)
    ground.load(log.rows)
    async with Receiver() as receiver:
        crew = Crew(ground, receiver, log, tmp_path)
        try:
            yield crew
        finally:
            crew.kill_all()
