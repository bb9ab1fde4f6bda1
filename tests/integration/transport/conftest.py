"""Apps on the Valkey of the run."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from .lab import Lab


@pytest.fixture
async def lab(redis_url: str) -> AsyncIterator[Lab]:
    """An app id of its own for the test; every app that was started is stopped."""
    async with Lab(redis_url, f"app-{uuid.uuid4().hex[:8]}") as lab:
        yield lab
