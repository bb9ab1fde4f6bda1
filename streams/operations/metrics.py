"""What ``/metrics`` says, in the text format of Prometheus.

Nothing is counted here: each scrape reads the meter that the stages count with, the ledger, and
the last answers of Redis and Postgres. Labels have values from the topology and from enumerations
only, never one that came in an entry, so there are never more series than the settings ask for.

Faust's own Prometheus sensor is not used: it counts messages, and one message here is the up to
``fetch_count`` entries of a read; its "active" gauges only ever grow for topics that Faust does
not acknowledge, and its times are in milliseconds.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from streams.events import SkipRule
from streams.figures.meter import BOUNDS, Distribution
from streams.operations.health import Report
from streams.operations.series import SERIES
from streams.operations.soundings import Soundings
from streams.outcomes import Reason
from streams.transport import JOURNAL, REDIS

if TYPE_CHECKING:
    from streams.app import ReconcilerApp

__all__ = ["Metrics"]

#: Every second bound: powers of two, from 1 ms or 1 entry on.
_EVERY: Final = 2
#: Of entries in a batch: no batch has more than some thousands.
_BATCH_BOUNDS: Final = 14
_DETAILS: Final = frozenset({"", *SkipRule, *Reason})


class Metrics(Collector):
    """The metrics of one worker.

    Arguments:
        lanes: how many reports wait in each lane.
    """

    def __init__(
        self,
        app: ReconcilerApp,
        soundings: Soundings,
        *,
        version: str,
        lanes: Callable[[], Mapping[str, int]],
    ) -> None:
        self._app = app
        self._soundings = soundings
        self._version = version
        self._lanes = lanes
        self._meter = app.reconciler.wiring.meter
        self._topics = [topic.get_topic_name() for topic in app.reconciler.topics.all()]
        self._report = Report("", ())
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def scrape(self, report: Report) -> bytes:
        """Return all series; `report` is how the worker is.

        A server that is away costs the time until its answer counts as missing, and what was
        known of it last is said while it is not too old.
        """
        self._report = report
        if self._soundings.is_connected:
            await self._soundings.waiting.take()
            await self._soundings.kept.take()
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Return the families without samples."""
        for name in SERIES:
            yield _family(name)

    def collect(self) -> Iterator[Metric]:
        """Return everything as it stands."""
        yield from self._about_worker()
        yield from self._about_stages()
        yield from self._about_times()
        yield from self._about_sinks()
        yield from self._about_inputs()
        yield from self._about_partitions()
        yield from self._about_fleet()
        yield from self._about_postgres()

    def _about_worker(self) -> Iterator[Metric]:
        app = self._app
        labels = (self._version, app.settings.app_id, platform.python_version())
        yield _filled("capsules_build_info", {labels: 1})
        yield _filled("capsules_ready", {(): self._report.is_ready})
        yield _filled("capsules_alive", {(): self._report.is_alive})
        components = ["redis", "postgres", "fleet", "worker"]
        components += [*self._meter.stages, *sorted(app.reconciler.wiring.sinks)]
        up = {(name,): not self._report.blames(name) for name in components}
        yield _filled("capsules_component_up", up)
        consumer = app.reconciler.consumer
        yield _filled("capsules_fleet_member", {(): consumer.is_member})
        yield _filled("capsules_lost_entries_total", {(): consumer.lost_total})
        depths = {(name,): depth for name, depth in self._lanes().items()}
        yield _filled("capsules_lane_depth_entries", depths)
        flows = {edge: flow.entries for edge, flow in self._meter.flows.items()}
        yield _filled("capsules_flow_entries_total", flows)

    def _about_stages(self) -> Iterator[Metric]:
        stages = self._meter.stages
        received = {(name,): stage.received for name, stage in stages.items()}
        yield _filled("capsules_stage_received_total", received)
        outcomes: dict[tuple[str, ...], float] = {}
        for name, stage in stages.items():
            for (outcome, detail), n in stage.outcomes.items():
                labels = (name, outcome.value, detail if detail in _DETAILS else "other")
                outcomes[labels] = outcomes.get(labels, 0) + n
        yield _filled("capsules_stage_outcomes_total", outcomes)
        failed = {(name, by): n for name, stage in stages.items() for by, n in stage.failed.items()}
        yield _filled("capsules_stage_failed_total", failed)
        troubles = self._app.reconciler.consumer.troubles.items()
        failed = {(name, by): t.failed[by] for name, t in troubles for by in (REDIS, JOURNAL)}
        yield _filled("capsules_transport_failed_total", failed)
        blocked = {(n, s.blocked_by): 1 for n, s in stages.items() if s.blocked_by}
        yield _filled("capsules_stage_blocked", blocked)
        waited = {(name,): stage.blocked_total_s() for name, stage in stages.items()}
        yield _filled("capsules_stage_blocked_seconds_total", waited)

    def _about_sinks(self) -> Iterator[Metric]:
        sinks = self._meter.sinks
        paused = {(name,): sink.is_paused for name, sink in sinks.items()}
        yield _filled("capsules_sink_paused", paused)
        is_open = {(name,): sink.breaker_is_open for name, sink in sinks.items()}
        yield _filled("capsules_sink_breaker_open", is_open)
        openings = {(name,): sink.breaker_openings for name, sink in sinks.items()}
        yield _filled("capsules_sink_breaker_openings_total", openings)
        most = {(name,): sink.backlog_max for name, sink in sinks.items()}
        yield _filled("capsules_sink_backlog_max_entries", most)
        full = {(name,): sink.backlog_is_full for name, sink in sinks.items()}
        yield _filled("capsules_sink_backlog_full", full)

    def _about_times(self) -> Iterator[Metric]:
        batches = _family("capsules_stage_batch_entries")
        waited = _family("capsules_stage_waited_seconds")
        end_to_end = _family("capsules_stage_end_to_end_seconds")
        for name, stage in self._meter.stages.items():
            _add_histogram(batches, name, stage.batches, scale=1, bounds=_BATCH_BOUNDS)
            _add_histogram(waited, name, stage.waited, scale=1000)
            _add_histogram(end_to_end, name, stage.end_to_end, scale=1000)
        yield from (batches, waited, end_to_end)

    def _about_inputs(self) -> Iterator[Metric]:
        inputs = self._app.inputs.look(self._app.reconciler.consumer)
        depths = {(stage,): found.depth for stage, found in inputs.items()}
        yield _filled("capsules_input_depth_entries", depths)
        capacities = {(stage,): found.capacity for stage, found in inputs.items()}
        yield _filled("capsules_input_capacity_entries", capacities)
        full = {(stage,): found.full_s or 0.0 for stage, found in inputs.items()}
        yield _filled("capsules_input_full_seconds", full)
        held_up = {(held, stage): 1 for stage, found in inputs.items() for held in found.holds_up}
        yield _filled("capsules_stage_held_up", held_up)

    def _about_partitions(self) -> Iterator[Metric]:
        consumer = self._app.reconciler.consumer
        layout = self._app.redis_layout
        in_hand: dict[tuple[str, ...], float] = {(topic,): 0 for topic in self._topics}
        held, full = dict(in_hand), dict(in_hand)
        for tp in consumer.assignment():
            labels = (tp.topic,)
            in_hand[labels] += consumer.ledger.unsettled(tp)
            held[labels] += 1
            full[labels] += consumer.ledger.is_open(tp) and not consumer.ledger.has_room(tp)
        yield _filled("capsules_in_hand_entries", in_hand)
        yield _filled("capsules_partitions_held", held)
        yield _filled("capsules_partitions_full", full)
        known = {(topic,): layout.partitions(topic) for topic in self._topics if topic in layout}
        yield _filled("capsules_partitions", known)

    def _about_fleet(self) -> Iterator[Metric]:
        waiting = self._soundings.waiting
        entries: dict[tuple[str, ...], float] = {}
        oldest: dict[tuple[str, ...], float] = {}
        if (seen := waiting.value) is not None:
            for topic in self._topics:
                backlog = seen.backlogs.of(topic)
                entries[topic, "unread"] = backlog.unread
                entries[topic, "pending"] = backlog.pending
                oldest[topic,] = backlog.oldest_age_s or 0.0
            yield _filled("capsules_fleet_workers", {(): len(seen.workers)})
        yield _filled("capsules_backlog_entries", entries)
        yield _filled("capsules_backlog_oldest_age_seconds", oldest)
        kept = self._soundings.kept
        if kept.value is not None:
            yield _filled("capsules_dead_letters_open", {(): kept.value.dead_letters})
            yield _filled("capsules_gaps_open", {(): kept.value.gaps})
        ages = {("redis",): waiting.age_s, ("postgres",): kept.age_s}
        yield _filled("capsules_sounding_age_seconds", ages)

    def _about_postgres(self) -> Iterator[Metric]:
        in_use, free = self._app.reconciler.postgres.connections
        states: dict[tuple[str, ...], float] = {("in_use",): in_use, ("free",): free}
        yield _filled("capsules_postgres_pool_connections", states)
        most = self._app.settings.postgres_pool_size
        yield _filled("capsules_postgres_pool_connections_max", {(): most})


def _family(name: str) -> Metric:
    series = SERIES[name]
    family: Metric = series.kind(name, series.about, labels=series.labels)
    return family


def _filled(name: str, values: Mapping[Any, float]) -> Metric:
    """Return the family with `values` by their labels, each a tuple of texts."""
    family = _family(name)
    assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)  # noqa: S101 - see SERIES
    for labels, value in values.items():
        family.add_metric(labels, float(value))
    return family


def _add_histogram(
    family: Metric, stage: str, of: Distribution, *, scale: float, bounds: int = len(BOUNDS)
) -> None:
    """Add one stage's distribution; its bounds are exact, since they are some of its own."""
    assert isinstance(family, HistogramMetricFamily)  # noqa: S101 - see SERIES
    buckets = []
    so_far = 0
    for index, count in enumerate(of.counts[:-1]):
        so_far += count
        if index % _EVERY == 0 and index < bounds * _EVERY:
            buckets.append((str(BOUNDS[index] / scale), float(so_far)))
    buckets.append(("+Inf", float(sum(of.counts))))
    family.add_metric([stage], buckets, sum_value=of.total / scale)
