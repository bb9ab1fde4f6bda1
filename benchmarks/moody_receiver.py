"""An idempotent webhook receiver that does as it is told, in a process of its own.

It prints its port. ``POST /`` is a delivery, ``PUT /mode`` says what becomes of the next ones
(:data:`MODES`), ``GET /report`` what became of those so far, and ``GET /late?since_ms=&until_ms=``,
of entries with an id in that time, how many milliseconds after it each was accepted.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import Final

import orjson
from aiohttp import web

__all__ = ["MODES"]

#: Accept; answer 503; do not answer.
MODES: Final = ("take", "refuse", "hang")


@dataclass
class Account:
    """What this receiver has accepted, and what it was offered."""

    mode: str
    #: By delivery id: milliseconds from the entry's id to when it was accepted.
    accepted: dict[str, float] = field(default_factory=dict)
    newest_of: dict[str, tuple[int, int]] = field(default_factory=dict)
    offered_again: int = 0
    out_of_order: int = 0
    not_taken: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        """Deal with one delivery as the mode says."""
        body = await request.read()
        if self.mode != "take":
            self.not_taken += 1
            if self.mode == "hang":
                await self.changed.wait()
            return web.Response(status=503)
        delivery_id = request.headers["webhook-id"]
        if delivery_id in self.accepted:
            self.offered_again += 1
            return web.Response(status=204)
        ms, seq = (int(number) for number in delivery_id.split("-"))
        self.accepted[delivery_id] = time.time() * 1000 - ms
        capsule = orjson.loads(body)["data"]["capsule_id"]
        self.out_of_order += (ms, seq) < self.newest_of.get(capsule, (0, 0))
        self.newest_of[capsule] = (ms, seq)
        return web.Response(status=204)

    async def change(self, request: web.Request) -> web.Response:
        """Do something else from now on."""
        self.mode = (await request.read()).decode()
        assert self.mode in MODES
        self.changed.set()
        self.changed = asyncio.Event()
        return web.Response(status=204)

    async def report(self, _: web.Request) -> web.Response:
        """Say what became of all deliveries."""
        told = {
            "accepted": len(self.accepted),
            "offered_again": self.offered_again,
            "out_of_order": self.out_of_order,
            "not_taken": self.not_taken,
        }
        return web.Response(body=orjson.dumps(told), content_type="application/json")

    async def late(self, request: web.Request) -> web.Response:
        """Say how late each was."""
        since, until = (float(request.query[name]) for name in ("since_ms", "until_ms"))
        told = [
            ms
            for delivery_id, ms in self.accepted.items()
            if since <= int(delivery_id.partition("-")[0]) <= until
        ]
        return web.Response(body=orjson.dumps(told), content_type="application/json")


async def _serve(mode: str) -> None:
    account = Account(mode)
    app = web.Application()
    app.router.add_post("/", account.take)
    app.router.add_put("/mode", account.change)
    app.router.add_get("/report", account.report)
    app.router.add_get("/late", account.late)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
