"""Hook sinks: where successful capsule events go once Postgres has them.

A sink is anything that fits :class:`Sink`. :class:`LogSink` writes a log line,
:class:`WebhookSink` posts a signed JSON body.
"""

from __future__ import annotations

from agents.hooks.log_sink import LogSink
from agents.hooks.sink import Sink
from agents.hooks.webhook import WebhookSink

__all__ = ["LogSink", "Sink", "WebhookSink"]
