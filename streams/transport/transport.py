"""The entry point: what ``faust.App(broker="redis://...")`` finds by its URL's scheme."""

from __future__ import annotations

import asyncio
import os
import socket
from importlib.metadata import version
from typing import Any

from faust.transport import base
from faust.types import AppT
from yarl import URL

from .consumer import Consumer
from .layout import StreamLayout
from .options import TransportOptions
from .producer import Producer

__all__ = ["Transport"]


class Conductor(base.Conductor):
    """Faust's conductor, which waits before it reads a topic that was added at run time.

    45 s, because with Kafka each change of a subscription stops everybody; here none does. Not
    less than 3 s: so long Faust's reply consumer takes from naming its topic to listening to it.
    """

    _resubscribe_sleep_lock_seconds = 3.5


class Transport(base.Transport):
    """Redis Streams as a Faust transport.

    An app that is not content with the defaults of :class:`TransportOptions` carries its own as
    the attribute ``redis_options``.
    """

    Consumer = Consumer
    Producer = Producer
    Conductor = Conductor

    driver_version = f"redis={version('redis')}"

    def __init__(
        self, url: list[URL], app: AppT, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(url, app, loop)
        self.options: TransportOptions = getattr(app, "redis_options", None) or TransportOptions()
        self.worker_name = self.options.worker_name or f"{socket.gethostname()}-{os.getpid()}"
        self._layout: StreamLayout | None = None

    @property
    def server_url(self) -> URL:
        """Where to connect, with credentials."""
        return URL(self.options.url) if self.options.url else self.url[0]

    @property
    def layout(self) -> StreamLayout:
        """The app's topics and their keys; one for all transports of an app."""
        if self._layout is None:
            # Faust makes one transport to consume and one to produce; both mean the same keys.
            layouts: dict[str, Any] = self.app.__dict__.setdefault("_redis_layouts", {})
            prefix = self.options.key_prefix or f"{{{self.app.conf.id}}}:"
            self._layout = layouts.setdefault(prefix, StreamLayout(prefix))
        return self._layout
