"""What a hook sink must be and what it may rely on."""

from __future__ import annotations

from typing import Protocol

from streams.events import SandboxEvent


class Sink(Protocol):
    """A place that successful capsule events are delivered to.

    Structural: a sink needs these members and no base class.

    Deliveries to one sink may run at the same time, and at least once: the same event comes
    again after a failure, and also after a success whose acknowledgement was lost. Every
    attempt at one delivery carries the same ``delivery_id``; a sink is idempotent by it, or
    passes it on to a receiver that is.
    """

    name: str
    """Names the sink's topic, log lines and dead letters; unique among the sinks."""

    async def open(self) -> None:
        """Get ready to deliver; called on the event loop the deliveries will run on."""

    async def close(self) -> None:
        """Give up what ``open`` took. May be called without ``open``, and more than once."""

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        """Deliver one event; to return is to promise that it is delivered durably.

        An attempt must end: a sink bounds its own time, since nobody else knows how long a
        delivery may rightly take.

        Raises:
            DeliveryError: The attempt failed; try again, no sooner than ``retry_after_s`` if
                that is set. Any other exception also means try again, but says less to the
                operator.
        """
