"""How deliveries are paced: a sink that fails is left alone, one that is paused gets nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from tests.command_line import run_command
from tests.event_log import textual_id
from tests.reconciliation import SOURCE, Ground, Receiver
from tests.worker_process import WorkerProcess, eventually


@dataclass
class Failing(Receiver):
    """A receiver that answers 503 to what it is told to refuse, and notes each request."""

    refuses: bool = True
    #: Refuse only these deliveries; empty: all.
    only: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    async def _take(self, request: web.Request) -> web.Response:
        delivery_id = request.headers["webhook-id"]
        self.requests.append(delivery_id)
        if self.refuses and (not self.only or delivery_id in self.only):
            return web.Response(status=503)
        return await super()._take(request)


def sink(receiver: Receiver, name: str, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = json.loads(receiver.settings()["CAPSULES_SINKS"])[0]
    return given | {"name": name} | more


def publish(ground: Ground, capsules: list[int], verb: str = "pause") -> list[str]:
    """Publish an event of each of these capsules; return the ids of the entries."""
    found = []
    with ground.redis() as client:
        for number in capsules:
            event = {
                "event": f"capsule.{verb}",
                "outcome": "success",
                "actor": {"type": "system"},
                "resource": {"id": textual_id("cl-", UUID(int=number)), "type": "sandbox"},
            }
            found.append(client.xadd(SOURCE, {"payload": json.dumps(event)}).decode())
    return found


def said(worker: WorkerProcess, action: str) -> list[dict[str, Any]]:
    return [record for record in worker.records() if record.get("action") == action]


def assert_probed(failed: list[dict[str, Any]], *, pause_s: float) -> None:
    """Fail unless there is a pause before each attempt but those that were under way at first."""
    at_s = [datetime.fromisoformat(record["timestamp"]).timestamp() for record in failed]
    # Whatever the last of the first ones waited for; a line is written a moment after the attempt.
    since_s = at_s[4:]
    assert since_s[-1] - since_s[0] >= pause_s * (len(since_s) - 1) * 0.9


async def looked_at(directory: Path, settings: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The nodes of the live topology, by name."""
    looked = await asyncio.to_thread(
        run_command, directory, settings, "topology", "--live", "--json"
    )
    return {node["name"]: node for node in json.loads(looked.stdout)["nodes"]}


async def test_a_sink_that_fails_in_a_row_is_left_alone_until_a_probe_succeeds(
    ground: Ground, tmp_path: Path
) -> None:
    async with Failing() as failing, Failing(only={"none"}) as fine:
        breaker = {"breaker_failures": 3, "breaker_pause_s": 0.4, "concurrency": 2}
        sinks = [
            sink(failing, "failing", **breaker, retry_pause_max_s=1),
            sink(fine, "fine", ordered=False, retry_pause_min_s=600, retry_pause_max_s=600),
        ]
        settings = ground.settings(CAPSULES_SINKS=json.dumps(sinks), CAPSULES_LEASE_S="10")
        worker = WorkerProcess(tmp_path, **settings)
        await worker.wait_for("partitions_taken")
        ids = publish(ground, list(range(1, 41)))
        await worker.wait_for("breaker_opened")
        # 3, another one that was under way, and then one probe after each pause.
        await eventually(lambda: len(failing.requests) >= 6, what="two probes")
        (opened,) = said(worker, "breaker_opened")
        assert (opened["sink"], opened["level"], opened["error"]) == (
            "failing",
            "warning",
            "HTTP 503",
        )
        nodes = await looked_at(tmp_path, settings)
        assert "its breaker is open" in nodes["sink.failing"]["because"]
        assert nodes["sink.failing"]["state"] == "blocked"
        assert nodes["sink.fine"]["because"] == ""
        await eventually(lambda: len(fine.arrivals) == 40, what="all at the other sink")
        # An attempt that waits is not counted: what was never tried has no first attempt yet.
        await eventually(
            lambda: len(failing.requests) == len(said(worker, "delivery_retry")),
            what="a retry for each attempt",
        )
        assert_probed(said(worker, "delivery_retry"), pause_s=0.4)
        tried = len(set(failing.requests))
        failing.refuses = False
        await worker.wait_for("breaker_closed")
        await eventually(ground.drained, what="all done")
        took = Counter(failing.requests)
        assert sorted(took) == sorted(ids)
        assert sum(n == 1 for n in took.values()) >= 40 - tried - 1
        assert len(failing.arrivals) == 40

        # Without order, what failed holds up nothing, and nobody.
        fine.refuses = True
        fine.only = set()
        fine.only.update(publish(ground, [7]))
        await eventually(lambda: fine.requests[-1] in fine.only, what="an attempt")
        (second,) = publish(ground, [7])
        await eventually(lambda: fine.arrivals[-1].delivery_id == second, what="the second")
        assert await worker.stop() == 0


@pytest.mark.timeout(300)  # ten commands, each a process of its own
async def test_a_sink_that_is_paused_gets_nothing_over_restarts_until_it_is_resumed(
    ground: Ground, tmp_path: Path
) -> None:
    async def sinks(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(run_command, tmp_path, settings, "sinks", *arguments)

    async with Receiver() as paused, Receiver() as other:
        picky = sink(paused, "picky", concurrency=1, events=["created"])
        both = [sink(paused, "paused"), sink(other, "other"), picky]
        ready = {"CAPSULES_READY_FILE": str(tmp_path / "ready"), "CAPSULES_LEASE_S": "10"}
        settings = ground.settings(CAPSULES_SINKS=json.dumps(both), **ready)
        for arguments in (("pause", "nobody"), ("resume", "nobody"), ("pause",)):
            assert (await sinks(*arguments)).returncode == 2
        first = WorkerProcess(tmp_path / "first", **settings)
        await first.wait_for("partitions_taken")
        done = await sinks("pause", "paused", "--json")
        assert (done.returncode, json.loads(done.stdout)["changed"]) == (0, True)
        await first.wait_for("sink_paused")
        assert (await sinks("pause", "picky")).returncode == 0
        await eventually(
            lambda: "picky" in {r["sink"] for r in said(first, "sink_paused")}, what="both paused"
        )
        ids = publish(ground, [1], "create") + publish(ground, [2, 3])
        await eventually(lambda: len(other.arrivals) == 3, what="all at the other sink")
        assert (await sinks("pause", "paused")).stdout == "paused was paused already\n"
        listed = json.loads((await sinks("list", "--json")).stdout)["sinks"]
        assert [s["paused_since_s"] is None for s in listed] == [False, True, False]
        nodes = await looked_at(tmp_path, settings)
        assert (nodes["sink.paused"]["state"], nodes["sink.other"]["because"]) == ("paused", "")
        assert nodes["hooks.paused"]["backlog"]["pending"] == 3
        # What it does not want is done, whoever waits.
        assert nodes["hooks.picky"]["backlog"]["pending"] == 1
        assert await first.stop() == 0
        second = WorkerProcess(tmp_path / "second", **settings)
        await second.wait_for("sink_paused")
        await eventually((tmp_path / "ready").exists, what="a worker that is ready")
        ids += publish(ground, [4])
        await eventually(lambda: len(other.arrivals) == 4, what="the next at the other sink")
        assert paused.arrivals == []
        for name in ("paused", "picky"):
            assert (await sinks("resume", name)).returncode == 0
        await eventually(ground.drained, what="all done")
        took = sorted(arrival.delivery_id for arrival in paused.arrivals)
        assert took == sorted([*ids, ids[0]])
        assert await second.stop() == 0
