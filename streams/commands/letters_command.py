"""What the commands under ``dead-letters`` have in common.

Exit codes: 0, done; 1, Redis or Postgres failed; 2, the command cannot be carried out as it is
written, and nothing was done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final, NoReturn

import click
from faust.cli.base import cli, option

from streams.commands.group_command import GroupCommand
from streams.commands.lines import BAD_LINE, SINCE, OneLineGroup
from streams.dead_letters.letters import Filter, State, WrongLettersError
from streams.dead_letters.store import LetterStore
from streams.ids import excerpt
from streams.outcomes import Reason

__all__ = ["BAD_LINE", "FILTERS", "LETTER_ID", "LettersCommand", "dead_letters"]

_ID_MAX: Final = 2**63 - 1


@cli.group("dead-letters", cls=OneLineGroup, no_args_is_help=False)
def dead_letters() -> None:
    """List, show, replay and discard entries that ended without their effects."""


class LetterId(click.ParamType):
    """The number of a letter."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return it; int() alone would take blanks, underscores and foreign digits."""
        text = str(value)
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
        if not 0 < number <= _ID_MAX:
            self.fail(f"{excerpt(text)} is not the number of a letter", param, ctx)
        return number


LETTER_ID: Final = LetterId()

FILTERS: Final[list[Callable[[Any], Any]]] = [
    option("--stage", metavar="NAME", help="Those that died at this stage."),
    option("--sink", metavar="NAME", help="Deliveries to this sink."),
    option("--reason", metavar="WORD", help=f"One of {', '.join(Reason)}."),
    option("--since", type=SINCE, help="Died since: RFC 3339, or as long ago as 90m, 24h, 7d."),
]


class LettersCommand(GroupCommand):
    """Base of the commands; each is one of the group ``dead-letters``, under its class' name."""

    abstract: ClassVar[bool] = True

    group: ClassVar[click.Group] = dead_letters

    @contextmanager
    def letters(self) -> Iterator[LetterStore]:
        """Give the table; an order that cannot be carried out ends the program."""
        try:
            with LetterStore.opened(self.settings) as store:
                yield store
        except WrongLettersError as exc:
            self.refuse(str(exc))

    def filter(
        self, store: LetterStore, options: Mapping[str, Any], states: tuple[State, ...]
    ) -> Filter:
        """Return what the options of :data:`FILTERS` say; a word that nobody knows is a mistake."""
        known = {
            "stage": [agent.name for agent in self.app.agents.values()],
            "sink": [sink.name for sink in self.settings.sinks],
            "reason": list(Reason),
        }
        for name, words in known.items():
            word: str | None = options[name]
            if word is None or word in words:
                continue
            # A letter may be older than what is set up now.
            if not word or not word.isprintable() or not store.knows(name, word):
                there_are = ", ".join(words) or "none"
                self.refuse(f"--{name}: {excerpt(word)} is unknown; there are: {there_are}")
        return Filter(
            stage=options["stage"],
            sink=options["sink"],
            reason=options["reason"],
            since=options["since"],
            states=states,
        )

    def refuse(self, text: str) -> NoReturn:
        """Say what is wrong with the line, and end."""
        print(text, file=sys.stderr)
        sys.exit(BAD_LINE)
