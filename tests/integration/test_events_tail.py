"""`events tail` shows what passes, safely, and takes nothing away from the workers."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Any
from uuid import UUID

import pytest

from streams.ids import format_capsule_id, format_team_id
from tests.command_line import command_line, run_command
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground, Receiver
from tests.worker_process import WorkerProcess, eventually

CAPSULE, OTHER, TEAM = (format_capsule_id(UUID(int=n)) for n in (7, 8, 9))


def payload(event: str, capsule: str = CAPSULE, outcome: str = "success") -> str:
    return json.dumps(
        {
            "event": event,
            "outcome": outcome,
            "timestamp": "2026-03-01T12:00:00Z",
            "team_id": format_team_id(UUID(int=9)),
            "actor": {"type": "system"},
            "resource": {"id": capsule, "type": "sandbox"},
        }
    )


def tail(ground: Ground, directory: Path, *arguments: str, **settings: str) -> list[dict[str, Any]]:
    done = run_command(
        *(directory, ground.settings(**settings), "events", "tail", "--json", "--no-follow"),
        *arguments,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def following(
    ground: Ground, directory: Path, *arguments: str, **settings: str
) -> Iterator[subprocess.Popen[str]]:
    """The command at work: it has asked for what comes."""
    with subprocess.Popen(
        command_line("events", "tail", *arguments),
        cwd=directory,
        env=WorkerProcess.environment(**ground.settings(**settings)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = monotonic() + 60
        with ground.redis() as client:
            while not any(
                c["name"] == f"{GROUP}-command" and c["cmd"] == "xread"
                for c in client.client_list()
            ):
                assert process.poll() is None
                assert monotonic() < deadline
                sleep(0.05)
        try:
            yield process
        finally:
            process.kill()


def test_each_kind_of_entry_is_told_and_the_group_is_never_touched(
    ground: Ground, tmp_path: Path
) -> None:
    with ground.redis() as client:
        client.xgroup_create(SOURCE, GROUP, id="0", mkstream=True)
        for text in (payload("capsule.create"), payload("host.up"), "{", "\x1b[31m\n\u202e"):
            client.xadd(SOURCE, {"payload": text})
        client.xadd(SOURCE, {b"\x1b": b"no payload"})
        before = client.xinfo_groups(SOURCE), client.xinfo_consumers(SOURCE, GROUP)
        steps = tail(ground, tmp_path, "--from", "0")
        assert (client.xinfo_groups(SOURCE), client.xinfo_consumers(SOURCE, GROUP)) == before
        ids = [entry_id.decode() for entry_id, _ in client.xrange(SOURCE)]
    assert [step["outcome"] for step in steps] == ["arrived", "skip", "bad", "bad", "bad"]
    assert [step["source_id"] for step in steps] == ids
    assert (steps[0]["verb"], steps[0]["capsule_id"]) == ("create", CAPSULE)
    assert steps[1]["detail"] == "other_event"
    assert all(step["where"] == SOURCE for step in steps)
    # From an entry on, and not more than so many.
    assert [s["source_id"] for s in tail(ground, tmp_path, "--from", ids[2], "--count", "2")] == (
        ids[2:4]
    )
    done = run_command(tmp_path, ground.settings(), "events", "tail", "--from", "0", "--no-follow")
    assert len(done.stdout.splitlines()) == 5
    assert not {"\x1b", "\u202e"} & set(done.stdout)


def read_until_told(output: IO[str], created: str, bad: str) -> list[dict[str, Any]]:
    """Lines until the ends of both entries are among them."""
    steps: list[dict[str, Any]] = []
    missing = {
        (created, "postgres", "done"),
        (created, SOURCE, "done"),
        (created, "sink.receiver", "delivered"),
        (bad, SOURCE, "dead"),
    }
    while missing:
        line = output.readline()
        assert line, f"it ended without {missing}"
        steps.append(json.loads(line))
        missing -= {tuple(steps[-1][name] for name in ("source_id", "where", "outcome"))}
    return steps


async def test_a_capsule_is_followed_through_every_stage_as_it_happens(
    ground: Ground, tmp_path: Path
) -> None:
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into sandboxes (id, team_id, status) values (%s, %s, 'starting')",
            (str(UUID(int=7)), str(UUID(int=9))),
        )
    async with Receiver() as receiver:
        settings = receiver.settings()
        worker = WorkerProcess(tmp_path / "worker", **ground.settings(**settings))
        await worker.wait_for("partitions_taken")
        arguments = ("--capsule", CAPSULE, "--json")
        with following(ground, tmp_path, *arguments, **settings) as process:
            assert process.stdout is not None
            with ground.redis() as client:
                client.xadd(SOURCE, {"payload": payload("capsule.create", OTHER)})
                created = client.xadd(SOURCE, {"payload": payload("capsule.create")}).decode()
                bad = client.xadd(SOURCE, {"payload": payload("capsule.pause")[:-1]}).decode()
            await eventually(ground.drained, what="all done")
            await eventually(lambda: len(receiver.arrivals) == 2, what="deliveries")
            steps = await asyncio.to_thread(read_until_told, process.stdout, created, bad)
            process.send_signal(signal.SIGINT)
            asked = monotonic()
            rest, errors = await asyncio.to_thread(process.communicate, timeout=20)
            assert monotonic() - asked < 5
        assert await worker.stop() == 0
    assert process.returncode == 0, errors
    steps += [json.loads(line) for line in rest.splitlines()]
    assert {step["capsule_id"] for step in steps} == {CAPSULE}
    assert {step["source_id"] for step in steps} == {created, bad}
    seen = {(step["source_id"], step["where"].split(":")[0], step["outcome"]) for step in steps}
    assert {
        (created, "wrenn", "arrived"),
        (created, "wrenn", "done"),
        (created, "postgres", "done"),
        (bad, "wrenn", "bad"),
        (bad, "dead-letters", "dead"),
        (bad, "wrenn", "dead"),
    } <= seen
    [delivered] = [step for step in steps if step["outcome"] == "delivered"]
    assert delivered["detail"].startswith("attempt 1, ")
    [stored] = [step for step in steps if step["where"] == "postgres"]
    assert "running" in stored["detail"]
    assert created in stored["detail"]
    assert 0 <= stored["age_s"] < 60


def test_what_is_under_way_is_shown_with_its_failed_attempts(
    ground: Ground, tmp_path: Path
) -> None:
    """Streams such as a worker leaves behind: routed, and one delivery that was refused."""
    key = UUID(int=7).bytes
    with ground.redis() as client:
        client.hset(f"{PREFIX}topics", mapping={"capsules": 1, "hooks.billing": 1})
        client.xgroup_create(SOURCE, GROUP, id="0", mkstream=True)
        source_id = client.xadd(SOURCE, {"payload": payload("capsule.create")})
        client.xreadgroup(GROUP, "owner", {SOURCE: ">"})
        client.xack(SOURCE, GROUP, source_id)
        body = {"k": key, "v": payload("capsule.create"), "h:source-id": source_id}
        client.xadd(f"{PREFIX}capsules:0", body)
        client.xadd(f"{PREFIX}capsules:0", body | {"k": UUID(int=8).bytes})
        hook = f"{PREFIX}hooks.billing:0"
        client.xgroup_create(hook, GROUP, id="0", mkstream=True)
        entry_id = client.xadd(hook, {"k": key, "v": "{\x1b", "h:source-id": source_id})
        client.xreadgroup(GROUP, "owner", {hook: ">"})
        tried = json.dumps([3, 1.0, 4e9, "HTTP 503 \x1b"])
        client.hset(f"{PREFIX}retries:hooks.billing:0", entry_id.decode(), tried)
    steps = tail(ground, tmp_path, "--capsule", CAPSULE, "--from", "0")
    seen = {(step["where"], step["outcome"]) for step in steps}
    assert {(SOURCE, "arrived"), (SOURCE, "done"), ("capsules:0", "routed")} <= seen
    assert ("hooks.billing:0", "retry") in seen
    assert ("capsules:0", "done") not in seen
    assert len([step for step in steps if step["where"] == "capsules:0"]) == 1
    [retry] = [step for step in steps if step["outcome"] == "retry"]
    assert "attempt 3" in retry["detail"]
    assert "\x1b" not in json.dumps(steps, ensure_ascii=False)
    # One stream of it alone.
    only = tail(ground, tmp_path, "--capsule", CAPSULE, "--from", "0", "--stream", "capsules")
    assert [step["where"] for step in only] == ["capsules:0"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--capsule", "cl-short"],
        ["--capsule", "team-0000000000000000000000007"],
        ["--from", "yesterday"],
        ["--from", "99999999999999999999"],
        ["--count", "0"],
        ["--stream", "hooks.nobody\x1b"],
        ["--nonsense"],
        ["surplus"],
    ],
)
def test_a_line_that_cannot_be_used_ends_with_2(
    ground: Ground, tmp_path: Path, arguments: list[str]
) -> None:
    done = run_command(tmp_path, ground.settings(), "events", "tail", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "\x1b" not in done.stderr


def test_without_redis_one_line_says_so(tmp_path: Path) -> None:
    settings = {"REDIS_URL": "redis://127.0.0.1:9", "DATABASE_URL": "postgresql://127.0.0.1:9/no"}
    done = run_command(tmp_path, settings, "events", "tail")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
