"""`repartition` on real servers: order and completeness hold across another number."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from zlib import crc32

import pytest

from config.settings import SettingsError, load_settings
from tests.command_line import run_command
from tests.event_log import EventLog, generate
from tests.oracle import replay
from tests.reconciliation import GROUP, PREFIX, Ground, Receiver, assert_same
from tests.worker_process import WorkerProcess, eventually

#: What is recorded, as raw Redis keys say it.
TOPICS = f"{PREFIX}topics"
CAPSULE = bytes(16)


def repartition(
    ground: Ground, directory: Path, *options: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    return run_command(directory, ground.settings(**settings), "repartition", *options)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command says no with."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def recorded(ground: Ground) -> dict[str, int]:
    """The recorded numbers, but that of the dead letters, which never changes."""
    with ground.redis() as client:
        numbers = {topic.decode(): int(n) for topic, n in client.hgetall(TOPICS).items()}
    assert numbers.pop("dead-letters", 1) == 1
    return numbers


def own_streams(ground: Ground) -> set[str]:
    with ground.redis() as client:
        keys = [*client.keys(f"{PREFIX}*:[0-9]*"), *client.keys(f"{PREFIX}repartition*")]
    return {key.decode().removeprefix(PREFIX) for key in keys} - {"dead-letters:0"}


def everything(ground: Ground) -> dict[bytes, bytes]:
    """All that is in Redis."""
    with ground.redis() as client:
        return {key: client.dump(key) for key in client.scan_iter()}


async def worked_once(ground: Ground, directory: Path, **settings: str) -> None:
    """Have a worker make the topics, and stop it."""
    worker = WorkerProcess(directory, **ground.settings(**settings))
    await worker.wait_for("partitions_taken")
    assert await worker.stop() == 0


def halves(log: EventLog) -> tuple[Iterable[tuple[str, bytes | None]], ...]:
    middle = len(log.entries) // 2
    return log.entries[:middle], log.entries[middle:]


async def test_events_end_as_the_oracle_says_when_the_number_changes_between_them(
    ground: Ground, tmp_path: Path
) -> None:
    log = generate(31, events=4_000, capsules=200)
    expected = replay(log.rows, log.entries)
    before, after = halves(log)
    ground.load(log.rows)
    async with Receiver() as receiver:
        sinks = receiver.settings()
        first = WorkerProcess(tmp_path / "first", **ground.settings(**sinks))
        ground.publish(before)
        await first.wait_for("partitions_taken")
        await eventually(ground.drained, what="first half done")
        assert await first.stop() == 0
        # What waits in the source is routed by the new number.
        ground.publish(after)
        done = repartition(ground, tmp_path, "--partitions=5", "--yes", **sinks)
        assert done.returncode == 0, done.stderr
        assert recorded(ground) == {"capsules": 5, "hooks.receiver": 5}
        assert own_streams(ground) == set()

        second = WorkerProcess(
            tmp_path / "second", **ground.settings(CAPSULES_PARTITIONS="5", **sinks)
        )
        await second.wait_for("partitions_taken")
        await eventually(ground.drained, what="second half done")
        assert await second.stop() == 0
        assert_same(ground.outcome(receiver), expected)
    topics = ("capsules", "hooks.receiver")
    assert own_streams(ground) == {f"{topic}:{n}" for topic in topics for n in range(5)}


@pytest.mark.parametrize("partitions", [5, 40])
async def test_what_a_worker_has_left_is_moved_in_order(
    ground: Ground, tmp_path: Path, partitions: int
) -> None:
    log = generate(32, events=8_000, capsules=100)
    expected = replay(log.rows, log.entries)
    ground.load(log.rows)
    async with Receiver() as receiver:
        sinks = receiver.settings()
        first = WorkerProcess(tmp_path / "first", **ground.settings(**sinks))
        await first.wait_for("partitions_taken")
        ground.publish(log.entries)
        await eventually(lambda: len(receiver.arrivals) > 100, what="deliveries")
        first.kill()
        done = repartition(
            ground, tmp_path, f"--partitions={partitions}", "--move", "--yes", **sinks
        )
        assert done.returncode == 0, done.stderr
        assert not [key for key in own_streams(ground) if key.startswith("repartition")]
        second = WorkerProcess(
            tmp_path / "second", **ground.settings(CAPSULES_PARTITIONS=str(partitions), **sinks)
        )
        await second.wait_for("partitions_taken")
        await eventually(ground.drained, what="all done", timeout_s=60)
        assert await second.stop() == 0
        assert_same(ground.outcome(receiver), expected)


async def test_an_acknowledged_entry_is_not_moved(ground: Ground, tmp_path: Path) -> None:
    await worked_once(ground, tmp_path)
    with ground.redis() as client:
        key = f"{PREFIX}capsules:0"
        done = client.xadd(key, {"k": CAPSULE, "v": b"done"})
        client.xadd(key, {"k": CAPSULE, "v": b"in hand"})
        client.xreadgroup(GROUP, "owner", {key: ">"})
        client.xack(key, GROUP, done)
        client.xadd(key, {"k": CAPSULE, "v": b"waiting"})
    assert repartition(ground, tmp_path, "--partitions=3", "--move", "--yes").returncode == 0
    with ground.redis() as client:
        keys = [key.decode() for key in client.keys(f"{PREFIX}capsules:*")]
        assert len(keys) == 1
        assert [f[b"v"] for _, f in client.xrange(keys[0])] == [b"in hand", b"waiting"]
        [group] = client.xinfo_groups(keys[0])
    assert (group["name"], group["last-delivered-id"]) == (GROUP.encode(), b"0-0")


async def test_a_moved_entry_goes_where_its_capsules_next_ones_will(
    ground: Ground, tmp_path: Path
) -> None:
    await worked_once(ground, tmp_path)
    keys = [number.to_bytes(16, "big") for number in range(50)]
    with ground.redis() as client:
        for key in keys:
            client.xadd(f"{PREFIX}capsules:{crc32(key) % 16}", {"k": key})
    assert repartition(ground, tmp_path, "--partitions=5", "--move", "--yes").returncode == 0
    with ground.redis() as client:
        found = {
            fields[b"k"]: n
            for n in range(5)
            for _, fields in client.xrange(f"{PREFIX}capsules:{n}")
        }
    assert found == {key: crc32(key) % 5 for key in keys}


async def test_a_worker_starts_with_the_new_number_and_none_with_the_old(
    ground: Ground, tmp_path: Path
) -> None:
    await worked_once(ground, tmp_path / "first")
    assert repartition(ground, tmp_path, "--partitions=5", "--yes").returncode == 0
    old = WorkerProcess(tmp_path / "old", **ground.settings())
    assert await old.ended() == 1
    assert "CAPSULES_PARTITIONS: 16, but the streams in Redis have 5" in old.tail()
    await worked_once(ground, tmp_path / "new", CAPSULES_PARTITIONS="5")


async def test_refused_while_a_worker_runs(ground: Ground, tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path / "w", **ground.settings(CAPSULES_WORKER_NAME="reader-7"))
    await worker.wait_for("partitions_taken")
    said = refusal(repartition(ground, tmp_path, "--partitions=5", "--move", "--yes"))
    assert "reader-7" in said
    assert recorded(ground) == {"capsules": 16}
    assert await worker.stop() == 0


async def test_a_killed_worker_is_no_obstacle(ground: Ground, tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path / "first", **ground.settings())
    await worker.wait_for("partitions_taken")
    worker.kill()
    assert ground.shares() == [18]
    assert repartition(ground, tmp_path, "--partitions=5", "--yes").returncode == 0
    assert ground.shares() == []


@pytest.mark.parametrize("state", ["waiting", "in hand"])
@pytest.mark.parametrize("topic", ["capsules", "hooks.receiver"])
async def test_refused_while_an_entry_is(
    ground: Ground, tmp_path: Path, state: str, topic: str
) -> None:
    async with Receiver() as receiver:
        await worked_once(ground, tmp_path, **receiver.settings())
    with ground.redis() as client:
        key = f"{PREFIX}{topic}:11"
        client.xadd(key, {"k": CAPSULE})
        if state == "in hand":
            client.xreadgroup(GROUP, "owner", {key: ">"})
    # Also of a sink that is no longer in the settings.
    assert f"{topic}: 1" in refusal(repartition(ground, tmp_path, "--partitions=5", "--yes"))
    assert set(recorded(ground).values()) == {16}
    with ground.redis() as client:
        assert client.xlen(key) == 1


async def test_without_yes_nothing_changes(ground: Ground, tmp_path: Path) -> None:
    await worked_once(ground, tmp_path)
    with ground.redis() as client:
        client.xadd(f"{PREFIX}capsules:3", {"k": CAPSULE})
    before = everything(ground)
    done = repartition(ground, tmp_path, "--partitions=5", "--move")
    assert done.returncode == 0, done.stderr
    assert "capsules: 16 -> 5" in done.stdout
    assert "entries moved: 1" in done.stdout
    assert "--yes" in done.stdout
    assert everything(ground) == before


async def test_the_recorded_number_needs_no_change_even_while_a_worker_runs(
    ground: Ground, tmp_path: Path
) -> None:
    worker = WorkerProcess(tmp_path / "first", **ground.settings())
    await worker.wait_for("partitions_taken")
    done = repartition(ground, tmp_path, "--partitions=16", "--yes")
    assert (done.returncode, done.stdout) == (0, "there are 16 partitions already\n")
    assert await worker.stop() == 0


def test_refused_where_no_worker_ever_ran(ground: Ground, tmp_path: Path) -> None:
    assert "no worker" in refusal(repartition(ground, tmp_path, "--partitions=5", "--yes"))
    assert recorded(ground) == {}


@pytest.mark.parametrize(("number", "accepted"), [(0, False), (1, True), (256, True), (257, False)])
def test_the_range_is_that_of_the_setting(
    ground: Ground, tmp_path: Path, number: int, accepted: bool
) -> None:
    done = repartition(ground, tmp_path, f"--partitions={number}")
    assert done.returncode == (1 if accepted else 2)
    with nullcontext() if accepted else pytest.raises(SettingsError):
        load_settings({"CAPSULES_PARTITIONS": str(number)}, cwd=tmp_path)
