"""The same real servers as in the integration tests."""

from __future__ import annotations

import pytest

from tests.integration.conftest import (
    checkout,
    database_url,
    empty_database_url,
    redis_url,
    servers,
)
from tests.reconciliation import Ground

__all__ = ["checkout", "database_url", "empty_database_url", "ground", "redis_url", "servers"]


@pytest.fixture
def ground(redis_url: str, database_url: str) -> Ground:
    return Ground(redis_url, database_url)
