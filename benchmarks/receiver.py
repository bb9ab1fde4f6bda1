"""A webhook receiver that takes everything, in a process of its own; it prints its port.

Its one argument, if any, is how long it thinks about each request, in milliseconds.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web


async def _take(request: web.Request) -> web.Response:
    await request.read()
    if len(sys.argv) > 1:
        await asyncio.sleep(float(sys.argv[1]) / 1000)
    return web.Response(status=204)


async def _serve() -> None:
    app = web.Application()
    app.router.add_post("/", _take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
