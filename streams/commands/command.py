"""What the commands have in common: settings, connections, and how they end.

A command ends with exit code 0, or prints one line for each mistake and ends with 1; click ends
those it cannot parse with 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, cast

import redis.asyncio
from faust.cli.base import AppCommand

from config.embedded import EmbeddedServerError, EmbeddedServers
from config.migrate import MigrationError
from config.settings import Settings
from streams.broker_url import broker_url
from streams.errors import ReconcilerError
from streams.transport import TransportError
from streams.transport.connection import connect

if TYPE_CHECKING:
    from streams.app import ReconcilerApp

__all__ = ["EXPECTED_ERRORS", "ReconcilerCommand"]

#: Errors that are an answer to the user and no fault of the program.
EXPECTED_ERRORS = (ReconcilerError, TransportError, MigrationError, EmbeddedServerError)


class ReconcilerCommand(AppCommand):
    """Base of the project's commands; `run` gets the options by name."""

    abstract: ClassVar[bool] = True

    @property
    def reconciler_app(self) -> ReconcilerApp:
        """The app that the command is for."""
        return cast("ReconcilerApp", self.app)

    @property
    def settings(self) -> Settings:
        """The app's settings."""
        return self.reconciler_app.settings

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command; ends the program."""
        with self.servers():
            asyncio.run(self._run_and_clean_up())
        sys.exit(0)

    async def _run_and_clean_up(self) -> None:
        await self.reconciler_app.declare_topics()
        try:
            await self.run(*self.args, **self.kwargs)
        finally:
            await self.on_stop()

    @contextlib.contextmanager
    def servers(self) -> Iterator[None]:
        """Have the embedded servers run, where the settings ask for them."""
        try:
            with EmbeddedServers(self.settings):
                yield
        except EXPECTED_ERRORS as exc:
            self.fail(str(exc))
        except KeyboardInterrupt:
            sys.exit(130)

    def fail(self, text: str) -> NoReturn:
        """Say what is wrong, on stderr, and end with exit code 1."""
        print(text, file=sys.stderr)
        sys.exit(1)

    @contextlib.asynccontextmanager
    async def redis(self) -> AsyncIterator[redis.asyncio.Redis]:
        """Give a client for the app's Redis."""
        client = connect(
            broker_url(self.settings),
            timeout_s=self.settings.redis_timeout_s,
            name=f"{self.settings.app_id}-command",
        )
        async with client:
            yield client
