"""What another consumer name holds in the group of a stream that is not ours."""

from __future__ import annotations

from streams.transport import Settle, StreamConfig

from .lab import Lab
from .waiting import eventually


def config(idle_ms: int) -> StreamConfig:
    return StreamConfig(
        external_key="source", batch=True, settle=Settle.EXPLICIT, claim_idle_ms=idle_ms
    )


async def hold(lab: Lab, *values: bytes, name: str = "cp-0") -> list[bytes]:
    """Append entries that another consumer name reads and does not acknowledge."""
    ids = await lab.add("source", *values)
    await lab.redis.xreadgroup(lab.app_id, name, {"source": ">"}, count=len(values))
    return ids


async def test_what_a_dead_consumer_held_comes_before_what_is_new(lab: Lab) -> None:
    await lab.redis.xgroup_create("source", lab.app_id, "0", mkstream=True)
    held = await hold(lab, b"1", b"2", b"3")
    new = await lab.add("source", b"4", b"5")
    app = lab.app()
    received = app.collect(app.stream_topic("source", config(idle_ms=300)))
    await lab.start(app)
    await eventually(
        lambda: [entry.id for batch in received.items for entry in batch] == held + new,
        what="all in order",
    )


async def test_what_a_living_consumer_holds_is_left_to_it(lab: Lab) -> None:
    await lab.redis.xgroup_create("source", lab.app_id, "0", mkstream=True)
    (held,) = await hold(lab, b"1")
    (new,) = await lab.add("source", b"2")
    app = lab.app()
    received = app.collect(app.stream_topic("source", config(idle_ms=60_000)))
    await lab.start_and_own(app)
    assert await lab.pending("source") == [held]  # and nothing new overtakes it
    assert received.items == []
    await lab.redis.xack("source", lab.app_id, held)
    (batch,) = await received.until(1)
    assert [entry.id for entry in batch] == [new]


async def test_a_consumer_that_never_ends_does_not_hold_up_new_entries_for_ever(lab: Lab) -> None:
    await lab.redis.xgroup_create("source", lab.app_id, "0", mkstream=True)
    (held,) = await hold(lab, b"1")
    (new,) = await lab.add("source", b"2")
    app = lab.app()
    received = app.collect(app.stream_topic("source", config(idle_ms=400)))

    async def keep_working() -> bool:
        await lab.redis.xclaim("source", lab.app_id, "cp-0", 0, [held], justid=True)
        return bool(received.items)

    await lab.start(app)
    await eventually(keep_working, what="the new entry")
    assert [entry.id for entry in received.items[0]] == [new]


async def test_an_idle_name_that_holds_nothing_is_removed_and_a_busy_one_is_not(lab: Lab) -> None:
    await lab.redis.xgroup_create("source", lab.app_id, "0", mkstream=True)
    await lab.redis.xgroup_createconsumer("source", lab.app_id, "empty")
    await hold(lab, b"1", name="busy")
    app = lab.app(sweep_s=0.1)
    app.collect(app.stream_topic("source", config(idle_ms=500)))
    await lab.start(app)

    async def names() -> set[bytes]:
        found = await lab.redis.xinfo_consumers("source", lab.app_id)
        return {consumer["name"] for consumer in found}

    async def claimed() -> bool:
        return await names() == {b"owner"}

    await eventually(claimed, what="only our own name left")
    assert len(await lab.pending("source")) == 1  # claimed, and not thrown away with the name


async def test_entries_trimmed_while_another_held_them_are_counted_as_lost(lab: Lab) -> None:
    await lab.redis.xgroup_create("source", lab.app_id, "0", mkstream=True)
    await hold(lab, b"1", b"2")
    (kept,) = await hold(lab, b"3")
    await lab.redis.execute_command("XTRIM", "source", "MINID", "=", kept)
    app = lab.app()
    received = app.collect(app.stream_topic("source", config(idle_ms=200)))
    await lab.start(app)
    (batch,) = await received.until(1)
    assert [entry.id for entry in batch] == [kept]
    assert app.redis_consumer.lost_total == 2
