"""The replay command killed at each of its steps: the next one ends each order, once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.replay_killed import STEPS
from tests.letters import (
    Sent,
    StoredLetter,
    complaint,
    dead_letters,
    dead_letters_line,
    environment,
    letter_table,
    prepare,
    put,
)
from tests.reconciliation import SOURCE, Ground
from tests.worker_process import WorkerProcess, eventually

PIPELINE = StoredLetter()
DELIVERY = StoredLetter("hook.billing", "billing", "gave_up", key=bytes(16))
CAPSULE = "cl-" + "0" * 24 + "7"
CAPSULE_UUID = "00000000-0000-0000-0000-000000000007"
TEAM = "00000000-0000-0000-0000-000000000009"

#: What the letter is after the kill, and how many entries were sent.
AFTER = {
    "claimed": ("replaying", 0),
    "watching": ("replaying", 0),
    "sent": ("replaying", 1),
    "resolved": ("replayed", 1),
    "all done": ("replayed", 1),
}


def killed(ground: Ground, directory: Path, step: str, *arguments: str | int) -> None:
    """Run `dead-letters` until it is killed at `step`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.replay_killed", step, *map(str, arguments)],
        cwd=directory,
        env=environment(ground),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, done


def counts(ground: Ground) -> dict[int, int]:
    return {number: len(ids) for number, ids in Sent.in_streams(ground).ids.items()}


def test_each_step_is_tried() -> None:
    assert set(AFTER) == set(STEPS)


@pytest.mark.parametrize("letter", [PIPELINE, DELIVERY], ids=["pipeline", "delivery"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "all"])
@pytest.mark.parametrize("step", list(AFTER))
def test_a_replay_that_was_killed_is_sent_once_by_the_next(
    ground: Ground, tmp_path: Path, step: str, named: bool, letter: StoredLetter
) -> None:
    prepare(ground)
    ids = put(ground, [letter] * 3)
    line: list[Any] = ["replay", *(ids if named else ["--all"])]
    killed(ground, tmp_path, step, *line)

    state, sent = AFTER[step]
    table = letter_table(ground)
    assert table[ids[0]]["state"] == state
    assert counts(ground) == ({ids[0]: 1} if sent else {})
    # Named letters are ordered all at once.
    assert table[ids[1]]["state"] == ("replaying" if named else "dead")

    # Not the same way again: killed once more, wherever that is.
    rest = [number for number in ids if table[number]["state"] != "replayed"]
    again: list[Any] = ["replay", *(rest if named else ["--all"])]
    killed(ground, tmp_path, "sent", *again)
    done = dead_letters(ground, tmp_path, "replay", "--all")
    assert done.returncode == 0, done.stderr
    assert counts(ground) == dict.fromkeys(ids, 1)
    sent_as = Sent.in_streams(ground).ids
    for number, row in letter_table(ground).items():
        assert (row["state"], row["replays"]) == ("replayed", 1)
        assert [row["replayed_as"]] == sent_as[number]


@pytest.mark.parametrize("step", ["claimed", "sent", "resolved"])
async def test_a_replay_that_was_killed_has_its_effect_once(
    ground: Ground, tmp_path: Path, step: str
) -> None:
    payload = {
        "event": "capsule.create",
        "outcome": "error",
        "timestamp": "2026-03-01T12:00:00Z",
        "actor": {"type": "system"},
        "resource": {"id": CAPSULE, "type": "sandbox"},
    }
    worker = WorkerProcess(tmp_path / "worker", **ground.settings())
    await worker.wait_for("partitions_taken")
    with ground.redis() as client:
        client.xadd(SOURCE, {"payload": json.dumps(payload)})
    await eventually(lambda: letter_table(ground), what="the letter")
    [number] = letter_table(ground)
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into sandboxes (id, team_id, status) values (%s, %s, 'running')",
            (CAPSULE_UUID, TEAM),
        )
    killed(ground, tmp_path, step, "replay", number)
    done = dead_letters(ground, tmp_path, "replay", number)
    assert done.returncode == (2 if step == "resolved" else 0), done.stderr
    await eventually(ground.drained, what="all done")
    with ground.cursor() as cursor:
        cursor.execute("select team_id::text, resource_id from audit_logs")
        assert cursor.fetchall() == [(TEAM, CAPSULE)]
    assert counts(ground)[number] == 1
    assert letter_table(ground)[number]["state"] == "replayed"
    assert await worker.stop() == 0


async def test_letters_that_are_replayed_by_commands_killed_at_random_are_sent_once(
    ground: Ground, tmp_path: Path
) -> None:
    prepare(ground)
    ids = put(ground, [PIPELINE, DELIVERY] * 300)
    for _ in range(6):
        before = len(counts(ground))
        process = await asyncio.create_subprocess_exec(
            *dead_letters_line("replay", "--all"),
            cwd=tmp_path,
            env=environment(ground),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await eventually(
            lambda before=before: len(counts(ground)) > min(before + 20, len(ids) - 1),  # type: ignore[misc]
            what="some are sent",
        )
        if process.returncode is None:
            process.kill()
        await process.wait()
    assert dead_letters(ground, tmp_path, "replay", "--all").returncode == 0
    assert counts(ground) == dict.fromkeys(ids, 1)
    assert {row["replays"] for row in letter_table(ground).values()} == {1}


def test_redis_that_goes_away_leaves_the_order_to_the_next_command(
    ground: Ground, tmp_path: Path
) -> None:
    prepare(ground)
    [number] = put(ground, [PIPELINE])
    killed(ground, tmp_path, "claimed", "replay", number)
    away = dead_letters(ground, tmp_path, "replay", number, REDIS_URL="redis://127.0.0.1:1")
    complaint(away, 1)
    assert letter_table(ground)[number]["state"] == "replaying"
    refused = dead_letters(ground, tmp_path, "discard", number)
    assert "is being replayed" in complaint(refused, 2)
    assert dead_letters(ground, tmp_path, "replay", number).returncode == 0
    assert counts(ground) == {number: 1}
