"""A sink that posts many events at once, one JSON object in each line, for shipping audits.

What is posted together is decided by the settings ``batch_max_events`` and ``batch_max_age_s`` of
the sink. The receiver takes or refuses a body as a whole, and drops what it has by
``delivery_id``: after a failure, the same events may come in other batches.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, Field, SecretStr, model_validator
from yarl import URL

from agents.hooks.http import HttpSink, HttpTarget
from config.urls import check_http_url
from streams.events import SandboxEvent

__all__ = ["HttpBatchSink"]

#: Level 6 takes three times as long for a tenth less.
_GZIP_LEVEL: Final = 3


def _check_url(secret: SecretStr) -> SecretStr:
    check_http_url(secret.get_secret_value())
    return secret


def _check_token(secret: SecretStr) -> SecretStr:
    token = secret.get_secret_value()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError("expected printable ASCII without spaces")
    return secret


class HttpBatchSink(HttpSink):
    """Posts NDJSON to one URL; any 2xx answer means that all of it is delivered."""

    class Options(BaseModel):
        """Where to, and how."""

        #: May hold credentials: then better in `url_env` or `url_file`.
        url: Annotated[SecretStr, AfterValidator(_check_url)]
        #: Sent as `Authorization: Bearer`; better in `token_env` or `token_file`.
        token: Annotated[SecretStr, Field(min_length=1), AfterValidator(_check_token)] | None = None
        gzip: bool = True
        allow_private: bool = False
        #: Bound on one request.
        request_timeout_s: float = Field(default=10.0, gt=0, le=300)

        @model_validator(mode="after")
        def _authorizes_once(self) -> HttpBatchSink.Options:
            if self.token is not None and URL(self.url.get_secret_value()).user is not None:
                raise ValueError("expected no user in url where token is given")
            return self

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self._gzip = options.gzip
        self._headers = {"Content-Type": "application/x-ndjson"}
        if options.token is not None:
            self._headers["Authorization"] = f"Bearer {options.token.get_secret_value()}"
        if options.gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._target = HttpTarget(
            f"http-batch sink {name!r}",
            options.url.get_secret_value(),
            timeout_s=options.request_timeout_s,
            allow_private=options.allow_private,
        )

    async def on_sandbox_events(self, events: Sequence[SandboxEvent]) -> None:
        """Make one attempt to post all of them; raises as :meth:`HttpTarget.post` does."""
        body = b"".join(event.to_bytes() + b"\n" for event in events)
        if self._gzip:
            # In a thread: a few MiB would hold up the event loop for longer than it may be.
            body = await asyncio.to_thread(gzip.compress, body, _GZIP_LEVEL, mtime=0)
        await self._target.post(body, self._headers)
