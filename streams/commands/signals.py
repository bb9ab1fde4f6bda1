"""SIGINT, SIGTERM and SIGHUP as the normal way in which a command ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

__all__ = ["stop_on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_on_signals(again: Callable[[], None] | None = None) -> Iterator[asyncio.Event]:
    """Give an event that the first signal sets; each one after that calls `again`.

    Without this, asyncio cancels the command wherever it happens to be.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def on_signal() -> None:
        if stopped.is_set() and again is not None:
            again()
        stopped.set()

    # Whoever handled them before does so again: asyncio itself, the embedded servers.
    before = {sig: signal.getsignal(sig) for sig in _SIGNALS}
    for sig in _SIGNALS:
        loop.add_signal_handler(sig, on_signal)
    try:
        yield stopped
    finally:
        for sig in _SIGNALS:
            loop.remove_signal_handler(sig)
            signal.signal(sig, before[sig])
