"""A worker looks again whatever became of the last look, and says once that it cannot see."""

from __future__ import annotations

from typing import Any

from agents.looking import keep_looking
from streams.transport import Producer, TransportError


class App:
    """As much of an app as looking needs: it stops after so many looks."""

    def __init__(self, producer: Producer, looks: int) -> None:
        self._producer = producer
        self._left = looks
        self.slept_s: list[float] = []

    @property
    def should_stop(self) -> bool:
        self._left -= 1
        return self._left < 0

    async def maybe_start_producer(self) -> Producer:
        return self._producer

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


async def test_each_outage_is_said_once_and_looks_go_on() -> None:
    outcomes = [None, "a", "b", None, "c", None]
    left = list(outcomes)
    app: Any = App(object.__new__(Producer), looks=len(outcomes))
    said: list[str] = []

    async def look(_: Producer) -> None:
        if (error := left.pop(0)) is not None:
            raise TransportError(error)

    await keep_looking(
        app, look, every_s=lambda: float(len(left)), on_failure=lambda exc: said.append(str(exc))
    )
    assert left == []
    assert said == ["a", "c"]
    assert app.slept_s == [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
