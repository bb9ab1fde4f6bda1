"""What each stage has to do, how much of it fits, since when it is full, and whom that holds up.

Every input is bounded, in one of three ways. What an agent has in hand of a topic is bounded by
the ledger, and the rest waits in Redis, where it holds up nobody. A lane has no bound of its own
(:mod:`agents.lane`): what is in all of them is what is in hand of the topic before them, and when
that is full, dispatch is given no more. A sink's topic is bounded by its cap, and at the cap the
stages that send into it wait, unless the oldest deliveries give way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from streams.figures.meter import Meter
from streams.topology import Kind, Topology
from streams.transport import Consumer

__all__ = ["Input", "Inputs", "told_of_input"]


@dataclass(frozen=True, slots=True)
class Input:
    """One stage's input at one worker."""

    #: The topic or the lane that it is.
    reads: str
    #: Entries that this worker has of it, and how many it may have.
    depth: int
    capacity: int
    #: How long it is full by now; None: it is not.
    full_s: float | None = None
    #: Stages that wait because it is.
    holds_up: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as a worker says it of itself."""
        full_s = None if self.full_s is None else round(self.full_s, 1)
        return asdict(self) | {"full_s": full_s}


class Inputs:
    """The inputs of all stages of one worker.

    Arguments:
        lanes: how many reports wait in each lane.
        prefetch_entries: how much of a partition may be in hand.
    """

    def __init__(
        self,
        picture: Topology,
        meter: Meter,
        *,
        lanes: Callable[[], Mapping[str, int]],
        prefetch_entries: int,
    ) -> None:
        kinds = {node.name: node.kind for node in picture.nodes}
        #: What each agent reads, and who sends into that.
        self._reads = {e.target: e.source for e in picture.edges if kinds[e.target] is Kind.AGENT}
        self._senders = {
            name: tuple(e.source for e in picture.edges if e.target == name)
            for name in self._reads.values()
        }
        self._is_lane = {name: kinds[name] is Kind.CHANNEL for name in self._reads.values()}
        self._meter = meter
        self._lanes = lanes
        self._prefetch_entries = prefetch_entries
        self._full_since: dict[str, float] = {}

    def look(self, consumer: Consumer) -> dict[str, Input]:
        """Return the input of each stage; since when one is full is known from looking often."""
        depths: dict[str, int] = {}
        held: dict[str, int] = {}
        full: set[str] = set()
        for tp in consumer.assignment():
            depths[tp.topic] = depths.get(tp.topic, 0) + consumer.ledger.unsettled(tp)
            held[tp.topic] = held.get(tp.topic, 0) + 1
            if consumer.ledger.is_open(tp) and not consumer.ledger.has_room(tp):
                full.add(tp.topic)
        now = monotonic()
        self._full_since = {topic: self._full_since.get(topic, now) for topic in full}
        topics = {
            topic: Input(
                topic,
                depths.get(topic, 0),
                held.get(topic, 0) * self._prefetch_entries,
                now - self._full_since[topic] if topic in full else None,
            )
            for topic, is_lane in self._is_lane.items()
            if not is_lane
        }
        return {stage: self._input(stage, reads, topics) for stage, reads in self._reads.items()}

    def _input(self, stage: str, reads: str, topics: Mapping[str, Input]) -> Input:
        if self._is_lane[reads]:
            (sender,) = self._senders[reads]
            before = topics[self._reads[sender]]
            depth = self._lanes().get(stage, 0)
            if before.full_s is None or not depth:
                return Input(reads, depth, before.capacity)
            return Input(reads, depth, before.capacity, before.full_s, (sender,))
        found = topics[reads]
        topic, _, name = reads.partition(".")
        sink = self._meter.sinks.get(name) if topic == "hooks" else None
        if sink is not None and sink.backlog_is_full:
            holds_up = self._senders[reads] if sink.at_backlog_max == "hold" else ()
            full_s = sink.backlog_full_s()
            return Input(reads, found.depth, found.capacity, full_s, holds_up)
        return found


def told_of_input(found: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Put together what the workers say of one stage's input (:meth:`Input.as_dict`)."""
    full_s = [said["full_s"] for said in found if said["full_s"] is not None]
    return {
        "depth": sum(said["depth"] for said in found),
        "capacity": sum(said["capacity"] for said in found),
        "full_s": max(full_s, default=None),
        "holds_up": sorted({stage for said in found for stage in said["holds_up"]}),
    }
