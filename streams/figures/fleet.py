"""What each worker says of itself once a second, in Redis, for whoever looks at the fleet.

A hash with a field per worker. What a worker that died has left there is not shown for long: a
figure that has not been renewed is passed over, and removed by the others.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import faust
import orjson
import psutil
import redis.asyncio
import structlog

from streams.figures.inputs import Inputs
from streams.figures.meter import Meter, StageMeter, quantile
from streams.transport import Consumer, Producer, StreamLayout, TransportError, broker_errors

__all__ = ["FRESH_S", "Figures", "read_figures"]

log = structlog.get_logger(__name__)

_PERIOD_S: Final = 1.0
#: Rates are over so many seconds.
_RATE_OVER_S: Final = 10
#: Figures that are older belong to a worker that is gone, or cannot say how it is.
FRESH_S: Final = 10.0
_KEY: Final = "figures"
#: Ticks between two looks for what dead workers have left behind.
_REMOVE_EVERY: Final = 30
_QUANTILES: Final = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))


class Figures:
    """Tells the fleet about this worker.

    Arguments:
        worker: its name.
        lanes: how many reports wait in each lane.
        inputs: what each stage has to do.
        health: how this worker is, as it is told.
    """

    def __init__(
        self,
        layout: StreamLayout,
        meter: Meter,
        *,
        worker: str,
        version: str,
        lanes: Callable[[], dict[str, int]],
        inputs: Inputs,
        health: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._key = layout.name(_KEY)
        self._meter = meter
        self._worker = worker
        self._version = version
        self._lanes = lanes
        self._inputs = inputs
        self._health = health
        self._process = psutil.Process()
        self._cpu_before: deque[tuple[float, float]] = deque(maxlen=_RATE_OVER_S + 1)
        #: Entries over each edge, and into each stage, at the last ticks.
        self._before: deque[tuple[float, dict[tuple[str, str], int], dict[str, int]]] = deque(
            maxlen=_RATE_OVER_S + 1
        )
        #: Since when a topic has had a partition that is full, by the monotonic clock.
        self._full_since: dict[str, float] = {}
        #: What was told last, or would have been if Redis had taken it.
        self.latest: dict[str, Any] | None = None

    async def tell(self, app: faust.App) -> None:
        """Tell once a second, until `app` stops; a Faust task."""
        producer = await app.maybe_start_producer()
        assert isinstance(producer, Producer)  # noqa: S101 - the app's broker is Redis
        consumer = app.consumer
        assert isinstance(consumer, Consumer)  # noqa: S101 - the app's broker is Redis
        ticks = 0
        try:
            while not app.should_stop:
                self._meter.tick()
                ticks += 1
                try:
                    await self._tell(producer.client, consumer)
                    if ticks % _REMOVE_EVERY == 0:
                        await self._remove_gone(producer.client)
                except TransportError as exc:
                    log.debug("figures not told", action="figures_not_told", error=str(exc))
                await app.sleep(_PERIOD_S)
        finally:
            await self._leave(producer.client)

    async def _tell(self, client: redis.asyncio.Redis, consumer: Consumer) -> None:
        self.latest = self.collect(consumer)
        with broker_errors("TIME"):
            seconds, micros = await client.time()
        self._meter.clock.offset_ms = (seconds - time.time()) * 1000 + micros / 1000
        self.latest["at_s"] = self._meter.clock.now_ms() / 1000
        with broker_errors("HSET"):
            await client.hset(self._key, self._worker, orjson.dumps(self.latest))

    async def _remove_gone(self, client: redis.asyncio.Redis) -> None:
        """Remove what workers left behind that were killed."""
        now_s = self._meter.clock.now_ms() / 1000
        with broker_errors("HGETALL"):
            found: dict[Any, Any] = await client.hgetall(self._key)
        if gone := [worker for worker, raw in found.items() if not _fresh(raw, now_s)]:
            with broker_errors("HDEL"):
                await client.hdel(self._key, *gone)

    async def _leave(self, client: redis.asyncio.Redis) -> None:
        try:
            with broker_errors("HDEL"):
                await client.hdel(self._key, self._worker)
        except TransportError as exc:
            log.debug("figures not removed", action="figures_not_told", error=str(exc))

    def collect(self, consumer: Consumer) -> dict[str, Any]:
        """Return all figures of this worker as they stand."""
        flows = {edge: flow.entries for edge, flow in self._meter.flows.items()}
        received = {name: stage.received for name, stage in self._meter.stages.items()}
        now = time.monotonic()
        then, flows_then, received_then = self._before[0] if self._before else (now, {}, {})
        over_s = max(now - then, 1e-9)
        self._before.append((now, flows, received))
        return {
            "at_s": self._meter.clock.now_ms() / 1000,
            "worker": self._worker,
            "version": self._version,
            "pid": os.getpid(),
            "up_s": round(time.time() - self._process.create_time(), 1),
            "cpu": self._cpu_share(now),
            "rss_bytes": self._process.memory_info().rss,
            **self._health(),
            "partitions": self._partitions(consumer),
            "flows": [
                [*edge, n, round((n - flows_then.get(edge, 0)) / over_s, 2)]
                for edge, n in flows.items()
            ],
            "stages": {
                name: _stage(stage)
                | {
                    "received_per_s": round(
                        (received[name] - received_then.get(name, 0)) / over_s, 2
                    )
                }
                for name, stage in self._meter.stages.items()
            },
            "lanes": self._lanes(),
            "inputs": {
                stage: found.as_dict() for stage, found in self._inputs.look(consumer).items()
            },
            "sinks": {name: sink.as_dict() for name, sink in self._meter.sinks.items()},
            "transport": {
                activity: dict(trouble.failed) for activity, trouble in consumer.troubles.items()
            },
        }

    def _cpu_share(self, now: float) -> float:
        times = self._process.cpu_times()
        used_s = times.user + times.system
        then, used_then_s = self._cpu_before[0] if self._cpu_before else (now, used_s)
        self._cpu_before.append((now, used_s))
        return round((used_s - used_then_s) / max(now - then, 1e-9), 4)

    def _partitions(self, consumer: Consumer) -> dict[str, Any]:
        """What this worker reads, by topic: partitions, entries in hand, how long it is full."""
        found: dict[str, Any] = {}
        for tp in sorted(consumer.assignment()):
            topic = found.setdefault(
                tp.topic, {"numbers": [], "in_hand": 0, "full": 0, "full_for_s": 0.0}
            )
            topic["numbers"].append(tp.partition)
            topic["in_hand"] += consumer.ledger.unsettled(tp)
            topic["full"] += consumer.ledger.is_open(tp) and not consumer.ledger.has_room(tp)
        for name, topic in found.items():
            if topic["full"]:
                since = self._full_since.setdefault(name, time.monotonic())
                topic["full_for_s"] = round(time.monotonic() - since, 1)
            else:
                self._full_since.pop(name, None)
        return found


def _stage(stage: StageMeter) -> dict[str, Any]:
    outcomes: dict[str, int] = {}
    for (outcome, detail), n in stage.outcomes.items():
        outcomes[f"{outcome}/{detail}" if detail else outcome.value] = n
    return {
        "received": stage.received,
        "outcomes": outcomes,
        "failed": dict(stage.failed),
        "batch": _quantiles(stage.batches.recent()),
        "waited_ms": _quantiles(stage.waited.recent()),
        "end_to_end_ms": _quantiles(stage.end_to_end.recent()),
        "blocked_by": stage.blocked_by,
        "blocked_s": round(stage.blocked_s(), 1),
        "blocked_total_s": round(stage.blocked_total_s(), 1),
    }


def _quantiles(counts: list[int]) -> dict[str, float | None]:
    found = {name: quantile(counts, share) for share, name in _QUANTILES}
    return {name: None if value is None else round(value, 1) for name, value in found.items()}


async def read_figures(
    client: redis.asyncio.Redis, layout: StreamLayout, *, now_s: float
) -> list[dict[str, Any]]:
    """Return what the workers say that are there, by name; `now_s` is Redis' clock.

    Raises:
        TransportError: Redis is unreachable or refuses.
    """
    with broker_errors("HGETALL"):
        found: dict[Any, Any] = await client.hgetall(layout.name(_KEY))
    told = [said for raw in found.values() if (said := _fresh(raw, now_s))]
    return sorted(told, key=lambda said: str(said["worker"]))


def _fresh(raw: bytes, now_s: float) -> dict[str, Any] | None:
    """Return what a worker said; None for what is too old, or no figures of ours."""
    try:
        said: dict[str, Any] = orjson.loads(raw)
        return said if said["worker"] and abs(now_s - said["at_s"]) <= FRESH_S else None
    except (ValueError, TypeError, KeyError):
        return None
