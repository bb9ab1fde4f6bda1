"""Whether the Redis user may do what a worker does, by asking and not by trying."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis.asyncio

from config.settings import Settings
from streams.topics import key_prefix
from streams.transport import BrokerRefusedError, broker_errors

__all__ = ["missing_rights"]


async def missing_rights(client: redis.asyncio.Redis, settings: Settings) -> tuple[str, ...] | None:
    """Return the commands that the client's user may not run; None: it cannot be asked.

    Asking takes Redis 7 or newer, and a user who may run ``ACL WHOAMI`` and ``ACL DRYRUN``.

    Raises:
        TransportError: Redis is unreachable.
    """
    missing: list[str] = []
    try:
        with broker_errors("ACL WHOAMI"):
            user = await client.execute_command("ACL", "WHOAMI")
        for command in _commands(settings):
            with broker_errors("ACL DRYRUN"):
                answer: Any = await client.execute_command("ACL", "DRYRUN", user, *command)
            if answer not in (b"OK", "OK", True):
                missing.append(_name(command))
    except BrokerRefusedError:
        return None
    return tuple(dict.fromkeys(missing))


def _name(command: tuple[str, ...]) -> str:
    has_subcommand = command[0] in ("CLIENT", "XINFO", "XGROUP", "SCRIPT")
    return " ".join(command[: 1 + has_subcommand])


def _commands(settings: Settings) -> Iterator[tuple[str, ...]]:
    """What a worker sends, as :mod:`streams.transport.servers` lists it."""
    group = settings.app_id
    source = settings.source_stream
    ours = f"{key_prefix(settings)}capsules:0"
    table = f"{key_prefix(settings)}topics"
    yield from (("INFO",), ("CLIENT", "ID"), ("CLIENT", "SETNAME", "x"))
    yield from (("CLIENT", "UNBLOCK", "1"), ("CLIENT", "KILL", "ID", "1"))
    for stream in (source, ours):
        yield ("XREADGROUP", "GROUP", group, "x", "STREAMS", stream, ">")
        yield ("XACK", stream, group, "1-1")
        yield ("XPENDING", stream, group)
        yield ("XCLAIM", stream, group, "x", "1000", "1-1")
        yield ("XRANGE", stream, "-", "+")
        yield ("XINFO", "STREAM", stream)
        yield ("XINFO", "GROUPS", stream)
        yield ("XINFO", "CONSUMERS", stream, group)
        yield ("XGROUP", "CREATE", stream, group, "$", "MKSTREAM")
        yield ("XGROUP", "DELCONSUMER", stream, group, "x")
    yield from (("XLEN", ours), ("XADD", ours, "*", "f", "v"), ("XTRIM", ours, "MINID", "=", "1-1"))
    yield from (("HGET", table, "f"), ("HMGET", table, "f"), ("HSET", table, "f", "v"))
    yield from (("HSETNX", table, "f", "v"), ("HDEL", table, "f"), ("HEXISTS", table, "f"))
    yield from (("HINCRBY", table, "f", "1"), ("HGETALL", table))
    # Housekeeping, which removes what a worker has brought back of a retired sink.
    yield from (("TIME",), ("WATCH", table), ("MULTI",), ("EXEC",))
    yield from (("EXISTS", ours), ("XDEL", ours, "1-1"), ("DEL", ours))
    record = f"{key_prefix(settings)}deliveries:x"
    yield from (("EVAL", "return 1", "1", record), ("ZADD", record, "GT", "CH", "1", "m"))
    yield from (("ZCARD", record), ("ZRANGE", record, "0", "1"))
    yield ("ZREMRANGEBYRANK", record, "0", "1")
    yield from (("EVALSHA", "0" * 40, "1", ours), ("SCRIPT", "LOAD", "return 1"))
