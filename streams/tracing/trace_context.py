"""The context of a trace as it comes in and travels on: W3C Trace Context, read strictly.

``traceparent`` and ``tracestate`` of the producer's entries are written by strangers. What is not
exactly as the standard has it is passed over, and never logged.
"""

from __future__ import annotations

from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streams.events import CapsuleEvent
from streams.topics import TRACE_PARENT, TRACE_STATE
from streams.transport import Entry

__all__ = ["NO_CONTEXT", "incoming", "read_context", "write_context"]

#: Longer ones are passed over unread; version 00 of a traceparent has 55 characters.
_PARENT_MAX: Final = 128
_STATE_MAX: Final = 512
_PARENT_FIELD: Final = TRACE_PARENT.encode()
_STATE_FIELD: Final = TRACE_STATE.encode()
_W3C: Final = TraceContextTextMapPropagator()
NO_CONTEXT: Final = Context()


def incoming(entry: Entry, event: CapsuleEvent | None) -> Context | None:
    """Return what the producer gave: in the entry's own fields, or else in the metadata."""
    fields = entry.fields
    if parent := fields.get(_PARENT_FIELD):
        return read_context(parent, fields.get(_STATE_FIELD))
    if event is not None and (text := event.metadata.get(TRACE_PARENT)):
        state = event.metadata.get(TRACE_STATE, "")
        return read_context(text[: _PARENT_MAX + 1].encode(), state[: _STATE_MAX + 1].encode())
    return None


def read_context(parent: bytes, state: bytes | None) -> Context | None:
    """Read what strangers may have written; None for what is no context."""
    if len(parent) > _PARENT_MAX:
        return None
    carrier = {TRACE_PARENT: parent.decode("ascii", "replace")}
    if state and len(state) <= _STATE_MAX:
        carrier[TRACE_STATE] = state.decode("ascii", "replace")
    context = _W3C.extract(carrier, NO_CONTEXT)
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def write_context(span: Span) -> dict[str, bytes]:
    """Return the headers that have `span` continued."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span, NO_CONTEXT))
    return {name: value.encode() for name, value in carrier.items()}
