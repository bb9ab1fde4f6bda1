"""Hook sinks: where successful capsule events go once Postgres has them.

A sink is anything that fits :class:`EventSink` or :class:`BatchSink`; ``docs/sinks.md`` shows how
to write one. Those that come with this project are :class:`LogSink`, :class:`WebhookSink`, and in
modules of their own ``redis_stream``, ``postgres`` and ``http_batch``.
"""

from __future__ import annotations

from agents.hooks.log_sink import LogSink
from agents.hooks.make import Made, make_sink
from agents.hooks.sink import BatchSink, CheckedSink, EventSink, Sink
from agents.hooks.webhook import WebhookSink

__all__ = [
    "BatchSink",
    "CheckedSink",
    "EventSink",
    "LogSink",
    "Made",
    "Sink",
    "WebhookSink",
    "make_sink",
]
