"""Traces: what the stages say of single entries to whoever follows them through all stages.

Said of a batch with one call, and by default to nobody: the calls below do nothing. Where traces
are switched on, :class:`streams.tracing.otel.OtelTracing` takes the place of :class:`Tracing`, and
makes spans of the entries that are sampled. Which those are is settled once, where an entry comes
in; it travels on as a header of our own entries, and an entry without that header costs one look at
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal, Protocol

from streams.events import CapsuleEvent
from streams.transport import Entry, Record

__all__ = ["StageTrace", "Traced", "Tracing", "make_tracing"]


class HasEntry(Protocol):
    """What a stage makes of an entry, such as a report."""

    @property
    def entry(self) -> Entry:
        """The entry it was made of."""


Traced = Entry | HasEntry

_NOTHING: Final = nullcontext()


class StageTrace:
    """What one stage says."""

    def receive(self, items: Sequence[Traced]) -> None:
        """A batch came from a topic of ours, or out of a lane."""

    def source(self, entries: Sequence[Entry], events: Sequence[CapsuleEvent | None]) -> None:
        """`entries` of the producer's stream were read; None: as no event."""

    def carry(self, items: Sequence[Traced], records: Sequence[Record]) -> None:
        """Send `records` on, each made of the item in its place; their headers are a dict."""

    def hand_on(self, items: Sequence[Traced]) -> None:
        """`items` go to another stage of this process."""

    def end(self, items: Sequence[Traced], outcome: str, *, error: str = "") -> None:
        """`items` are done with here, one way or another."""

    def failed(self, by: str, error: BaseException | None, *, of: Sequence[Traced] = ()) -> None:
        """An attempt at something failed at `by`, and is made again: for `of`, or else for all."""

    def statement(self, items: Sequence[Traced]) -> AbstractContextManager[None]:
        """A statement is run for `items` meanwhile, of which some may be another stage's."""
        return _NOTHING

    def attempt(self, item: Traced) -> AbstractContextManager[None]:
        """A delivery is attempted meanwhile."""
        return _NOTHING

    def attempt_failed(self, item: Traced, *, error: str, attempts: int, pause_s: float) -> None:
        """It failed, for the so manieth time, and may be made again after a pause."""


class Tracing:
    """All stages' traces; these go nowhere."""

    _stage: Final = StageTrace()

    def stage(self, name: str) -> StageTrace:
        """What the stage `name` says it to."""
        return self._stage

    def open(self, *, worker: str) -> None:
        """Begin; what was said before is of no entry."""

    def close(self) -> None:
        """Send what is not sent yet; blocks, for a bounded time."""


def make_tracing(traces: Literal["off", "otlp"], *, group: str, version: str) -> Tracing:
    """Make what the settings ask for.

    Arguments:
        group: the consumer group, as the spans have it.
        version: of this program.
    """
    if traces == "off":
        return Tracing()
    # The extra `otel` need not be installed otherwise.
    from streams.tracing.otel import OtelTracing

    return OtelTracing(group=group, version=version)
