"""The topology with live figures: what flows where, how fast, what waits, and what it waits for.

Put together from three things, none of them kept by hand: the topology of the app itself, what
each worker says of itself (:mod:`streams.figures.fleet`), and what is left to do in Redis
(:mod:`streams.figures.backlog`). So it is the same whoever looks: any worker, or a command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import redis.asyncio

from streams.figures.backlog import Backlog, Backlogs, read_backlogs
from streams.figures.blame import Blame, blames
from streams.figures.fleet import read_figures
from streams.figures.inputs import told_of_input
from streams.figures.sink_meter import told_of_sink
from streams.topics import Topics
from streams.topology import Kind, Topology
from streams.transport import StreamLayout
from streams.transport.fleet import read_owners

__all__ = ["LiveEdge", "LiveNode", "LiveTopology", "State", "join", "read_live"]

#: A stage that waits for less than this is not worth a colour.
_BLOCKED_S: Final = 1.0


class State(StrEnum):
    """How a node is, worst last."""

    IDLE = "idle"
    BUSY = "busy"
    #: Somebody wants it to do nothing.
    PAUSED = "paused"
    BLOCKED = "blocked"
    #: Nobody does its work.
    UNOWNED = "unowned"


@dataclass(frozen=True, slots=True)
class LiveNode:
    """A node of the topology, and how it is."""

    kind: Kind
    name: str
    partitions: int
    state: State
    #: Why the state is what it is, for people; empty where there is nothing to say.
    because: str = ""
    #: Of a stream: what is left to do in it.
    backlog: Backlog | None = None
    #: Of a stream: who reads which partition.
    owners: Mapping[int, str] = field(default_factory=dict)
    #: Of an agent: the sums, and for latencies the worst, over all workers. Of a sink: likewise.
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LiveEdge:
    """An edge, and what goes over it, by all workers that are there now."""

    source: str
    target: str
    entries: int
    per_s: float


@dataclass(frozen=True, slots=True)
class LiveTopology:
    """The whole picture at one moment."""

    #: Seconds since the epoch, by Redis' clock.
    at_s: float
    nodes: tuple[LiveNode, ...]
    edges: tuple[LiveEdge, ...]
    #: What each worker says of itself.
    workers: tuple[Mapping[str, Any], ...]
    #: Who is to blame for what does not go as it should.
    blames: tuple[Blame, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape that ``topology --live --format json`` prints."""
        return {
            "at_s": round(self.at_s, 3),
            "nodes": [asdict(node) for node in self.nodes],
            "edges": [
                {"from": e.source, "to": e.target, "entries": e.entries, "per_s": e.per_s}
                for e in self.edges
            ],
            "workers": list(self.workers),
            "reasons": [asdict(blame) for blame in self.blames],
        }

    @property
    def backlog(self) -> int:
        """Entries that are not done with, over all streams."""
        return sum(node.backlog.entries for node in self.nodes if node.backlog)


async def read_live(
    client: redis.asyncio.Redis,
    topology: Topology,
    topics: Topics,
    layout: StreamLayout,
    *,
    group: str,
    own: Mapping[str, Any] | None = None,
) -> LiveTopology:
    """Look at Redis once, and join.

    `own` is what this process says if it is a worker: it knows that also where Redis does not.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    names = [topic.get_topic_name() for topic in topics.all()]
    backlogs = await read_backlogs(client, layout, names, group=group)
    owners = await read_owners(client, layout)
    figures = await read_figures(client, layout, now_s=backlogs.at_s)
    if own is not None:
        own = {**own, "at_s": backlogs.at_s}
        figures = [said for said in figures if said["worker"] != own["worker"]] + [own]
    return join(topology, backlogs, owners, figures)


def join(
    topology: Topology,
    backlogs: Backlogs,
    owners: Mapping[str, str],
    workers: Iterable[Mapping[str, Any]],
) -> LiveTopology:
    """Put figures to nodes and edges; `owners` has the worker's name by ``<topic>:<partition>``."""
    workers = tuple(sorted(workers, key=lambda said: str(said["worker"])))
    entries: Counter[tuple[str, str]] = Counter()
    per_s: Counter[tuple[str, str]] = Counter()
    for worker in workers:
        for source, target, n, rate in worker["flows"]:
            entries[source, target] += n
            per_s[source, target] += rate
    stages = {node.name: _sum_stages(workers, node.name) for node in topology.nodes}
    nodes: dict[str, LiveNode] = {}
    for node in topology.nodes:
        if node.kind is Kind.STREAM:
            nodes[node.name] = _stream(node.name, node.partitions, backlogs, owners, workers)
        elif node.kind is Kind.AGENT:
            nodes[node.name] = _agent(node.name, stages[node.name])
        elif node.kind is Kind.CHANNEL:
            nodes[node.name] = _lane(node.name, workers)
        else:
            flows_in = any(rate for (_, target), rate in per_s.items() if target == node.name)
            state = State.BUSY if flows_in else State.IDLE
            nodes[node.name] = LiveNode(node.kind, node.name, 1, state)
            if node.kind is Kind.SINK:
                nodes[node.name] = _sink(nodes[node.name], workers)
    edges = []
    for edge in topology.edges:
        over = (edge.source, edge.target)
        if nodes[edge.target].kind is Kind.AGENT:
            n, rate = stages[edge.target]["received"], stages[edge.target]["received_per_s"]
        else:
            n, rate = entries[over], per_s[over]
        edges.append(LiveEdge(*over, n, round(rate, 2)))
    for sink in [node for node in nodes.values() if node.state is State.PAUSED]:
        waiting = nodes.get(f"hooks.{sink.name.partition('.')[2]}")
        if waiting is not None and waiting.state is State.BLOCKED:
            # It is full because somebody wants it so.
            nodes[waiting.name] = replace(waiting, state=State.PAUSED)
    found = tuple(blames(workers, owners, at_s=backlogs.at_s))
    texts = {blame.culprit: blame.text for blame in reversed(found)}
    return LiveTopology(
        backlogs.at_s,
        tuple(_blame(node, texts) for node in nodes.values()),
        tuple(edges),
        workers,
        found,
    )


def _stream(
    name: str,
    partitions: int,
    backlogs: Backlogs,
    owners: Mapping[str, str],
    workers: Iterable[Mapping[str, Any]],
) -> LiveNode:
    backlog = backlogs.of(name)
    owned = {n: owners[f"{name}:{n}"] for n in range(partitions) if f"{name}:{n}" in owners}
    full_for_s = max(
        (w["partitions"].get(name, {}).get("full_for_s", 0.0) for w in workers), default=0.0
    )
    state, because = (State.BUSY if backlog.entries else State.IDLE), ""
    if len(owned) < partitions:
        state, because = State.UNOWNED, f"{partitions - len(owned)} partitions read by nobody"
    elif full_for_s >= _BLOCKED_S:
        state, because = State.BLOCKED, f"its agent has had all it takes for {full_for_s:.0f} s"
    return LiveNode(Kind.STREAM, name, partitions, state, because, backlog=backlog, owners=owned)


def _lane(name: str, workers: Iterable[Mapping[str, Any]]) -> LiveNode:
    stage = name.partition(".")[2]
    depth = sum(worker["lanes"].get(stage, 0) for worker in workers)
    said = _input(workers, stage)
    state, because = (State.BUSY if depth else State.IDLE), ""
    if said["holds_up"] and said["full_s"] >= _BLOCKED_S:
        state = State.BLOCKED
        because = f"full for {said['full_s']:.0f} s: it holds up {', '.join(said['holds_up'])}"
    return LiveNode(Kind.CHANNEL, name, 1, state, because, backlog=Backlog(pending=depth))


def _input(workers: Iterable[Mapping[str, Any]], stage: str) -> dict[str, Any]:
    inputs = (worker.get("inputs", {}) for worker in workers)
    return told_of_input([found[stage] for found in inputs if stage in found])


def _agent(name: str, stage: Mapping[str, Any]) -> LiveNode:
    state, because = (State.BUSY if stage["received_per_s"] else State.IDLE), ""
    if stage["blocked_s"] >= _BLOCKED_S:
        state = State.BLOCKED
        because = f"waits for {stage['blocked_by']} for {stage['blocked_s']:.0f} s"
    return LiveNode(Kind.AGENT, name, 1, state, because, figures=stage)


def _sink(node: LiveNode, workers: Iterable[Mapping[str, Any]]) -> LiveNode:
    """Mark a sink by what the workers say of it."""
    said = told_of_sink(workers, node.name.partition(".")[2])
    because = str(said["because"])
    state = State.BLOCKED if because else node.state
    if said["paused_s"] is not None and said["backlog_full_s"] is None:
        state = State.PAUSED
    return replace(node, state=state, because=because, figures=said)


#: Who is to blame where a node of a kind does not do its part; of others, the node itself.
_SERVERS: Final = {Kind.TABLE: "postgres", Kind.STREAM: "redis"}


def _blame(node: LiveNode, texts: Mapping[str, str]) -> LiveNode:
    """Mark what is to blame, or is in a server that is, and say why; what is marked stays so."""
    culprit = _SERVERS.get(node.kind, node.name)
    if culprit not in texts or node.because or node.state is State.PAUSED:
        return node
    return replace(node, state=State.BLOCKED, because=texts[culprit])


_SUMS: Final = ("received", "received_per_s", "blocked_total_s")
_LATENCIES: Final = ("batch", "waited_ms", "end_to_end_ms")


def _sum_stages(workers: Iterable[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """One stage over all workers: sums of what is counted, the worst of what takes time."""
    workers = tuple(workers)
    found = [worker["stages"][name] for worker in workers if name in worker["stages"]]
    outcomes: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for stage in found:
        outcomes.update(stage["outcomes"])
        failed.update(stage.get("failed", {}))  # an older worker tells none
    blocked = max(found, key=lambda stage: float(stage["blocked_s"]), default=None)
    return {
        **{key: round(sum(stage[key] for stage in found), 2) for key in _SUMS},
        **{key: _worst(stage[key] for stage in found) for key in _LATENCIES},
        "outcomes": dict(outcomes),
        "input": _input(workers, name),
        "failed": dict(failed),
        "blocked_by": blocked["blocked_by"] if blocked else "",
        "blocked_s": blocked["blocked_s"] if blocked else 0.0,
    }


def _worst(found: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    worst: dict[str, float | None] = {}
    for quantiles in found:
        for name, value in quantiles.items():
            known = worst.get(name)
            worst[name] = value if known is None or (value or 0.0) > known else known
    return worst
