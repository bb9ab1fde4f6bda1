"""The series that ``/metrics`` has: their types, what they say, and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

__all__ = ["SERIES", "Series"]


@dataclass(frozen=True, slots=True)
class Series:
    """One family of series: its type, what it says, and its labels."""

    kind: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
    about: str
    labels: tuple[str, ...] = ()


_COUNTER, _GAUGE, _HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

#: All of our own, without the process's (``process_*``).
SERIES: Final[Mapping[str, Series]] = {
    "capsules_build_info": Series(
        _GAUGE, "Always 1; what runs here.", ("version", "app_id", "python")
    ),
    "capsules_ready": Series(_GAUGE, "Whether this worker does its work, as /readyz says."),
    "capsules_alive": Series(_GAUGE, "Whether a restart would not help, as /healthz says."),
    "capsules_component_up": Series(
        _GAUGE,
        "0 while this worker names the component as a culprit: redis, postgres, fleet, worker,"
        " a sink or a stage.",
        ("component",),
    ),
    "capsules_fleet_member": Series(
        _GAUGE, "Whether this worker is a working member of the fleet."
    ),
    "capsules_stage_received_total": Series(
        _COUNTER, "Entries given to a stage; repeated ones again.", ("stage",)
    ),
    "capsules_stage_outcomes_total": Series(
        _COUNTER,
        "What became of entries at a stage: done, skip, dead, or retry, which is no end."
        " The reason is the rule of a skip or the reason of a death.",
        ("stage", "outcome", "reason"),
    ),
    "capsules_stage_failed_total": Series(
        _COUNTER,
        "Attempts of a stage that failed, by what they failed at: redis, postgres or a sink.",
        ("stage", "by"),
    ),
    "capsules_transport_failed_total": Series(
        _COUNTER,
        "Attempts at reading, acknowledging or sharing partitions that failed, by what they failed"
        " at: redis, or the journal of losses, which is in Postgres.",
        ("activity", "by"),
    ),
    "capsules_stage_batch_entries": Series(
        _HISTOGRAM, "Entries in each batch that a stage worked on.", ("stage",)
    ),
    "capsules_stage_waited_seconds": Series(
        _HISTOGRAM,
        "From an entry's arrival in the stage's own stream to its end there.",
        ("stage",),
    ),
    "capsules_stage_end_to_end_seconds": Series(
        _HISTOGRAM, "From an entry's arrival in the producer's stream to its effect.", ("stage",)
    ),
    "capsules_stage_blocked": Series(
        _GAUGE, "1 while a stage waits for redis, postgres or a sink.", ("stage", "by")
    ),
    "capsules_stage_blocked_seconds_total": Series(
        _COUNTER, "How long a stage has waited for a server or a sink, in all.", ("stage",)
    ),
    "capsules_flow_entries_total": Series(
        _COUNTER,
        "Entries, or rows, that went over an edge of the topology.",
        ("source", "target"),
    ),
    "capsules_sink_paused": Series(
        _GAUGE, "1 while somebody has paused the sink. Of the whole fleet.", ("sink",)
    ),
    "capsules_sink_breaker_open": Series(
        _GAUGE,
        "1 while the sink's breaker is open: nothing is attempted until a probe succeeds.",
        ("sink",),
    ),
    "capsules_sink_breaker_openings_total": Series(
        _COUNTER, "How often the sink's breaker has opened.", ("sink",)
    ),
    "capsules_sink_backlog_max_entries": Series(
        _GAUGE, "Entries that may wait for the sink, of the whole fleet.", ("sink",)
    ),
    "capsules_sink_backlog_full": Series(
        _GAUGE,
        "1 while so many wait: the sink holds up the pipeline, or its oldest deliveries become dead"
        " letters, as its settings say. Of the whole fleet.",
        ("sink",),
    ),
    "capsules_lane_depth_entries": Series(_GAUGE, "Reports that wait in a verb's lane.", ("lane",)),
    "capsules_input_depth_entries": Series(
        _GAUGE,
        "Entries that a stage has been given and not finished, or wait in its lane.",
        ("stage",),
    ),
    "capsules_input_capacity_entries": Series(
        _GAUGE,
        "How many these may be; of the lanes, in all of them together. A sink's topic in Redis is"
        " bounded by capsules_sink_backlog_max_entries.",
        ("stage",),
    ),
    "capsules_input_full_seconds": Series(
        _GAUGE, "For how long a stage's input has been full; 0 while it is not.", ("stage",)
    ),
    "capsules_stage_held_up": Series(
        _GAUGE,
        "1 while a stage is held up because the input of another one is full.",
        ("stage", "by"),
    ),
    "capsules_in_hand_entries": Series(
        _GAUGE, "Entries delivered to this worker and not settled.", ("topic",)
    ),
    "capsules_partitions_held": Series(_GAUGE, "Partitions that this worker reads.", ("topic",)),
    "capsules_partitions_full": Series(
        _GAUGE, "Of them, those not read because enough is in hand.", ("topic",)
    ),
    "capsules_partitions": Series(_GAUGE, "Partitions of a topic.", ("topic",)),
    "capsules_lost_entries_total": Series(
        _COUNTER, "Entries that this worker has found to be lost."
    ),
    "capsules_backlog_entries": Series(
        _GAUGE,
        "Entries of a topic that nobody has read (unread) or nobody has finished (pending);"
        " of the whole fleet, the same at each worker.",
        ("topic", "state"),
    ),
    "capsules_backlog_oldest_age_seconds": Series(
        _GAUGE, "Age of the oldest of them; 0 where there is none. Of the whole fleet.", ("topic",)
    ),
    "capsules_fleet_workers": Series(_GAUGE, "Workers that say that they are there."),
    "capsules_dead_letters_open": Series(
        _GAUGE, "Dead letters that nobody has dealt with. Of the whole fleet."
    ),
    "capsules_gaps_open": Series(
        _GAUGE, "Losses of entries that nobody has dealt with. Of the whole fleet."
    ),
    "capsules_sounding_age_seconds": Series(
        _GAUGE, "How old what is said of the whole fleet is, by the server it is from.", ("server",)
    ),
    "capsules_postgres_pool_connections": Series(
        _GAUGE, "Connections of the stages to Postgres, by what they do.", ("state",)
    ),
    "capsules_postgres_pool_connections_max": Series(_GAUGE, "How many there may be."),
}
