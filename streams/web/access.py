"""Who may change something through the page, and what each answer says about itself.

Without a token the page is read-only. With one, an order is a POST that comes either with the
token itself (``Authorization: Bearer``), or from the page's own form in a browser that was given
the token: then it needs the cookie, the form's token, which only the page's own HTML has, and an
``Origin`` that is the page's own.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from yarl import URL

__all__ = ["COOKIE", "Access", "RefusedError", "add_headers"]

COOKIE: Final = "capsules_page"
SESSION_S: Final = 12 * 3600

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    # With no-referrer, a browser would send `Origin: null` with the page's own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not the versions of what answers.
    "Server": "capsule-reconciler",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class RefusedError(Exception):
    """The order may not be given; the text says why."""


async def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add what each answer has; a handler of aiohttp's ``on_response_prepare``."""
    response.headers.update(_HEADERS)


class Access:
    """Decides by the token.

    Arguments:
        token: empty: nobody may change anything.
    """

    def __init__(self, token: str) -> None:
        self._token = _bytes(token)

    @property
    def is_read_only(self) -> bool:
        """Whether nobody may change anything."""
        return not self._token

    def knows(self, token: str) -> bool:
        """Whether it is the token."""
        return bool(self._token) and hmac.compare_digest(_bytes(token), self._token)

    def new_session(self, now_s: float | None = None) -> str:
        """Return the cookie's value for somebody who knew the token."""
        ends = str(int((time.time() if now_s is None else now_s) + SESSION_S))
        return f"{ends}.{self._sign('session', ends)}"

    def is_session(self, value: str) -> bool:
        """Whether it is a cookie's value of ours that has not run out."""
        ends, _, signature = value.partition(".")
        return (
            bool(self._token)
            and hmac.compare_digest(_bytes(signature), _bytes(self._sign("session", ends)))
            and int(ends) > time.time()
        )

    def form_token(self, request: web.BaseRequest) -> str:
        """Return what the page's own forms carry; empty: who asks may change nothing."""
        session = request.cookies.get(COOKIE, "")
        return self._sign("form", session) if self.is_session(session) else ""

    def check_origin(self, request: web.BaseRequest, *, is_needed: bool = True) -> None:
        """Raise RefusedError unless the request comes from the page itself.

        Arguments:
            is_needed: also refuse one that does not say where it comes from.
        """
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise RefusedError("the order comes from another site")
        origin = request.headers.get("Origin")
        if origin is None:
            if is_needed:
                raise RefusedError("the order does not say from which page it comes")
        elif not _is_same(origin, request.host):
            raise RefusedError("the order comes from another site")

    def check_order(self, request: web.BaseRequest, form: Mapping[str, object]) -> None:
        """Raise RefusedError unless who asks may change something."""
        if self.is_read_only:
            raise RefusedError("the page is read-only: CAPSULES_WEB_TOKEN is not set")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme:
            self.check_origin(request, is_needed=False)
            if scheme.lower() != "bearer" or not self.knows(token.strip()):
                raise RefusedError("the token is wrong")
            return
        self.check_origin(request)
        wanted = self.form_token(request)
        if not wanted:
            raise RefusedError("log in with the token first")
        given = form.get("form_token")
        if not isinstance(given, str) or not hmac.compare_digest(_bytes(given), _bytes(wanted)):
            raise RefusedError("the form is not one of this page, or older than the login")

    def _sign(self, purpose: str, text: str) -> str:
        message = _bytes(f"capsule-reconciler {purpose} {text}")
        return hmac.new(self._token, message, hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    # What comes in headers may have halves of characters in it.
    return text.encode("utf-8", "surrogatepass")


def _is_same(origin: str, host: str) -> bool:
    try:
        theirs = URL(origin)
        ours = URL(f"{theirs.scheme}://{host}")
    except ValueError:
        return False
    return theirs.scheme in ("http", "https") and theirs.authority == ours.authority
