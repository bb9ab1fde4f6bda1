"""How a webhook is signed, so that its receiver can tell who sent it and that it is whole.

Two schemes. ``standard`` is Standard Webhooks (https://www.standardwebhooks.com). ``wrenn`` is
how the control plane signs its own channels: ``X-WRENN-SIGNATURE: sha256=<hex>``, HMAC-SHA256 by
the secret's bytes over the timestamp, a dot and the body; the timestamp is RFC 3339 in UTC.

The id is the delivery's own, the same on each attempt. The time is the attempt's, so that a
delivery that was tried for hours still passes a receiver that refuses old ones.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, Protocol

from multidict import CIMultiDict
from standardwebhooks.webhooks import Webhook

__all__ = ["Scheme", "Signer", "make_signer"]

Scheme = Literal["standard", "wrenn"]

_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the published prefix, not a secret


class Signer(Protocol):
    """Makes the headers that prove one attempt."""

    def headers(self, delivery_id: str, body: bytes, *, now: datetime) -> CIMultiDict[str]:
        """Return them; `now` is in UTC."""


def make_signer(scheme: Scheme, name: str, secrets: Sequence[str]) -> Signer:
    """Return what signs by each of `secrets`, the one in use first.

    Raises:
        ValueError: there is no secret, or one is unusable. The text does not hold it.
    """
    if not secrets:
        raise ValueError(f"webhook sink {name!r} needs at least one secret")
    if scheme == "standard":
        return _Standard([_key(name, secret) for secret in secrets])
    if not all(secret.strip() for secret in secrets):
        raise ValueError(f"webhook sink {name!r}: a secret must not be empty")
    return _Wrenn([secret.strip().encode() for secret in secrets])


class _Standard:
    def __init__(self, keys: Sequence[bytes]) -> None:
        self._signers = tuple(Webhook(key) for key in keys)

    def headers(self, delivery_id: str, body: bytes, *, now: datetime) -> CIMultiDict[str]:
        text = body.decode()
        return CIMultiDict(
            {
                "webhook-id": delivery_id,
                "webhook-timestamp": str(math.floor(now.timestamp())),
                # The standard's own way to change a secret: a list, of which one must fit.
                "webhook-signature": " ".join(
                    signer.sign(delivery_id, now, text) for signer in self._signers
                ),
            }
        )


class _Wrenn:
    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    def headers(self, delivery_id: str, body: bytes, *, now: datetime) -> CIMultiDict[str]:
        timestamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        headers = CIMultiDict({"X-Wrenn-Delivery": delivery_id, "X-Wrenn-Timestamp": timestamp})
        for key in self._keys:
            # One line for each secret: this scheme knows no list, and a receiver that reads the
            # first line goes on as before while the secret is changed.
            digest = hmac.new(key, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
            headers.add("X-WRENN-SIGNATURE", f"sha256={digest}")
        return headers


def _key(name: str, secret: str) -> bytes:
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
