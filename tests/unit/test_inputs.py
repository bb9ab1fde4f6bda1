"""Inputs: how full each is, since when, and whom that holds up."""

from __future__ import annotations

from typing import Any

from faust.types import TP

from streams.figures.inputs import Inputs, told_of_input
from streams.figures.meter import Meter
from streams.topology import Edge, Kind, Node, Topology
from streams.transport.ledger import Ledger

PICTURE = Topology(
    (
        Node(Kind.STREAM, "capsules", 2),
        Node(Kind.AGENT, "dispatch"),
        Node(Kind.CHANNEL, "lane.pause"),
        Node(Kind.CHANNEL, "lane.create"),
        Node(Kind.AGENT, "pause"),
        Node(Kind.AGENT, "create"),
        Node(Kind.STREAM, "hooks.billing", 2),
        Node(Kind.AGENT, "hook.billing"),
    ),
    (
        Edge("capsules", "dispatch"),
        Edge("dispatch", "lane.pause"),
        Edge("dispatch", "lane.create"),
        Edge("lane.pause", "pause"),
        Edge("lane.create", "create"),
        Edge("pause", "hooks.billing"),
        Edge("create", "hooks.billing"),
        Edge("hooks.billing", "hook.billing"),
    ),
)
CAPSULES = [TP("capsules", n) for n in range(2)]
HOOKS = TP("hooks.billing", 0)


class Reads:
    """A consumer that reads these partitions."""

    def __init__(self) -> None:
        self.ledger = Ledger(capacity=10, read_size=5, on_room=lambda: None)
        for tp in self.assignment():
            self.ledger.open(tp)

    def assignment(self) -> set[TP]:
        return {*CAPSULES, HOOKS}

    def have(self, tp: TP, count: int) -> None:
        self.ledger.admit(tp, [(b"%d-0" % n, []) for n in range(count)])


def watched(lanes: dict[str, int]) -> tuple[Inputs, Meter, Any]:
    meter = Meter()
    return Inputs(PICTURE, meter, lanes=lambda: lanes, prefetch_entries=10), meter, Reads()


def test_a_partition_with_all_it_may_have_fills_the_input_and_its_lanes_hold_up_dispatch() -> None:
    inputs, _, consumer = watched({"pause": 3})
    consumer.have(CAPSULES[0], 5)
    found = inputs.look(consumer)
    assert (found["dispatch"].depth, found["dispatch"].capacity) == (5, 20)
    assert {stage for stage, i in found.items() if i.full_s is not None} == set()
    consumer.have(CAPSULES[0], 6)
    first, second = inputs.look(consumer), inputs.look(consumer)
    assert 0 <= (first["dispatch"].full_s or 0) < (second["dispatch"].full_s or 0)
    assert {stage for stage, i in second.items() if i.full_s is not None} == {"dispatch", "pause"}
    assert {stage: i.holds_up for stage, i in second.items() if i.holds_up} == {
        "pause": ("dispatch",)
    }
    consumer.ledger.close(CAPSULES[0])
    assert inputs.look(consumer)["dispatch"].full_s is None


def test_a_sink_whose_backlog_is_full_holds_up_who_sends_to_it_if_it_is_to() -> None:
    inputs, meter, consumer = watched({})
    sink = meter.sink("billing")
    sink.at_backlog_max = "hold"
    assert inputs.look(consumer)["hook.billing"].full_s is None
    sink.fill_backlog()
    assert inputs.look(consumer)["hook.billing"].holds_up == ("pause", "create")
    sink.at_backlog_max = "dead_letter_oldest"
    found = inputs.look(consumer)["hook.billing"]
    assert found.full_s is not None
    assert found.holds_up == ()


def test_workers_together_have_the_sum_of_what_they_have_and_are_full_as_the_worst_is() -> None:
    inputs, meter, consumer = watched({})
    meter.sink("billing").at_backlog_max = "hold"
    well = inputs.look(consumer)["hook.billing"].as_dict()
    meter.sink("billing").fill_backlog()
    full = inputs.look(consumer)["hook.billing"].as_dict()
    assert told_of_input([well, full]) == {
        "depth": 0,
        "capacity": 20,
        "full_s": full["full_s"],
        "holds_up": ["create", "pause"],
    }
    assert told_of_input([])["full_s"] is None
