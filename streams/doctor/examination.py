"""All checks, in order; a server that does not answer leaves its checks out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio

from config.settings import Settings
from streams.doctor.finding import Finding, Verdict
from streams.doctor.place_checks import check_clocks, check_embedded, check_sink
from streams.doctor.postgres_checks import POSTGRES_CHECKS
from streams.doctor.postgres_facts import PostgresFacts, read_postgres_facts
from streams.doctor.redis_checks import REDIS_CHECKS
from streams.doctor.redis_facts import RedisFacts, read_redis_facts
from streams.doctor.stream_checks import STREAM_CHECKS
from streams.errors import DatabaseUnavailableError
from streams.transport import TransportError

__all__ = ["Examination", "examine"]


@dataclass(slots=True)
class Examination:
    """What was found, by the name of the check."""

    findings: dict[str, Finding] = field(default_factory=dict)
    #: Servers that could not be asked, and why.
    unanswered: list[str] = field(default_factory=list)

    @property
    def worst(self) -> Verdict:
        """The worst verdict."""
        order = list(Verdict)
        verdicts = [finding.verdict for finding in self.findings.values()]
        return max(verdicts, key=order.index, default=Verdict.OK)

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape that ``doctor --json`` prints."""
        return {
            "version": 1,
            "verdict": self.worst.value,
            "checks": [
                {
                    "check": name,
                    "verdict": finding.verdict.value,
                    "seen": finding.seen,
                    "advice": finding.advice,
                }
                for name, finding in self.findings.items()
            ],
            "unanswered": self.unanswered,
        }


async def examine(
    settings: Settings,
    connect: Callable[[], AbstractAsyncContextManager[redis.asyncio.Redis]],
    *,
    embedded: tuple[str, ...] = (),
) -> Examination:
    """Run all checks once; takes about a second."""
    result = Examination()
    redis_facts = await _redis(settings, connect, result)
    postgres_facts = await _postgres(settings, result)
    findings = result.findings
    findings["servers.own"] = check_embedded(embedded)
    if redis_facts is not None:
        for name, check in REDIS_CHECKS.items():
            findings[name] = check(redis_facts)
        for name, look in STREAM_CHECKS.items():
            findings[name] = look(redis_facts, settings)
    if postgres_facts is not None:
        workers = 0 if redis_facts is None else len(redis_facts.workers)
        for name, ask in POSTGRES_CHECKS.items():
            findings[name] = ask(postgres_facts, settings, workers)
    findings["clocks"] = check_clocks(redis_facts, postgres_facts)
    for sink in settings.sinks:
        findings[f"sink.{sink.name}"] = await check_sink(sink)
    return result


async def _redis(
    settings: Settings,
    connect: Callable[[], AbstractAsyncContextManager[redis.asyncio.Redis]],
    result: Examination,
) -> RedisFacts | None:
    try:
        async with connect() as client:
            return await read_redis_facts(client, settings)
    except TransportError as exc:
        result.unanswered.append(f"Redis: {exc}")
        return None


async def _postgres(settings: Settings, result: Examination) -> PostgresFacts | None:
    try:
        return await asyncio.to_thread(read_postgres_facts, settings)
    except DatabaseUnavailableError as exc:
        result.unanswered.append(f"Postgres: {exc}")
        return None
