"""What an operator sends to a sink keeps to the cap on its backlog, as what the stages send."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from config.settings import Settings
from streams.sinks.redelivery import Choice, Redelivery
from streams.sinks.room import BacklogFullError, BacklogRoom
from streams.transport import StreamLayout
from streams.web import letters
from tests.command_line import command_line
from tests.integration.test_redelivery import delivery, record, sent
from tests.letters import (
    DELIVERY,
    PARTITIONS,
    client_of,
    environment,
    everything,
    letter_table,
    prepare,
    put,
)
from tests.reconciliation import GROUP, PREFIX, Ground
from tests.worker_process import eventually

LAYOUT = StreamLayout(PREFIX)
MOST = 4
#: The stages that a full backlog holds up go on when it is down to 95% of the cap.
ROOM = 3


def sinks(policy: str = "hold") -> dict[str, str]:
    about = {"name": "billing", "type": "log", "backlog_max": MOST, "at_backlog_max": policy}
    return {"CAPSULES_SINKS": json.dumps([about])}


def settings(ground: Ground) -> Settings:
    given = json.loads(sinks()["CAPSULES_SINKS"])
    return Settings(redis_url=ground.redis_url, database_url=ground.database_url, sinks=given)


@contextmanager
def running(
    ground: Ground, directory: Path, *arguments: str, policy: str = "hold"
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command_line(*arguments),
        cwd=directory,
        env=environment(ground, **sinks(policy)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    out, _ = await asyncio.to_thread(process.communicate, timeout=60)
    return process.returncode, out.splitlines()


def deliver(ground: Ground) -> None:
    """Do what the sink does when it takes all there is."""
    with ground.redis() as client:
        for n in range(PARTITIONS):
            client.xtrim(f"{PREFIX}hooks.billing:{n}", maxlen=0, approximate=False)


async def test_a_replay_waits_until_the_sink_has_room(ground: Ground, tmp_path: Path) -> None:
    prepare(ground)
    put(ground, [DELIVERY] * 5)
    with running(ground, tmp_path, "dead-letters", "replay", "--all") as command:
        await eventually(lambda: len(sent(ground)) == ROOM, what="as many as there is room for")
        # One that there is no room for is not claimed either.
        await eventually(lambda: states(ground) == ["replayed"] * 3 + ["dead"] * 2, what="states")
        deliver(ground)
        assert await ended(command) == (0, ["5 letters to replay", "replayed 5 letters"])
    assert len(sent(ground)) == 2
    assert states(ground) == ["replayed"] * 5


def states(ground: Ground) -> list[str]:
    return [row["state"] for _, row in sorted(letter_table(ground).items())]


async def test_a_replay_that_waits_for_room_can_be_stopped_and_says_what_is_left(
    ground: Ground, tmp_path: Path
) -> None:
    prepare(ground)
    numbers = put(ground, [DELIVERY] * 5)
    line = ["dead-letters", "replay", *map(str, numbers)]
    with running(ground, tmp_path, *line) as command:
        await eventually(lambda: states(ground).count("replayed") == ROOM, what="no more room")
        command.send_signal(signal.SIGTERM)
        assert await ended(command) == (130, ["replayed 3 letters, 2 left"])
    deliver(ground)
    with running(ground, tmp_path, "dead-letters", "replay", "--all") as command:
        assert await ended(command) == (0, ["2 letters to replay", "replayed 2 letters"])


async def test_where_the_oldest_give_way_nothing_waits(ground: Ground, tmp_path: Path) -> None:
    prepare(ground)
    put(ground, [DELIVERY] * 5)
    with running(
        ground, tmp_path, "dead-letters", "replay", "--all", policy="dead_letter_oldest"
    ) as command:
        assert await ended(command) == (0, ["5 letters to replay", "replayed 5 letters"])
    await record(ground, *map(delivery, range(1, 8)))
    line = ["sinks", "redeliver", "billing", "--since", "1970-01-01T00:00:00Z"]
    with running(ground, tmp_path, *line, policy="dead_letter_oldest") as command:
        assert await ended(command) == (0, ["sent 7 deliveries to billing again"])
    assert len(sent(ground)) == 12


async def test_deliveries_that_are_sent_again_wait_until_the_sink_has_room(
    ground: Ground, tmp_path: Path
) -> None:
    prepare(ground)
    await record(ground, *map(delivery, range(1, 6)))
    line = ["sinks", "redeliver", "billing", "--since", "1970-01-01T00:00:00Z"]
    with running(ground, tmp_path, *line) as command:
        await eventually(lambda: len(sent(ground)) == ROOM, what="as many as there is room for")
        first = sent(ground)
        deliver(ground)
        assert await ended(command) == (0, ["sent 5 deliveries to billing again"])
    ids = [fields[b"h:source-id"].decode() for _, fields in first + sent(ground)]
    assert ids == ["1-0", "2-0", "3-0", "4-0", "5-0"]


async def test_who_waits_for_a_sink_that_takes_nothing_gives_up_and_knows_what_is_left(
    ground: Ground,
) -> None:
    prepare(ground)
    async with client_of(ground) as client:
        room = BacklogRoom(
            client, settings(ground).sinks, group=GROUP, layout=LAYOUT, standstill_s=0.5
        )
        redelivery = Redelivery(client, "billing", group=GROUP, layout=LAYOUT)
        choice = Choice(list(map(delivery, range(1, 6))))
        with pytest.raises(BacklogFullError, match="the backlog of billing is full"):
            await redelivery.send(choice, room, None, None)
    assert (redelivery.sent, redelivery.left, len(sent(ground))) == (3, 2, 3)


async def test_the_page_refuses_what_there_is_no_room_for(ground: Ground) -> None:
    prepare(ground)
    numbers = put(ground, [DELIVERY] * 4)
    before = everything(ground)
    with pytest.raises(BacklogFullError, match="there is room for 3 more"):
        await asyncio.to_thread(letters.replay, settings(ground), LAYOUT, numbers)
    assert everything(ground) == before
    assert await asyncio.to_thread(letters.replay, settings(ground), LAYOUT, numbers[:3]) == 3
