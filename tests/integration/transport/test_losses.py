"""Each entry that nobody will read is counted once, and nothing else is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streams.transport import Entry, Settle, StreamConfig
from streams.transport.loss import id_after

from .lab import Lab, LabApp
from .notebook import Notebook
from .waiting import Received, eventually

SOURCE = "theirs"


@pytest.fixture
async def notebook() -> Notebook:
    return Notebook()


class Source:
    """Workers that read a stream of somebody else, and who writes it."""

    def __init__(self, lab: Lab, notebook: Notebook) -> None:
        self.lab = lab
        self.notebook = notebook
        self.delivered: set[bytes] = set()
        self.received: Received[list[Entry]] = Received()

    def app(
        self, *, start_id: str = "0", settle: Settle = Settle.EXPLICIT, **options: Any
    ) -> LabApp:
        """A worker whose agent settles what it is given at once, until told otherwise."""
        defaults: dict[str, Any] = {
            "journal": self.notebook,
            "block_ms": 100,
            "check_interval_s": 0.05,
            "fetch_count": 10,
            "prefetch_entries": 40,
        }
        app = self.lab.app(**(defaults | options))
        config = StreamConfig(
            external_key=SOURCE, start_id=start_id, batch=True, settle=settle, claim_idle_ms=300
        )
        self.received = app.collect(app.stream_topic("source", config))
        return app

    def take(self, app: LabApp) -> list[bytes]:
        """Settle all that was given to the agent so far, and return the ids."""
        batches, self.received.items = self.received.items, []
        entries = [entry for batch in batches for entry in batch]
        app.redis_consumer.settle(entries)
        ids = [entry.id for entry in entries]
        self.delivered.update(ids)
        return ids

    async def settled(self, app: LabApp) -> None:
        """Wait until everything that can be read is read and settled."""

        async def check() -> bool:
            self.take(app)
            if not await self.lab.redis.exists(SOURCE):
                return False
            groups = await self.lab.redis.xinfo_groups(SOURCE)
            if not groups:
                return False
            (group,) = groups
            left = await self.lab.redis.xrange(SOURCE, f"({group['last-delivered-id'].decode()}")
            return not left and not group["pending"]

        await eventually(check, what="all read and settled")

    async def looked(self, app: LabApp, times: int = 2) -> None:
        """Wait until the source was looked at anew."""
        positions = app.redis_consumer._positions
        for _ in range(times):
            before = max(positions._checked_at.values(), default=0.0)
            await eventually(
                lambda before=before: max(positions._checked_at.values(), default=0.0) > before,  # type: ignore[misc]
                what="a look",
            )

    async def nothing_lost(self, app: LabApp) -> None:
        """Nothing was reported, after a good look."""
        await self.settled(app)
        await self.looked(app)
        assert self.notebook.losses == []

    async def publish(self, count: int) -> list[bytes]:
        return await self.lab.add(SOURCE, *[b"%d" % n for n in range(count)])

    async def stop_reading(self, app: LabApp) -> None:
        """Have `app` read nothing new: its reader's connection is paused by a full hand."""
        await self.publish(40)
        await eventually(lambda: sum(map(len, self.received.items)) == 40, what="a full hand")


@pytest.fixture
async def source(lab: Lab, notebook: Notebook) -> Source:
    return Source(lab, notebook)


def text(entry_id: bytes) -> str:
    return entry_id.decode()


# -- Trimmed unread


async def test_entries_trimmed_while_nobody_ran_are_counted_with_their_range(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    first = source.app()
    await lab.start_and_own(first)
    read = await source.publish(5)
    await source.settled(first)
    await lab.stop(first)
    lost = await source.publish(30)
    kept = await source.publish(3)
    await lab.redis.xtrim(SOURCE, minid=kept[0], approximate=False)
    second = source.app()
    await lab.start_and_own(second)
    await source.settled(second)
    await eventually(lambda: notebook.losses, what="the loss")
    (loss,) = notebook.losses
    assert (loss.kind, loss.stream, loss.entries) == ("trimmed_unread", SOURCE, len(lost))
    assert (loss.after_id, loss.before_id) == (text(read[-1]), text(kept[0]))
    assert source.delivered == {*read, *kept}


async def test_a_stream_trimmed_to_nothing_unread_is_counted(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app = source.app()
    await lab.start_and_own(app)
    await source.stop_reading(app)
    last = (await source.publish(7))[-1]
    await lab.redis.xtrim(SOURCE, maxlen=0, approximate=False)
    await source.settled(app)
    await eventually(lambda: notebook.losses, what="the loss")
    await source.settled(app)  # what was in hand is done and not lost
    (loss,) = notebook.losses
    assert loss.entries == 7
    assert loss.before_id == id_after(text(last))
    assert len(source.delivered) == 40


async def test_entries_trimmed_in_the_middle_of_a_backlog_are_counted_once(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app = source.app()
    await lab.start_and_own(app)
    await source.stop_reading(app)
    published = 40
    for _ in range(5):
        published += len(await source.publish(100))
        await lab.redis.xtrim(SOURCE, maxlen=20, approximate=False)
        source.take(app)
        await asyncio.sleep(0)
    await source.settled(app)
    await source.looked(app)
    assert notebook.entries() == published - len(source.delivered) > 0
    assert app.redis_consumer.lost_total == notebook.entries()


async def test_an_unread_entry_that_somebody_deletes_is_counted(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app = source.app()
    await lab.start_and_own(app)
    await source.stop_reading(app)
    ids = await source.publish(5)
    await lab.redis.xdel(SOURCE, ids[2])
    await source.settled(app)
    await eventually(lambda: notebook.losses, what="the loss")
    (loss,) = notebook.losses
    assert loss.entries == 1
    assert ids[2] not in source.delivered
    assert len(source.delivered) == 44


async def test_the_last_entry_deleted_before_it_was_read_is_counted(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app = source.app()
    await lab.start_and_own(app)
    await source.stop_reading(app)
    (last,) = await source.publish(1)
    await lab.redis.xdel(SOURCE, last)
    await source.settled(app)
    await eventually(lambda: notebook.entries() == 1, what="the loss")


async def test_a_loss_is_counted_once_though_the_worker_dies_before_it_is_written_down(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    first = source.app()
    await lab.start_and_own(first)
    await source.publish(5)
    await source.settled(first)
    await lab.stop(first)
    await source.publish(30)
    await lab.redis.xtrim(SOURCE, maxlen=4, approximate=False)
    for _ in range(2):
        notebook.answers.clear()
        dying = source.app()
        await lab.start_and_own(dying)
        await eventually(lambda: dying.redis_consumer.lost_total == 26, what="the loss")  # noqa: B023
        await source.settled(dying)  # reading goes on, though nothing can be written down
        await lab.crash(dying)
        await source.publish(3)
        assert notebook.losses == []
    notebook.answers.set()
    last = source.app()
    await lab.start_and_own(last)
    await source.settled(last)
    await eventually(lambda: notebook.losses, what="the loss")
    await source.looked(last)
    assert notebook.entries() == 26
    await lab.crash(last)
    another = source.app()
    await lab.start_and_own(another)
    await source.looked(another)
    assert notebook.entries() == 26
    assert another.redis_consumer.lost_total == 0  # nor is it said again


async def test_a_first_start_counts_nothing_that_was_there_before(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    await source.publish(30)
    await lab.redis.xtrim(SOURCE, maxlen=12, approximate=False)
    app = source.app()
    await lab.start_and_own(app)
    await source.nothing_lost(app)
    assert len(source.delivered) == 12


# -- What is no loss


async def test_what_was_read_may_be_trimmed_and_deleted(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app = source.app(start_id="$")
    await source.publish(3)
    await lab.start_and_own(app)
    for keep in (20, 5, 0):
        ids = await source.publish(30)
        await source.settled(app)
        await lab.redis.xdel(SOURCE, ids[15], ids[-1])
        await lab.redis.xtrim(SOURCE, maxlen=keep, approximate=False)
        await source.looked(app)
    await source.nothing_lost(app)


async def test_a_large_pending_list_is_no_loss_at_a_take_over(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app = source.app(fetch_count=2_000, prefetch_entries=6_000)
    await lab.start_and_own(app)
    await source.publish(5_000)
    await eventually(lambda: sum(map(len, source.received.items)) == 5_000, what="all in hand")
    source.received.items = source.received.items[:1]
    source.take(app)  # some are settled, most are not
    await eventually(lambda: app.redis_consumer._acknowledger.total, what="acknowledgements")
    await lab.crash(app)
    successor = source.app(fetch_count=2_000, prefetch_entries=6_000)
    await lab.start_and_own(successor)
    await source.nothing_lost(successor)
    assert len(source.delivered) == 5_000


async def test_a_lost_answer_is_no_loss(lab: Lab, source: Source, notebook: Notebook) -> None:
    app = source.app()
    await lab.start_and_own(app)
    await source.publish(3)
    await source.settled(app)
    for _ in range(3):
        await lab.add_and_lose(SOURCE, b"a", b"b")
        await lab.redis.client_kill_filter(_id=str(await lab.reader_id()))
        await source.publish(2)
        await source.settled(app)
    await source.nothing_lost(app)
    assert len(source.delivered) == 15


async def test_another_consumer_in_the_group_makes_no_loss(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app = source.app()
    await lab.start_and_own(app)
    for _ in range(3):
        pipeline = lab.redis.pipeline(transaction=True)
        for _ in range(4):
            pipeline.xadd(SOURCE, {"v": "theirs"})
        pipeline.xreadgroup(lab.app_id, "cp-0", {SOURCE: ">"}, count=4)
        *ids, _ = await pipeline.execute()
        await lab.redis.xack(SOURCE, lab.app_id, *ids)
        await source.publish(2)
        await source.looked(app)
    await source.nothing_lost(app)
    # And when it has left, losses are seen again.
    await lab.redis.xgroup_delconsumer(SOURCE, lab.app_id, "cp-0")
    await source.looked(app)
    await source.stop_reading(app)
    await source.publish(6)
    await lab.redis.xtrim(SOURCE, maxlen=2, approximate=False)
    await source.settled(app)
    await eventually(lambda: notebook.entries() == 4, what="the loss")


async def test_a_group_that_somebody_sets_back_is_no_loss(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app = source.app()
    await lab.start_and_own(app)
    ids = await source.publish(8)
    await source.settled(app)
    await lab.redis.xgroup_setid(SOURCE, lab.app_id, ids[3])
    await source.publish(1)
    await source.nothing_lost(app)


async def test_a_source_that_moves_between_workers_under_load_loses_nothing(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    published = 0
    for turn in range(4):
        app = source.app()
        await lab.start_and_own(app)
        published += len(await source.publish(25))
        await source.received.until(1)
        source.take(app)
        if turn % 2:
            await lab.crash(app)
        else:
            await lab.stop(app)
    last = source.app()
    await lab.start_and_own(last)
    await source.nothing_lost(last)
    assert len(source.delivered) == published


# -- Pending, and the body gone


async def test_what_was_trimmed_while_pending_is_written_down_before_it_is_acknowledged(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app = source.app()
    await lab.start_and_own(app)
    ids = await source.publish(6)
    await source.received.until(1)
    await lab.crash(app)
    await lab.redis.xtrim(SOURCE, minid=ids[4], approximate=False)
    notebook.answers.clear()
    successor = source.app()
    await lab.start_and_own(successor)
    await source.received.until(1)
    assert source.take(successor) == ids[4:]
    new = await source.publish(1)  # other entries go on meanwhile
    await source.received.until(1)
    assert source.take(successor) == new
    await eventually(lambda: lab.has_pending(SOURCE, *ids[:4]), what="those not acknowledged")
    notebook.answers.set()
    await source.settled(successor)
    (loss,) = notebook.losses
    assert (loss.kind, loss.ids) == ("trimmed_pending", tuple(map(text, ids[:4])))
    await source.looked(successor)
    assert notebook.entries() == 4


async def test_what_is_gone_under_another_name_is_kept_until_it_is_written_down(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    await lab.redis.xgroup_create(SOURCE, lab.app_id, "0", mkstream=True)
    ids = await source.publish(5)
    await lab.redis.xreadgroup(lab.app_id, "cp-0", {SOURCE: ">"})
    await lab.redis.xdel(SOURCE, ids[1], ids[3])
    notebook.answers.clear()
    app = source.app()
    await lab.start_and_own(app)
    await source.received.until(1)
    source.take(app)
    await eventually(lambda: lab.has_pending(SOURCE, ids[1], ids[3]), what="the gone ones left")
    await lab.crash(app)
    notebook.answers.set()
    successor = source.app()
    await lab.start_and_own(successor)
    await source.settled(successor)
    assert [loss.ids for loss in notebook.losses] == [(text(ids[1]), text(ids[3]))]
