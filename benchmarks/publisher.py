"""Publishes a part of a log at a rate, in a process of its own; prints when it began and ended.

Arguments: Redis URL, events in the whole log, seed, entries to leave out, entries to publish,
entries a second.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import redis

from benchmarks.arena import SOURCE
from benchmarks.mixes import make_log

__all__ = ["publish"]

#: Shorter waits would only keep a core busy that is not the publisher's.
_PAUSE_MIN_S = 0.001


def publish(client: redis.Redis, payloads: Sequence[bytes], rate: float) -> None:
    """Append an entry for each of `payloads`, so many a second."""
    start = time.monotonic()
    sent = 0
    while sent < len(payloads):
        due = min(int((time.monotonic() - start) * rate) + 1, len(payloads))
        pipeline = client.pipeline(transaction=False)
        for payload in payloads[sent:due]:
            pipeline.xadd(SOURCE, {"payload": payload})
        pipeline.execute()
        sent = due
        time.sleep(max(start + sent / rate - time.monotonic(), _PAUSE_MIN_S))


def _main(redis_url: str, *numbers: str) -> None:
    events, seed, skipped, count, rate = (int(number) for number in numbers)
    entries = make_log("all", events=events, seed=seed).entries[skipped : skipped + count]
    payloads = [payload for _, payload in entries if payload is not None]
    client = redis.Redis.from_url(redis_url)
    client.ping()
    print(time.time(), flush=True)
    publish(client, payloads, rate)
    print(time.time(), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
