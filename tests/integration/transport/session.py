"""All that an app does in its life, for servers of any kind."""

from __future__ import annotations

from functools import partial
from typing import Any

from streams.transport import BrokerUnavailableError

from .lab import Lab, LabApp
from .waiting import Received, eventually

__all__ = ["flow_and_hand_over", "send"]

_OUTAGE_S = 30.0


async def send(app: LabApp, topic: str, value: bytes, *, partition: int) -> None:
    """Send until the server says that it has it."""

    async def attempt() -> bool:
        try:
            # Not over Faust's topic: of what fails, it leaves a future that nobody looks at.
            await app.redis_producer.send_and_wait(topic, None, value, partition, None, None)
        except BrokerUnavailableError:
            return False
        return True

    await eventually(attempt, what=f"{value!r} sent", timeout_s=_OUTAGE_S)


async def flow_and_hand_over(lab: Lab, url: str) -> None:
    """One app does all there is to do; then two share it, and one of them goes and one dies."""
    received: list[Received[Any]] = []

    def make_app() -> LabApp:
        app = lab.app(url=url)
        received.append(app.collect(app.stream_topic("numbers", partitions=4)))
        return app

    def assigned(app: LabApp) -> int:
        return len(app.redis_consumer.assignment())

    first = make_app()
    await lab.start(first)
    await eventually(lambda: assigned(first) == 4, what="all partitions")
    for n in range(40):
        await send(first, "numbers", b"%d" % n, partition=n % 4)
    assert sorted(await received[0].until(40), key=int) == [b"%d" % n for n in range(40)]
    for n in range(4):
        await lab.settled(lab.key("numbers", n))
        await eventually(partial(_is_empty, lab, n), what="what is acknowledged trimmed")

    second = make_app()
    third = make_app()
    await lab.start(second)
    await eventually(lambda: (assigned(first), assigned(second)) == (2, 2), what="two shares")
    await lab.stop(first)
    await eventually(lambda: assigned(second) == 4, what="the leaver's share")
    await lab.start(third)
    await eventually(lambda: assigned(third) == 2, what="the newcomer's share")
    await lab.crash(second, lease_runs_out=False)
    await eventually(lambda: assigned(third) == 4, what="the dead worker's share")
    for n in range(4):
        await send(third, "numbers", b"last", partition=n)
    assert await received[2].until(4) == [b"last"] * 4
    await lab.stop(third)


async def _is_empty(lab: Lab, partition: int) -> bool:
    return not await lab.redis.xlen(lab.key("numbers", partition))
