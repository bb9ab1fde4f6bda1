"""A sink that posts each event to a URL, signed after Standard Webhooks.

See https://www.standardwebhooks.com for what the receiver checks: ``webhook-id`` is the
delivery id and the same on every attempt; ``webhook-timestamp`` is the attempt's own time, so
that a delivery retried for hours still passes the receiver's replay window.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
import orjson
from standardwebhooks.webhooks import Webhook
from yarl import URL

from streams.errors import DeliveryError
from streams.events import SandboxEvent
from streams.ids import format_capsule_id, format_team_id

USER_AGENT = "capsule-reconciler"
MAX_RESPONSE_BYTES = 64 * 1024

_SECRET_PREFIX = "whsec_"  # noqa: S105 - the published prefix, not a secret
_RETRY_AFTER_STATUSES = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
# Nine digits are 31 years; what is longer is noise, and may not even fit a float.
_RETRY_AFTER_SECONDS = re.compile(r"[0-9]{1,9}")


class WebhookSink:
    """Posts events to one URL; any 2xx answer means delivered.

    Args:
        name: The sink's name.
        url: Absolute http or https URL. Userinfo in it is sent as basic authentication.
        secrets: One or more Standard Webhooks secrets: base64, with or without ``whsec_``.
            Each adds a signature, so that a receiver can change from one to the next.
        timeout_s: Bound on a whole attempt, from resolving the name to reading the answer.

    Raises:
        ValueError: The URL, a secret or the timeout is unusable. The text holds neither the
            URL nor the secret.
    """

    def __init__(
        self, name: str, url: str, secrets: tuple[str, ...], timeout_s: float = 10.0
    ) -> None:
        if not secrets:
            raise ValueError(f"webhook sink {name!r} needs at least one secret")
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            # aiohttp takes 0 for "no timeout", which would let an attempt hang for ever.
            raise ValueError(f"webhook sink {name!r}: the timeout must be positive and finite")
        self.name = name
        self._url = _parsed_url(name, url)
        self._signers = tuple(Webhook(_signing_key(name, secret)) for secret in secrets)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        # The origin only: userinfo and query hold credentials, and often the path does too.
        return f"WebhookSink(name={self.name!r}, origin={str(self._url.origin())!r})"

    async def open(self) -> None:
        """Open the connection pool; does nothing when it is open."""
        if self._session is not None:
            return
        self._session = aiohttp.ClientSession(
            # How many deliveries run at once is the caller's to bound. A limit here would make
            # deliveries wait inside their own timeout, and fail without having been tried.
            connector=aiohttp.TCPConnector(limit=0),
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

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        """Make one attempt to post the event.

        Raises:
            DeliveryError: No answer, or one other than 2xx; redirects count as failures.
        """
        if self._session is None:
            raise RuntimeError(f"webhook sink {self.name!r} is not open")
        failure = await self._attempt(self._session, event)
        if failure is not None:
            # Raised out here so that it has no cause and no context: the texts of aiohttp's
            # exceptions hold the whole URL, and a logged traceback would print them.
            raise failure

    async def _attempt(
        self, session: aiohttp.ClientSession, event: SandboxEvent
    ) -> DeliveryError | None:
        body = _body(event)
        headers = {"Content-Type": "application/json", **self._signature(event.delivery_id, body)}
        try:
            async with session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                await _drain(response)
        except (aiohttp.ClientError, OSError) as error:  # OSError includes TimeoutError
            return DeliveryError(type(error).__name__)
        if 200 <= response.status < 300:
            return None
        retry_after_s = None
        if response.status in _RETRY_AFTER_STATUSES:
            retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
        return DeliveryError(f"HTTP {response.status}", retry_after_s=retry_after_s)

    def _signature(self, delivery_id: str, body: bytes) -> dict[str, str]:
        now = datetime.now(UTC)
        text = body.decode()
        signatures = (signer.sign(delivery_id, now, text) for signer in self._signers)
        return {
            "webhook-id": delivery_id,
            "webhook-timestamp": str(math.floor(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


def _parsed_url(name: str, url: str) -> URL:
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"webhook sink {name!r}: the URL must be an absolute http or https URL")
    return parsed


def _signing_key(name: str, secret: str) -> bytes:
    """Decode a secret strictly.

    The library's own decoding drops characters that are not base64, which signs with a key
    that other receivers do not arrive at.
    """
    text = secret.strip().removeprefix(_SECRET_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(f"webhook sink {name!r}: a secret must be base64 and not empty")
    return key


def _body(event: SandboxEvent) -> bytes:
    return orjson.dumps(
        {
            "type": f"capsule.{event.type}",
            "timestamp": event.occurred_at,
            "data": {
                "capsule_id": format_capsule_id(event.capsule_id),
                "team_id": None if event.team_id is None else format_team_id(event.team_id),
                "metadata": dict(event.metadata),
            },
        },
        option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z,
    )


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
