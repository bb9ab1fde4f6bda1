"""The page ``/topology`` on Faust's own web server.

What flows where, live; dead letters; one capsule. It reads Redis once a second for all who look,
and not at all while nobody does. It changes something only for those who have the token
(:mod:`.access`), and whatever it shows was written by strangers: templates escape it, the browser
is given text and no markup, and the policy in each answer's headers runs no script but the page's
own file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

from streams.web.access import add_headers
from streams.web.answers import guard
from streams.web.order_views import FORM_MAX_BYTES
from streams.web.site import SITE, Site
from streams.web.views import blueprint

if TYPE_CHECKING:
    from streams.app import ReconcilerApp
    from streams.figures.fleet import Figures
    from streams.operations.health import Health

__all__ = ["WEB_OPTIONS", "add_page"]

#: For the setting ``web_application_options``.
WEB_OPTIONS: Final[dict[str, Any]] = {"client_max_size": FORM_MAX_BYTES, "middlewares": (guard,)}


def add_page(app: ReconcilerApp, figures: Figures, health: Health) -> None:
    """Have the web server of `app` answer for the page, where it has one at all."""
    if not app.settings.web_port:
        return
    web_app: web.Application = cast("Any", app.web).web_app
    site = Site(app, figures, health)
    web_app[SITE] = site
    web_app.on_response_prepare.append(add_headers)
    web_app.on_shutdown.append(site.close)
    app.web.blueprints.add("", blueprint)
