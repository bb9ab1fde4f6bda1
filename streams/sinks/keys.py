"""All that there may be of a sink in Redis: what `sinks retire` leaves nothing of.

What is added for sinks has to be added here; a test compares.
"""

from __future__ import annotations

from typing import Final

from faust.types import TP

from streams.recorded_topics import HOOKS_PREFIX, PARTITIONS_MAX
from streams.sinks.deliveries import DeliveryRecord
from streams.transport import StreamLayout

__all__ = ["STREAMS_MAX", "other_keys", "staged_keys", "streams_of"]

#: Looked for in all partitions that there ever can have been.
STREAMS_MAX: Final = PARTITIONS_MAX


def streams_of(layout: StreamLayout, sink: str) -> list[bytes]:
    """Return the keys of its topic's streams, by partition."""
    return [layout.name(f"{HOOKS_PREFIX}{sink}:{n}") for n in range(STREAMS_MAX)]


def other_keys(layout: StreamLayout, sink: str) -> list[bytes]:
    """Return all other keys that are of this sink alone."""
    return [
        *(layout.name(f"retries:{HOOKS_PREFIX}{sink}:{n}") for n in range(STREAMS_MAX)),
        *(layout.parts_key(TP(f"{HOOKS_PREFIX}{sink}", n)) for n in range(STREAMS_MAX)),
        layout.counts_key(f"{HOOKS_PREFIX}{sink}"),
        *staged_keys(layout, sink),
        *DeliveryRecord.keys(layout, sink),
    ]


def staged_keys(layout: StreamLayout, sink: str) -> list[bytes]:
    """Return where `sinks backfill` gathers what becomes the topic, by partition."""
    return [layout.name(f"backfill:{HOOKS_PREFIX}{sink}:{n}") for n in range(STREAMS_MAX)]
