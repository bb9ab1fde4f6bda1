"""Traces cost nothing where they are off, and trust nobody where they are on."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from streams.events import CapsuleEvent, EntryId, Verb
from streams.tracing.otel import OtelTracing
from streams.tracing.trace_context import read_context
from streams.transport import Entry, Record
from tests.worker_process import WorkerProcess

ROOT = Path(__file__).parents[2]
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
EXACT = re.compile(rb"[ \t]*[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*|[ \t]*)\n?")
#: What a start does without the extra: its packages cannot be imported.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from streams.app import app
names = ("streams.tracing.otel", "opentelemetry.exporter")
print("made", *(name for name in names if name in sys.modules))
"""


def entry(number: int, **headers: bytes) -> Entry:
    fields = {f"h:{name}".encode(): value for name, value in headers.items()}
    return Entry(TP("capsules", 0), b"%d-0" % number, fields, epoch=1)


def event() -> CapsuleEvent:
    return CapsuleEvent(EntryId(1, 0), Verb.CREATE, True, UUID(int=1).bytes, "", "", {}, "")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def tracing(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, sampler: str, share: str = "1"
) -> OtelTracing:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", share)
    found = OtelTracing(group="g", version="1", exporter=exporter)
    found.open(worker="w")
    return found


def names(spans: Sequence[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


@given(st.one_of(st.binary(max_size=200), st.from_regex(EXACT, fullmatch=True)))
def test_what_is_not_exactly_a_traceparent_is_none(parent: bytes) -> None:
    context = read_context(parent, b"\xff=,\x00")
    if context is not None:
        assert EXACT.fullmatch(parent)
        assert trace.get_current_span(context).get_span_context().is_valid


@pytest.mark.parametrize("size", [129, 1_000_000])
def test_what_is_too_long_is_not_even_read(size: int) -> None:
    assert read_context(b"01" + PARENT[2:], None) is not None
    assert read_context(b"01" + PARENT[2:] + b"-" + b"x" * size, None) is None


def test_the_share_of_traces_that_begin_here_is_the_samplers(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = tracing(exporter, monkeypatch, "parentbased_traceidratio", "0.1")
    stage = traces.stage("route")
    entries = [entry(number) for number in range(2_000)]
    stage.source(entries, [event()] * len(entries))
    records = [Record(b"", headers={}) for _ in entries]
    stage.carry(entries, records)
    stage.end(entries, "done")
    traces.close()
    sampled = len(exporter.get_finished_spans())
    assert 100 < sampled < 350
    # What is not sampled says so to the stages behind, and all records have the same fields.
    headers = [record.headers for record in records]
    carried = [found["traceparent"] for found in headers if isinstance(found, dict)]
    assert len(carried) == len(records)
    assert sum(map(bool, carried)) == sampled


def test_a_sampler_that_trusts_nobody_has_the_last_word(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = tracing(exporter, monkeypatch, "traceidratio", "0")
    traces.stage("dispatch").receive([entry(1, traceparent=PARENT)])
    traces.close()
    assert exporter.get_finished_spans() == ()


def test_a_batch_without_a_sampled_entry_is_sent_as_it_is(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = tracing(exporter, monkeypatch, "parentbased_always_off")
    stage = traces.stage("route")
    record = Record(b"", headers={"source-id": b"1-0"})
    stage.source([entry(1)], [event()])
    stage.carry([entry(1)], [record])
    assert record.headers == {"source-id": b"1-0"}


def test_an_entry_that_dies_says_why(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = tracing(exporter, monkeypatch, "always_on")
    of = entry(1)
    stage = traces.stage("route")
    stage.source([of], [None])
    stage.end([of], "dead", error="bad_entry")
    traces.close()
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["capsules.outcome"] == "dead"
    assert (span.status.is_ok, span.status.description) == (False, "bad_entry")


def test_a_statement_that_is_refused_says_so_for_its_own_entries_alone(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = tracing(exporter, monkeypatch, "always_on")
    entries = [entry(number, traceparent=PARENT) for number in range(4)]
    stage = traces.stage("create")
    stage.receive(entries)
    with pytest.raises(ValueError, match="no"), stage.statement(entries[:2]):
        raise ValueError("no")
    with stage.statement(entries[2:]):
        stage.failed("postgres", TimeoutError("late"))
    stage.end(entries, "done")
    traces.close()
    spans = [span for span in exporter.get_finished_spans() if span.name == "sql create"]
    assert [span.status.is_ok for span in spans] == [False, False, True, True]
    assert [len(span.events) for span in spans] == [0, 0, 1, 1]


def test_a_delivery_is_current_while_it_is_attempted(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a sink with instrumentation of its own adds to the same trace."""
    traces = tracing(exporter, monkeypatch, "always_on")
    of, other = entry(1, traceparent=PARENT), entry(2)
    stage = traces.stage("hook.billing")
    stage.receive([of, other])
    with stage.attempt(of):
        assert trace.get_current_span().get_span_context().trace_id == int(PARENT[3:35], 16)
    with stage.attempt(other):
        assert not trace.get_current_span().get_span_context().is_valid
    stage.attempt_failed(of, error="503", attempts=1, pause_s=0.5)
    stage.attempt_failed(other, error="503", attempts=1, pause_s=0.5)
    traces.close()
    (span,) = exporter.get_finished_spans()
    assert [event.name for event in span.events] == ["attempt failed"]
    assert span.attributes is not None
    assert span.attributes["capsules.outcome"] == "left"


def start(code: str, directory: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = WorkerProcess.environment(
        REDIS_URL="redis://localhost:6379/0", DATABASE_URL="postgresql://localhost/x", **settings
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory, env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_everything_works_without_the_extra_where_traces_are_off(tmp_path: Path) -> None:
    done = start(WITHOUT, tmp_path)
    assert (done.returncode, done.stdout) == (0, "made\n"), done.stderr


def test_traces_without_the_extra_stop_the_start_with_one_line(tmp_path: Path) -> None:
    done = start(WITHOUT, tmp_path, CAPSULES_TRACES="otlp")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("CAPSULES_TRACES")
    assert "otel" in line


def test_nothing_of_it_is_loaded_where_it_is_installed_and_off(tmp_path: Path) -> None:
    code = WITHOUT.replace("sys.meta_path.insert(0, Missing())\n", "")
    done = start(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "made\n"), done.stderr
