"""A producer at a steady rate that knows of each of its entries whether the stream has it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.oracle import Entry
from tests.reconciliation import SOURCE

__all__ = ["Publisher"]

#: How often a portion is sent, in a second.
PORTIONS_PER_S = 20
STREAM_LENGTH = 10_000
#: Longer than any pause that the server is told to make: a command is not given up before.
TIMEOUT_S = 30


class Publisher:
    """Publishes `payloads` at `rate` a second, in a thread, under ids of its own.

    The ids are times, as those that Redis gives. After a lost answer it looks which entries of
    the portion the stream has, and sends the others again under the same ids: Redis refuses an id
    that is not above all others, so none can come twice.
    """

    def __init__(self, redis_url: str, payloads: Iterator[bytes | None], *, rate: int) -> None:
        self._redis_url = redis_url
        self._payloads = payloads
        self._portion = max(rate // PORTIONS_PER_S, 1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher")
        self._last = (0, 0)
        #: What the stream has had, in its order.
        self.published: list[Entry] = []
        #: How many answers were lost.
        self.answers_lost = 0
        self.error: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator[Publisher]:
        """Publish until the end of the block; what was begun is finished."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join(120)
            assert not self._thread.is_alive(), "the publisher does not end"
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            retry = Retry(NoBackoff(), 0)
            with closing(
                redis.Redis.from_url(self._redis_url, retry=retry, socket_timeout=TIMEOUT_S)
            ) as client:
                self._publish(client)
        except BaseException as error:
            self.error = error
            raise

    def _publish(self, client: redis.Redis) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            portion = [(self._next_id(), next(self._payloads)) for _ in range(self._portion)]
            self._send(client, portion)
            self.published += portion
            # What an outage has cost is not made up for.
            due = max(due + 1 / PORTIONS_PER_S, time.monotonic() - 1)
            self._over.wait(max(due - time.monotonic(), 0))

    def _send(self, client: redis.Redis, portion: list[Entry]) -> None:
        missing = portion
        while missing:
            try:
                pipeline = client.pipeline(transaction=False)
                for entry_id, payload in missing:
                    fields = {"payload": payload} if payload is not None else {"other": b"field"}
                    pipeline.xadd(SOURCE, fields, id=entry_id, maxlen=STREAM_LENGTH)  # type: ignore[arg-type]
                pipeline.execute()
                return
            except redis.ResponseError:
                raise
            except redis.RedisError:
                self.answers_lost += 1
                there = self._there(client, portion)
                missing = [entry for entry in portion if entry[0] not in there]

    def _there(self, client: redis.Redis, portion: list[Entry]) -> set[str]:
        """Ids of what the stream has of `portion`; waits for the server."""
        while True:
            try:
                found: Any = client.xrange(SOURCE, min=portion[0][0])
                return {entry_id.decode() for entry_id, _ in found}
            except redis.RedisError:
                time.sleep(0.05)

    def _next_id(self) -> str:
        now_ms = time.time_ns() // 1_000_000
        ms, seq = self._last
        self._last = (now_ms, 0) if now_ms > ms else (ms, seq + 1)
        return f"{self._last[0]}-{self._last[1]}"
