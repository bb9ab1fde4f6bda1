"""A stage's ends: the one place where an entry is done with, whatever became of it.

Nothing else settles (a test compares), so that no entry is acknowledged without an outcome that
is counted, and logged with an ``action``: ``entries_done`` and ``entries_skipped`` at the level
debug, ``stage_retry``, ``delivery_retry`` and ``dead_letter`` as warnings. What is lost is the
transport's to see (:mod:`streams.journal`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import structlog

from streams.dead_letters.record import DeadLetter
from streams.errors import DatabaseError
from streams.events import SkipRule
from streams.outcomes import Outcome
from streams.retry import until_done
from streams.topology import Outlet
from streams.tracing.tracing import Traced
from streams.transport import Entry

if TYPE_CHECKING:
    from agents.reconciler import Reconciler

__all__ = ["Stage"]

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Stage:
    """What the agent `name` does with entries when it has dealt with them.

    Arguments:
        letters: the way to the dead letters; None: nothing dies here.
    """

    def __init__(self, reconciler: Reconciler, name: str, letters: Outlet | None) -> None:
        self.name = name
        self.meter = reconciler.wiring.meter.stage(name)
        self._clock = reconciler.wiring.meter.clock
        self._reconciler = reconciler
        self._letters = letters
        #: What is said of single entries.
        self.trace = reconciler.wiring.tracing.stage(name)

    def receive(self, entries: Sequence[object]) -> None:
        """A batch came; no outcome yet."""
        self.meter.received += len(entries)
        self.meter.batches.add(len(entries))

    def done(self, entries: Sequence[Entry], *, source_ms: Sequence[int] = ()) -> None:
        """The effects of `entries` are durable.

        `source_ms` is when the producer's entries came, where these effects are what they are for.
        """
        self._end(entries, Outcome.DONE)
        self.meter.end_to_end.add_sample(source_ms, self._clock.since())
        log.debug("done", action="entries_done", stage=self.name, entries=len(entries))

    def skip(self, entries: Sequence[Entry], rule: SkipRule) -> None:
        """By `rule`, `entries` have no effects."""
        self._end(entries, Outcome.SKIP, rule.value)
        log.debug(
            "skipped", action="entries_skipped", stage=self.name, rule=rule, entries=len(entries)
        )

    async def dead(self, deaths: Iterable[tuple[Entry, DeadLetter]]) -> None:
        """Keep the letters; returns when they are in Redis and their entries are settled."""
        deaths = list(deaths)
        if not deaths:
            return
        if self._letters is None:
            raise RuntimeError(f"nothing dies at {self.name}")
        await self._letters.send([letter.record() for _, letter in deaths])
        for entry, letter in deaths:
            self._end([entry], Outcome.DEAD, letter.reason)
            log.warning(
                "dead letter",
                action="dead_letter",
                stage=self.name,
                source_id=letter.source_id,
                reason=letter.reason,
                error=letter.error,
                attempts=letter.attempts,
            )

    def retry(self, source_id: str, *, pause_s: float, error: str, attempts: int) -> None:
        """One delivery stays pending, and is tried again after `pause_s`; others pass it."""
        self.meter.end(Outcome.RETRY, 1)
        log.warning(
            "not now, trying again later",
            action="delivery_retry",
            stage=self.name,
            source_id=source_id,
            pause_s=round(pause_s, 2),
            error=error,
            attempts=attempts,
        )

    async def insist(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        give_up_on: tuple[type[Exception], ...],
        of: Sequence[Traced] = (),
        beside: Sequence[Stage] = (),
    ) -> T:
        """Repeat `attempt`, a statement for `of`, until it returns; raise only `give_up_on`.

        What the stage has in hand stays pending meanwhile, and what comes behind it waits. Some
        of it may be of the stages `beside` this one.
        """
        traces = [self.trace, *(stage.trace for stage in beside)]

        def put_off(exc: BaseException | None) -> None:
            by = "postgres" if isinstance(exc, DatabaseError) else "redis"
            self.meter.block(by)
            for trace in traces:
                trace.failed(by, exc, of=of)
            self.meter.end(Outcome.RETRY, 1)

        with ExitStack() as statements:
            for trace in traces:
                statements.enter_context(trace.statement(of))
            result = await until_done(
                attempt, stage=self.name, give_up_on=give_up_on, on_retry=put_off
            )
        self.meter.unblock()
        return result

    def _end(self, entries: Sequence[Entry], outcome: Outcome, detail: str = "") -> None:
        if entries:
            self._reconciler.consumer.settle(entries)
            self.meter.end(outcome, len(entries), detail)
            error = detail if outcome is Outcome.DEAD else ""
            self.trace.end(entries, outcome.value, error=error)
            since = self._clock.since()
            self.meter.waited.add_sample(entries, lambda entry: since(entry.timestamp_s * 1000))
