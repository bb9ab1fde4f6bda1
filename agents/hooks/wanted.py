"""A sink that wants only some of the events: the others are done at once."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from agents.hooks.sink import CheckedSink
from streams.events import HookType, SandboxEvent

__all__ = ["WantedSink"]


class WantedSink:
    """Hands on what is wanted.

    Arguments:
        types: of these types; None: of all.
        teams: of these teams, then also not of an unknown one; None: of all.
    """

    def __init__(
        self,
        sink: CheckedSink,
        *,
        types: Collection[HookType] | None,
        teams: Collection[UUID] | None,
    ) -> None:
        self.name = sink.name
        self._sink = sink
        self._types = None if types is None else frozenset(types)
        self._teams = None if teams is None else frozenset(teams)

    def __repr__(self) -> str:
        return f"WantedSink({self._sink!r})"

    def wants(self, event: SandboxEvent) -> bool:
        """Whether the sink is told of `event`."""
        return (self._types is None or event.type in self._types) and (
            self._teams is None or event.team_id in self._teams
        )

    @property
    def target(self) -> str:
        """Where the sink delivers to, for operators."""
        return self._sink.target

    async def open(self) -> None:
        """Open the sink."""
        await self._sink.open()

    async def close(self) -> None:
        """Close the sink."""
        await self._sink.close()

    async def check(self) -> None:
        """Check the sink."""
        await self._sink.check()

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        """Make one attempt if the event is wanted."""
        if self.wants(event):
            await self._sink.on_sandbox_event(event)
