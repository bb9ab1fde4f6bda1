"""Looking at Redis again and again: what a worker goes by, and cannot be told in another way.

A look that fails leaves what is known as it is. It is said once, until a look has worked again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import faust

from streams.transport import Producer, TransportError

__all__ = ["keep_looking"]


async def keep_looking(
    app: faust.App,
    look: Callable[[Producer], Awaitable[None]],
    *,
    every_s: Callable[[], float],
    on_failure: Callable[[TransportError], None],
) -> None:
    """Look until `app` stops.

    Arguments:
        every_s: asked after each look, how long to wait until the next.
        on_failure: called where a look fails and the one before did not.
    """
    producer = await app.maybe_start_producer()
    assert isinstance(producer, Producer)  # noqa: S101 - the app's broker is Redis
    is_known = True
    while not app.should_stop:
        try:
            await look(producer)
        except TransportError as exc:
            if is_known:
                on_failure(exc)
            is_known = False
        else:
            is_known = True
        await app.sleep(every_s())
