"""A moment in the past, as people write it: ``2026-03-01T12:00:00Z``, ``90m``, ``24h``, ``7d``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from streams.strict_json import parse_rfc3339

__all__ = ["parse_since"]

_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_since(text: str, *, now: datetime) -> datetime:
    """Return the moment that `text` names, or the one so long before `now`; raises ValueError."""
    if match := _DURATION.fullmatch(text):
        try:
            return now - timedelta(seconds=int(match[1]) * _UNIT_S[match[2]])
        except OverflowError:
            raise ValueError("longer ago than dates go") from None
    moment = parse_rfc3339(text)
    if moment is None:
        raise ValueError("expected an RFC 3339 time or a duration such as 90m, 24h or 7d")
    return moment.astimezone(UTC)
