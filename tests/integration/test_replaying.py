"""`dead-letters replay` on real servers: what is sent, and that it is sent once."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

import streams.dead_letters.replay
from config.settings import Settings
from streams.dead_letters.letters import Letter, Order
from streams.dead_letters.replay import ReplayError
from streams.dead_letters.store import LetterStore
from streams.errors import DatabaseUnavailableError
from streams.recorded_topics import recorded_partitions
from streams.transport import StreamLayout, TransportError
from tests.letters import (
    DELIVERY,
    KEY,
    PARTITIONS,
    Sent,
    StoredLetter,
    client_of,
    complaint,
    dead_letters,
    dead_letters_line,
    environment,
    letter_table,
    put,
    resender,
)
from tests.reconciliation import GROUP, PREFIX, SOURCE, Ground
from tests.worker_process import WorkerProcess, eventually

pytestmark = pytest.mark.usefixtures("prepared")


# What is sent.


def test_a_letter_of_the_pipeline_begins_at_the_source_as_it_came(
    ground: Ground, tmp_path: Path
) -> None:
    fields = ((b"trace", b"\0\xff"), (b"", b""), (b"replay-of", b"forged"), (b"payload", b"no"))
    ids = put(ground, [StoredLetter(payload=b"\xff\0{", fields=fields), StoredLetter(payload=None)])
    done = dead_letters(ground, tmp_path, "replay", *ids, ids[0])
    assert (done.returncode, done.stdout) == (0, "replayed 2 letters\n"), done.stderr
    first, second = ids
    sent = Sent.in_streams(ground)
    assert sent.pipeline == {
        first: [
            {
                b"payload": b"\xff\0{",
                b"trace": b"\0\xff",
                b"": b"",
                b"replay-of": str(first).encode(),
            }
        ],
        second: [{b"replay-of": str(second).encode()}],
    }
    for number, row in letter_table(ground).items():
        assert (row["state"], row["replays"]) == ("replayed", 1)
        assert row["replayed_as"] == sent.ids[number][0]
        assert row["resolved_at"] is not None
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(x["action"], x["letter"]) for x in logged] == [
        ("letter_replayed", number) for number in ids
    ]


def test_a_delivery_goes_to_its_own_sink_under_its_old_id(ground: Ground, tmp_path: Path) -> None:
    numbers = put(ground, [DELIVERY, StoredLetter("hook.audit", "audit", key=None)])
    # As recorded, whatever this process is set to.
    done = dead_letters(ground, tmp_path, "replay", "--all", CAPSULES_PARTITIONS="16")
    assert (done.returncode, done.stdout) == (0, "2 letters to replay\nreplayed 2 letters\n")
    first, second = numbers
    sent = Sent.in_streams(ground)
    assert sent.pipeline == {}
    assert sent.deliveries == {
        first: [
            (
                crc32(KEY) % PARTITIONS,
                {
                    b"k": KEY,
                    b"v": b'{"to":"billing"}',
                    b"h:source-id": b"1-7",
                    b"h:replay-of": str(first).encode(),
                },
            )
        ],
        second: [(0, {b"v": b"{", b"h:source-id": b"2-7", b"h:replay-of": str(second).encode()})],
    }
    with ground.redis() as client:
        assert {key.decode() for key in client.keys(f"{PREFIX}hooks.*")} == {
            f"{PREFIX}hooks.audit:0",
            f"{PREFIX}hooks.billing:{crc32(KEY) % PARTITIONS}",
        }


def test_an_entry_of_ten_thousand_fields_is_replayed_whole(ground: Ground, tmp_path: Path) -> None:
    fields = tuple((b"f%d" % n, b"v%d" % n) for n in range(10_000))
    [number] = put(ground, [StoredLetter(fields=fields)])
    assert dead_letters(ground, tmp_path, "replay", number).returncode == 0
    [found] = Sent.in_streams(ground).pipeline[number]
    assert found == {b"payload": b"{", b"replay-of": b"%d" % number} | dict(fields)


def test_all_is_what_the_filters_leave(ground: Ground, tmp_path: Path) -> None:
    ids = put(
        ground,
        [
            StoredLetter(),
            StoredLetter(reason="no_team"),
            StoredLetter(reason="no_team", state="replayed"),
            StoredLetter(reason="no_team", last_at=datetime.now(UTC)),
            StoredLetter(reason="no_team", state="replaying", replays=1),
        ],
    )
    line = ["replay", "--all", "--reason", "no_team"]
    done = dead_letters(ground, tmp_path, *line, "--since", "24h")
    assert done.stdout == "1 letters to replay\nreplayed 1 letters\n", done.stderr
    assert set(Sent.in_streams(ground).pipeline) == {ids[3]}
    assert dead_letters(ground, tmp_path, *line, "--state", "replaying").returncode == 0
    assert set(Sent.in_streams(ground).pipeline) == {ids[3], ids[4]}
    # One whose replay was cut off is the same replay.
    assert letter_table(ground)[ids[4]]["replays"] == 1
    assert dead_letters(ground, tmp_path, *line).returncode == 0
    assert set(Sent.in_streams(ground).pipeline) == {ids[1], ids[3], ids[4]}
    assert letter_table(ground)[ids[0]]["state"] == "dead"


def test_each_order_is_a_replay_of_its_own(ground: Ground, tmp_path: Path) -> None:
    [number] = put(ground, [StoredLetter()])
    for replays in (1, 2):
        assert dead_letters(ground, tmp_path, "replay", number).returncode == 0
        assert len(Sent.in_streams(ground).pipeline[number]) == replays
        # It dies again.
        with ground.cursor() as cursor:
            cursor.execute("update capsule_reconciler.dead_letters set state = 'dead'")


def test_discarded_letters_stay_and_are_not_sent(ground: Ground, tmp_path: Path) -> None:
    ids = put(ground, [StoredLetter()] * 1_203 + [DELIVERY, StoredLetter(state="replaying")])
    done = dead_letters(ground, tmp_path, "discard", *ids[:2], ids[0])
    assert (done.returncode, done.stdout) == (0, "discarded 2 letters\n"), done.stderr
    done = dead_letters(ground, tmp_path, "discard", "--all", "--stage", "route")
    assert done.stdout == "1,201 letters to discard\ndiscarded 1,201 letters\n"
    assert done.stderr.count('"letter_discarded"') == 1_201
    table = letter_table(ground)
    assert {table[number]["state"] for number in ids[:1_203]} == {"discarded"}
    assert all(table[number]["resolved_at"] for number in ids[:1_203])
    assert [table[number]["state"] for number in ids[1_203:]] == ["dead", "replaying"]
    assert Sent.in_streams(ground).ids == {}


def test_the_rate_is_kept(ground: Ground, tmp_path: Path) -> None:
    put(ground, [StoredLetter()] * 9)
    assert dead_letters(ground, tmp_path, "replay", "--all", "--rate", 8).returncode == 0
    ids = sorted(entry_id for [entry_id] in Sent.in_streams(ground).ids.values())
    at_ms = [int(entry_id.partition("-")[0]) for entry_id in ids]
    # Redis' clock is in milliseconds, and an entry may be under way a little longer than the next.
    assert at_ms[-1] - at_ms[0] >= 900


# Once.


@pytest.mark.parametrize("line", [["replay", "--all"], ["replay", *range(1, 61)]])
def test_two_operators_at_once_send_each_letter_once(
    ground: Ground, tmp_path: Path, line: list[str]
) -> None:
    put(ground, [StoredLetter(), DELIVERY] * 30)
    running = [
        subprocess.Popen(
            dead_letters_line(*line),
            cwd=tmp_path,
            env=environment(ground),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ended = [(process.communicate(timeout=60), process.returncode) for process in running]
    # Who comes too late to take part is told that all is replayed already.
    assert {code for _, code in ended} <= ({0} if "--all" in line else {0, 2}), ended
    counts = {number: len(ids) for number, ids in Sent.in_streams(ground).ids.items()}
    assert counts == dict.fromkeys(range(1, 61), 1)
    assert {(r["state"], r["replays"]) for r in letter_table(ground).values()} == {("replayed", 1)}


def test_an_order_for_what_is_being_replayed_is_the_same_order(
    ground: Ground, store: LetterStore
) -> None:
    """The second operator has read the letters before the first claimed them, or after."""
    ids = put(ground, [StoredLetter()] * 2)
    before = store.find(ids)
    store.claim(ids, [])
    assert [store.claim_one(letter) for letter in before] == [False, False]
    assert [store.claim_one(letter) for letter in store.find(ids)] == [False, False]
    store.claim(ids, [])
    with ground.cursor() as cursor:
        # Replayed and dead again: an order that was given before is not one for this death.
        cursor.execute("update capsule_reconciler.dead_letters set state = 'dead'")
    assert [store.claim_one(letter) for letter in before] == [False, False]
    assert {row["replays"] for row in letter_table(ground).values()} == {1}


async def test_two_that_have_the_same_order_send_it_once(
    ground: Ground, store: LetterStore
) -> None:
    """Both have read that the letter is being replayed; one is quicker."""
    [number] = put(ground, [StoredLetter()])
    store.claim([number], [])
    [letter] = store.find([number])
    with LetterStore.opened(Settings(database_url=ground.database_url)) as other:
        async with client_of(ground) as client:
            assert await resender(client, store).send(letter) is not None
            assert await resender(client, other).send(letter) is None
    assert len(Sent.in_streams(ground).ids[number]) == 1


async def test_a_command_that_lost_its_lock_and_does_not_know_sends_nothing(
    ground: Ground, store: LetterStore
) -> None:
    [number] = put(ground, [StoredLetter()])
    store.claim([number], [])
    [letter] = store.find([number])
    async with client_of(ground) as client:

        async def lose_the_lock(order: Order) -> str:
            with ground.cursor() as cursor:
                cursor.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where"
                    " application_name like '%dead-letters' and datname = current_database()"
                )
            with LetterStore.opened(Settings(database_url=ground.database_url)) as other:
                assert await resender(client, other).send(letter) is not None
            return await resender(client, store)._send_once(order)

        with pytest.raises(DatabaseUnavailableError):
            await store.send(number, lose_the_lock)
    assert len(Sent.in_streams(ground).ids[number]) == 1
    assert letter_table(ground)[number]["state"] == "replayed"


async def test_every_note_about_a_replay_has_an_end(ground: Ground, store: LetterStore) -> None:
    [number] = put(ground, [StoredLetter()])
    store.claim([number], [])
    [letter] = store.find([number])
    order = store.content(number)
    assert order is not None
    with ground.redis() as other:
        known = set(other.keys())
        async with client_of(ground) as client:
            sender = resender(client, store)
            await sender._send_once(order)
            [note] = set(other.keys()) - known
            assert other.ttl(note) > 89 * 86_400
            await sender.send(letter)
            assert 3_500 < other.ttl(note) <= 3_600


async def test_a_command_that_was_overtaken_by_a_later_order_sends_nothing(
    ground: Ground, store: LetterStore
) -> None:
    [number] = put(ground, [StoredLetter()])
    store.claim([number], [])
    [letter] = store.find([number])
    earlier = store.content(number)
    assert earlier is not None
    async with client_of(ground) as client:
        await resender(client, store).send(letter)
        with ground.cursor() as cursor:
            cursor.execute("update capsule_reconciler.dead_letters set state = 'dead'")
        store.claim([number], [])
        await resender(client, store).send(letter)
        with pytest.raises(ReplayError, match="by somebody else"):
            await resender(client, store)._send_once(earlier)
    assert len(Sent.in_streams(ground).ids[number]) == 2


async def test_a_letter_that_died_again_before_it_was_noted_as_replayed_stays_dead(
    ground: Ground, store: LetterStore
) -> None:
    [number] = put(ground, [StoredLetter()])
    store.claim([number], [])

    async def killed(order: Order) -> str:
        async with client_of(ground) as client:
            await resender(client, store)._send_once(order)
        raise ReplayError("killed")

    with pytest.raises(ReplayError):
        await store.send(number, killed)
    with ground.cursor() as cursor:
        cursor.execute("update capsule_reconciler.dead_letters set state = 'dead'")
    [letter] = store.find([number])
    async with client_of(ground) as client:
        assert await resender(client, store).send(letter) is None
        assert letter_table(ground)[number]["state"] == "dead"
        # The next order is another one.
        store.claim([number], [])
        assert await resender(client, store).send(letter) is not None
    assert len(Sent.in_streams(ground).ids[number]) == 2


async def test_a_number_of_partitions_that_changes_just_then_is_the_one_that_counts(
    ground: Ground, store: LetterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    [number] = put(ground, [DELIVERY])
    store.claim([number], ["billing"])
    [letter] = store.find([number])
    plain = recorded_partitions
    asked: list[int] = []

    async def change_after(client: Any, layout: StreamLayout, topic: str) -> int:
        asked.append(found := await plain(client, layout, topic))
        if len(asked) == 1:
            with ground.redis() as other:
                other.hset(f"{PREFIX}topics", topic, 7)
        return found

    monkeypatch.setattr(streams.dead_letters.replay, "recorded_partitions", change_after)
    async with client_of(ground) as client:
        await resender(client, store).send(letter)
    assert asked == [PARTITIONS, 7]
    [(partition, _)] = Sent.in_streams(ground).deliveries[number]
    assert partition == crc32(KEY) % 7 != crc32(KEY) % PARTITIONS


async def test_what_was_not_appended_is_not_noted_as_sent(
    ground: Ground, store: LetterStore
) -> None:
    """A stream whose ids have come to their end takes no entry."""
    [number] = put(ground, [StoredLetter()])
    store.claim([number], [])
    [letter] = store.find([number])
    with ground.redis() as other:
        other.xadd(SOURCE, {"replay-of": "no"}, id="18446744073709551615-18446744073709551615")
        async with client_of(ground) as client:
            with pytest.raises(TransportError):
                await resender(client, store).send(letter)
            assert letter_table(ground)[number]["state"] == "replaying"
            other.delete(SOURCE)
            assert await resender(client, store).send(letter) is not None
    assert len(Sent.in_streams(ground).pipeline[number]) == 1


async def test_replays_that_nobody_reads_are_not_sent_faster_than_the_producer_trims(
    ground: Ground, store: LetterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams.dead_letters.replay, "_STANDSTILL_S", 0.3)
    ids = put(ground, [StoredLetter()] * 1_700)
    store.claim(ids, [])
    letters: Iterator[Letter] = iter(store.find(ids))
    async with client_of(ground) as client:
        sender = resender(client, store)

        async def send_all() -> None:
            for letter in letters:
                await sender.send(letter)

        with pytest.raises(ReplayError, match="is a worker running"):
            await send_all()
        with ground.redis() as other:
            assert other.xlen(SOURCE) == 1_000
            other.xreadgroup(GROUP, "owner", {SOURCE: ">"}, count=500)
        with pytest.raises(ReplayError, match="is a worker running"):
            await send_all()
        with ground.redis() as other:
            assert other.xlen(SOURCE) == 1_500


def test_nothing_is_sent_where_no_worker_has_ever_read(ground: Ground, tmp_path: Path) -> None:
    put(ground, [StoredLetter(), DELIVERY])
    with ground.redis() as client:
        client.xgroup_destroy(SOURCE, GROUP)
        client.hdel(f"{PREFIX}topics", "hooks.billing")
    assert "no worker has read" in complaint(dead_letters(ground, tmp_path, "replay", 1), 1)
    assert "no worker has declared" in complaint(dead_letters(ground, tmp_path, "replay", 2), 1)
    with ground.redis() as client:
        client.delete(SOURCE)
    assert "no worker has read" in complaint(dead_letters(ground, tmp_path, "replay", 1), 1)
    assert {row["state"] for row in letter_table(ground).values()} == {"dead"}


async def test_a_command_that_is_told_to_stop_leaves_the_rest_to_the_next(
    ground: Ground, tmp_path: Path
) -> None:
    ids = put(ground, [StoredLetter()] * 30)
    process = await asyncio.create_subprocess_exec(
        *dead_letters_line("replay", *ids, "--rate", 20),
        cwd=tmp_path,
        env=environment(ground),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    await eventually(lambda: len(Sent.in_streams(ground).ids) > 2, what="a few are sent")
    process.terminate()
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 130
    count = len(Sent.in_streams(ground).ids)
    assert output.decode() == f"replayed {count} letters, {30 - count} left\n"
    assert count < 30
    assert dead_letters(ground, tmp_path, "replay", "--all").returncode == 0
    assert {n: len(x) for n, x in Sent.in_streams(ground).ids.items()} == dict.fromkeys(ids, 1)


# With a worker.


async def test_a_failure_whose_cause_is_gone_is_replayed_into_one_audit_row(
    ground: Ground, tmp_path: Path
) -> None:
    capsule = "cl-" + "0" * 24 + "7"
    payload = json.dumps(
        {
            "event": "capsule.create",
            "outcome": "error",
            "timestamp": "2026-03-01T12:00:00Z",
            "actor": {"type": "system"},
            "resource": {"id": capsule, "type": "sandbox"},
        }
    )
    worker = WorkerProcess(tmp_path / "worker", **ground.settings())
    await worker.wait_for("partitions_taken")
    with ground.redis() as client:
        origin = client.xadd(SOURCE, {"payload": payload}).decode()
    await eventually(lambda: letter_table(ground), what="the letter")
    [(number, row)] = letter_table(ground).items()
    assert (row["origin_id"], row["reason"]) == (origin, "no_team")

    # The cause is still there: it is the same letter again.
    assert dead_letters(ground, tmp_path, "replay", number).returncode == 0
    await eventually(
        lambda: len(letter_table(ground)[number]["history"]) == 2, what="the second death"
    )
    row = letter_table(ground)[number]
    assert (row["state"], row["attempts"], row["origin_id"]) == ("dead", 2, origin)

    team = "00000000-0000-0000-0000-000000000009"
    with ground.cursor() as cursor:
        cursor.execute(
            "insert into sandboxes (id, team_id, status) values (%s, %s, 'running')",
            ("00000000-0000-0000-0000-000000000007", team),
        )
    assert dead_letters(ground, tmp_path, "replay", number).returncode == 0
    await eventually(ground.drained, what="all done")
    with ground.cursor() as cursor:
        cursor.execute("select team_id::text, resource_id from audit_logs")
        assert cursor.fetchall() == [(team, capsule)]
        cursor.execute("select status from sandboxes")
        assert cursor.fetchall() == [("error",)]
    assert letter_table(ground)[number]["state"] == "replayed"
    assert await worker.stop() == 0
