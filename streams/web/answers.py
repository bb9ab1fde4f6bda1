"""What goes wrong, as an answer: typed, and never the worker's trouble."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import orjson
import structlog
from aiohttp import web

from streams.dead_letters.letters import WrongLettersError
from streams.dead_letters.replay import ReplayError
from streams.errors import DatabaseError
from streams.ids import InvalidIdError
from streams.sinks.room import BacklogFullError
from streams.transport import TransportError
from streams.web.access import RefusedError
from streams.web.letters import BadQuestionError
from streams.web.site import SITE, BusyError
from streams.web.watch import TooManyViewersError

__all__ = ["guard", "html", "json"]

log = structlog.get_logger(__name__)

_EXPECTED: Final[tuple[tuple[type[Exception], int, str], ...]] = (
    (RefusedError, 403, "Refused"),
    (InvalidIdError, 400, "Not a capsule"),
    (BadQuestionError, 400, "Not understood"),
    (WrongLettersError, 409, "Cannot be done"),
    (ReplayError, 503, "Cannot be done now"),
    (BacklogFullError, 503, "Cannot be done now"),
    (TransportError, 503, "Redis does not answer as it should"),
    (DatabaseError, 503, "Postgres does not answer as it should"),
    (BusyError, 503, "Too much is asked at the same time"),
    (TooManyViewersError, 503, "Too many look at this worker"),
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def html(text: str, status: int = 200) -> web.Response:
    """Return an answer that is a page."""
    return web.Response(text=text, status=status, content_type="text/html")


def json(document: object, status: int = 200) -> web.Response:
    """Return an answer that is a document."""
    return web.Response(
        body=orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS),
        status=status,
        content_type="application/json",
    )


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a view of the page raises into a page that says so."""
    if not request.path.startswith("/topology"):
        return await handler(request)
    try:
        return await handler(request)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        answer = _answer(request, exc.status, exc.reason, "")
        answer.headers.update({n: v for n, v in exc.headers.items() if n == "Allow"})
        return answer
    except ConnectionError:
        raise  # who asked is gone
    except Exception as exc:
        # Nothing else may have the server show its insides.
        for kind, status, title in _EXPECTED:
            if isinstance(exc, kind):
                if status == 403:
                    log.warning("order refused", action="page_order_refused", why=str(exc))
                return _answer(request, status, title, str(exc))
        log.exception("a view failed", action="page_failed", path=request.path[:200])
        return _answer(request, 500, "A fault of the program", "The worker's log says more.")


def _answer(request: web.Request, status: int, title: str, text: str) -> web.Response:
    # Who sends the token with each request is a program.
    if request.path.endswith(".json") or "Authorization" in request.headers:
        return json({"error": title, "detail": text}, status)
    site = request.app[SITE]
    return html(site.render(request, "error.html", title=title, text=text), status)
