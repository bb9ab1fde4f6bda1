"""What Faust's own features need of a transport: replies, repartitioning, a leader."""

from __future__ import annotations

import asyncio
from typing import Any

import faust

from .lab import Lab
from .waiting import Received, eventually


async def test_an_agent_answers_who_asks_it_in_this_process(lab: Lab) -> None:
    app = lab.app(settings={"value_serializer": "json"})
    topic = app.stream_topic("t", partitions=2)

    @app.agent(topic)
    async def double(stream: faust.StreamT[int]) -> Any:
        async for value in stream:
            yield value * 2

    await lab.start_and_own(app)
    answers = [await asyncio.wait_for(double.ask(n), 10) for n in (1, 21)]
    assert answers == [2, 42]
    await double.cast(3)


async def test_an_agent_answers_who_asks_it_in_another_worker(lab: Lab) -> None:
    apps = []
    agents = []
    for _ in range(2):
        app = lab.app(settings={"value_serializer": "json"})
        topic = app.stream_topic("t", partitions=4)

        @app.agent(topic, name="double")
        async def double(stream: faust.StreamT[int]) -> Any:
            async for value in stream:
                yield value * 2

        apps.append(app)
        agents.append(double)
        await lab.start_and_own(app)
    await eventually(
        lambda: sorted(len(app.redis_consumer.assignment()) for app in apps) == [2, 2],
        what="even shares",
    )
    for agent in agents:
        asked = [agent.ask(n, key=b"%d" % n) for n in range(8)]
        assert await asyncio.wait_for(asyncio.gather(*asked), 15) == [n * 2 for n in range(8)]


async def test_nothing_is_left_of_replies_when_who_asked_has_stopped(lab: Lab) -> None:
    app = lab.app(settings={"value_serializer": "json"})

    @app.agent(app.stream_topic("t"))
    async def same(stream: faust.StreamT[int]) -> Any:
        async for value in stream:
            yield value

    await lab.start_and_own(app)
    assert await asyncio.wait_for(same.ask(1), 10) == 1
    await lab.stop(app)
    assert [key for key in await lab.redis.keys("*") if app.conf.reply_to.encode() in key] == []
    assert app.conf.reply_to.encode() not in await lab.redis.hkeys(lab.name("topics"))


async def test_a_stream_goes_through_another_topic(lab: Lab) -> None:
    app = lab.app(settings={"value_serializer": "json"})
    first = app.stream_topic("first", partitions=2)
    second = app.stream_topic("second", partitions=3)
    received = Received[Any]()

    @app.agent(first)
    async def pass_on(stream: faust.StreamT[int]) -> None:
        async for value in stream.through(second):
            received.add(value)

    await lab.start_and_own(app)
    for n in range(20):
        await lab.send(first, value=n)
    assert sorted(await received.until(20)) == list(range(20))
    await lab.settled(lab.key("first", 0))


class Order(faust.Record, serializer="json"):
    """A message with something to group by."""

    account: str
    amount: int


async def test_a_stream_is_grouped_by_a_field(lab: Lab) -> None:
    app = lab.app(settings={"value_serializer": "json"})
    topic = app.stream_topic("orders", partitions=3, value_type=Order)
    received = Received[Any]()

    @app.agent(topic)
    async def group(stream: Any) -> None:
        async for event in stream.group_by(Order.account, partitions=3).events():
            received.add((event.value.account, event.message.partition, event.value.amount))

    await lab.start_and_own(app)
    for n in range(30):
        await lab.send(topic, value=Order(account=f"a{n % 5}", amount=n))
    places: dict[str, set[int]] = {}
    amounts: dict[str, list[int]] = {}
    for account, partition, amount in await received.until(30):
        places.setdefault(account, set()).add(partition)
        amounts.setdefault(account, []).append(amount)
    assert all(len(partitions) == 1 for partitions in places.values())
    assert {account: sorted(found) for account, found in amounts.items()} == {
        f"a{k}": list(range(k, 30, 5)) for k in range(5)
    }


async def test_one_worker_is_the_leader_and_another_becomes_it(lab: Lab) -> None:
    apps = [lab.app(settings={"topic_disable_leader": False}) for _ in range(3)]
    for app in apps:
        app.collect(app.stream_topic("t", partitions=3))
        await lab.start(app)

    def leaders() -> list[int]:
        return [n for n, app in enumerate(apps) if app.started and app.is_leader()]

    await eventually(lambda: len(leaders()) == 1, what="one leader")
    (first,) = leaders()
    await lab.stop(apps[first])
    await eventually(lambda: len(leaders()) == 1, what="another leader")
    assert leaders() != [first]
