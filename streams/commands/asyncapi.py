"""``asyncapi``: the streams and their messages, as an AsyncAPI 3 document."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, NoReturn

import orjson

from streams.asyncapi import document
from streams.commands.command import ReconcilerCommand

__all__ = ["asyncapi"]


class asyncapi(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Print the AsyncAPI 3 document of the streams, as JSON; no server is asked."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command; ends the program."""
        found = document(self.reconciler_app, version=version("capsule-reconciler"))
        self.say(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        raise SystemExit(0)
