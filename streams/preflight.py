"""Before the worker starts: is it set up right, and are its servers there?

What only a person can mend (a wrong password, a missing table, a missing right) ends the start
with one line for each mistake. A server that is not there yet is waited for, and the log says
so: whoever starts everything at once need not care about the order.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable

import psycopg2
import redis.asyncio
import redis.exceptions
import structlog

from config.migrate import MigrationError, check_schema
from config.settings import Settings, mask_url
from streams.broker_url import broker_url
from streams.errors import StartError
from streams.topics import key_prefix
from streams.transport.connection import connect

__all__ = ["check_start"]

log = structlog.get_logger(__name__)

_PAUSE_S = 0.5
#: How often the log says again what is waited for.
_SAY_EVERY_S = 5.0
#: What Postgres says to a client that will never be let in as it is.
_POSTGRES_REFUSALS = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "is not permitted to log in",
    "no password supplied",
    "invalid connection option",
)


def check_start(settings: Settings) -> None:
    """Wait for Redis and Postgres, and check what the reconciler needs of them.

    Raises:
        StartError: as it is set up, this worker can never work.
    """
    _wait("Redis", mask_url(settings.redis_url), lambda: _try_redis(settings))
    _wait("Postgres", mask_url(settings.database_url), lambda: _try_postgres(settings))
    try:
        mistakes = check_schema(settings.database_url)
    except MigrationError as exc:
        mistakes = [str(exc)]
    if mistakes:
        raise StartError("\n".join(mistakes))


def _wait(server: str, url: str, attempt: Callable[[], str | None]) -> None:
    said_at = float("-inf")
    while (why := attempt()) is not None:
        if time.monotonic() - said_at >= _SAY_EVERY_S:
            said_at = time.monotonic()
            log.warning(f"waiting for {server}", action="waiting_for_server", url=url, error=why)
        time.sleep(_PAUSE_S)


def _try_redis(settings: Settings) -> str | None:
    """Return why Redis is not ready yet, or None if it is."""
    try:
        asyncio.run(_check_redis(settings))
    except redis.exceptions.AuthenticationError as exc:
        raise StartError(f"REDIS_URL: Redis refuses the user or password: {exc}") from exc
    except redis.exceptions.NoPermissionError as exc:
        raise StartError(f"REDIS_URL: the Redis user lacks a right: {exc}") from exc
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as exc:
        if mistake := _tls_mistake(exc):
            raise StartError(f"REDIS_URL: {mistake}") from exc
        return f"{type(exc).__name__}: {exc}"
    except redis.exceptions.ResponseError as exc:
        return str(exc)
    return None


def _tls_mistake(exc: BaseException | None) -> str | None:
    """Return what is wrong with the certificates, if that is why there is no connection."""
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return f"Redis' certificate is not accepted: {exc.verify_message}"
        if isinstance(exc, FileNotFoundError | PermissionError):
            return f"a file for TLS cannot be read: {exc.strerror}"
        exc = exc.__cause__ or exc.__context__
    return None


async def _check_redis(settings: Settings) -> None:
    client = connect(
        broker_url(settings),
        timeout_s=settings.redis_timeout_s,
        name=f"{settings.app_id}-start",
    )
    async with client:
        await _check_source(client, settings)
        await _check_partitions(client, settings)


async def _check_partitions(client: redis.asyncio.Redis, settings: Settings) -> None:
    recorded = await client.hget(f"{key_prefix(settings)}topics", "capsules")
    if recorded is not None and int(recorded) != settings.partitions:
        raise StartError(
            f"CAPSULES_PARTITIONS: {settings.partitions}, but the streams in Redis have"
            f" {int(recorded)}: with another number, order per capsule would not hold"
        )


async def _check_source(client: redis.asyncio.Redis, settings: Settings) -> None:
    """See that the source is a stream or nothing; making its group is the consumer's.

    That a group is missing is how a worker that joins later learns of a Redis that was emptied.
    """
    try:
        await client.xinfo_groups(settings.source_stream)
    except redis.exceptions.ResponseError as exc:
        if str(exc).startswith("WRONGTYPE"):
            raise StartError(
                f"CAPSULES_SOURCE_STREAM: {settings.source_stream!r} in Redis is not a stream"
            ) from exc
        if "no such key" not in str(exc):
            raise


def _try_postgres(settings: Settings) -> str | None:
    """Return why Postgres is not ready yet, or None if it is."""
    try:
        psycopg2.connect(
            settings.database_url,
            connect_timeout=max(int(settings.postgres_connect_timeout_s), 2),
            application_name="capsule-reconciler start",
        ).close()
    except psycopg2.OperationalError as exc:
        text = str(exc).strip().splitlines()[-1] if str(exc).strip() else type(exc).__name__
        if any(refusal in text for refusal in _POSTGRES_REFUSALS):
            raise StartError(f"DATABASE_URL: {text}") from exc
        return text
    except psycopg2.Error as exc:
        raise StartError(f"DATABASE_URL: {str(exc).strip()}") from exc
    return None
