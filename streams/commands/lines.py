"""What command lines have in common: words that stand for something, and how mistakes are told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import click

from streams.duration import parse_since
from streams.ids import InvalidIdError, excerpt, parse_capsule_id
from streams.printable import printable

__all__ = ["BAD_LINE", "CAPSULE_ID", "ENTRY_ID", "NUMBER_MAX", "SINCE", "OneLineGroup"]

#: The exit code of a line that cannot be carried out as it is written.
BAD_LINE: Final = 2
#: The largest number in the id of an entry.
NUMBER_MAX: Final = 2**64 - 1


class _BadLineError(click.ClickException):
    exit_code = BAD_LINE


class OneLineGroup(click.Group):
    """Says what is wrong with a line in one line of its own."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _in_one_line():
            return super().invoke(ctx)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as exc:
        raise _BadLineError(printable(" ".join(exc.format_message().split()))) from None


class _Since(click.ParamType):
    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        try:
            return parse_since(str(value), now=datetime.now(UTC))
        except ValueError as exc:
            self.fail(f"{excerpt(value)}: {exc}", param, ctx)


class _CapsuleId(click.ParamType):
    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:
        try:
            return parse_capsule_id(str(value))
        except InvalidIdError as exc:
            self.fail(str(exc), param, ctx)


class _EntryId(click.ParamType):
    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        match = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", text, re.ASCII)
        if match is None or any(n and int(n) > NUMBER_MAX for n in match.groups()):
            self.fail(f"{excerpt(text)} is no entry id", param, ctx)
        return text


SINCE: Final = _Since()
ENTRY_ID: Final = _EntryId()
CAPSULE_ID: Final = _CapsuleId()
