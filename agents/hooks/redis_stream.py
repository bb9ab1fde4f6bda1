"""A sink that appends each event to a Redis stream, for consumers that read Redis anyway.

Not idempotent by itself: Redis cannot append "unless it is there", so an event whose answer was
lost is appended again. Each copy carries the same ``delivery_id``, by which a consumer drops it.
The stream is trimmed about ``maxlen`` entries, also unread ones.
"""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

import redis.asyncio
from pydantic import AfterValidator, BaseModel, Field, SecretStr
from yarl import URL

from config.urls import EMBEDDED, check_redis_url, redis_hosts
from streams.errors import DeliveryError
from streams.events import SandboxEvent
from streams.ids import format_capsule_id, format_team_id
from streams.transport import TransportError, broker_errors
from streams.transport.connection import connect

__all__ = ["RedisStreamSink"]

#: Below the bound on the whole attempt, so that a silent server is told from a slow one.
_ANSWER_TIMEOUT_S: Final = 5.0


def _check_url(secret: SecretStr) -> SecretStr:
    url = check_redis_url(secret.get_secret_value())
    if url == EMBEDDED or len(redis_hosts(url)) > 1:
        raise ValueError("expected redis://[user:password@]host[:port][/db] or rediss://...")
    return secret


class RedisStreamSink:
    """Appends to one stream."""

    class Options(BaseModel):
        """Where to."""

        #: May hold a password: better in `url_env` or `url_file`.
        url: Annotated[SecretStr, AfterValidator(_check_url)]
        stream: str = Field(min_length=1, max_length=512)
        #: Entries that are kept, about; Redis trims whole nodes of them.
        maxlen: int = Field(default=100_000, ge=1)

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self._url = URL(options.url.get_secret_value())
        self._stream = options.stream
        self._maxlen = options.maxlen
        self._client: redis.asyncio.Redis | None = None

    @property
    def target(self) -> str:
        """Where it delivers to, for operators."""
        parts = urlsplit(str(self._url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} {self._stream}"

    async def open(self) -> None:
        """Make the client; a connection is made when it is needed."""
        if self._client is None:
            self._client = connect(
                self._url, timeout_s=_ANSWER_TIMEOUT_S, name=f"capsule-reconciler-{self.name}"
            )

    async def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def check(self) -> None:
        """Ask what is there; DeliveryError if Redis does not answer or it is no stream."""
        kind = await self._execute("TYPE", self._stream)
        if kind not in (b"stream", b"none"):
            raise DeliveryError("what is in Redis under the name of the stream is none")

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        """Append the event, or raise DeliveryError; then it may have been appended all the same."""
        fields: dict[str, str | bytes] = {
            "delivery_id": event.delivery_id,
            "type": event.type,
            "capsule_id": format_capsule_id(event.capsule_id),
            "team_id": "" if event.team_id is None else format_team_id(event.team_id),
            "occurred_at": event.occurred_at.isoformat(),
            "event": event.to_bytes(),
        }
        pairs: list[str | bytes] = [part for pair in fields.items() for part in pair]
        await self._execute("XADD", self._stream, "MAXLEN", "~", self._maxlen, "*", *pairs)

    async def _execute(self, command: str, *arguments: str | int | bytes) -> object:
        if self._client is None:
            raise DeliveryError("not open")
        try:
            with broker_errors(command):
                answer: object = await self._client.execute_command(command, *arguments)
        except TransportError as exc:
            # Only what kind: the text may hold the address, and it the password.
            cause = exc.__cause__ or exc
            raise DeliveryError(f"Redis: {type(cause).__name__}") from None
        return answer
