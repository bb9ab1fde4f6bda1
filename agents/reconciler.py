"""What the stages share: the app, its topics, Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import resources

import faust

from agents.backlog_cap import BacklogCap
from agents.recorder import Recorder
from agents.stage import Stage
from config.settings import Settings
from streams.postgres import Postgres
from streams.topics import Topics
from streams.topology import Outlet, SharedStatement, Statement, Wiring
from streams.transport import Consumer, Entry, StreamLayout, Transport

__all__ = ["Reconciler", "among"]


def among(entries: list[Entry], ours: frozenset[Entry]) -> list[Entry]:
    """Those of `entries` that are in `ours`, in order; all of them, as a rule."""
    if len(ours) == len(entries):
        return entries
    return [entry for entry in entries if entry in ours]


def _sql(name: str) -> str:
    return resources.files("agents.sql").joinpath(f"{name}.sql").read_text(encoding="utf-8")


@dataclass(slots=True)
class Reconciler:
    """The parts that every stage is made with."""

    app: faust.App
    settings: Settings
    topics: Topics
    postgres: Postgres
    wiring: Wiring
    recorder: Recorder
    #: By name of the sink.
    caps: dict[str, BacklogCap] = field(init=False)

    def __post_init__(self) -> None:
        """Make what belongs to each sink, whoever sends to it or delivers."""
        self.caps = {
            sink.name: BacklogCap(sink, self.wiring.meter.sink(sink.name))
            for sink in self.settings.sinks
        }

    @property
    def consumer(self) -> Consumer:
        """The app's consumer, which knows what is in hand."""
        consumer = self.app.consumer
        assert isinstance(consumer, Consumer)  # noqa: S101 - the app's broker is Redis
        return consumer

    @property
    def layout(self) -> StreamLayout:
        """Which Redis keys stand behind the topics."""
        transport = self.app.transport
        assert isinstance(transport, Transport)  # noqa: S101 - the app's broker is Redis
        return transport.layout

    def outlet(self, stage: str, *topics: faust.TopicT) -> Outlet:
        """The way from `stage` into `topics`, all at once."""
        return Outlet(self.app, self.wiring, stage, topics)

    def stage(self, name: str, *, dead_letters: bool = True) -> Stage:
        """The ends that entries come to at the agent `name`; where it can, also death."""
        letters = self.outlet(name, self.topics.dead_letters) if dead_letters else None
        return Stage(self, name, letters)

    def statement(self, stage: str, name: str) -> Statement:
        """The statement ``agents/sql/<name>.sql``, run by `stage`."""
        return Statement(self.postgres, self.wiring, stage, _sql(name))

    def shared_statement(self, name: str) -> SharedStatement:
        """The statement ``agents/sql/<name>.sql``, run by several stages together."""
        return SharedStatement(self.postgres, self.wiring, _sql(name))

    @property
    def is_leaving(self) -> bool:
        """Whether this worker stops: what is under way is finished, and nothing more begun."""
        return not self.consumer.flow_active

    def working(self, entries: Sequence[Entry]) -> AbstractContextManager[frozenset[Entry]]:
        """Work on `entries`; gives those of them that are still this worker's.

        A partition goes to another worker only when the work on its entries is over.
        """
        return self.consumer.ledger.working(entries)
