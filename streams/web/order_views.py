"""The views of dead letters: which there are, one of them, and the orders that change them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import structlog
from aiohttp import web
from multidict import MultiDictProxy

from streams.dead_letters.letters import State
from streams.outcomes import Reason
from streams.web import letters
from streams.web.access import COOKIE, SESSION_S, RefusedError
from streams.web.answers import html, json
from streams.web.views import PageView, blueprint

__all__ = ["FORM_MAX_BYTES"]

log = structlog.get_logger(__name__)

#: Of what a form sends; fifty numbers and a token are far less.
FORM_MAX_BYTES = 16 * 1024

_LETTERS = "/topology/dead-letters"
_FILTERS = ("stage", "sink", "reason", "since", "state")


@blueprint.route("/topology/dead-letters", name="letters")
class LettersView(PageView):
    """Dead letters, the newest first."""

    async def get(self, request: web.Request) -> web.Response:
        """List what the filters leave."""
        query = {name: request.query.get(name, "") for name in _FILTERS}
        wanted = letters.parse_filter(query)
        settings = self.site.settings
        found = await self.site.in_thread(lambda: letters.list_letters(settings, wanted))
        done, count = request.query.get("done", ""), request.query.get("count", "")
        is_known = done in ("replayed", "discarded") and count.isascii() and count.isdigit()
        return html(
            self.site.render(
                request,
                "letters.html",
                found=found,
                query=query,
                stages=self.site.stages,
                sinks=[sink.name for sink in settings.sinks],
                reasons=list(Reason),
                states=list(State),
                done=f"{count[:6]} letters {done}" if is_known else "",
                changeable=(State.DEAD, State.REPLAYING),
            )
        )


@blueprint.route(r"/topology/dead-letters/{number:[0-9]{1,19}}", name="letter")
class LetterView(PageView):
    """One dead letter."""

    async def get(self, request: web.Request, number: str) -> web.Response:
        """Show all that is known of it."""
        [wanted] = letters.letter_numbers([number])
        settings = self.site.settings
        found = await self.site.in_thread(lambda: letters.find_letter(settings, wanted))
        if found is None:
            raise web.HTTPNotFound
        return html(
            self.site.render(
                request, "letter.html", found=found, changeable=(State.DEAD, State.REPLAYING)
            )
        )


class _OrderView(PageView):
    """An order for letters that are named."""

    done: str

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Carry it out for those who may, and say how many it was."""
        form = await _form(request)
        self.site.access.check_order(request, form)
        numbers = letters.letter_numbers([str(text) for text in form.getall("id", [])])
        count = await self.site.in_thread(lambda: self.carry_out(numbers))
        log.info("order from the page", action=f"page_{self.done}", letters=numbers, count=count)
        if "Authorization" in request.headers:
            return json({self.done: count})
        raise web.HTTPSeeOther(f"{_LETTERS}?{urlencode({'done': self.done, 'count': count})}")

    def carry_out(self, numbers: list[int]) -> int:
        """Do it, in a thread; return how many letters it was."""
        raise NotImplementedError


@blueprint.route("/topology/dead-letters/replay", name="replay")
class ReplayView(_OrderView):
    """Send letters again."""

    done = "replayed"

    def carry_out(self, numbers: list[int]) -> int:
        """Send them."""
        return letters.replay(self.site.settings, self.site.layout, numbers)


@blueprint.route("/topology/dead-letters/discard", name="discard")
class DiscardView(_OrderView):
    """Decide that nothing is to come of letters."""

    done = "discarded"

    def carry_out(self, numbers: list[int]) -> int:
        """Decide it."""
        return letters.discard(self.site.settings, numbers)


@blueprint.route("/topology/login", name="login")
class LoginView(PageView):
    """The token for a cookie."""

    async def get(self, request: web.Request) -> web.Response:
        """Show the form."""
        return html(self.site.render(request, "login.html", is_wrong=False))

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Take the token."""
        access = self.site.access
        if access.is_read_only:
            raise RefusedError("the page is read-only: CAPSULES_WEB_TOKEN is not set")
        access.check_origin(request)
        form = await _form(request)
        if not access.knows(str(form.get("token", ""))):
            log.warning("login refused", action="page_login_refused", peer=request.remote)
            return html(self.site.render(request, "login.html", is_wrong=True), 403)
        log.info("somebody logged in", action="page_login", peer=request.remote)
        answer = web.HTTPSeeOther(_LETTERS)
        answer.set_cookie(
            COOKIE,
            access.new_session(),
            max_age=SESSION_S,
            path="/topology",
            httponly=True,
            samesite="Strict",
            secure=request.secure,
        )
        raise answer


@blueprint.route("/topology/logout", name="logout")
class LogoutView(PageView):
    """The end of the cookie."""

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Take the cookie back."""
        self.site.access.check_order(request, await _form(request))
        answer = web.HTTPSeeOther("/topology")
        answer.del_cookie(COOKIE, path="/topology")
        raise answer


async def _form(request: web.Request) -> MultiDictProxy[Any]:
    # Files would be written to the disk.
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType
    return await request.post()
