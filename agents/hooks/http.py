"""Posting to a receiver over HTTP, and what its answer means for a delivery.

Any 2xx is a promise to keep what was sent. A 4xx says that the request itself is at fault and
will be refused again, but for those that say "not now". Everything else may pass. Redirects are
not followed: where a delivery goes is the operator's to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from agents.hooks.egress import REFUSED, connector, is_refusal
from streams.errors import DeliveryError, DeliveryRefusedError

__all__ = ["MAX_RESPONSE_BYTES", "USER_AGENT", "HttpSink", "HttpTarget"]

USER_AGENT: Final = "capsule-reconciler"
MAX_RESPONSE_BYTES: Final = 64 * 1024

#: Of the answers 4xx, those that say "not now" and not "never".
_TRANSIENT_STATUSES: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.LOCKED,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
_RETRY_AFTER_STATUSES: Final = frozenset(
    {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
)
# Nine digits are 31 years; what is longer is noise, and may not even fit a float.
_RETRY_AFTER_SECONDS: Final = re.compile(r"[0-9]{1,9}")


class HttpTarget:
    """One address to post to.

    Args:
        what: The sink in a few words, for messages.
        url: Absolute http or https URL. Userinfo in it is sent as basic authentication.
        timeout_s: Bound on a whole attempt, from resolving the name to reading the answer.
        allow_private: Also dial addresses that are not public.
        resolver: Looks names up; aiohttp's own if None.

    Raises:
        ValueError: The URL or the timeout is unusable. The text does not hold the URL.
    """

    def __init__(
        self,
        what: str,
        url: str,
        *,
        timeout_s: float,
        allow_private: bool,
        resolver: AbstractResolver | None = None,
    ) -> None:
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            # aiohttp takes 0 for "no timeout", which would let an attempt hang for ever.
            raise ValueError(f"{what}: the timeout must be positive and finite")
        self._what = what
        self._url = _parsed_url(what, url)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._allow_private = allow_private
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    @property
    def origin(self) -> str:
        """Scheme, host and port: userinfo and query hold credentials, and often the path too."""
        return str(self._url.origin())

    async def open(self) -> None:
        """Open the connection pool; does nothing when it is open."""
        if self._session is not None:
            return
        self._session = aiohttp.ClientSession(
            connector=connector(allow_private=self._allow_private, resolver=self._resolver),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            timeout=self._timeout,
            # Nobody looks at the answer: unpacking it would only cost time and memory.
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connection pool; attempts still under way fail."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Make one attempt.

        Raises:
            DeliveryError: No answer, or one other than 2xx.
            DeliveryRefusedError: An answer 4xx that says that the request itself is at fault.
        """
        status, retry_after = await self._request("POST", body, headers)
        if 200 <= status < 300:
            return
        if 400 <= status < 500 and status not in _TRANSIENT_STATUSES:
            raise DeliveryRefusedError(f"HTTP {status}")
        retry_after_s = _retry_after_s(retry_after) if status in _RETRY_AFTER_STATUSES else None
        raise DeliveryError(f"HTTP {status}", retry_after_s=retry_after_s)

    async def check(self) -> None:
        """Ask for nothing but an answer, whatever it says, with HEAD.

        Raises:
            DeliveryError: There was none, or it says that the receiver does not work.
        """
        status, _ = await self._request("HEAD", None, {})
        if status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED:
            raise DeliveryError(f"HTTP {status}")

    async def _request(
        self, method: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, str | None]:
        if self._session is None:
            raise RuntimeError(f"{self._what} is not open")
        answer = await self._answer(self._session, method, body, headers)
        if isinstance(answer, DeliveryError):
            # Raised out here so that it has no cause and no context: the texts of aiohttp's
            # exceptions hold the whole URL, and a logged traceback would print them.
            raise answer
        return answer

    async def _answer(
        self,
        session: aiohttp.ClientSession,
        method: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, str | None] | DeliveryError:
        try:
            async with session.request(
                method, self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                await _drain(response)
        except (aiohttp.ClientError, OSError) as error:  # OSError includes TimeoutError
            return DeliveryError(REFUSED if is_refusal(error) else type(error).__name__)
        return response.status, response.headers.get("Retry-After")


class HttpSink:
    """What sinks have in common that post to one address."""

    _target: HttpTarget

    @property
    def target(self) -> str:
        """Where it delivers to, for operators."""
        return self._target.origin

    async def open(self) -> None:
        """Open the connection pool; does nothing when it is open."""
        await self._target.open()

    async def close(self) -> None:
        """Close the connection pool; attempts still under way fail."""
        await self._target.close()

    async def check(self) -> None:
        """Find out whether the receiver answers; raises DeliveryError if it does not."""
        await self._target.check()


def _parsed_url(what: str, url: str) -> URL:
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"{what}: the URL must be an absolute http or https URL")
    return parsed


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the body, so that the connection can be used again, but no more than the limit.

    The status has said all that matters: a body that is too long, broken or late costs the
    connection and does not change the outcome.
    """
    left = MAX_RESPONSE_BYTES
    try:
        while left > 0:
            chunk = await response.content.read(left)
            if not chunk:
                return
            left -= len(chunk)
    except (aiohttp.ClientError, OSError):
        pass
    response.close()


def _retry_after_s(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header: a count of seconds or a date; else None."""
    if value is None:
        return None
    if _RETRY_AFTER_SECONDS.fullmatch(value.strip()):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError, TypeError, IndexError):
        # The value is the receiver's, and the parser lets these out on what is no date.
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
