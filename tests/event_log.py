"""Logs of events as a producer might write them, for tests that compare against the oracle.

Every part of an event is drawn from one table of values, by `generate` at random with weights and
by `event_logs` under hypothesis' control, so that both know the same odd values.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import strategies as st

from tests.oracle import Entry, Row

T = TypeVar("T")
Weighted = tuple[tuple[T, int], ...]

STATUSES = (
    *("starting", "running", "resuming", "pausing", "stopping", "snapshotting"),
    *("pending", "paused", "stopped", "missing", "error"),
)
# What hosts usually report of a capsule found in a status: verb and outcome, in this order.
LIFE_CYCLES: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = {
    "starting": (
        (("create", "success"), ("pause", "success"), ("resume", "success")),
        (("create", "success"), ("destroy", "success")),
        (("create", "success"), ("resume", "error")),
        (("create", "error"), ("destroy", "success")),
    ),
    "resuming": (
        (("resume", "success"), ("pause", "success")),
        (("resume", "success"), ("destroy", "success")),
        (("resume", "error"),),
    ),
    "running": ((("pause", "success"),), (("destroy", "success"),), (("pause", "error"),)),
    "pausing": ((("pause", "success"),), (("resume", "error"),)),
    "stopping": ((("destroy", "success"),), (("destroy", "error"), ("destroy", "success"))),
    "snapshotting": ((("create", "error"),),),
}

VERBS: Weighted[str] = (("create", 3), ("resume", 3), ("pause", 2), ("destroy", 2))
OUTCOMES: Weighted[str | None] = (
    *(("success", 72), ("error", 18), (None, 4), ("", 2), ("Success", 2), ("partial", 2)),
)
ACTORS: Weighted[str | None] = (("system", 94), ("user", 3), ("api_key", 2), (None, 1))
TEAMS: Weighted[str] = (
    *(("own", 80), ("other", 5), ("garbage", 5), ("absent", 5), ("null", 3), ("too large", 2)),
)
HOST_IPS: Weighted[str | None] = (("given", 60), ("", 20), (None, 20))
REASONS: Weighted[str | None] = (
    *((None, 50), ("", 10), ("transient_timeout", 20), ("host_lost", 15), ("Größe: 「0」", 5)),
)
ERRORS: Weighted[str | None] = (
    *((None, 50), ("", 10), ("no space left", 30), ('said "why": C:\\tmp\n\t\U0001f4a5', 10)),
)
TIMESTAMPS: Weighted[str | None] = (("good", 80), (None, 10), ("yesterday", 5), ("", 5))
NOISE: Weighted[str | None] = (
    *((None, 90), ("capsule.state.changed", 3), ("template.snapshot.create", 2)),
    *(("template.snapshot.delete", 1), ("host.up", 2), ("host.down", 1), ("", 1)),
)


def _truncated(event: dict[str, Any]) -> bytes:
    return _json(event)[:-2]


def _duplicate(event: dict[str, Any]) -> bytes:
    return _json(event)[:-1] + b',"event":"capsule.create"}'


def _with(field: str, value: object) -> Callable[[dict[str, Any]], bytes]:
    return lambda event: _json({**event, field: value})


# How an entry can be bad. The first is the entry whose field has another name than `payload`.
DAMAGES: tuple[Callable[[dict[str, Any]], bytes | None], ...] = (
    lambda _: None,
    lambda _: b"",
    lambda event: _json([event]),
    lambda event: _json(event).replace(b"capsule", b"capsule\xff"),
    _truncated,
    _duplicate,
    _with("resource", {"id": "cl-0", "type": "sandbox"}),
    _with("resource", {"id": "cl-" + "z" * 25, "type": "sandbox"}),
    _with("resource", "cl-" + "0" * 25),
    _with("event", 5),
    _with("metadata", {"host_ip": 10}),
    _with("metadata", {"reason": "a\0b"}),
    _with("error", "\0"),
    _with("error", "\ud800"),
    _with("ignored", float("nan")),
    lambda event: _json(event)[:-1] + b',"ignored":1e400}',
)
SOUND = len(DAMAGES)


@dataclass(frozen=True)
class Spec:
    """One event, by the words of the tables above; `damage` is `SOUND` or an index of DAMAGES."""

    capsule: int
    verb: str
    outcome: str | None
    actor: str | None
    team: str
    host_ip: str | None
    reason: str | None
    error: str | None
    timestamp: str | None
    noise: str | None
    damage: int


@dataclass(frozen=True)
class EventLog:
    """The rows before, and the entries in stream order: id and the bytes of field `payload`."""

    rows: dict[UUID, Row]
    entries: list[Entry]


@dataclass(frozen=True)
class _Capsule:
    id: UUID
    team_id: UUID
    status: str | None  # None: it has no row


def generate(seed: int, *, events: int, capsules: int) -> EventLog:
    """Make a log that is the same for the same arguments: 5 % of the capsules get 30 % of it."""
    rng = random.Random(seed)
    population = [_random_capsule(rng, index) for index in range(capsules)]
    scripts = [list(rng.choice(LIFE_CYCLES.get(c.status or "", ((),)))) for c in population]
    hot = max(1, capsules // 20)
    entries: list[Entry] = []
    ms, seq = 1_700_000_000_000 + rng.randrange(10**9), 0
    for number in range(events):
        index = rng.randrange(hot if rng.random() < 0.3 else capsules)
        spec = _random_spec(rng, index, scripts[index])
        ms, seq = (ms, seq + 1) if rng.random() < 0.3 else (ms + rng.randrange(1, 50), 0)
        entries.append((f"{ms}-{seq}", _payload(spec, population[index], number)))
    return EventLog(_rows(population), entries)


@st.composite
def event_logs(draw: st.DrawFn, *, max_events: int = 60, max_capsules: int = 5) -> EventLog:
    """Small logs that shrink: towards fewer events, success and the first words of the tables."""
    statuses = draw(st.lists(st.sampled_from([*STATUSES, None]), min_size=1, max_size=max_capsules))
    population = [
        _Capsule(UUID(int=2**127 + index), UUID(int=index + 1), status)
        for index, status in enumerate(statuses)
    ]
    specs = draw(st.lists(_specs(len(population)), max_size=max_events))
    entries: list[Entry] = [
        (
            f"{1_700_000_000_000 + number // 2}-{number % 2}",
            _payload(spec, population[spec.capsule], number),
        )
        for number, spec in enumerate(specs)
    ]
    return EventLog(_rows(population), entries)


def _specs(capsules: int) -> st.SearchStrategy[Spec]:
    def words(table: Weighted[T]) -> st.SearchStrategy[T]:
        return st.sampled_from([word for word, _ in table])

    return st.builds(
        Spec,
        capsule=st.integers(0, capsules - 1),
        verb=words(VERBS),
        outcome=words(OUTCOMES),
        actor=st.one_of(st.just("system"), words(ACTORS)),
        team=words(TEAMS),
        host_ip=words(HOST_IPS),
        reason=words(REASONS),
        error=words(ERRORS),
        timestamp=words(TIMESTAMPS),
        noise=st.one_of(st.none(), words(NOISE)),
        damage=st.one_of(st.just(SOUND), st.integers(0, SOUND).map(lambda back: SOUND - back)),
    )


def _random_capsule(rng: random.Random, index: int) -> _Capsule:
    if index < len(STATUSES):
        status: str | None = STATUSES[index]  # every status, however few capsules
    elif rng.random() < 0.7:
        status = rng.choice(STATUSES[:6])  # those from which something can follow
    else:
        status = rng.choice([*STATUSES, None, None])
    return _Capsule(UUID(int=rng.getrandbits(128)), UUID(int=rng.getrandbits(128)), status)


def _random_spec(rng: random.Random, index: int, script: list[tuple[str, str]]) -> Spec:
    def word(table: Weighted[T]) -> T:
        return rng.choices([word for word, _ in table], [weight for _, weight in table])[0]

    verb: str = word(VERBS)
    outcome = word(OUTCOMES)
    noise = word(NOISE)
    if script and noise is None and rng.random() < 0.6:
        verb, outcome = script.pop(0)
    return Spec(
        capsule=index,
        verb=verb,
        outcome=outcome,
        actor=word(ACTORS),
        team=word(TEAMS),
        host_ip=word(HOST_IPS),
        reason=word(REASONS),
        error=word(ERRORS),
        timestamp=word(TIMESTAMPS),
        noise=noise,
        damage=rng.randrange(SOUND) if rng.random() < 0.02 else SOUND,
    )


def _rows(population: list[_Capsule]) -> dict[UUID, Row]:
    return {
        capsule.id: Row(capsule.status, capsule.team_id, host_ip="192.0.2.1")
        for capsule in population
        if capsule.status is not None
    }


def _payload(spec: Spec, capsule: _Capsule, number: int) -> bytes | None:
    teams = {
        "own": textual_id("team-", capsule.team_id),
        "other": textual_id("team-", UUID(int=7)),
        "garbage": "team-Ünknown",
        "null": None,
        "too large": "team-" + "z" * 25,
    }
    timestamp = f"2026-02-03T04:{number // 60 % 60:02}:{number % 60:02}Z"
    event: dict[str, Any] = {
        "event": f"capsule.{spec.verb}" if spec.noise is None else spec.noise,
        "outcome": spec.outcome,
        "timestamp": timestamp if spec.timestamp == "good" else spec.timestamp,
        "actor": {"type": spec.actor} if spec.actor is not None else None,
        "resource": {"id": textual_id("cl-", capsule.id), "type": "sandbox"},
        "error": spec.error,
    }
    event = {name: value for name, value in event.items() if value is not None}
    if spec.team != "absent":
        event["team_id"] = teams[spec.team]
    host_ip = (
        f"10.0.{number // 250 % 250}.{number % 250}" if spec.host_ip == "given" else spec.host_ip
    )
    metadata = {"host_ip": host_ip, "reason": spec.reason, "number": str(number)}
    event["metadata"] = {name: value for name, value in metadata.items() if value is not None}
    return _json(event) if spec.damage == SOUND else DAMAGES[spec.damage](event)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def textual_id(prefix: str, uuid: UUID) -> str:
    """Return the id of a UUID under any prefix, worked out apart from the code under test."""
    number, digits = uuid.int, ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return prefix + digits.rjust(25, "0")
