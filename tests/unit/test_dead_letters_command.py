"""What can be said of a `dead-letters` line, and of hostile text, before any server is asked."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from streams.commands.dead_letters import as_json_text, as_lines, as_table
from streams.commands.letters_command import BAD_LINE, LETTER_ID, dead_letters
from streams.dead_letters.letters import Letter, Order, State
from streams.duration import parse_since
from streams.printable import printable

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOSTILE = "\x1b]0;owned\x07\x9b2J \u202egnp.exe\r\n[red]x[/red] \x7f\0"
LETTER = Letter(
    *(7, "5-1", HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 3, NOW, NOW, State.DEAD),
    *(1, HOSTILE, None, 10),
)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "bogus",
        "--bogus",
        "list --bogus",
        "list 5",
        "list --limit 0",
        "list --limit x",
        "list --state gone",
        "list --state",
        "list --since yesterday",
        "show",
        "show 0",
        "show 1 2",
        "show abc",
        "show --limit 3 1",
        "replay",
        "replay 0",
        "replay -- -5",
        "replay -5",
        "replay +5",
        "replay 1_0",
        "replay 5.0",
        "replay ٣",
        "replay 9223372036854775808",
        "replay 000000000000000000099999999999999999999999",
        "replay 5 x",
        "replay 5 --all",
        "replay 5 --stage route",
        "replay 5 --sink billing",
        "replay 5 --reason no_team",
        "replay 5 --since 1h",
        "replay 5 --state dead",
        "replay --stage route",
        "replay --dry-run",
        "replay --all --state replayed",
        "replay --all --rate 0",
        "replay --all --rate -1",
        "replay --all --rate nan",
        "replay --all --rate inf",
        "replay --all --rate fast",
        "replay --all --since -1h",
        "discard",
        "discard 0",
        "discard 5 --all",
        "discard 5 --since 1h",
        "discard --reason no_team",
        "discard --all --state replaying",
        "discard --all --rate 5",
        "discard \x1b[31m",
        "replay --\x1b[31m",
    ],
)
def test_a_bad_line_gets_one_line_and_exit_code_2(line: str) -> None:
    done = CliRunner().invoke(dead_letters, line.split(), prog_name="faust dead-letters")
    assert done.exit_code == BAD_LINE
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.endswith("\n")
    assert done.stderr[:-1].isprintable()


@pytest.mark.parametrize("command", ["", "list", "show", "replay", "discard"])
def test_each_command_explains_itself(command: str) -> None:
    done = CliRunner().invoke(dead_letters, [*command.split(), "--help"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "Usage" in done.stdout


@given(st.text() | st.from_regex(r"[0-9]{1,25}", fullmatch=True))
@example("9223372036854775807")
@example("9223372036854775808")
def test_the_number_of_a_letter_is_what_its_column_holds(text: str) -> None:
    fits = bool(re.fullmatch("[0-9]{1,19}", text, re.ASCII)) and 0 < int(text) < 2**63
    try:
        assert LETTER_ID.convert(text, None, None) == int(text)
    except click.BadParameter:
        assert not fits
    else:
        assert fits


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90m", timedelta(minutes=90)),
        ("24h", timedelta(hours=24)),
        ("7d", timedelta(days=7)),
        ("0s", timedelta()),
        ("2026-03-01T11:59:00Z", timedelta(minutes=1)),
        ("2026-03-01T13:59:00+02:00", timedelta(minutes=1)),
    ],
)
def test_since_is_a_moment_or_a_duration(text: str, ago: timedelta) -> None:
    assert parse_since(text, now=NOW) == NOW - ago


@pytest.mark.parametrize(
    "text",
    [
        *("", "7", "d", "-7d", "7 d", "1h30m", "1.5h", "٣d", "7w", "999999999d", "9999999999s"),
        *("2026-03-01", "2026-03-01T12:00:00", "2026-02-30T12:00:00Z", "nan", "1e3h"),
    ],
)
def test_since_is_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|longer"):
        parse_since(text, now=NOW)


@given(st.text() | st.binary())
@example(HOSTILE)
@example("\ud800")
@example(b"\xff\x1b")
def test_what_is_printed_is_one_line_that_does_nothing(value: str | bytes) -> None:
    shown = printable(value)
    assert shown.isprintable()
    if isinstance(value, str) and value.isprintable():
        assert shown == value


@given(st.recursive(st.text() | st.none() | st.integers(), st.lists, max_leaves=5))
@example(HOSTILE)
def test_json_is_ascii_without_controls_and_says_the_same(document: Any) -> None:
    text = as_json_text(document)
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == document


def test_a_hostile_letter_does_nothing_to_a_terminal() -> None:
    content = Order(7, 1, "5-1", "", b"\x1b", HOSTILE.encode(), ((b"\x1b", b"\x9b"),))
    history = [{HOSTILE: HOSTILE}]
    console = Console(file=io.StringIO(), width=300, color_system=None)
    console.print(as_table([LETTER]))
    assert isinstance(console.file, io.StringIO)
    table = console.file.getvalue()
    assert table.replace("\n", "").isprintable()
    # Markup is text.
    assert "[red]x[/red]" in table
    lines = list(as_lines(LETTER, history, content))
    assert all(line.isprintable() for line in lines)
    assert any(line.startswith("payload ") and "\\x1b]0;owned" in line for line in lines)
