"""Apps on the Valkey of the run."""

from __future__ import annotations

import gc
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from .lab import Lab


@pytest.fixture
async def lab(redis_url: str) -> AsyncIterator[Lab]:
    """An app id of its own for the test; every app that was started is stopped."""
    async with Lab(redis_url, f"app-{uuid.uuid4().hex[:8]}") as lab:
        yield lab


@pytest.fixture
def said_now() -> Iterator[None]:
    """Have what Faust never asks of its failed messages said now, and not in the midst of others.

    It is said when they are collected, with a traceback, for which Python 3.11 parses source; and
    that makes an import fail which is being compiled at that moment.
    """
    yield
    gc.collect()
