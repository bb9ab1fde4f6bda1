"""What can be said of a `sinks` line before any server is asked."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from streams.commands.lines import BAD_LINE
from streams.commands.sink_deliveries import as_lines
from streams.commands.sinks import sinks
from streams.sinks.deliveries import Delivery, Status

CAPSULE = "cl-0000000000000000000000007"
HOSTILE = "\x1b]0;owned\x07\x9b2J \u202egnp.exe\r\n[red]x[/red] \x7f\0"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "bogus",
        "--bogus",
        "list --bogus",
        "check --bogus",
        "test",
        "deliveries --bogus",
        "deliveries a b",
        "deliveries A",
        "deliveries -- -a",
        "deliveries billing.x",
        "deliveries " + 33 * "a",
        "deliveries --capsule cl-1",
        "deliveries --capsule",
        "deliveries --status gone",
        "deliveries --since yesterday",
        "deliveries --limit 0",
        "deliveries --limit 100001",
        "deliveries --limit x",
        "deliveries \x1b[31m",
        "backfill",
        "backfill billing",
        "backfill --from 0",
        "backfill Billing --from 0",
        "backfill billing --from",
        "backfill billing --from $",
        "backfill billing --from yesterday",
        "backfill billing --from 5-",
        "backfill billing --from -5",
        "backfill billing --from 18446744073709551616",
        "backfill billing --from ٣",
        "backfill billing --from 5-2 --to 5-1",
        "backfill billing --from 5 --to 4",
        "backfill billing --from 5 --to x",
        "backfill billing audit --from 5",
        "retire",
        "retire Billing",
        "retire billing audit",
        "retire billing --force",
        "retire billing --drop --discard-dead-letters",
        "redeliver",
        "redeliver billing",
        "redeliver Billing 5-1",
        "redeliver billing 5",
        "redeliver billing 5-",
        "redeliver billing -5-1",
        "redeliver billing 05-1",
        "redeliver billing 5-1x",
        "redeliver billing ٣-1",
        "redeliver billing 18446744073709551616-0",
        "redeliver billing test-5",
        "redeliver billing 5-1 --since 1h",
        "redeliver billing 5-1 --status dead",
        "redeliver billing 5-1 --capsule " + CAPSULE,
        "redeliver billing --status dead",
        "redeliver billing --dry-run",
        "redeliver billing --capsule cl-",
        "redeliver billing --since soon",
        "redeliver billing --since 1h --status gone",
        "redeliver billing \x1b[31m",
    ],
)
def test_a_bad_line_gets_one_line_and_exit_code_2(line: str) -> None:
    done = CliRunner().invoke(sinks, line.split(), prog_name="faust sinks")
    assert done.exit_code == BAD_LINE
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.endswith("\n")
    assert done.stderr[:-1].isprintable()


@pytest.mark.parametrize(
    "command", ["", "list", "check", "test", "deliveries", "redeliver", "retire", "backfill"]
)
def test_each_command_explains_itself(command: str) -> None:
    done = CliRunner().invoke(sinks, [*command.split(), "--help"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "Usage" in done.stdout


def test_a_hostile_delivery_does_nothing_to_a_terminal() -> None:
    delivery = Delivery(HOSTILE, HOSTILE, HOSTILE, Status.DEAD, 1, 1e9, HOSTILE, 10**30, HOSTILE)
    lines = list(as_lines([("billing", delivery)]))
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


@given(st.binary() | st.text().map(str.encode))
def test_a_row_that_nobody_wrote_is_none(raw: bytes) -> None:
    assert Delivery.from_row(raw) is None


@given(st.dictionaries(st.sampled_from(sorted(Delivery.__slots__)), st.none() | st.booleans()))
def test_a_row_with_other_fields_is_none(fields: dict[str, Any]) -> None:
    assert Delivery.from_row(orjson.dumps(fields)) is None
