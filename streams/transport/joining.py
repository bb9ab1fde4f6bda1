"""What has to be in place before a worker can read: topics, their records, their groups."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from faust.types import AppT
from faust.types.enums import ProcessingGuarantee

from .errors import PartitionsChangedError, TransportError, UnsupportedError
from .groups import Groups
from .layout import Stream, StreamLayout
from .options import CONFIG_KEY, StreamConfig, TransportOptions
from .registry import TopicRegistry
from .trouble import Trouble

__all__ = ["Joining", "check_supported"]

log = structlog.get_logger(__name__)


def check_supported(app: AppT) -> None:
    """Refuse what an app may ask of Faust and cannot have on Redis Streams.

    Raises:
        UnsupportedError: it asks for some of it.
    """
    guarantee: Any = app.conf.processing_guarantee
    if guarantee is ProcessingGuarantee.EXACTLY_ONCE:
        raise UnsupportedError(
            "processing_guarantee=exactly_once is not supported on Redis Streams;"
            " effects that carry the entry's id are"
        )
    if app.conf.stream_publish_on_commit:
        raise UnsupportedError(
            "stream_publish_on_commit is not supported: there are no commits to publish on"
        )
    if tables := list(app.tables):
        raise UnsupportedError(f"tables with changelogs are not supported: {tables}")


class Joining:
    """Makes ready what an app reads.

    Arguments:
        is_over: whether the worker stops, so that there is nothing to wait for any more.
    """

    def __init__(
        self,
        app: AppT,
        layout: StreamLayout,
        registry: TopicRegistry,
        groups: Groups,
        *,
        options: TransportOptions,
        is_over: Callable[[], bool],
    ) -> None:
        self._app = app
        self._layout = layout
        self._registry = registry
        self._groups = groups
        self._options = options
        self._is_over = is_over
        self.trouble = Trouble()

    def declare(self, topics: Iterable[str]) -> list[Stream]:
        """Make `topics` known as the app has them, and return their streams."""
        names = sorted(topics)
        for topic in self._app.topics:
            for name in topic.topics:
                if not self._layout.is_declared(name):
                    config: StreamConfig = (topic.config or {}).get(CONFIG_KEY, StreamConfig())
                    partitions = topic.partitions or self._app.conf.topic_partitions
                    self._layout.declare(name, 1 if config.external_key else partitions, config)
        return self._layout.all_streams(names)

    async def prepare(self, streams: list[Stream]) -> None:
        """Record the topics of `streams`, and make streams and groups where they are missing.

        Raises:
            PartitionsChangedError: a topic is recorded with another number of partitions.
            TransportError: Redis or the journal is unreachable or refuses.
        """
        await self._record(streams)
        await self._groups.ensure(streams)

    async def prepare_again(self, streams: list[Stream]) -> None:
        """Record the topics of `streams` again, and make anew what was lost.

        Raises:
            PartitionsChangedError: a topic is recorded with another number of partitions.
            TransportError: Redis is unreachable or refuses.
        """
        await self._record(streams)
        await self._groups.ensure_again(streams)

    async def _record(self, streams: list[Stream]) -> None:
        await self._registry.record(
            stream.tp.topic for stream in streams if not stream.tp.partition
        )

    async def until_answered(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Repeat `attempt` until it is answered.

        Raises:
            PartitionsChangedError: as `attempt` did.
        """
        pause_s = self._options.backoff_min_s
        while not self._is_over():
            try:
                await attempt()
                self.trouble.end()
                return
            except PartitionsChangedError:
                raise
            except TransportError as exc:
                self.trouble.fail(exc)
                log.warning(
                    "waiting for an answer",
                    action="broker_unavailable",
                    error=str(exc),
                    pause_s=pause_s,
                )
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, self._options.backoff_max_s)
