"""A partition that counts as several of another topic, and a fleet that has to agree on that."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from streams.transport import StreamConfig

from .lab import EXPLICIT, Lab, LabApp
from .waiting import eventually

PARTITIONS = 9


def worker(lab: Lab, *, times: int = 5) -> LabApp:
    """A worker that routes from somebody else's stream into a topic."""
    app = lab.app(lease_s=1.0)
    source = replace(EXPLICIT, external_key="theirs", counts_as=("t", times))
    app.collect(app.stream_topic("source", source), name="route")
    app.collect(app.stream_topic("t", EXPLICIT, partitions=PARTITIONS), name="work")
    return app


def shares(*apps: LabApp) -> list[tuple[int, int]]:
    """How many partitions of the source and of the topic each has, sorted."""
    held = [[tp.topic for tp in app.redis_consumer.assignment()] for app in apps]
    return sorted((topics.count("source"), topics.count("t")) for topics in held)


async def test_who_reads_the_source_has_so_many_fewer_of_what_it_counts_as(lab: Lab) -> None:
    apps = [worker(lab) for _ in range(3)]
    await lab.start(apps[0])
    await eventually(lambda: shares(apps[0]) == [(1, PARTITIONS)], what="all for one")
    await lab.start(apps[1])
    # 5 + 2 and 7 make up all that there is.
    await eventually(lambda: shares(*apps[:2]) == [(0, 7), (1, 2)], what="two shares")
    await lab.start(apps[2])
    await eventually(lambda: shares(*apps) == [(0, 4), (0, 5), (1, 0)], what="three shares")


async def test_beside_a_worker_that_knows_nothing_of_it_all_share_evenly(lab: Lab) -> None:
    apps = [worker(lab), worker(lab)]
    for app in apps:
        await lab.start(app)
    await eventually(lambda: shares(*apps) == [(0, 7), (1, 2)], what="two shares")
    older = {
        "worker": "older",
        "readable": ["source:0", *(f"t:{n}" for n in range(PARTITIONS))],
        "reader": "",
    }
    await lab.redis.hset(lab.name("fleet:members"), "older", json.dumps(older))
    await lab.redis.hset(lab.name("fleet:beats"), "older", 1)
    await eventually(lambda: shares(*apps) == [(0, 3), (1, 3)], what="a third each")
    # It says no more, so it is gone once its lease is over.
    await eventually(lambda: shares(*apps) == [(0, 7), (1, 2)], what="two shares again")


async def test_where_workers_say_different_things_all_share_evenly(lab: Lab) -> None:
    apps = [worker(lab, times=5), worker(lab, times=4)]
    for app in apps:
        await lab.start(app)
    await eventually(lambda: shares(*apps) == [(0, 5), (1, 4)], what="even shares")


def test_to_count_as_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="counts_as: 0 partitions are less than one"):
        StreamConfig(counts_as=("t", 0))
