"""How a worker is watched: ``/metrics``, ``/healthz``, ``/readyz`` and ``/scaling``.

On Faust's web server, in the worker's own loop, so an answer also says that the loop turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from streams.operations.health import Health, Report
from streams.operations.metrics import Metrics
from streams.operations.scaling import demand

if TYPE_CHECKING:
    from streams.app import ReconcilerApp

__all__ = ["PATHS", "serve_operations"]

METRICS: Final = "/metrics"
ALIVE: Final = "/healthz"
READY: Final = "/readyz"
SCALING: Final = "/scaling"
PATHS: Final = (METRICS, ALIVE, READY, SCALING)

#: A scrape is content with what a probe has asked lately, and asks less often itself.
_SCRAPE_MAX_AGE_S: Final = 3.0


def serve_operations(
    app: ReconcilerApp, health: Health, *, version: str, lanes: Callable[[], Mapping[str, int]]
) -> None:
    """Have `app` answer under :data:`PATHS`, where it has a web server at all.

    Arguments:
        lanes: how many reports wait in each lane.
    """
    if not app.settings.web_port:
        return
    soundings = health.soundings
    metrics = Metrics(app, soundings, version=version, lanes=lanes)
    topics = [topic.get_topic_name() for topic in app.reconciler.topics.all()]

    @app.page(METRICS)
    async def show_metrics(_: Any, __: Any) -> Any:
        report = await health.check(max_age_s=_SCRAPE_MAX_AGE_S)
        text = await metrics.scrape(report)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.page(ALIVE)
    async def show_alive(_: Any, __: Any) -> Any:
        report = await health.check()
        return _answer(report, is_good=report.is_alive)

    @app.page(READY)
    async def show_ready(_: Any, __: Any) -> Any:
        report = await health.check()
        return _answer(report, is_good=report.is_ready)

    @app.page(SCALING)
    async def show_scaling(_: Any, __: Any) -> Any:
        if soundings.is_connected:
            await soundings.waiting.take()
        # An old answer would have an autoscaler act on what is no longer so.
        waiting = None if soundings.waiting.trouble else soundings.waiting.value
        if waiting is None:
            why = soundings.waiting.trouble or "it is starting or stopping"
            return _json({"error": f"the backlog is not known: {why}"}, status=503)
        return _json(demand(waiting, app.redis_layout, topics).as_dict(), status=200)


def _answer(report: Report, *, is_good: bool) -> web.Response:
    return _json(report.as_dict(), status=200 if is_good else 503)


def _json(body: Mapping[str, Any], *, status: int) -> web.Response:
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
