"""The topics that there are in Redis, whatever this process has in its settings.

A command may be called without the workers' settings: without their sinks, or with another number
of partitions. What the workers have recorded is what is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from config.settings import Settings
from streams.topics import key_prefix
from streams.transport import StreamConfig, StreamLayout, UnknownTopicError, broker_errors

__all__ = [
    "CAPSULES",
    "DEAD_LETTERS",
    "HOOKS_PREFIX",
    "PARTITIONS_MAX",
    "RecordedTopics",
    "read_recorded_topics",
    "recorded_partitions",
]

CAPSULES: Final = "capsules"
DEAD_LETTERS: Final = "dead-letters"
HOOKS_PREFIX: Final = "hooks."
#: More cannot have been recorded by a worker of ours.
PARTITIONS_MAX: Final = 256
_NAME: Final = re.compile(r"capsules|dead-letters|hooks\.[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class RecordedTopics:
    """All topics of the app, in the order of the flow, and the streams behind them."""

    names: tuple[str, ...]
    layout: StreamLayout

    @property
    def hooks(self) -> list[str]:
        """The topics of sinks."""
        return [name for name in self.names if name.startswith(HOOKS_PREFIX)]


async def recorded_partitions(client: redis.asyncio.Redis, layout: StreamLayout, topic: str) -> int:
    """Return the recorded number, whatever the settings of this process say.

    Raises:
        UnknownTopicError: no worker has declared `topic`.
        TransportError: Redis is unreachable or refuses.
    """
    with broker_errors("HGET"):
        recorded: Any = await client.hget(layout.name("topics").decode(), topic)
    if recorded is None:
        raise UnknownTopicError(f"topic {topic}: no worker has declared it; start one first")
    return int(recorded)


async def read_recorded_topics(client: redis.asyncio.Redis, settings: Settings) -> RecordedTopics:
    """Return what the workers have recorded, and what `settings` add to it.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    layout = StreamLayout(key_prefix(settings))
    with broker_errors("HGETALL"):
        found: dict[Any, Any] = await client.hgetall(layout.name("topics"))
    recorded = {
        name.decode(): int(number)
        for name, number in found.items()
        if _NAME.fullmatch(name.decode("ascii", "replace"))
        and number.isdigit()
        and 0 < int(number) <= PARTITIONS_MAX
    }
    configured = {CAPSULES: settings.partitions, DEAD_LETTERS: 1} | {
        f"{HOOKS_PREFIX}{sink.name}": settings.partitions for sink in settings.sinks
    }
    partitions = configured | recorded
    names = (settings.source_stream, *_in_order(partitions))
    external = StreamConfig(external_key=settings.source_stream)
    layout.declare(settings.source_stream, 1, external)
    for name in names[1:]:
        layout.declare(name, partitions[name], StreamConfig())
    return RecordedTopics(names, layout)


def _in_order(names: Iterable[str]) -> list[str]:
    places = {CAPSULES: 0, DEAD_LETTERS: 2}
    return sorted(names, key=lambda name: (places.get(name, 1), name))
