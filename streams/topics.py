"""The topics of the app, and the headers that travel on them.

The key of each entry is the capsule's id in its 16 bytes, so that all entries of a capsule are
in one partition of each topic. The value is the producer's payload as it came (``capsules``),
the delivery (``hooks.<sink>``) or the whole of what could not be used (``dead-letters``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import faust

from config.settings import Settings
from streams.transport import Settle, StreamConfig

__all__ = [
    "PAYLOAD_FIELD",
    "REPLAY_FIELD",
    "REPLAY_OF",
    "SOURCE_ID",
    "TRACE_PARENT",
    "TRACE_STATE",
    "Topics",
    "key_prefix",
    "make_topics",
]

#: The header that carries the id of the source entry: what the effects are marked with.
SOURCE_ID: Final = "source-id"

#: The header that carries the number of the dead letter that an entry is a replay of.
REPLAY_OF: Final = "replay-of"

#: The headers, and the fields and metadata of the producer, that carry a trace (W3C Trace Context);
#: an empty one is none.
TRACE_PARENT: Final = "traceparent"
TRACE_STATE: Final = "tracestate"

#: The name of the field that the producer puts its JSON in.
PAYLOAD_FIELD: Final = b"payload"

#: The field that a replay adds to it: the same number.
REPLAY_FIELD: Final = b"replay-of"

#: Events that may share an entry.
_BUNDLE_MAX: Final = 64

#: To route all events is as much work as to bring Postgres in line for a third of them, as
#: measured (docs/speed.md), so the producer's stream counts as a third of the capsules' partitions.
_ROUTING_SHARE: Final = 3


def key_prefix(settings: Settings) -> str:
    """What each key of the app starts with.

    The braces put all of them into one slot of a Redis Cluster, the source stream's.
    """
    return f"{{{settings.source_stream}}}:{settings.app_id}:"


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics of the app."""

    source: faust.TopicT
    capsules: faust.TopicT
    #: By name of the sink.
    hooks: dict[str, faust.TopicT]
    dead_letters: faust.TopicT

    def all(self) -> list[faust.TopicT]:
        """Every topic, in the order of the flow."""
        return [self.source, self.capsules, *self.hooks.values(), self.dead_letters]


def make_topics(app: faust.App, settings: Settings) -> Topics:
    """Declare the topics that `settings` ask for."""
    ours = StreamConfig(batch=True, settle=Settle.EXPLICIT)
    bundled = replace(ours, bundle_max=_BUNDLE_MAX)
    source = StreamConfig(
        external_key=settings.source_stream,
        start_id=settings.source_start_id,
        batch=True,
        settle=Settle.EXPLICIT,
        claim_idle_ms=int(settings.foreign_idle_s * 1000),
        counts_as=("capsules", max(settings.partitions // _ROUTING_SHARE, 1)),
    )

    def topic(name: str, partitions: int, config: StreamConfig) -> faust.TopicT:
        return app.topic(
            name,
            partitions=partitions,
            value_serializer="raw",
            acks=False,
            config=config.topic(),
        )

    return Topics(
        source=topic(settings.source_stream, 1, source),
        capsules=topic("capsules", settings.partitions, bundled),
        hooks={
            sink.name: topic(f"hooks.{sink.name}", settings.partitions, bundled)
            for sink in settings.sinks
        },
        dead_letters=topic("dead-letters", 1, ours),
    )
