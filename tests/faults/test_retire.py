"""`sinks retire`: nothing of a sink is left, and nothing that it was owed is lost in silence."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from uuid import UUID

import psutil
import pytest
import redis.asyncio

from streams.sinks.deliveries import DeliveryRecord
from streams.sinks.keys import other_keys, streams_of
from streams.sinks.retired import read_retired
from streams.sinks.retirement import Retirement, RetirementError
from streams.transport import StreamLayout
from tests.command_line import run_command
from tests.faults.dying_worker import DyingWorker
from tests.integration.test_delivery_retries import ONE, TWO, Choosy, publish
from tests.integration.test_redelivery import delivery
from tests.letters import SINKS, StoredLetter, complaint, everything, letter_table, put
from tests.reconciliation import GROUP, PREFIX, Ground
from tests.worker_process import WorkerProcess, eventually

THREE = UUID(int=3)
LAYOUT = StreamLayout(PREFIX)
LOG = {"name": "other", "type": "log"}


async def retire(
    ground: Ground, directory: Path, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = ground.settings(**(SINKS | settings))
    return await asyncio.to_thread(
        run_command, directory, environment, "sinks", "retire", *arguments
    )


def traces(ground: Ground, sink: str) -> set[bytes]:
    """All keys that have the sink in their name, and those with a field that has.

    That it was retired is noted, and is nothing of its own.
    """
    found: set[bytes] = set()
    with ground.redis() as client:
        for key in set(client.scan_iter()) - {f"{PREFIX}retired-sinks".encode()}:
            fields = client.hkeys(key) if client.type(key) == b"hash" else []
            if any(sink.encode() in name for name in (key, *fields)):
                found.add(key)
    return found


async def test_a_line_that_makes_no_sense_changes_nothing(ground: Ground, tmp_path: Path) -> None:
    async with redis.asyncio.Redis.from_url(ground.redis_url) as client:
        await DeliveryRecord(client, LAYOUT).write("billing", [delivery(1)], keep=9)
    before = everything(ground)
    for name, told in (
        ("billing", "billing is configured: take it out of the settings first"),
        ("gone", "gone: there is nothing of such a sink"),
    ):
        assert complaint(await retire(ground, tmp_path, name, "--drop"), 2) == told
    assert everything(ground) == before


async def test_nothing_is_left_of_a_sink_and_what_it_was_owed_are_dead_letters(
    ground: Ground, tmp_path: Path
) -> None:
    async with Choosy() as receiver:
        receiver.refuse(ONE, 503, **{"Retry-After": "600"})
        receiver.refuse(TWO, 410)
        hook = json.loads(receiver.settings()["CAPSULES_SINKS"])[0]
        soon = {"CAPSULES_READ_BLOCK_MS": "200"}  # when a killed worker is taken for dead
        both = soon | {"CAPSULES_SINKS": json.dumps([hook, LOG])}
        alone = soon | {"CAPSULES_SINKS": json.dumps([LOG])}
        first = WorkerProcess(tmp_path / "first", **ground.settings(**both))
        await first.wait_for("partitions_taken")
        tried, behind, refused, taken = (publish(ground, c) for c in (ONE, ONE, TWO, THREE))
        await eventually(lambda: len(letter_table(ground)) == 1, what="a letter")
        with ground.redis() as client:
            rows = f"{PREFIX}deliveries:receiver:rows"
            await eventually(lambda: client.hlen(rows) == 3, what="the record")
            # As an operator may have left it.
            client.hset(f"{PREFIX}paused-sinks", mapping={"receiver": "1", "other": "1"})
        ours = {*streams_of(LAYOUT, "receiver"), *other_keys(LAYOUT, "receiver")}
        shared = {f"{PREFIX}{name}".encode() for name in ("topics", "fleet:owners", "paused-sinks")}
        assert shared < traces(ground, "receiver") <= ours | shared

        told = complaint(await retire(ground, tmp_path, "receiver", "--drop", **alone), 1)
        assert told.startswith("a worker still has receiver: ")
        first.kill()  # it stays a member until somebody removes it
        told = complaint(await retire(ground, tmp_path, "receiver", **alone), 1)
        assert told == "receiver was not given 2 entries: see --drop"
        assert shared < traces(ground, "receiver")

        second = WorkerProcess(tmp_path / "second", **ground.settings(**alone))
        await second.wait_for("partitions_taken")
        done = await retire(ground, tmp_path, "receiver", "--drop", **alone)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[1:] == [
            "2 entries that it was not given are dead letters now",
            "1 dead letters of it were there and stay",
        ]
        assert traces(ground, "receiver") == set()
        await eventually(lambda: len(letter_table(ground)) == 3, what="the letters")
        letters = sorted(letter_table(ground).values(), key=lambda letter: letter["id"])
        found = [(x["origin_id"], x["reason"], x["state"]) for x in letters]
        assert found == [
            (refused, "refused_by_sink", "dead"),
            (tried, "sink_retired", "dead"),
            (behind, "sink_retired", "dead"),
        ]
        assert "HTTP 503" in letters[1]["error"]
        assert [arrival.delivery_id for arrival in receiver.arrivals] == [taken]
        # The other sink goes on.
        with ground.redis() as client:
            assert client.hgetall(f"{PREFIX}paused-sinks") == {b"other": b"1"}
            client.delete(f"{PREFIX}paused-sinks")
        publish(ground, ONE)
        await eventually(ground.drained, what="all done")
        assert traces(ground, "receiver") == set()
        assert await second.stop() == 0


async def test_its_dead_letters_are_discarded_where_that_is_asked_for(
    ground: Ground, tmp_path: Path
) -> None:
    numbers = put(
        ground,
        [
            StoredLetter("hook.gone", "gone"),
            StoredLetter("hook.gone", "gone", state="replayed", replays=1),
            StoredLetter("hook.gone", "gone", state="replaying", replays=1),
            StoredLetter("hook.billing", "billing", state="replayed", replays=1),
            StoredLetter("hook.billing", "billing"),
        ],
    )
    notes = [f"{PREFIX}replay-of-letter-{number}" for number in numbers]
    with ground.redis() as client:
        client.hset(f"{PREFIX}topics", "hooks.gone", 4)
        for note in notes[1:4]:
            client.set(note, "1 1-1")
    before = everything(ground)
    looked = await retire(ground, tmp_path, "gone", "--dry-run")
    would = "would remove 0 keys; 0 entries to be dead letters; would leave 2 dead letters\n"
    assert (looked.returncode, looked.stdout) == (0, would)
    looked = await retire(ground, tmp_path, "gone", "--discard-dead-letters", "--dry-run", "--json")
    about = {"version": 1, "sink": "gone", "keys": 0, "dropped": 0, "dead_letters": 2}
    assert looked.returncode == 0, looked.stderr
    # One of the two is being replayed, and stays.
    assert json.loads(looked.stdout) == about | {"dry_run": True, "discarded": 1}
    assert everything(ground) == before
    done = await retire(ground, tmp_path, "gone", "--discard-dead-letters")
    assert (done.returncode, done.stdout) == (
        0,
        "retired gone: 0 keys removed\n1 dead letters discarded\n",
    ), done.stderr
    table = letter_table(ground)
    states = [table[number]["state"] for number in numbers]
    assert states == ["discarded", "replayed", "replaying", "replayed", "dead"]
    assert traces(ground, "gone") == set()
    with ground.redis() as client:
        # A replay that was cut off may still have to be told from the next one.
        assert [client.exists(note) for note in notes] == [0, 0, 1, 1, 0]


async def test_a_worker_that_comes_just_then_keeps_it(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with redis.asyncio.Redis.from_url(ground.redis_url) as client:
        await client.hset(f"{PREFIX}topics", "hooks.gone", "4")
        await client.xadd(f"{PREFIX}hooks.gone:3", {"v": "{}"})
        retirement = Retirement(client, "gone", group=GROUP, layout=LAYOUT, silence_s=0.2)
        assert await retirement.drop() == 1
        for readable in ([], ["capsules:0", "hooks.gone:0"]):
            said = json.dumps({"worker": "w", "readable": readable, "reader": ""})

            async def come(said: str = said) -> None:
                await client.hset(f"{PREFIX}fleet:members", "token", said.replace(" ", ""))

            monkeypatch.setattr(retirement, "check_nobody_has_it", come)
            with pytest.raises(RetirementError, match="a worker has started"):
                await retirement.remove()
            await client.delete(f"{PREFIX}fleet:members")

        async def send() -> None:
            await client.xadd(f"{PREFIX}hooks.gone:2", {"v": "{}"})

        monkeypatch.setattr(retirement, "check_nobody_has_it", send)
        with pytest.raises(RetirementError, match="something was sent"):
            await retirement.remove()
        assert await client.hget(f"{PREFIX}topics", "hooks.gone") == b"4"
        assert await client.exists(f"{PREFIX}hooks.gone:2") == 1


async def test_what_was_retired_is_told_as_one_document(ground: Ground, tmp_path: Path) -> None:
    put(ground, [StoredLetter("hook.gone", "gone")])
    async with redis.asyncio.Redis.from_url(ground.redis_url) as client:
        await client.hset(f"{PREFIX}topics", "hooks.gone", "4")
        await client.xadd(f"{PREFIX}hooks.gone:3", {"v": "{}"})
        await client.xadd(f"{PREFIX}hooks.gone:1", {"v": "{}"})
    done = await retire(ground, tmp_path, "gone", "--drop", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "version": 1,
        "sink": "gone",
        "dry_run": False,
        "keys": 2,
        "dropped": 2,
        "dead_letters": 1,
        "discarded": 0,
    }


async def test_what_a_worker_sends_that_was_frozen_meanwhile_is_kept_and_nothing_is_left(
    ground: Ground, tmp_path: Path
) -> None:
    async with Choosy() as receiver:
        receiver.refuse(ONE, 503, **{"Retry-After": "600"})
        hook = json.loads(receiver.settings()["CAPSULES_SINKS"])[0]
        soon = {"CAPSULES_READ_BLOCK_MS": "200", "CAPSULES_HOUSEKEEPING_INTERVAL_S": "1"}
        both = soon | {"CAPSULES_SINKS": json.dumps([hook, LOG])}
        alone = soon | {"CAPSULES_SINKS": json.dumps([LOG])}
        # It has the event's effects, and is about to tell the sinks.
        frozen = DyingWorker(tmp_path / "first", "committed", 1, end="freeze",
                             **ground.settings(**both))  # fmt: skip
        await frozen.wait_for("partitions_taken")
        event = publish(ground, ONE)
        process = psutil.Process(frozen.process.pid)
        await eventually(lambda: process.status() == psutil.STATUS_STOPPED, what="a frozen worker")
        second = WorkerProcess(tmp_path / "second", **ground.settings(**alone))
        await second.wait_for("worker_removed")
        done = await retire(ground, tmp_path, "receiver", "--drop", **alone)
        assert done.returncode == 0, done.stderr
        assert traces(ground, "receiver") == set()

        frozen.signal(signal.SIGCONT)
        await frozen.wait_for("delivery_retry")  # it has sent, and reads what it has sent
        turns = housekeeping_turns(second, frozen)
        await eventually(lambda: housekeeping_turns(second, frozen) > turns + 1, what="two turns")
        # As long as it is there it may be meant to be.
        assert traces(ground, "receiver")
        assert letter_table(ground) == {}
        assert await frozen.stop() == 0

        await eventually(lambda: traces(ground, "receiver") == set(), what="nothing of it")
        await eventually(lambda: letter_table(ground), what="the letter")
        [letter] = letter_table(ground).values()
        assert (letter["origin_id"], letter["reason"]) == (event, "sink_retired")
        assert await second.stop() == 0


def housekeeping_turns(*workers: WorkerProcess) -> int:
    records = [record for worker in workers for record in worker.records()]
    return sum(record.get("action") == "housekeeping_done" for record in records)


async def test_a_sink_that_is_added_anew_is_not_taken_for_a_retired_one(
    ground: Ground, tmp_path: Path
) -> None:
    retired = f"{PREFIX}retired-sinks"
    async with redis.asyncio.Redis.from_url(ground.redis_url) as client:
        await client.hset(f"{PREFIX}topics", "hooks.gone", "4")
        retirement = Retirement(client, "gone", group=GROUP, layout=LAYOUT, silence_s=0.2)
        await retirement.remove()
        now_s, _ = await client.time()
        assert now_s - 60 < int(await client.hget(retired, "gone") or 0) <= now_s
        await client.hset(retired, mapping={"old": now_s - 31 * 86_400, "recent": now_s - 86_400})
        assert await read_retired(client, LAYOUT) == ["gone", "recent"]
        assert await client.hkeys(retired) == [b"gone", b"recent"]

        # A worker starts with it.
        sinks = json.dumps([{"name": "gone", "type": "log"}])
        worker = WorkerProcess(tmp_path, **ground.settings(CAPSULES_SINKS=sinks))
        await worker.wait_for("partitions_taken")
        with ground.redis() as other:
            await eventually(lambda: other.hkeys(retired) == [b"recent"], what="one left")
        assert await worker.stop() == 0

        await client.xadd(f"{PREFIX}hooks.gone:2", {"v": "{}"})
        before = everything(ground)
        with pytest.raises(RetirementError, match="added anew"):
            await retirement.drop(only_if_retired=True)
        with pytest.raises(RetirementError, match="something was sent"):
            await retirement.remove(only_if_retired=True)
        assert everything(ground) == before
        await client.delete(f"{PREFIX}hooks.gone:2")
        before = everything(ground)
        with pytest.raises(RetirementError, match="added anew"):
            await retirement.remove(only_if_retired=True)
        assert everything(ground) == before
