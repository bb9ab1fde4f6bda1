"""Entries of a stream that is not ours, held under another consumer's name.

All our workers read under one name. Another name in the group is somebody else: the consumer
that this app replaces, or a tool. What it holds is older than what is new, so it comes first:
new entries wait until nothing is held under another name. It may still be at work, so its
entries are claimed only after they have been idle for a while; and as it may never end, new
entries do not wait for longer than twice that.

An entry whose body is gone stays pending under its old name until it is recorded as lost;
XAUTOCLAIM, and on newer servers XCLAIM, would drop it without a trace.

A name under which nothing is pending, and that was not active for as long, is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

import redis.asyncio
import structlog
from faust.types import TP

from .errors import TransportError, broker_errors
from .layout import Stream
from .lua import script
from .positions import CONSUMER
from .reader import Reader

__all__ = ["ForeignEntries"]

log = structlog.get_logger(__name__)

#: Entries looked at by one script.
_CLAIM_COUNT = 100


class ForeignEntries:
    """Takes over what other names hold, for as long as a stream is read here.

    Arguments:
        lose: is told the ids of entries that were trimmed while they were pending.
        sweep_s: how often to look again.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        reader: Reader,
        *,
        group: str,
        lose: Callable[[TP, list[bytes]], None],
        sweep_s: float,
    ) -> None:
        self._client = client
        self._reader = reader
        self._group = group
        self._lose = lose
        self._sweep_s = sweep_s
        self._remove_consumer = client.register_script(script("consumer_remove"))
        self._claim_script = client.register_script(script("foreign_claim"))
        self._tasks: dict[TP, asyncio.Task[None]] = {}

    def watch(self, stream: Stream) -> None:
        """Take over what others hold of `stream`, first of all and from then on."""
        if not stream.is_ours:
            self._reader.hold_back(stream)
            name = f"foreign-{stream.tp.topic}"
            self._tasks[stream.tp] = asyncio.create_task(self._run(stream), name=name)

    def forget(self, stream: Stream) -> None:
        """Look after `stream` no more."""
        if task := self._tasks.pop(stream.tp, None):
            task.cancel()

    async def _run(self, stream: Stream) -> None:
        idle_s = stream.config.claim_idle_ms / 1000
        give_up_at = monotonic() + 2 * idle_s
        first = True
        while True:
            try:
                held = await self._look(stream)
            except TransportError as exc:
                log.warning("cannot look for foreign entries", action="claim_retry", error=str(exc))
                held = True
            if first and (not held or monotonic() > give_up_at):
                if held:
                    log.warning(
                        "another consumer stays at work in the group; order is not certain",
                        action="foreign_consumer",
                        stream=stream.key.decode(),
                    )
                self._reader.let_go(stream)
                first = False
            await asyncio.sleep(min(idle_s / 4, 1.0) if first else self._sweep_s)

    async def _look(self, stream: Stream) -> bool:
        """Claim what is idle, and return whether anything is still held under another name."""
        with broker_errors("XINFO CONSUMERS"):
            consumers = await self._client.xinfo_consumers(stream.key, self._group)
        held = False
        for consumer in consumers:
            if consumer["name"] == CONSUMER:
                continue
            if consumer["pending"]:
                held = True
            elif consumer["idle"] >= stream.config.claim_idle_ms:
                await self._remove(stream, consumer["name"])
        if held:
            await self._claim(stream)
        return held

    async def _claim(self, stream: Stream) -> None:
        """Claim all entries that are idle."""
        after = b"0-0"
        claimed = 0
        while after:
            with broker_errors("XCLAIM"):
                count, gone, after = await self._claim_script(
                    keys=[stream.key],
                    args=[self._group, CONSUMER, stream.config.claim_idle_ms, _CLAIM_COUNT, after],
                )
            claimed += count
            if gone:
                self._lose(stream.tp, gone)
        if claimed:
            log.info(
                "claimed what another consumer held",
                action="entries_claimed",
                stream=stream.key.decode(),
                count=claimed,
            )
            self._reader.read_pending_again(stream)

    async def _remove(self, stream: Stream, name: bytes) -> None:
        with broker_errors("XGROUP DELCONSUMER"):
            removed = await self._remove_consumer(
                keys=[stream.key], args=[self._group, name, stream.config.claim_idle_ms]
            )
        if removed:
            log.info(
                "removed an idle consumer name",
                action="consumer_removed",
                stream=stream.key.decode(),
                consumer=name.decode("utf-8", "replace"),
            )
