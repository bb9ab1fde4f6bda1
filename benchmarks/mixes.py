"""Logs to measure with: rows as they are before, and the entries that meet them.

A log is the same for the same seed, and each mix has a property that the tests prove with the
oracle: what share of the entries changes a row, or how the entries are spread over capsules.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from streams.events import Verb
from streams.simulation.payloads import Capsule, report_payload
from tests.oracle import Entry, Row

__all__ = ["MIXES", "Log", "make_log"]

_START: Final = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
_FIRST_ENTRY_MS: Final = 1_770_000_000_000
#: Entries per capsule in `hot`, on average, and which part of the capsules is hot.
_HOT_EVENTS_PER_CAPSULE: Final = 4
_HOT_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class _Step:
    """A report, and the statuses around it where it changes a row."""

    before: str
    verb: Verb
    failed: bool
    after: str
    weight: int


_STEPS: Final = (
    _Step("starting", Verb.CREATE, failed=False, after="running", weight=30),
    _Step("resuming", Verb.RESUME, failed=False, after="running", weight=20),
    _Step("running", Verb.PAUSE, failed=False, after="paused", weight=12),
    _Step("pausing", Verb.PAUSE, failed=False, after="paused", weight=8),
    _Step("running", Verb.DESTROY, failed=False, after="stopped", weight=10),
    _Step("stopping", Verb.DESTROY, failed=False, after="stopped", weight=15),
    _Step("starting", Verb.CREATE, failed=True, after="error", weight=3),
    _Step("resuming", Verb.RESUME, failed=True, after="error", weight=2),
)
_WEIGHTS: Final = tuple(step.weight for step in _STEPS)


@dataclass(frozen=True, slots=True)
class Log:
    """The rows before, and the entries in stream order."""

    rows: dict[UUID, Row]
    entries: list[Entry]


def make_log(mix: str, *, events: int, seed: int) -> Log:
    """Make the log of one of :data:`MIXES`."""
    return MIXES[mix](random.Random(f"{mix}/{seed}"), events)


def _all(rng: random.Random, events: int) -> Log:
    return _one_event_each(rng, events, changing_share=1.0)


def _tenth(rng: random.Random, events: int) -> Log:
    return _one_event_each(rng, events, changing_share=0.1)


def _one_event_each(rng: random.Random, events: int, *, changing_share: float) -> Log:
    """Give each capsule one event, which `changing_share` of the rows still wait for."""
    log = Log({}, [])
    for _ in range(events):
        capsule, step = _capsule(rng), _step(rng)
        changing = rng.random() < changing_share
        log.rows[capsule.id] = Row(step.before if changing else step.after, capsule.team_id)
        _append(log, rng, capsule, step)
    return log


def _hot(rng: random.Random, events: int) -> Log:
    """Give one hundredth of the capsules half of the events."""
    capsules = [_capsule(rng) for _ in range(max(events // _HOT_EVENTS_PER_CAPSULE, 100))]
    hot = int(len(capsules) * _HOT_SHARE)
    log = Log({capsule.id: Row(_step(rng).before, capsule.team_id) for capsule in capsules}, [])
    for _ in range(events):
        index = rng.randrange(hot) if rng.random() < 0.5 else rng.randrange(hot, len(capsules))
        _append(log, rng, capsules[index], _step(rng))
    return log


MIXES: Final[dict[str, Callable[[random.Random, int], Log]]] = {
    "all": _all,
    "tenth": _tenth,
    "hot": _hot,
}


def _append(log: Log, rng: random.Random, capsule: Capsule, step: _Step) -> None:
    number = len(log.entries)
    payload = report_payload(
        rng,
        capsule,
        step.verb,
        _START + timedelta(seconds=number // 1000),
        failed=step.failed,
        autonomous=step.before == "running",
    )
    log.entries.append((f"{_FIRST_ENTRY_MS + number}-0", payload))


def _step(rng: random.Random) -> _Step:
    return rng.choices(_STEPS, _WEIGHTS)[0]


def _capsule(rng: random.Random) -> Capsule:
    host_ip = f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
    return Capsule(_uuid(rng), _uuid(rng), _uuid(rng), host_ip)


def _uuid(rng: random.Random) -> UUID:
    return UUID(int=rng.getrandbits(128), version=4)
