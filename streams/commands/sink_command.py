"""What the commands about what a sink has in Redis have in common: deliveries, and its life.

Exit codes: 0, done; 1, it cannot be done as things are, or Redis or Postgres failed; 2, the line
cannot be carried out as it is written, and nothing was changed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, ClassVar, Final, NoReturn

import click

from streams.commands.group_command import GroupCommand
from streams.commands.lines import BAD_LINE
from streams.commands.sinks import SinksCommand, sinks
from streams.events import EntryId
from streams.ids import excerpt

__all__ = ["DELIVERY_ID", "SINK", "SinkCommand"]


class _SinkName(click.ParamType):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", text):
            self.fail(f"{excerpt(text)} is no name that a sink can have", param, ctx)
        return text


class _DeliveryId(click.ParamType):
    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(EntryId.parse(str(value)))
        except ValueError as exc:
            self.fail(f"{excerpt(value)} is no delivery id: {exc}", param, ctx)


SINK: Final = _SinkName()
DELIVERY_ID: Final = _DeliveryId()


class SinkCommand(GroupCommand, SinksCommand):
    """Base of the commands; each is one of the group ``sinks``, under its class' name."""

    abstract: ClassVar[bool] = True

    group: ClassVar[click.Group] = sinks

    def refuse(self, text: str) -> NoReturn:
        """Say what is wrong with the line, and end."""
        print(text, file=sys.stderr)
        sys.exit(BAD_LINE)

    def known(self, name: str, there_are: Iterable[str]) -> None:
        """End, unless `name` is one of those."""
        names = sorted(there_are)
        if name not in names:
            self.refuse(f"{name}: no such sink; there are: {', '.join(names) or 'none'}")
