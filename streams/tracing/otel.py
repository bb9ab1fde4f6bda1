"""Traces by OpenTelemetry, sent over OTLP as the ``OTEL_*`` environment says.

A span for each sampled entry at each stage, one below the other: route, dispatch, the verb with its
statement, each delivery. Where the producer's entry, or the metadata of its payload, has a
``traceparent``, route continues that trace. Both are written by strangers: what is not exactly as
W3C Trace Context has it is passed over, and the worker's own sampler has the last word.

A batch is nobody's parent: its entries belong to different traces. Their spans have its number and
size instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from time import time_ns
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from streams.events import CapsuleEvent
from streams.ids import format_capsule_id
from streams.topics import SOURCE_ID, TRACE_PARENT, TRACE_STATE
from streams.tracing.trace_context import NO_CONTEXT, incoming, read_context, write_context
from streams.tracing.tracing import StageTrace, Traced, Tracing
from streams.transport import Entry, Record

__all__ = ["OtelTracing"]


class _Handed(NamedTuple):
    """An entry on its way to another stage of this process."""

    context: Context
    at_ns: int


class _Ids(RandomIdGenerator):
    """Random ids, where a trace's can be settled before its first span is made."""

    settled = 0

    def generate_trace_id(self) -> int:
        settled, self.settled = self.settled, 0
        return settled or super().generate_trace_id()


class OtelTracing(Tracing):
    """The traces of one worker.

    Arguments:
        group: the consumer group.
        version: of this program.
        exporter: where spans go; by default over OTLP.
    """

    def __init__(self, *, group: str, version: str, exporter: SpanExporter | None = None) -> None:
        self._group = group
        self._version = version
        self._exporter = exporter
        self._provider: TracerProvider | None = None
        self._ids = _Ids()
        self._stages: dict[str, _StageSpans] = {}
        #: Entries that one stage has handed on, and no other has taken yet.
        self.handed: dict[Entry, _Handed] = {}
        #: Makes nothing before `open`.
        self.tracer: trace.Tracer = trace.NoOpTracer()
        self.batches = count(1)

    def stage(self, name: str) -> StageTrace:
        """The spans of the stage `name`."""
        return self._stages.setdefault(name, _StageSpans(self, name, self._group))

    def open(self, *, worker: str) -> None:
        """Begin to make spans; sinks that are instrumented themselves find the provider, too."""
        resource = Resource.create(
            {"service.version": self._version, "service.instance.id": worker}
        )
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "capsule-reconciler"}))
        self._provider = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter or OTLPSpanExporter()))
        trace.set_tracer_provider(self._provider)
        # It says what is wrong with a tracestate, and so what strangers wrote.
        logging.getLogger("opentelemetry.trace.span").disabled = True
        self.tracer = self._provider.get_tracer("capsule-reconciler", self._version)

    def close(self) -> None:
        """End what is open, which somebody else will do anew, and send all."""
        for stage in self._stages.values():
            stage.end_all()
        if self._provider is not None:
            self._provider.shutdown()

    def root(self) -> bool:
        """Whether the next trace without a parent is sampled; if so, its first span is next.

        Asks the sampler alone: a span that is not sampled costs three times as much.
        """
        if self._provider is None:
            return False
        trace_id = self._ids.generate_trace_id()
        sampled = self._provider.sampler.should_sample(NO_CONTEXT, trace_id, "route")
        if sampled.decision is not Decision.RECORD_AND_SAMPLE:
            return False
        self._ids.settled = trace_id
        return True


class _StageSpans(StageTrace):
    """The spans of one stage."""

    def __init__(self, tracing: OtelTracing, name: str, group: str) -> None:
        self._tracing = tracing
        self._name = name
        self._group = group
        self._open: dict[Entry, Span] = {}
        self._statements: dict[Entry, Span] = {}

    def receive(self, items: Sequence[Traced]) -> None:
        handed = self._tracing.handed
        now_ns = time_ns()
        batch: dict[str, int] = {}
        for item in items:
            entry = _entry(item)
            if handed and (before := handed.pop(entry, None)) is not None:
                batch = batch or self._batch(items)
                self._begin(entry, before.context, before.at_ns, batch)
                self._open[entry].add_event("taken out of the lane", timestamp=now_ns)
            elif parent := entry.header(TRACE_PARENT):
                context = read_context(parent, entry.header(TRACE_STATE))
                if context is not None:
                    batch = batch or self._batch(items)
                    self._begin(entry, context, now_ns, batch)

    def source(self, entries: Sequence[Entry], events: Sequence[CapsuleEvent | None]) -> None:
        now_ns = time_ns()
        batch: dict[str, int] = {}
        for entry, event in zip(entries, events, strict=True):
            context = incoming(entry, event)
            if context is None and not self._tracing.root():
                continue
            batch = batch or self._batch(entries)
            more: dict[str, Any] = {}
            if event is not None:
                more["capsules.capsule_id"] = format_capsule_id(event.capsule_id)
                more["capsules.event"] = event.verb.event_name
            self._begin(entry, context or NO_CONTEXT, now_ns, batch | more)

    def carry(self, items: Sequence[Traced], records: Sequence[Record]) -> None:
        if not self._open:
            return
        written = {entry: write_context(span) for entry, span in self._open.items()}
        # All records or none: those with the same fields are sent with one command.
        nothing = {name: b"" for context in written.values() for name in context}
        for item, record in zip(items, records, strict=True):
            assert isinstance(record.headers, dict)  # noqa: S101 - as the contract says
            for name, empty in nothing.items():
                record.headers.setdefault(name, empty)
            if (context := written.get(_entry(item))) is not None:
                record.headers.update(context)

    def hand_on(self, items: Sequence[Traced]) -> None:
        if not self._open:
            return
        now_ns = time_ns()
        for item in items:
            entry = _entry(item)
            if (span := self._open.pop(entry, None)) is not None:
                context = trace.set_span_in_context(span, NO_CONTEXT)
                self._tracing.handed[entry] = _Handed(context, now_ns)
                _end(span, "handed on", "", now_ns)

    def end(self, items: Sequence[Traced], outcome: str, *, error: str = "") -> None:
        if not self._open:
            return
        for item in items:
            if (span := self._open.pop(_entry(item), None)) is not None:
                _end(span, outcome, error)

    def end_all(self) -> None:
        """End all that is open; whoever takes over begins anew."""
        while self._open:
            _, span = self._open.popitem()
            _end(span, "left", "")

    def failed(self, by: str, error: BaseException | None, *, of: Sequence[Traced] = ()) -> None:
        for entry in map(_entry, of) if of else self._open:
            span = self._statements.get(entry) or self._open.get(entry)
            if span is not None:
                span.add_event("attempt failed", {"capsules.at": by, "error.message": str(error)})

    def statement(self, items: Sequence[Traced]) -> AbstractContextManager[None]:
        return self._statement(items) if self._open else super().statement(items)

    @contextmanager
    def _statement(self, items: Sequence[Traced]) -> Iterator[None]:
        attributes: dict[str, str | int] = {
            "db.system.name": "postgresql",
            "db.operation.batch.size": len(items),
        }
        spans = {
            entry: self._tracing.tracer.start_span(
                f"sql {self._name}",
                trace.set_span_in_context(span, NO_CONTEXT),
                SpanKind.CLIENT,
                attributes,
            )
            for entry in map(_entry, items)
            if (span := self._open.get(entry)) is not None
        }
        self._statements |= spans
        outcome, error = "left", ""
        try:
            yield
            outcome = "done"
        except Exception as exc:
            outcome, error = "refused", str(exc)
            raise
        finally:
            for entry, span in spans.items():
                del self._statements[entry]
                _end(span, outcome, error)

    def attempt(self, item: Traced) -> AbstractContextManager[None]:
        span = self._open.get(_entry(item))
        return super().attempt(item) if span is None else _current(span)

    def attempt_failed(self, item: Traced, *, error: str, attempts: int, pause_s: float) -> None:
        if (span := self._open.get(_entry(item))) is not None:
            span.add_event(
                "attempt failed",
                {
                    "error.message": error,
                    "capsules.attempts": attempts,
                    "capsules.pause_s": round(pause_s, 3),
                },
            )

    def _batch(self, items: Sequence[Traced]) -> dict[str, int]:
        return {
            "messaging.batch.message_count": len(items),
            "capsules.batch": next(self._tracing.batches),
        }

    def _begin(
        self, entry: Entry, parent: Context, start_ns: int, attributes: Mapping[str, Any]
    ) -> None:
        source_id = entry.header(SOURCE_ID) or entry.id
        span = self._tracing.tracer.start_span(
            self._name,
            parent,
            SpanKind.CONSUMER,
            {
                "messaging.system": "redis",
                "messaging.operation.type": "process",
                "messaging.destination.name": entry.tp.topic,
                "messaging.destination.partition.id": str(entry.tp.partition),
                "messaging.consumer.group.name": self._group,
                "messaging.message.id": entry.id.decode("ascii", "replace"),
                "capsules.source_id": source_id.decode("ascii", "replace"),
                **attributes,
            },
            start_time=start_ns,
        )
        if span.is_recording():
            self._open[entry] = span


@contextmanager
def _current(span: Span) -> Iterator[None]:
    with trace.use_span(span, end_on_exit=False, record_exception=False):
        yield


def _entry(item: Traced) -> Entry:
    return item if isinstance(item, Entry) else item.entry


def _end(span: Span, outcome: str, error: str, at_ns: int | None = None) -> None:
    span.set_attribute("capsules.outcome", outcome)
    if error:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(at_ns)
