"""Who a worker says is to blame, as its health, its topology and its metrics have it."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic
from typing import Any

import aiohttp

from tests.integration.watching import Samples, WatchedWorker

__all__ = ["counted", "is_counted", "is_named"]

#: From the fault on.
WITHIN_S = 10.0

#: What becomes of which nodes where a server is to blame; of a sink, of itself.
DRAWN_AS = {"postgres": "table", "redis": "stream"}


async def is_named(worker: WatchedWorker, culprit: str, *, began: float) -> None:
    """Wait until health and topology name `culprit`, within ten seconds from when it `began`.

    Meanwhile others may be named, which only wait for it; but not a server that is well.
    """
    left = {"/readyz", "/topology.json"}
    answers: dict[str, Any] = {}
    while True:
        for path in sorted(left):
            try:
                _, answers[path] = await worker.ask(path)
            except (TimeoutError, aiohttp.ClientConnectionError) as exc:
                answers[path] = {"error": repr(exc)}
            if names(answers[path], culprit):
                left.remove(path)
        if monotonic() - began > WITHIN_S:
            raise AssertionError(f"{left} do not name {culprit}: {answers}\n{worker.tail()}")
        if not left:
            return
        await asyncio.sleep(0.1)


def names(answer: dict[str, Any], culprit: str) -> bool:
    """Whether it is among the reasons, and marked in the picture where there is one."""
    marked = [
        node
        for node in answer.get("nodes", ())
        if node["state"] == "blocked" and culprit in (node["name"], _drawn_as(node["kind"]))
    ]
    reasons = {reason["culprit"] for reason in answer.get("reasons", ())}
    return culprit in reasons and ("nodes" not in answer or bool(marked))


def _drawn_as(kind: str) -> str:
    return next((server for server, drawn in DRAWN_AS.items() if drawn == kind), "")


async def counted(worker: WatchedWorker) -> Counter[str]:
    """How many attempts have failed, by whose fault; metrics and topology say the same."""
    while True:
        before, (status, topology), after = (
            _in_metrics(await worker.scrape()),
            await worker.ask("/topology.json"),
            _in_metrics(await worker.scrape()),
        )
        if before == after and status == 200:
            (said,) = topology["workers"]
            told: Counter[str] = Counter()
            for activity in (*said["transport"].values(), *map(_failed, said["stages"].values())):
                told.update(activity)
            if told == before:
                return before
        await asyncio.sleep(0.2)  # what is told is a second old


def _failed(stage: dict[str, Any]) -> dict[str, int]:
    failed: dict[str, int] = stage["failed"]
    return failed


def _in_metrics(samples: Samples) -> Counter[str]:
    found: Counter[str] = Counter()
    for name in ("capsules_stage_failed_total", "capsules_transport_failed_total"):
        for labels, value in samples.get(name, {}).items():
            if value:
                found[dict(labels)["by"]] += int(value)
    return found


async def is_counted(worker: WatchedWorker, culprit: str, *, before: Counter[str]) -> None:
    """Fail unless an attempt has failed because of `culprit`, and none because of others."""
    deadline = monotonic() + WITHIN_S
    while not (found := await counted(worker) - before):
        assert monotonic() < deadline, worker.tail()
    assert set(found) == {culprit}
