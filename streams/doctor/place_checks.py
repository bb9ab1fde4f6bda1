"""Clocks, sinks, and whose servers these are."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from config.settings import SinkSettings, WebhookSinkSettings
from streams.doctor.finding import Finding, fail, ok, warn
from streams.doctor.postgres_facts import PostgresFacts
from streams.doctor.redis_facts import RedisFacts

__all__ = ["check_clocks", "check_embedded", "check_sink"]

_CLOCK_WARN_S: Final = 1.0
_RESOLVE_TIMEOUT_S: Final = 5.0


def check_clocks(redis: RedisFacts | None, postgres: PostgresFacts | None) -> Finding:
    """Compare the clocks of this machine, Redis and Postgres."""
    offsets = {"this machine": (0.0, 0.0)}
    if redis is not None:
        offsets["Redis"] = (redis.clock_offset_s, redis.clock_error_s)
    if postgres is not None:
        offsets["Postgres"] = (postgres.clock_offset_s, postgres.clock_error_s)
    low_name, (low, low_error) = min(offsets.items(), key=lambda item: item[1][0])
    high_name, (high, high_error) = max(offsets.items(), key=lambda item: item[1][0])
    apart_s = high - low
    if apart_s - low_error - high_error > _CLOCK_WARN_S:
        return warn(
            f"{high_name} is {apart_s:.1f} s ahead of {low_name}",
            "have all of them keep time by NTP: ages are wrong, and resync may refuse",
        )
    return ok(f"{', '.join(offsets)} agree within {apart_s:.2f} s")


def check_embedded(embedded: tuple[str, ...]) -> Finding:
    """Say which servers are for development only."""
    if embedded:
        return warn(
            f"{' and '.join(embedded)} embedded: for development only",
            "set REDIS_URL and DATABASE_URL",
        )
    return ok("servers of their own")


async def check_sink(sink: SinkSettings) -> Finding:
    """Look up where `sink` is; nothing is sent there."""
    if not isinstance(sink, WebhookSinkSettings):
        return ok(f"a sink of type {sink.type}")
    parts = urlsplit(sink.url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return fail(f"{host}: no answer in {_RESOLVE_TIMEOUT_S:g} s", "look at the name server")
    except (OSError, UnicodeError) as exc:
        return fail(f"{host} is not found: {exc}", "mend url of this sink, or the name server")
    # A scope, as in fe80::1%eth0, is no part of the address.
    addresses = sorted({str(address[0]).partition("%")[0] for *_, address in found})
    inside = [address for address in addresses if not ip_address(address).is_global]
    if inside and not sink.allow_private:
        advice = "allow_private = true for this sink, if it is meant to be there"
        return fail(f"{host}: {inside[0]} is not public, and is not dialled", advice)
    if parts.scheme == "http":
        return warn(f"{host}: {addresses[0]}, unencrypted", "https, unless it is a private network")
    return ok(f"{host}: {addresses[0]}")
