"""A sink that posts each event to a URL, signed (:mod:`agents.hooks.signing` has the schemes)."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
from aiohttp.abc import AbstractResolver

from agents.hooks.http import MAX_RESPONSE_BYTES, USER_AGENT, HttpSink, HttpTarget
from agents.hooks.signing import Scheme, make_signer
from streams.events import SandboxEvent
from streams.ids import format_capsule_id, format_team_id

__all__ = ["MAX_RESPONSE_BYTES", "USER_AGENT", "WebhookSink"]


class WebhookSink(HttpSink):
    """Posts events to one URL; any 2xx answer means delivered.

    Args:
        name: The sink's name.
        url: Absolute http or https URL. Userinfo in it is sent as basic authentication.
        secrets: One or more secrets, the one in use first. For `standard` base64, with or
            without ``whsec_``; for `wrenn` any text. Each adds a signature, so that a receiver
            can change from one to the next.
        timeout_s: Bound on a whole attempt, from resolving the name to reading the answer.
        scheme: How the body is signed.
        allow_private: Also dial addresses that are not public.
        resolver: Looks names up; aiohttp's own if None.

    Raises:
        ValueError: The URL, a secret or the timeout is unusable. The text holds neither the
            URL nor the secret.
    """

    def __init__(
        self,
        name: str,
        url: str,
        secrets: tuple[str, ...],
        timeout_s: float = 10.0,
        *,
        scheme: Scheme = "standard",
        allow_private: bool = False,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self.name = name
        self._signer = make_signer(scheme, name, secrets)
        self._target = HttpTarget(
            f"webhook sink {name!r}",
            url,
            timeout_s=timeout_s,
            allow_private=allow_private,
            resolver=resolver,
        )

    def __repr__(self) -> str:
        return f"WebhookSink(name={self.name!r}, origin={self._target.origin!r})"

    async def on_sandbox_event(self, event: SandboxEvent) -> None:
        """Make one attempt to post the event.

        Raises:
            DeliveryError: No answer, or one other than 2xx; redirects count as failures.
            DeliveryRefusedError: An answer 4xx that says that the delivery itself is at fault.
        """
        body = _body(event)
        headers = self._signer.headers(event.delivery_id, body, now=datetime.now(UTC))
        headers["Content-Type"] = "application/json"
        await self._target.post(body, headers)


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
