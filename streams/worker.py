"""The process of ``faust worker``: how it starts, and what signals do to it."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import faust
import structlog
from faust.types import AppT

from config.embedded import EmbeddedServerError, EmbeddedServers
from config.settings import Settings
from streams.errors import StartError
from streams.preflight import check_start

if TYPE_CHECKING:
    from streams.app import ReconcilerApp

__all__ = ["ReconcilerWorker"]

#: Objects made and not freed again before the collector looks at the youngest, and how many such
#: looks before it looks at older ones.
_COLLECT_AFTER: Final = (20_000, 20, 50)

log = structlog.get_logger(__name__)


class ReconcilerWorker(faust.Worker):
    """Faust's worker, which checks before it starts and stops in two steps.

    The first SIGTERM or SIGINT finishes what is under way; a second one does not wait.
    """

    def __init__(self, app: AppT, *args: Any, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)
        # `faust worker` turns its web server on unless told otherwise, on port 6066.
        if not self.settings.web_port:
            app.conf.web_enabled = False

    @property
    def settings(self) -> Settings:
        """The app's settings."""
        return cast("ReconcilerApp", self.app).settings

    def execute_from_commandline(self) -> NoReturn:
        """Check, start, run until stopped; ends the program."""
        try:
            with EmbeddedServers(self.settings):
                check_start(self.settings)
                _tune_collector()
                super().execute_from_commandline()
        except (StartError, EmbeddedServerError) as exc:
            print(exc, file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)
        raise AssertionError("the worker ends the program")

    def _schedule_shutdown(self, signal: signal.Signals) -> None:
        if self._signal_stop_time:
            log.warning("second signal, not waiting", action="killed", signal=signal.name)
            os._exit(1)
        super()._schedule_shutdown(signal)

    def _enter_debugger(self) -> None:
        # Faust opens a debugger on SIGUSR2, which would freeze the worker for good.
        log.warning("SIGUSR2 does nothing here", action="signal_ignored")

    async def _sentinel_task(self) -> None:
        """Faust sleeps a second here before it closes the loop; nothing is left to wait for."""


def _tune_collector() -> None:
    """Have Python look for circular garbage less often: an event in hand is some dozen objects.

    At its own pace it goes through all that is in hand again and again, and that took a third of
    the processor time of a worker with a backlog. Hardly any garbage here is circular.
    """
    gc.collect()
    gc.freeze()  # what the program itself consists of stays anyway
    gc.set_threshold(*_COLLECT_AFTER)
