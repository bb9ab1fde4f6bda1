"""``sinks list``, ``check`` and ``test``: are the hook sinks set up right, and do they work?

Exit codes: 0, done; 1, a sink's target fails; 2, the line cannot be carried out as it is written.
With ``--json`` each prints one document; fields may be added to it, none are removed or changed
while ``version`` is 1::

    {"version": 1, "sinks": [{"name", "type", "target", "events": [...] or null, "teams": [...] or
     null, "concurrency", "retry_for_s", "paused_since_s": or null, "warnings": [...]}]}
    {"version": 1, "sinks": [{"name", "ok", "error": null or text, "took_s"}]}
    {"version": 1, "name", "delivery_id", "ok", "error": null or text, "took_s"}
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn
from uuid import UUID, uuid4

import click
from faust.cli.base import argument, cli, option
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.settings import PluginSinkSettings, SinkSettings, WebhookSinkSettings
from streams.commands.command import ReconcilerCommand
from streams.commands.lines import BAD_LINE, OneLineGroup
from streams.errors import DeliveryError
from streams.events import HookType, SandboxEvent
from streams.ids import parse_team_id
from streams.printable import printable
from streams.sinks.pauses import read_pauses
from streams.transport import TransportError

if TYPE_CHECKING:
    from agents.hooks import Made

__all__ = ["Check", "List", "Test", "sinks"]

#: Of no capsule: ids of capsules are random.
_NO_CAPSULE: Final = UUID(int=0)


@cli.group("sinks", cls=OneLineGroup, no_args_is_help=False)
def sinks() -> None:
    """List the hook sinks, check whether they work, and send one a test event."""


class SinksCommand(ReconcilerCommand):
    """Base of the commands; each is one of the group ``sinks``, under its class' name."""

    abstract: ClassVar[bool] = True

    @classmethod
    def as_click_command(cls) -> Callable[..., Any]:
        """Register the command; Faust calls this when the class is made."""

        def run(*args: Any, **options: Any) -> None:
            cls(click.get_current_context(), *args, **options)()

        command = sinks.command(cls.__name__.lower(), help=cls.__doc__)(run)
        for parameter in cls.options or []:
            parameter(command)
        return command

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command; ends the program. No server of the reconciler's own is needed."""
        try:
            asyncio.run(self.run(*self.args, **self.kwargs))
        except KeyboardInterrupt:
            sys.exit(130)
        sys.exit(0)

    def configured(self, names: tuple[str, ...] = ()) -> list[tuple[SinkSettings, Made]]:
        """Return these sinks, or all; a name that nobody knows ends the program."""
        both = zip(self.settings.sinks, self.reconciler_app.sinks, strict=True)
        found = {settings.name: (settings, made) for settings, made in both}
        for name in names:
            if name not in found:
                there_are = ", ".join(found) or "none"
                print(f"{printable(name)}: no such sink; there are: {there_are}", file=sys.stderr)
                sys.exit(BAD_LINE)
        return [found[name] for name in names or found]


class List(SinksCommand):
    """Show the configured sinks, and what may be wrong with them."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option("--json", "as_json", is_flag=True, help="Print them as JSON."),
    ]

    async def run(self, as_json: bool) -> None:
        """Say what the settings say."""
        found = [_described(settings, made) for settings, made in self.configured()]
        paused = await self._pauses() if found else {}
        for sink in found:
            sink["paused_since_s"] = paused.get(sink["name"])
        if as_json:
            self.say(json.dumps({"version": 1, "sinks": found}, indent=2))
            return
        if not found:
            self.say("no sinks are configured")
            return
        Console().print(_as_table(found))
        for sink in found:
            for warning in sink["warnings"]:
                self.say(f"{sink['name']}: {warning}")

    async def _pauses(self) -> dict[str, float]:
        """Ask Redis which sinks are paused; where it does not answer, the rest is said."""
        try:
            async with self.redis() as client:
                return await read_pauses(client, self.reconciler_app.redis_layout)
        except TransportError as exc:
            text = f"which of them are paused is not known: {printable(str(exc))}"
            print(text, file=sys.stderr)
            return {}


class Check(SinksCommand):
    """Open sinks, and find out whether their targets answer; all of them if none is named."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        argument("names", nargs=-1, metavar="[NAME]..."),
        option("--json", "as_json", is_flag=True, help="Print the outcome as JSON."),
    ]

    async def run(self, names: tuple[str, ...], as_json: bool) -> None:
        """Check them at the same time."""
        chosen = [made for _, made in self.configured(names)]
        checks = (_timed(made, made.sink.check) for made in chosen)
        outcomes = await asyncio.gather(*checks)
        if as_json:
            self.say(json.dumps({"version": 1, "sinks": outcomes}, indent=2))
        for outcome in [] if as_json else outcomes:
            self.say(_as_line(outcome))
        if not all(outcome["ok"] for outcome in outcomes):
            sys.exit(1)


class Test(SinksCommand):
    """Send one sink a test event: of no capsule, and with test=true in its metadata."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        argument("name", metavar="NAME"),
        option("--json", "as_json", is_flag=True, help="Print the outcome as JSON."),
    ]

    async def run(self, name: str, as_json: bool) -> None:
        """Make one attempt; it is not tried again."""
        ((settings, made),) = self.configured((name,))
        event = marked_event(settings)
        outcome = await _timed(made, lambda: made.sink.on_sandbox_event(event))
        if as_json:
            told = {"version": 1, "delivery_id": event.delivery_id, **outcome}
            self.say(json.dumps(told, indent=2))
        else:
            self.say(f"{_as_line(outcome)}  {event.delivery_id}")
        if not outcome["ok"]:
            sys.exit(1)


def marked_event(settings: SinkSettings) -> SandboxEvent:
    """Return an event that this sink wants, and that cannot be taken for another one.

    Real delivery ids are ids of a stream's entries; this one is none.
    """
    hook_type: HookType = settings.events[0] if settings.events else "created"
    return SandboxEvent(
        delivery_id=f"test-{uuid4()}",
        capsule_id=_NO_CAPSULE,
        team_id=parse_team_id(settings.teams[0]) if settings.teams else None,
        type=hook_type,
        occurred_at=datetime.now(UTC).replace(microsecond=0),
        metadata={"test": "true"},
    )


async def _timed(made: Made, call: Callable[[], Awaitable[None]]) -> dict[str, Any]:
    """Open the sink, make the call, and say how it ended."""
    began = time.monotonic()
    error = None
    try:
        await made.sink.open()
        await call()
    except DeliveryError as exc:
        error = exc.reason
    except Exception as exc:  # noqa: BLE001 - a sink is somebody else's code
        error = f"{type(exc).__name__} in the sink"
    finally:
        await made.sink.close()
    took_s = round(time.monotonic() - began, 3)
    return {"name": made.sink.name, "ok": error is None, "error": error, "took_s": took_s}


def _as_line(outcome: dict[str, Any]) -> str:
    ended = "ok" if outcome["ok"] else f"FAILED: {printable(outcome['error'])}"
    return f"{outcome['name']:20} {ended}  ({outcome['took_s']:.3f} s)"


def _described(settings: SinkSettings, made: Made) -> dict[str, Any]:
    return {
        "name": settings.name,
        "type": settings.type,
        "target": made.sink.target,
        "events": settings.events,
        "teams": settings.teams,
        "concurrency": made.concurrency,
        "retry_for_s": settings.retry_for_s,
        "warnings": _warnings(settings, made),
    }


def _warnings(settings: SinkSettings, made: Made) -> list[str]:
    told = []
    if isinstance(settings, WebhookSinkSettings | PluginSinkSettings):
        private = isinstance(settings, WebhookSinkSettings) and settings.allow_private
        if made.sink.target.startswith("http://") and not private:
            told.append("its address is http://: what is sent can be read on the way")
    if isinstance(settings, WebhookSinkSettings) and settings.next_secret is not None:
        told.append("it signs with two secrets: remove the old one when the receiver is ready")
    return told


def _as_table(found: list[dict[str, Any]]) -> Table:
    table = Table()
    for name in ("name", "type"):
        table.add_column(name, no_wrap=True)
    for name in ("target", "events", "teams"):
        table.add_column(name, overflow="fold")
    for name in ("at once", "tried for"):
        table.add_column(name, justify="right")
    table.add_column("state", no_wrap=True)
    for sink in found:
        table.add_row(
            # As Text: what looks like markup is none.
            Text(sink["name"]),
            Text(printable(sink["type"])),
            Text(printable(sink["target"])),
            Text(" ".join(sink["events"] or ["all"])),
            Text(" ".join(sink["teams"] or ["all"])),
            str(sink["concurrency"]),
            f"{sink['retry_for_s']:,.0f} s",
            "" if sink["paused_since_s"] is None else "paused",
        )
    return table
