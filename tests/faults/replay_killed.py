"""``dead-letters`` as ever, but killed at a step: the first argument says which.

A program of its own, so that the kill is real and the code has nothing in it for the sake of this.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from faust.cli.base import cli

from streams.dead_letters.replay import Resender
from streams.dead_letters.store import LetterStore


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def die_after(owner: type, name: str) -> None:
    """Die when the method `name` of `owner` has done its work."""
    plain = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> NoReturn:
        plain(*args, **kwargs)
        die()

    setattr(owner, name, call)


def die_after_waiting(owner: type, name: str) -> None:
    """The same for a coroutine method."""
    plain = getattr(owner, name)

    async def call(*args: Any, **kwargs: Any) -> NoReturn:
        await plain(*args, **kwargs)
        die()

    setattr(owner, name, call)


def die_after_claiming() -> None:
    die_after(LetterStore, "claim")
    die_after(LetterStore, "claim_one")


STEPS: dict[str, Callable[[], None]] = {
    "claimed": die_after_claiming,
    # In the transaction of Redis, before anything of it is there.
    "watching": lambda: die_after_waiting(Resender, "_entry"),
    "sent": lambda: die_after_waiting(Resender, "_send_once"),
    "resolved": lambda: die_after_waiting(LetterStore, "send"),
    "all done": lambda: die_after_waiting(Resender, "send"),
}

if __name__ == "__main__":
    STEPS[sys.argv[1]]()
    # In place: Faust looks for the app in this very list.
    sys.argv[1:] = ["-A", "streams.app", "dead-letters", *sys.argv[2:]]
    cli(prog_name="faust")
