"""Whether this worker is alive and ready, and if not, who is to blame.

*Ready* is a worker that does its work, or would if there were any. *Alive* is one that a restart
would not help: it is not alive when a stage holds entries, makes no progress and waits for nobody.
A server that is away makes a worker unready, and never dead. A sink that is away makes it neither,
since it delays only its own deliveries, and is named all the same.

What is known is used; beyond that Redis and Postgres are asked once a second at most, and only
while somebody asks (:mod:`streams.operations.soundings`). Each worker also tells the fleet what it
knows, so that whoever looks at one sees what all have to say (:mod:`streams.figures.fleet`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from streams.figures.meter import StageMeter
from streams.operations.sounding import Sounding
from streams.operations.soundings import Soundings
from streams.topology import Kind, topology_of
from streams.transport import JOURNAL

if TYPE_CHECKING:
    from streams.app import ReconcilerApp

__all__ = ["Health", "Reason", "Report"]

T = TypeVar("T")

#: A stage that waits for less than this is only slow.
_BLOCKED_S: Final = 1.0
#: An answer that is older, since nobody has asked, says nothing about now.
_RECENT_S: Final = 10.0
#: A sink that has deliveries and took none of them for so long is named.
_SINK_SILENT_S: Final = 3.0
#: Beyond a statement's own time-out, until which a stage that waits for Postgres does not say so.
_STATEMENT_SLACK_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Reason:
    """Something that is not as it should be."""

    #: ``redis``, ``postgres``, ``sink.<name>``, ``fleet``, ``worker`` or the name of a stage.
    culprit: str
    #: For people.
    text: str
    #: Whether the worker does not do its work because of it.
    is_unready: bool = True
    #: Whether the worker should be restarted because of it.
    is_dead: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """How this worker is."""

    worker: str
    reasons: tuple[Reason, ...]

    @property
    def is_ready(self) -> bool:
        """Whether it does its work, or would if there were any."""
        return not any(reason.is_unready for reason in self.reasons)

    @property
    def is_alive(self) -> bool:
        """Whether a restart would not help."""
        return not any(reason.is_dead for reason in self.reasons)

    @property
    def not_ready(self) -> str:
        """Why it does not do its work, for people; empty if it does, or would."""
        return next((f"{r.culprit}: {r.text}" for r in self.reasons if r.is_unready), "")

    def blames(self, culprit: str) -> bool:
        """Whether `culprit` is named."""
        return any(reason.culprit == culprit for reason in self.reasons)

    def as_told(self) -> dict[str, Any]:
        """Return what a worker tells the fleet of it."""
        return {
            "not_ready": self.not_ready,
            "reasons": [{"culprit": r.culprit, "text": r.text} for r in self.reasons],
        }

    def as_dict(self) -> dict[str, Any]:
        """Return it in the shape that ``/readyz`` and ``/healthz`` answer with."""
        return {
            "worker": self.worker,
            "ready": self.is_ready,
            "alive": self.is_alive,
            "reasons": [asdict(reason) for reason in self.reasons],
        }


class Health:
    """Tells how a worker is.

    Arguments:
        lanes: how many reports wait in each lane.
    """

    def __init__(
        self, app: ReconcilerApp, soundings: Soundings, *, lanes: Callable[[], Mapping[str, int]]
    ) -> None:
        self._app = app
        #: What is asked of the servers where somebody wants to know.
        self.soundings = soundings
        self._lanes = lanes
        self._meter = app.reconciler.wiring.meter
        #: A stage that has entries, ends none of them for so long and waits for nobody is stuck.
        self._stuck_s = max(
            app.settings.stall_after_s,
            app.settings.statement_timeout_ms / 1000 + _STATEMENT_SLACK_S,
        )
        #: Of each topic: how many of its entries have ended, and since when it is so many.
        self._ended: dict[str, tuple[int, float]] = {}
        self._unowned_since: dict[str, float] = {}
        self._stages_of = _stages_by_topic(app)

    async def check(self, *, max_age_s: float = 0.0) -> Report:
        """Look, asking the servers where the last answer is older than `max_age_s` and a second."""
        if self.soundings.is_connected:
            await asyncio.gather(
                self.soundings.fleet.take(max_age_s=max_age_s),
                self.soundings.writable.take(max_age_s=max_age_s),
            )
        return self.known()

    def known(self) -> Report:
        """Say what is known, and ask nobody."""
        return Report(self._app.worker_name, tuple(self._reasons()))

    def _reasons(self) -> Iterator[Reason]:
        if self._app.should_stop:
            yield Reason("worker", "it is stopping")
        elif not self.soundings.is_connected:
            yield Reason("worker", "it is starting")
        servers = [*self._redis(), *self._postgres(), *self._transport()]
        yield from servers
        yield from self._unowned()
        yield from self._blocked()
        yield from self._full()
        stuck = list(self._stuck())
        # Whose server is away may have no way to go on, and a restart would not help.
        yield from (replace(reason, is_dead=False) for reason in stuck) if servers else stuck
        if self._app.watchdog.stalled and not (servers or stuck):
            yield Reason("worker", f"it makes no progress with {self._app.watchdog.stalled}")

    def _redis(self) -> Iterator[Reason]:
        fleet = self.soundings.fleet
        if fleet.trouble:
            yield Reason("redis", fleet.trouble)
        elif (seen := _recent(fleet)) is not None and not seen.has_group:
            source = self._app.settings.source_stream
            yield Reason("redis", f"the consumer group is not on {source}")
        if not (fleet.trouble or self._app.reconciler.consumer.is_member):
            yield Reason("redis", "no working member of the fleet: no beat has arrived in time")

    def _postgres(self) -> Iterator[Reason]:
        writable = self.soundings.writable
        if writable.trouble:
            yield Reason("postgres", writable.trouble)
        elif _recent(writable) is False:
            yield Reason("postgres", "it takes no writes: it is no primary, or set read-only")
        elif not self._app.reconciler.postgres.is_answering:
            yield Reason("postgres", "the last statement of a stage had no answer")

    def _transport(self) -> Iterator[Reason]:
        """What the transport tries again and again, whatever the servers say to a probe."""
        for activity, trouble in self._app.reconciler.consumer.troubles.items():
            if trouble.for_s >= _BLOCKED_S:
                yield Reason(
                    "postgres" if trouble.at == JOURNAL else "redis",
                    f"{activity} has failed for {trouble.for_s:.0f} s: {trouble.error}",
                )

    def _unowned(self) -> Iterator[Reason]:
        """Partitions that nobody reads, for longer than it takes to share them."""
        fleet = self.soundings.fleet
        if fleet.trouble or (seen := _recent(fleet)) is None:
            self._unowned_since.clear()
            return
        now = monotonic()
        unowned = seen.unowned
        self._unowned_since = {name: self._unowned_since.get(name, now) for name in unowned}
        limit_s = self._app.settings.lease_s * 2 + 2
        if late := sorted(n for n, since in self._unowned_since.items() if now - since > limit_s):
            yield Reason(
                "fleet",
                f"{len(late)} partitions are read by nobody, such as {late[0]}",
                # One that reads its own share does what it can.
                is_unready=not self._app.reconciler.consumer.assignment(),
            )

    def _blocked(self) -> Iterator[Reason]:
        for name, stage in self._meter.stages.items():
            if stage.blocked_s() >= _BLOCKED_S:
                yield Reason(
                    stage.blocked_by,
                    f"{name} waits for it for {stage.blocked_s():.0f} s",
                    is_unready=not stage.blocked_by.startswith("sink."),
                )

    def _full(self) -> Iterator[Reason]:
        """Sinks with as many deliveries as they may have.

        One that holds up the pipeline does what its settings say: no other worker would be better.
        """
        for name, sink in self._meter.sinks.items():
            if sink.backlog_is_full:
                what = f"{sink.backlog:,} deliveries wait for it, and {sink.backlog_max:,} may"
                since = f"for {sink.backlog_full_s():.0f} s"
                yield Reason(f"sink.{name}", f"{what}, {since}", is_unready=False)

    def _stuck(self) -> Iterator[Reason]:
        """Topics whose entries are in hand, and none of them has ended for long."""
        now = monotonic()
        consumer = self._app.reconciler.consumer
        in_hand: dict[str, int] = {}
        for tp in consumer.assignment():
            in_hand[tp.topic] = in_hand.get(tp.topic, 0) + consumer.ledger.unsettled(tp)
        for topic, names in self._stages_of.items():
            stages = [self._meter.stage(name) for name in names]
            ended = sum(stage.ended() for stage in stages)
            before, since = self._ended.get(topic, (-1, now))
            if ended != before or not in_hand.get(topic):
                since = now
            self._ended[topic] = (ended, since)
            if any(stage.blocked_by for stage in stages):
                continue
            still_s = now - since
            if (sink := _sink_of(topic)) is not None:
                if self._meter.sink(sink.removeprefix("sink.")).is_paused:
                    continue
                if still_s >= _SINK_SILENT_S:
                    text = f"it has taken none of its deliveries for {still_s:.0f} s"
                    yield Reason(sink, text, is_unready=False)
            elif still_s >= self._stuck_s:
                text = f"it has entries in hand and has ended none for {still_s:.0f} s"
                yield Reason(_holder(stages, self._lanes()), text, is_dead=True)


def _recent(sounding: Sounding[T]) -> T | None:
    """The last answer, if somebody has wanted to know lately."""
    return sounding.value if sounding.age_s <= _RECENT_S else None


def _stages_by_topic(app: ReconcilerApp) -> dict[str, list[str]]:
    """Which stages end the entries of each topic: its agent, and those behind its channels."""
    picture = topology_of(app, app.reconciler.wiring)
    kinds = {node.name: node.kind for node in picture.nodes}
    after: dict[str, list[str]] = {}
    for edge in picture.edges:
        after.setdefault(edge.source, []).append(edge.target)
    found: dict[str, list[str]] = {}
    for node in picture.nodes:
        if node.kind is not Kind.STREAM:
            continue
        agents = list(after.get(node.name, ()))
        for agent in agents:
            for target in after.get(agent, ()):
                if kinds[target] is Kind.CHANNEL:
                    agents += after.get(target, ())
        found[node.name] = agents
    return found


def _sink_of(topic: str) -> str | None:
    prefix, _, name = topic.partition(".")
    return f"sink.{name}" if prefix == "hooks" else None


def _holder(stages: Iterable[StageMeter], lanes: Mapping[str, int]) -> str:
    """The stage that most likely has the entries: one that was given more than it has ended."""
    first, *behind = stages
    for stage in behind:
        if lanes.get(stage.name) or stage.received > stage.ended():
            return stage.name
    return first.name
