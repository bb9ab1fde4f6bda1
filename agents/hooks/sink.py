"""What a hook sink must be and what it may rely on.

All of these are structural: a sink needs the members and no base class. Whoever writes one starts
from :class:`EventSink` or :class:`BatchSink`; what it leaves out is added by
:mod:`agents.hooks.adapted`. ``docs/sinks.md`` shows how.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streams.events import SandboxEvent

__all__ = ["BatchSink", "CheckedSink", "EventSink", "Sink"]


class EventSink(Protocol):
    """The least that a sink is: takes one event at a time.

    Deliveries to one sink may run at the same time, and at least once: the same event comes
    again after a failure, and also after a success whose acknowledgement was lost. Every
    attempt at one delivery carries the same ``delivery_id``; a sink is idempotent by it, or
    passes it on to a receiver that is.

    It may also have ``open()``, ``close()``, ``check()`` and ``target`` as in
    :class:`CheckedSink`, and an attribute ``Options``, a pydantic model or dataclass: it is then
    made with its name and its options, ``SinkClass(name, options)``, and otherwise with its name.
    """

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        """Deliver one event; to return is to promise that it is delivered durably.

        Raises:
            DeliveryError: The attempt failed; try again, no sooner than ``retry_after_s`` if
                that is set. Any other exception also means try again, but says less to the
                operator.
            DeliveryRefusedError: This delivery will never be taken: it becomes a dead letter,
                which an operator can have delivered again.
        """


class BatchSink(Protocol):
    """The same, for a sink that takes several events at once."""

    async def on_sandbox_events(self, events: Sequence[SandboxEvent]) -> None:
        """Deliver all of them; to return is to promise that each is delivered durably.

        Raises:
            DeliveryError: As above, for each of the events: they come again, perhaps in another
                batch.
            DeliveryRefusedError: As above, for each of them.
        """


class Sink(EventSink, Protocol):
    """What the deliveries see. An attempt must end: here, a sink bounds its own time."""

    name: str
    """Names the sink's topic, log lines and dead letters; unique among the sinks."""

    async def open(self) -> None:
        """Get ready to deliver; called on the event loop the deliveries will run on."""

    async def close(self) -> None:
        """Give up what ``open`` took. May be called without ``open``, and more than once."""


class CheckedSink(Sink, Protocol):
    """A sink that can say where its target is, and whether it answers."""

    @property
    def target(self) -> str:
        """Where it delivers to, in a few words without credentials; may be empty."""

    async def check(self) -> None:
        """Find out whether the target would take a delivery, without making one.

        Raises:
            DeliveryError: It would not.
        """
