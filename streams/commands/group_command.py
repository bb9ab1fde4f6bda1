"""What commands of a group have in common, such as those of ``dead-letters`` and of ``sinks``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from typing import Any, ClassVar, NoReturn

import click

from streams.commands.command import ReconcilerCommand

__all__ = ["GroupCommand"]


class GroupCommand(ReconcilerCommand):
    """Base of the commands of `group`; each is called as its class is."""

    abstract: ClassVar[bool] = True
    group: ClassVar[click.Group]

    @classmethod
    def as_click_command(cls) -> Callable[..., Any]:
        """Register the command; Faust calls this when the class is made."""

        def run(*args: Any, **options: Any) -> None:
            cls.check(options)
            cls(click.get_current_context(), *args, **options)()

        command = cls.group.command(cls.__name__.lower(), help=cls.__doc__)(run)
        for parameter in cls.options or []:
            parameter(command)
        return command

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raise click.UsageError where `options` do not fit together; no server is asked."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command, on the embedded servers where the settings ask for them."""
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        ReconcilerCommand.__call__(self, *args, **kwargs)
        raise AssertionError("the command ends the program")
