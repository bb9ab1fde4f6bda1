"""``dead-letters list`` and ``show``.

With ``--json``, ``list`` and ``show`` print one document, in ASCII; fields may be added to it, none
are removed or changed while ``version`` is 1::

    {"version": 1, "total": how many there are, "letters": [LETTER, ...]}
    {"version": 1, "letter": LETTER, "history": [{"entry_id", "source_id", "stage", "reason",
     "error", "attempts", "at"}, ...]}
    LETTER = {"id", "origin_id", "source_id", "stage", "sink": "" where it is no delivery, "reason",
              "error", "attempts", "first_at", "last_at", "state", "replays",
              "replayed_as": id or null, "resolved_at": RFC3339 or null, "payload_bytes": or null}

and ``show --payload`` adds, in base64 and null where there is none, ``payload``, ``key`` and
``fields``, a list of pairs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import click
from faust.cli.base import argument, option
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams.commands.letters_command import FILTERS, LETTER_ID, LettersCommand
from streams.dead_letters.letters import Letter, Order, State
from streams.printable import printable

__all__ = ["List", "Show"]

_ERROR_CHARS: Final = 60


class List(LettersCommand):
    """Show letters, the newest first."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        *FILTERS,
        option(
            "--state",
            type=click.Choice([*(state.value for state in State), "all"]),
            default=State.DEAD.value,
            help="What has been decided about them.",
        ),
        option("--limit", type=click.IntRange(1, 100_000), default=50, help="So many at most."),
        option("--json", "as_json", is_flag=True, help="Print them as JSON."),
    ]

    async def run(self, state: str, limit: int, as_json: bool, **filters: Any) -> None:
        """Read them once."""
        states = tuple(State) if state == "all" else (State(state),)
        with self.letters() as store:
            wanted = self.filter(store, filters, states)
            found = store.newest(wanted, limit)
            total = max(store.count(wanted), len(found))
        if as_json:
            letters = [letter.as_dict() for letter in found]
            self.say(as_json_text({"version": 1, "total": total, "letters": letters}))
            return
        if found:
            Console().print(as_table(found))
        more = f", {total - len(found):,} more not shown" if total > len(found) else ""
        self.say(f"{total:,} letters{more}")


class Show(LettersCommand):
    """Show one letter: all that is known of it, and each of its deaths."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        argument("letter_id", type=LETTER_ID, metavar="ID"),
        option("--payload", is_flag=True, help="Show the whole payload, key and fields as well."),
        option("--json", "as_json", is_flag=True, help="Print it as JSON."),
    ]

    async def run(self, letter_id: int, payload: bool, as_json: bool) -> None:
        """Read it once."""
        with self.letters() as store:
            found = store.find([letter_id])
            history = store.history(letter_id)
            content = store.content(letter_id) if payload else None
        if not found or (payload and content is None):
            self.refuse(f"there is no letter {letter_id}")
        if as_json:
            document = {"version": 1, "letter": found[0].as_dict(), "history": history}
            if content is not None:
                document |= _content_in_base64(content)
            self.say(as_json_text(document))
            return
        for line in as_lines(found[0], history, content):
            self.say(line)


def as_json_text(document: Any) -> str:
    """Return `document` as JSON that is safe in a terminal: ASCII without control characters."""
    text = json.dumps(document, indent=2, ensure_ascii=True, default=datetime.isoformat)
    return text.replace("\x7f", "\\u007f")


def as_table(letters: list[Letter]) -> Table:
    """Return `letters` as a table for a terminal."""
    table = Table()
    for name in ("id", "state", "stage", "reason", "tried", "died (UTC)"):
        table.add_column(name, no_wrap=True)
    table.add_column("error", overflow="fold")
    for letter in letters:
        cut = letter.error[:_ERROR_CHARS] + ("…" if len(letter.error) > _ERROR_CHARS else "")
        table.add_row(
            str(letter.id),
            letter.state.value,
            # As Text: what looks like markup is none.
            Text(printable(letter.stage)),
            Text(printable(letter.reason)),
            f"{letter.attempts:,}",
            f"{letter.last_at.astimezone(UTC):%m-%d %H:%M:%S}",
            Text(printable(cut)),
        )
    return table


def as_lines(letter: Letter, history: list[dict[str, Any]], content: Order | None) -> Iterator[str]:
    """Give all about a letter, line by line."""
    for name, value in letter.as_dict().items():
        text = value.isoformat() if isinstance(value, datetime) else str(value)
        yield f"{name:14} {'-' if value in (None, '') else printable(text)}"
    for number, death in enumerate(history, 1):
        about = "  ".join(f"{name}={value}" for name, value in death.items())
        yield f"{f'death {number}':14} {printable(about)}"
    if content is not None:
        yield f"{'key':14} {'-' if content.key is None else content.key.hex()}"
        for field, content_of_it in content.fields:
            yield f"{'field':14} {printable(field)} = {printable(content_of_it)}"
        yield f"{'payload':14} {'-' if content.payload is None else printable(content.payload)}"


def _content_in_base64(content: Order) -> dict[str, Any]:
    return {
        "payload": _encode(content.payload),
        "key": _encode(content.key),
        "fields": [[_encode(name), _encode(value)] for name, value in content.fields],
    }


def _encode(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
