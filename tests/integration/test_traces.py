"""One trace follows an entry through all stages, over restarts, and into each sink."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import psycopg2

from tests.event_log import textual_id
from tests.faults.scene import FaultyReceiver
from tests.faults.test_sink_outages import says
from tests.integration.span_collector import Collected, SpanCollector
from tests.oracle import Row
from tests.reconciliation import SOURCE, Ground, Receiver
from tests.worker_process import WorkerProcess, eventually

TEAM = UUID(int=7)
#: Each stage, and the one above it; the producer's own span is above the first.
WAY = {
    "route": "",
    "dispatch": "route",
    "create": "dispatch",
    "sql create": "create",
    "hook.audit": "create",
    "hook.billing": "create",
}
STRANGE = (
    "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
    "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
    "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-" + "x" * 10_000,
    "\x00",
    "",
)


def trace_id(number: int) -> str:
    return f"{number:032x}"


def parent(number: int, *, flags: str = "01") -> str:
    """The traceparent of a producer's span."""
    return f"00-{trace_id(number)}-{number:016x}-{flags}"


def created(number: int, **metadata: str) -> bytes:
    event = {
        "event": "capsule.create",
        "outcome": "success",
        "timestamp": "2026-03-01T12:00:00Z",
        "actor": {"type": "system"},
        "resource": {"id": textual_id("cl-", UUID(int=number)), "type": "sandbox"},
        "metadata": metadata,
    }
    return json.dumps(event).encode()


def publish(ground: Ground, payload: bytes, **fields: str) -> str:
    with ground.redis() as client:
        entry_id: bytes = client.xadd(SOURCE, {"payload": payload, **fields})
    return entry_id.decode()


def whole(collector: SpanCollector, number: int) -> Callable[[], bool]:
    """Whether all stages have told their part of a trace."""
    return lambda: {span.name for span in collector.of(trace_id(number))} >= WAY.keys()


def assert_one_way(spans: list[Collected], number: int) -> None:
    """Each stage once, below the right one, and none begun before the one above it."""
    by_name = {span.name: span for span in spans}
    assert Counter(span.name for span in spans) == Counter(WAY.keys())
    for name, above in WAY.items():
        span = by_name[name]
        assert span.parent_id == (by_name[above].span_id if above else f"{number:016x}"), name
        assert not above or span.begun_ns >= by_name[above].begun_ns, name
        done = "handed on" if name == "dispatch" else "done"
        assert span.attributes["capsules.outcome"] == done, name
        assert not span.is_error, name


async def test_an_entrys_trace_goes_through_all_stages_and_is_the_producers(
    ground: Ground, tmp_path: Path
) -> None:
    capsules = {UUID(int=n): Row("starting", TEAM) for n in range(1, 20)}
    ground.load(capsules)
    async with SpanCollector() as collector, Receiver() as billing, FaultyReceiver() as audit:
        sinks = [
            json.loads(receiver.settings()["CAPSULES_SINKS"])[0] | {"name": name}
            for name, receiver in (("billing", billing), ("audit", audit))
        ]
        settings = ground.settings(
            **collector.settings(sampler="parentbased_always_off"),
            CAPSULES_SINKS=json.dumps(sinks),
            CAPSULES_LOCK_TIMEOUT_MS="200",
        )
        worker = WorkerProcess(tmp_path / "1", **settings, CAPSULES_WORKER_NAME="first")
        await worker.wait_for("partitions_taken")
        audit.answer = says(503)
        with closing(psycopg2.connect(ground.database_url)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("lock table sandboxes in access exclusive mode")
            # By the metadata, by the entry's own fields, and by both: then the fields count.
            first_id = publish(ground, created(1, traceparent=parent(1)))
            publish(ground, created(2), traceparent=parent(2), tracestate="vendor=a-1")
            publish(ground, created(3, traceparent=parent(99)), traceparent=parent(3))
            # Not sampled, not traced, and not even a trace.
            publish(ground, created(4, traceparent=parent(4, flags="00")))
            publish(ground, created(5))
            for number, strange in enumerate(STRANGE, start=6):
                publish(ground, created(number, traceparent=strange, tracestate="=\x00,"))
            await worker.wait_for("stage_retry")
            connection.commit()
        await worker.wait_for("delivery_retry")
        audit.answer = None
        for number in (1, 2, 3):
            await eventually(whole(collector, number), what=f"trace {number}")
        await eventually(ground.drained, what="all done")
        for number in (1, 2, 3):
            assert_one_way(collector.of(trace_id(number)), number)
        assert {span.trace_id for span in collector.spans} == {trace_id(n) for n in (1, 2, 3)}
        assert {span.state for span in collector.of(trace_id(2))} == {"vendor=a-1"}
        assert {(span.worker, span.service) for span in collector.spans} == {
            ("first", "capsule-reconciler")
        }
        first = {span.name: span for span in collector.of(trace_id(1))}
        assert {span.attributes.get("capsules.source_id", first_id) for span in first.values()} == {
            first_id
        }
        # What was tried again is to be seen, where it was tried.
        tried = [name for name, span in first.items() if failed_at(span)]
        assert tried == ["hook.audit", "sql create"]
        assert failed_at(first["sql create"]) == {"postgres"}
        assert_batches(collector)

        # The next worker goes on with the same trace.
        audit.answer = says(503)
        publish(ground, created(1, traceparent=parent(17)))
        await eventually(whole_but_audit(collector, 17), what="all but one")
        assert await worker.stop() == 0
        audit.answer = None
        second = WorkerProcess(tmp_path / "2", **settings, CAPSULES_WORKER_NAME="second")
        await eventually(whole_by(collector, 17, "second"), what="the rest by another worker")
        assert await second.stop() == 0
    spans = collector.of(trace_id(17))
    (left,) = [s for s in spans if s.name == "hook.audit" and s.worker == "first"]
    assert left.attributes["capsules.outcome"] == "left"
    assert_one_way([span for span in spans if span is not left], 17)
    logged = worker.log_path.read_text("utf-8")
    assert "4bf92f3577b34da6a3ce929d0e0e4736" not in logged.lower()
    assert "w3c" not in logged


def failed_at(span: Collected) -> set[str]:
    """Where the attempts failed that a span tells of; "" is a sink's."""
    return {
        attributes.get("capsules.at", "")
        for name, attributes in span.events
        if name == "attempt failed"
    }


def assert_batches(collector: SpanCollector) -> None:
    """Spans of one batch have its number, and its size is no less than their number."""
    of_batch: dict[tuple[str, int], list[Collected]] = {}
    for span in collector.spans:
        if "capsules.batch" in span.attributes:
            of_batch.setdefault((span.name, span.attributes["capsules.batch"]), []).append(span)
    for spans in of_batch.values():
        (size,) = {span.attributes["messaging.batch.message_count"] for span in spans}
        assert size >= len(spans)


def whole_but_audit(collector: SpanCollector, number: int) -> Callable[[], bool]:
    wanted = WAY.keys() - {"hook.audit"}
    return lambda: {span.name for span in collector.of(trace_id(number))} >= wanted


def whole_by(collector: SpanCollector, number: int, worker: str) -> Callable[[], bool]:
    return lambda: any(
        span.worker == worker and span.name == "hook.audit"
        for span in collector.of(trace_id(number))
    )
