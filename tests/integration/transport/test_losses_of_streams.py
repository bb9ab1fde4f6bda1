"""Streams that are flushed, deleted or set back, and groups that are gone: noticed, once each."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from streams.transport.loss import id_after

from .lab import Lab, LabApp
from .notebook import Notebook
from .test_losses import SOURCE, Source, notebook, source, text
from .waiting import eventually

__all__ = ["notebook", "source"]


async def started(lab: Lab, source: Source, *, entries: int = 5) -> tuple[LabApp, list[bytes]]:
    """A worker that starts at `$` and has read all there is, and the ids of it."""
    app = source.app(start_id="$")
    await lab.start_and_own(app)
    ids = await source.publish(entries)
    await source.settled(app)
    await eventually(
        lambda: (
            SOURCE in source.notebook.positions
            and source.notebook.positions[SOURCE].id == text(ids[-1])
        ),
        what="the position remembered",
    )
    return app, ids


# -- While a worker runs


async def test_a_group_destroyed_is_one_loss_and_the_rest_is_read(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app, ids = await started(lab, source)
    await lab.redis.xgroup_destroy(SOURCE, lab.app_id)
    new = await source.publish(3)
    await source.settled(app)
    await source.looked(app)
    (loss,) = notebook.losses
    assert (loss.kind, loss.stream, loss.entries) == ("group_lost", SOURCE, 0)
    assert (loss.after_id, loss.before_id) == (text(ids[-1]), text(ids[0]))
    assert source.delivered == {*ids, *new}


async def test_a_stream_deleted_is_one_loss_and_the_new_one_is_read(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app, ids = await started(lab, source)
    await lab.redis.delete(SOURCE)
    new = await source.publish(3)
    await source.settled(app)
    await source.looked(app)
    (loss,) = notebook.losses
    assert (loss.kind, loss.stream, loss.entries) == ("stream_recreated", SOURCE, None)
    assert loss.after_id == text(ids[-1])
    assert loss.before_id in ("", text(new[0]))  # as it was looked at before or after
    assert source.delivered == {*ids, *new}


async def test_a_new_stream_longer_than_the_old_one_is_told_from_it(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app, ids = await started(lab, source, entries=2)
    pipeline = lab.redis.pipeline(transaction=True)
    pipeline.delete(SOURCE)
    for n in range(9):
        pipeline.xadd(SOURCE, {"v": str(n)})
    _, *new = await pipeline.execute()
    await source.settled(app)
    await source.looked(app)
    (loss,) = notebook.losses
    assert loss.kind == "stream_recreated"
    assert (loss.after_id, loss.before_id) == (text(ids[-1]), text(new[0]))
    assert source.delivered == {*ids, *new}


async def test_everything_flushed_is_one_loss_for_each_stream(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app = source.app(start_id="$", lease_s=1.0)
    received = app.collect(app.stream_topic("ours", partitions=3), name="ours")
    await lab.start_and_own(app)
    ids = await source.publish(4)
    own = await lab.add(lab.key("ours", 1), b"x")
    await source.settled(app)
    await received.until(1)
    with capture_logs() as logs:
        await lab.redis.flushall()
        new = await source.publish(2)
        await source.settled(app)
        await eventually(lambda: len(notebook.losses) == 4, what="all streams")
        await eventually(lab.owned_by(app), what="the lease again")
        await source.looked(app)
    assert [log["action"] for log in logs].count("stream_recreated") == 4
    assert set(notebook.kinds()) == {"stream_recreated"}
    by_stream = {loss.stream: loss for loss in notebook.losses}
    assert set(by_stream) == {SOURCE, *(lab.key("ours", n) for n in range(3))}
    assert by_stream[SOURCE].after_id == text(ids[-1])
    assert by_stream[lab.key("ours", 1)].after_id == text(own[0])
    assert source.delivered == {*ids, *new}


async def test_ids_that_went_backwards_are_told_once(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app, ids = await started(lab, source)
    await lab.redis.delete(SOURCE)
    await eventually(lambda: lab.redis.exists(SOURCE), what="the stream again")
    low: list[Any] = [await lab.redis.xadd(SOURCE, {"v": "low"}, id=f"{n}-0") for n in (5, 6)]
    await source.settled(app)
    await eventually(lambda: len(notebook.losses) == 2, what="both losses")
    await source.looked(app)
    assert notebook.kinds() == ["stream_recreated", "ids_backwards"]
    loss = notebook.losses[1]
    assert (loss.after_id, loss.before_id) in (
        (text(low[0]), id_after(text(ids[-1]))),
        (text(low[1]), id_after(text(ids[-1]))),
    )
    assert source.delivered == {*ids, *low}


async def test_a_stream_restored_from_an_older_copy_is_ids_backwards(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app, ids = await started(lab, source)
    copy: Any = await lab.redis.dump(SOURCE)
    later = await source.publish(4)
    await source.settled(app)
    await lab.redis.restore(SOURCE, 0, copy, replace=True)
    await eventually(lambda: notebook.losses, what="the loss")
    (loss,) = notebook.losses
    assert loss.kind == "ids_backwards"
    assert (loss.after_id, loss.before_id) == (text(ids[-1]), id_after(text(later[-1])))
    assert loss.entries is None  # all of them had been read
    new = await source.publish(2)
    await source.settled(app)
    await source.looked(app)
    assert len(notebook.losses) == 1
    assert source.delivered == {*ids, *later, *new}


# -- While no worker runs


@pytest.mark.parametrize("how", ["flush", "delete", "destroy"])
async def test_what_is_gone_while_no_worker_runs_is_noticed_and_the_rest_is_read(
    lab: Lab, source: Source, notebook: Notebook, how: str
) -> None:
    app, ids = await started(lab, source)
    await lab.stop(app)
    if how == "flush":
        await lab.redis.flushall()
    elif how == "delete":
        await lab.redis.delete(SOURCE)
    else:
        await lab.redis.xgroup_destroy(SOURCE, lab.app_id)
    new = await source.publish(4)
    notebook.answers.clear()
    second = source.app(start_id="$")
    starting = asyncio.create_task(lab.start(second))
    if how == "flush":  # nobody but the journal knows, so it is waited for
        await eventually(lambda: notebook.refused, what="a question")
        assert not second.redis_consumer.assignment()
    notebook.answers.set()
    await starting
    await source.settled(second)
    (loss,) = notebook.losses
    assert loss.kind == ("group_lost" if how == "destroy" else "stream_recreated")
    assert loss.after_id == text(ids[-1])
    assert loss.before_id == text(ids[0] if how == "destroy" else new[0])
    assert source.delivered == {*ids, *new}


async def test_a_restored_backup_is_noticed_by_what_the_journal_remembers(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app, ids = await started(lab, source)
    position: Any = await lab.redis.dump(lab.name("position:source"))
    copy: Any = await lab.redis.dump(SOURCE)
    later = await source.publish(4)
    await source.settled(app)
    await lab.stop(app)
    notebook.positions[SOURCE] = replace(notebook.positions[SOURCE], last_id=text(later[-1]))
    await lab.redis.restore(SOURCE, 0, copy, replace=True)
    await lab.redis.restore(lab.name("position:source"), 0, position, replace=True)
    second = source.app(start_id="$")
    await lab.start_and_own(second)
    await eventually(lambda: notebook.losses, what="the loss")
    (loss,) = notebook.losses
    assert loss.kind == "ids_backwards"
    assert (loss.after_id, loss.before_id) == (text(ids[-1]), id_after(text(later[-1])))


async def test_a_first_start_ever_begins_where_it_is_told(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    await source.publish(3)
    app = source.app(start_id="$")
    await lab.start_and_own(app)
    (new,) = await source.publish(1)
    await source.settled(app)
    assert source.delivered == {new}
    await source.looked(app)
    assert notebook.losses == []


async def test_a_stop_waits_for_what_is_not_written_down_yet(
    lab: Lab, source: Source, notebook: Notebook
) -> None:
    app, _ = await started(lab, source)
    notebook.answers.clear()
    await lab.redis.xgroup_destroy(SOURCE, lab.app_id)
    await eventually(lambda: app.redis_consumer._recorder._waiting, what="the loss")
    stopping = asyncio.create_task(lab.stop(app))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    notebook.answers.set()
    await stopping
    assert notebook.kinds() == ["group_lost"]
