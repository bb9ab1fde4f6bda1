"""The views: the topology, live, and as a document; one capsule; the page's own files."""

from __future__ import annotations

import asyncio
import contextlib
from importlib import resources
from typing import Any, Final, cast

from aiohttp import web
from faust.web import Blueprint, View

from streams.figures.live import State
from streams.sinks.deliveries import Status
from streams.topology import Kind
from streams.web.answers import html, json
from streams.web.deliveries import parse_wanted
from streams.web.frame import CELLS, frame_of, short
from streams.web.layout import BOX_HEIGHT, BOX_WIDTH, lay_out
from streams.web.site import SITE, Site

__all__ = ["PageView", "blueprint"]

blueprint = Blueprint("topology")

#: How long a viewer may not take what is sent to it.
_STALLED_S: Final = 10.0
_NAME_CHARS: Final = 22
_ID_CHARS: Final = 200
_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES: Final = {
    entry.name: entry.read_bytes()
    for entry in resources.files("streams.web").joinpath("static").iterdir()
    if entry.name.rpartition(".")[2] in _TYPES
}


class PageView(View):
    """A view of the page."""

    site: Site

    def __post_init__(self) -> None:
        """Find what all views share."""
        self.site = cast("Any", self.web).web_app[SITE]


@blueprint.route("/topology", name="page")
class TopologyView(PageView):
    """The flow with the figures of this moment."""

    async def get(self, request: web.Request) -> web.Response:
        """Draw it; without figures, and saying so, where there are none."""
        topology = self.site.topology
        reading = await self.site.watch.latest()
        sinks = self.site.sinks
        frame = frame_of(reading.live, sinks) if reading.live else None
        return html(
            self.site.render(
                request,
                "topology.html",
                trouble=reading.trouble,
                nodes=topology.nodes,
                drawing=lay_out(topology),
                box_width=BOX_WIDTH,
                box_height=BOX_HEIGHT,
                cell=(lambda name: frame.cells.get(name, "")) if frame else (lambda _: ""),
                state_of=(lambda name: frame.states[name]) if frame else (lambda _: "unknown"),
                flowing=frame.flowing if frame else [],
                at=frame.at if frame else "",
                workers=frame.workers if frame else [],
                alerts=frame.alerts if frame else [],
                columns=CELLS,
                sinks=sinks,
                states=list(State),
                kinds=list(Kind),
                short=lambda name: short(name.removeprefix("capsule_reconciler."), _NAME_CHARS),
            )
        )


@blueprint.route("/topology.json", name="document")
class DocumentView(PageView):
    """The same as ``topology --live --format json``."""

    async def get(self, request: web.Request) -> web.Response:
        """Return what was seen less than a second ago, or look now."""
        reading = await self.site.watch.latest()
        if reading.live is None:
            reasons = await self.site.reasons()
            return json({"error": "no figures", "detail": reading.trouble, "reasons": reasons}, 503)
        return json(reading.live.as_dict())


@blueprint.route("/topology/events", name="events")
class EventsView(PageView):
    """Server-sent events: ``frame`` with what changed each second, ``trouble`` where there is."""

    async def head(self, request: web.Request, **_: Any) -> web.Response:
        """Say what it is, and do not begin."""
        return web.Response(content_type="text/event-stream")

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Send until the viewer goes or the worker stops."""
        response = web.StreamResponse()
        response.content_type = "text/event-stream"
        readings = self.site.watch.follow()
        async with contextlib.aclosing(readings):  # type: ignore[type-var]  # it is a generator
            async for reading in readings:
                if not response.prepared:
                    await response.prepare(request)
                    await response.write(b"retry: 2000\n\n")
                try:
                    await asyncio.wait_for(response.write(reading.event), _STALLED_S)
                except (ConnectionError, TimeoutError):
                    if request.transport is not None:
                        request.transport.abort()
                    break
        return response


@blueprint.route("/topology/capsule", name="capsule")
class CapsuleView(PageView):
    """What is known of one capsule."""

    async def get(self, request: web.Request) -> web.Response:
        """Show the form, and what was asked for."""
        asked = request.query.get("id", "").strip()[:_ID_CHARS]
        history = await self.site.history(asked) if asked else None
        return html(self.site.render(request, "capsule.html", asked=asked, history=history))


@blueprint.route("/topology/sinks/{name:[a-z0-9-]{1,32}}", name="sink")
class SinkView(PageView):
    """The last deliveries to one sink."""

    async def get(self, request: web.Request, name: str) -> web.Response:
        """List what the filters leave."""
        if name not in [sink.name for sink in self.site.sinks]:
            raise web.HTTPNotFound
        query = {field: request.query.get(field, "") for field in ("capsule", "status")}
        found = await self.site.deliveries(name, parse_wanted(query))
        return html(
            self.site.render(
                request,
                "sink.html",
                sink=name,
                query=query,
                statuses=list(Status),
                found=found,
                kept=self.site.settings.deliveries_kept,
            )
        )


@blueprint.route("/topology/static/{name}", name="static")
class StaticView(PageView):
    """The page's own files."""

    async def get(self, request: web.Request, name: str) -> web.Response:
        """Return one of them; there are no others."""
        if name not in _FILES:
            raise web.HTTPNotFound
        kind = _TYPES[name.rpartition(".")[2]]
        return web.Response(body=_FILES[name], content_type=kind, charset="utf-8")
