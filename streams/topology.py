"""What flows where, taken from the app itself.

Nothing here is a second list to keep up to date. Agents and the topics or channels they read
are Faust's own; where they send to and which tables they write is noted by the very objects
they send and write with (:class:`Outlet`, :class:`Statement`, :class:`SharedStatement`), and the
tables of a statement are read from its SQL.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import faust
import orjson

from streams.figures.meter import Flow, Meter
from streams.postgres import Postgres
from streams.retry import until_done
from streams.tracing.tracing import Tracing
from streams.transport import (
    CONFIG_KEY,
    Holding,
    NotOwnedError,
    Producer,
    Record,
    StreamConfig,
)

__all__ = [
    "Edge",
    "Kind",
    "Node",
    "Outlet",
    "SharedStatement",
    "Statement",
    "Topology",
    "Wiring",
    "topology_of",
]

#: ``update <table>`` and ``insert into <table>``; the ``update`` of an upsert names no table, nor
#: does that of a lock.
_WRITES = re.compile(
    r"\b(?:insert\s+into|(?<!do )(?<!for )update)\s+([a-z_][a-z_.]*)", re.IGNORECASE
)


class Kind(StrEnum):
    """What a node of the topology is."""

    STREAM = "stream"
    CHANNEL = "channel"
    AGENT = "agent"
    TABLE = "table"
    SINK = "sink"


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """Something that events pass through or end in."""

    kind: Kind
    name: str
    #: Of a stream; 1 for everything else.
    partitions: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """Events go from one node to another."""

    source: str
    target: str


@dataclass(slots=True)
class Wiring:
    """Where agents send to and what they write, noted as it is wired."""

    edges: list[Edge] = field(default_factory=list)
    tables: set[str] = field(default_factory=set)
    sinks: set[str] = field(default_factory=set)
    meter: Meter = field(default_factory=Meter)
    tracing: Tracing = field(default_factory=Tracing)

    def connect(self, source: str, target: str) -> Flow:
        """Note that `source` passes events to `target`; return what counts them."""
        edge = Edge(source, target)
        if edge not in self.edges:
            self.edges.append(edge)
        return self.meter.flow(source, target)


class Outlet:
    """The way from one stage into a topic, or several; sending tries again until it is done."""

    def __init__(
        self, app: faust.App, wiring: Wiring, stage: str, topics: Sequence[faust.TopicT]
    ) -> None:
        self._app = app
        self._stage = stage
        self._topics = [topic.get_topic_name() for topic in topics]
        for topic in self._topics:
            wiring.connect(stage, topic)
        self._meters = wiring.meter
        self._meter = wiring.meter.stage(stage)
        self._trace = wiring.tracing.stage(stage)

    async def send(
        self,
        records: Sequence[Record],
        *,
        holding: Holding | None = None,
        of: Mapping[str, int] | None = None,
    ) -> None:
        """Append `records` to each topic, at least once each; returns when all are in Redis.

        With `holding` only while this worker holds that partition; raises `NotOwnedError`.
        Where some of them are of other stages, `of` has how many there are of each.
        """
        if not records:
            return
        producer = await self._app.maybe_start_producer()
        assert isinstance(producer, Producer)  # noqa: S101 - the app's broker is Redis

        async def send() -> None:
            if holding is None:
                await producer.send_many(self._topics, records)
            else:
                [topic] = self._topics
                await producer.send_while(holding, topic, records)

        await until_done(
            send,
            stage=self._stage,
            give_up_on=(NotOwnedError,),
            on_retry=self._put_off,
        )
        self._meter.unblock()
        for stage, number in (of or {self._stage: len(records)}).items():
            for topic in self._topics:
                self._meters.flow(stage, topic).entries += number

    def _put_off(self, exc: BaseException | None) -> None:
        self._meter.block("redis")
        self._trace.failed("redis", exc)


class Statement:
    """One SQL statement that a stage runs over its batches.

    Its one row begins with how many rows it wrote into each table, in the order of the writes.
    """

    def __init__(self, postgres: Postgres, wiring: Wiring, stage: str, sql: str) -> None:
        self._postgres = postgres
        self.sql = sql
        #: In the order in which the statement writes, and returns how many rows it wrote.
        self._flows = [wiring.connect(stage, table) for table in _tables_of(sql, wiring)]

    async def run(self, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        """Run it once, and return its one row (errors: `Postgres.fetch_row`)."""
        row = await self._postgres.fetch_row(self.sql, parameters, prepared=True)
        for flow, written in zip(self._flows, row, strict=False):
            flow.entries += written
        return row


class SharedStatement:
    """One SQL statement that several stages run together.

    What it returns is lines of JSON, one for each time it was run in this transaction. A line
    begins with how many rows it wrote into each table, in the order of the writes: an object for
    each, with the number by stage.
    """

    def __init__(self, postgres: Postgres, wiring: Wiring, sql: str) -> None:
        self._postgres = postgres
        self._wiring = wiring
        self.sql = sql
        #: By table, in the order of the writes, and by stage.
        self._flows: dict[str, dict[str, Flow]] = {table: {} for table in _tables_of(sql, wiring)}

    def connect(self, stage: str, *, besides: Collection[str] = ()) -> None:
        """Note that `stage` runs it, and writes all of its tables but for those in `besides`."""
        for table, flows in self._flows.items():
            if table not in besides:
                flows[stage] = self._wiring.connect(stage, table)

    async def run(self, times: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """Run it once with each of these parameters, in one transaction; return what each did.

        Errors: `Postgres.fetch_row`.
        """
        row = await self._postgres.fetch_row(self.sql, *times, prepared=True)
        answers = [orjson.loads(line) for line in row[0].splitlines()]
        for answer in answers:
            for flows, written in zip(self._flows.values(), answer, strict=False):
                for stage, rows in written.items():
                    flows[stage].entries += rows
        return answers


def _tables_of(sql: str, wiring: Wiring) -> list[str]:
    tables: list[str] = _WRITES.findall(re.sub(r"--.*", "", sql))
    wiring.tables.update(tables)
    return tables


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole picture: nodes and edges, in the order of the flow."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape that ``topology --json`` prints."""
        return {
            "nodes": [
                {"kind": node.kind.value, "name": node.name, "partitions": node.partitions}
                for node in self.nodes
            ],
            "edges": [{"from": edge.source, "to": edge.target} for edge in self.edges],
        }


def topology_of(app: faust.App, wiring: Wiring) -> Topology:
    """Put together what Faust knows of `app` and what was noted in `wiring`."""
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    for agent in app.agents.values():
        channel = agent.channel
        if isinstance(channel, faust.TopicT):
            source = Node(Kind.STREAM, channel.get_topic_name(), _partitions(channel))
        else:
            source = Node(Kind.CHANNEL, f"lane.{agent.name}")
        nodes[source.name] = source
        nodes[agent.name] = Node(Kind.AGENT, agent.name)
        edges.append(Edge(source.name, agent.name))
    for edge in wiring.edges:
        edges.append(edge)
        kind = Kind.STREAM
        if edge.target in wiring.tables:
            kind = Kind.TABLE
        elif edge.target in wiring.sinks:
            kind = Kind.SINK
        nodes.setdefault(edge.target, Node(kind, edge.target))
    return Topology(tuple(nodes.values()), tuple(edges))


def _partitions(topic: faust.TopicT) -> int:
    config: StreamConfig = (topic.config or {}).get(CONFIG_KEY, StreamConfig())
    return 1 if config.external_key else (topic.partitions or 1)
