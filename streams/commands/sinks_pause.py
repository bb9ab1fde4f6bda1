"""``sinks pause`` and ``resume``: nothing is delivered to a sink for as long as somebody wishes.

Both say what is so in the end, and end with 0 also where it was so already; 1, Redis failed; 2,
there is no such sink. With ``--json`` each prints one document; fields may be added to it::

    {"version": 1, "name", "paused": true or false, "changed": true or false}
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, NoReturn

from faust.cli.base import argument, option

from streams.commands.command import ReconcilerCommand
from streams.commands.sinks import SinksCommand
from streams.sinks.pauses import pause_sink, resume_sink

__all__ = ["Pause", "Resume"]


class PausingCommand(SinksCommand):
    """Base of the two."""

    abstract: ClassVar[bool] = True

    options = [  # noqa: RUF012 - Faust declares it on the instance
        argument("name", metavar="NAME"),
        option("--json", "as_json", is_flag=True, help="Print the outcome as JSON."),
    ]

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command; ends the program. What it changes is in Redis."""
        self.configured((self.kwargs["name"],))
        ReconcilerCommand.__call__(self, *args, **kwargs)

    def tell(self, name: str, text: str, *, paused: bool, changed: bool, as_json: bool) -> None:
        """Print what was done."""
        if as_json:
            told = {"version": 1, "name": name, "paused": paused, "changed": changed}
            self.say(json.dumps(told, indent=2))
        else:
            self.say(f"{name} {text}")


class Pause(PausingCommand):
    """Have nothing delivered to a sink, by any worker and over restarts, until it is resumed.

    Deliveries that are under way are finished; all others wait in Redis, up to backlog_max.
    """

    async def run(self, name: str, as_json: bool) -> None:
        """Pause it."""
        async with self.redis() as client:
            changed = await pause_sink(client, self.reconciler_app.redis_layout, name)
        text = "is paused" if changed else "was paused already"
        self.tell(name, text, paused=True, changed=changed, as_json=as_json)


class Resume(PausingCommand):
    """Have a paused sink get its deliveries again, the oldest first."""

    async def run(self, name: str, as_json: bool) -> None:
        """Resume it."""
        async with self.redis() as client:
            changed = await resume_sink(client, self.reconciler_app.redis_layout, name)
        text = "is resumed" if changed else "was not paused"
        self.tell(name, text, paused=False, changed=changed, as_json=as_json)
