"""What the stages share: the app, topics, Postgres, and the one way to be done with an entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import resources

import faust

from agents.dead_letters import DeadLetters
from config.settings import Settings
from streams.postgres import Postgres
from streams.topics import Topics
from streams.topology import Outlet, Statement, Wiring
from streams.transport import Consumer, Entry

__all__ = ["Reconciler"]


@dataclass(slots=True)
class Reconciler:
    """The parts that every stage is made with."""

    app: faust.App
    settings: Settings
    topics: Topics
    postgres: Postgres
    wiring: Wiring
    #: Entries by stage and what became of them, since this worker started.
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def consumer(self) -> Consumer:
        """The app's consumer, which knows what is in hand."""
        consumer = self.app.consumer
        assert isinstance(consumer, Consumer)  # noqa: S101 - the app's broker is Redis
        return consumer

    def outlet(self, stage: str, topic: faust.TopicT) -> Outlet:
        """The way from `stage` into `topic`."""
        return Outlet(self.app, self.wiring, stage, topic)

    def dead_letters(self, stage: str) -> DeadLetters:
        """The way from `stage` to the dead letters."""
        return DeadLetters(self.outlet(stage, self.topics.dead_letters), stage)

    def statement(self, stage: str, name: str) -> Statement:
        """The statement ``agents/sql/<name>.sql``, run by `stage`."""
        sql = resources.files("agents.sql").joinpath(f"{name}.sql").read_text(encoding="utf-8")
        return Statement(self.postgres, self.wiring, stage, sql)

    @property
    def is_leaving(self) -> bool:
        """Whether this worker stops: what is under way is finished, and nothing more begun."""
        return not self.consumer.flow_active

    def working(self, entries: Sequence[Entry]) -> AbstractContextManager[frozenset[Entry]]:
        """Work on `entries`; gives those of them that are still this worker's.

        A partition goes to another worker only when the work on its entries is over.
        """
        return self.consumer.ledger.working(entries)

    def settle(self, entries: Iterable[Entry]) -> None:
        """Be done with `entries`: their effects are durable."""
        self.consumer.settle(entries)

    def count(self, stage: str, outcome: str, n: int = 1) -> None:
        """Count `n` entries that ended in `outcome` at `stage`."""
        if n:
            self.outcomes[stage, outcome] += n
