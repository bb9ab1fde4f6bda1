"""What health makes of what is known: partitions without a reader, and who is to blame."""

from __future__ import annotations

from time import monotonic

import pytest

from config.settings import LogSinkSettings, Settings
from streams.app import ReconcilerApp, create_app
from streams.operations import health
from streams.operations.health import Health, Reason, Report
from streams.operations.soundings import FleetSeen, Soundings


def app() -> ReconcilerApp:
    return create_app(
        Settings(
            redis_url="redis://localhost:6379/0",
            database_url="postgresql://localhost/wrenn",
            sinks=(LogSinkSettings(name="billing"),),
            lease_s=1.0,
        )
    )


async def test_partitions_that_nobody_reads_for_long_are_named() -> None:
    found = app()
    soundings = Soundings(found)
    seen = FleetSeen(has_group=True, unowned=frozenset({"capsules:3"}))

    async def answer() -> FleetSeen:
        return seen

    soundings.fleet._ask = answer
    await soundings.fleet.take()
    looked = Health(found, soundings, lanes=dict)
    assert list(looked._unowned()) == []
    # Sharing takes up to two leases; it was first seen before that.
    looked._unowned_since = {"capsules:3": monotonic() - 5}
    (reason,) = looked._unowned()
    assert (reason.culprit, reason.is_unready) == ("fleet", True)
    assert "capsules:3" in reason.text
    seen = FleetSeen(has_group=True, unowned=frozenset())
    soundings.fleet._asked_at = float("-inf")
    await soundings.fleet.take()
    assert list(looked._unowned()) == []


async def test_a_group_that_is_gone_is_redis_to_blame() -> None:
    found = app()
    soundings = Soundings(found)

    async def answer() -> FleetSeen:
        return FleetSeen(has_group=False, unowned=frozenset())

    soundings.fleet._ask = answer
    await soundings.fleet.take()
    reasons = list(Health(found, soundings, lanes=dict)._redis())
    assert any("consumer group" in reason.text for reason in reasons)
    assert {reason.culprit for reason in reasons} == {"redis"}


async def test_each_topic_has_the_stages_that_end_its_entries() -> None:
    assert health._stages_by_topic(app()) == {
        "wrenn:events": ["route"],
        "capsules": ["dispatch", "create", "resume", "pause", "destroy", "failure"],
        "hooks.billing": ["hook.billing"],
        "dead-letters": ["keep"],
    }


@pytest.mark.parametrize(
    ("reasons", "is_ready", "is_alive"),
    [
        ((), True, True),
        ((Reason("redis", "away"),), False, True),
        ((Reason("sink.billing", "away", is_unready=False),), True, True),
        ((Reason("pause", "stuck", is_dead=True),), False, False),
    ],
)
def test_ready_and_alive_follow_from_the_reasons(
    reasons: tuple[Reason, ...], is_ready: bool, is_alive: bool
) -> None:
    report = Report("worker", reasons)
    assert (report.is_ready, report.is_alive) == (is_ready, is_alive)
    assert report.as_dict()["ready"] is is_ready
