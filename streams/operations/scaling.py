"""How many workers the backlog asks for: an answer for autoscalers.

More workers do nothing for a sink or a Postgres that does not answer, so what waits behind one is
left out of the hint, and no more are asked for than there are partitions of a topic. There is
always one: what nobody reads, the producer trims away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from streams.operations.soundings import Waiting
from streams.transport import StreamLayout

__all__ = ["ENTRIES_PER_WORKER", "Demand", "demand"]

#: Backlog that one worker is left alone with: well under a second's work for Postgres, and a fifth
#: of what the producer's stream holds.
ENTRIES_PER_WORKER: Final = 2_000
#: A stage that waits for less than this is only slow.
_BLOCKED_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to do, and how many workers it asks for."""

    #: Seconds since the epoch, by Redis' clock.
    at_s: float
    #: Entries that are not done with, over all streams.
    backlog: int
    #: Those of them that wait for something that more workers do not help.
    held_up: int
    oldest_age_s: float | None
    by_topic: Mapping[str, int]
    #: Workers that say in Redis that they are there.
    workers: int
    #: Partitions of the topic with the most: more workers than that stand by.
    partitions: int
    desired_workers: int

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape that ``/scaling`` answers with."""
        return {
            "at_s": round(self.at_s, 3),
            "backlog": self.backlog,
            "held_up": self.held_up,
            "oldest_age_s": None if self.oldest_age_s is None else round(self.oldest_age_s, 3),
            "by_topic": dict(self.by_topic),
            "workers": self.workers,
            "partitions": self.partitions,
            "desired_workers": self.desired_workers,
        }


def demand(waiting: Waiting, layout: StreamLayout, topics: Iterable[str]) -> Demand:
    """Make the answer out of what is left to do."""
    topics = list(topics)
    backlogs = {topic: waiting.backlogs.of(topic) for topic in topics}
    by_topic = {topic: backlog.entries for topic, backlog in backlogs.items()}
    ages = [b.oldest_age_s for b in backlogs.values() if b.oldest_age_s is not None]
    blocked = {
        stage["blocked_by"]
        for worker in waiting.workers
        for stage in worker["stages"].values()
        if stage["blocked_s"] >= _BLOCKED_S
    }
    held_up = sum(
        n for topic, n in by_topic.items() if not blocked.isdisjoint(_behind(topic, topics[0]))
    )
    partitions = max(layout.partitions(topic) for topic in topics)
    wanted = -(-(sum(by_topic.values()) - held_up) // ENTRIES_PER_WORKER)
    return Demand(
        at_s=waiting.backlogs.at_s,
        backlog=sum(by_topic.values()),
        held_up=held_up,
        oldest_age_s=max(ages, default=None),
        by_topic=by_topic,
        workers=len(waiting.workers),
        partitions=partitions,
        desired_workers=min(max(wanted, 1), partitions),
    )


def _behind(topic: str, source: str) -> set[str]:
    """What the entries of `topic` need, beside Redis."""
    if topic == source:
        return set()
    prefix, _, sink = topic.partition(".")
    return {f"sink.{sink}"} if prefix == "hooks" else {"postgres"}
