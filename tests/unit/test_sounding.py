"""A server is asked once for all who want to know, and not waited for beyond the deadline."""

from __future__ import annotations

import asyncio
import time

from streams.errors import DatabaseUnavailableError
from streams.operations.sounding import Sounding


async def test_many_who_ask_at_once_and_again_are_one_question() -> None:
    async def answer() -> int:
        await asyncio.sleep(0.05)
        return 7

    sounding = Sounding(answer, every_s=60, deadline_s=5)
    await asyncio.gather(*(sounding.take() for _ in range(100)))
    await asyncio.gather(*(sounding.take() for _ in range(100)))
    assert (sounding.value, sounding.trouble, sounding.asked) == (7, "", 1)


async def test_what_is_old_is_asked_again_unless_that_is_good_enough() -> None:
    async def answer() -> int:
        return 7

    sounding = Sounding(answer, every_s=0.05, deadline_s=5)
    await sounding.take()
    await asyncio.sleep(0.06)
    await sounding.take(max_age_s=60)
    assert sounding.asked == 1
    await sounding.take()
    assert sounding.asked == 2


async def test_a_silent_server_is_waited_for_until_the_deadline_and_not_asked_twice() -> None:
    go_on = asyncio.Event()

    async def silence() -> int:
        await go_on.wait()
        return 7

    sounding = Sounding(silence, every_s=0, deadline_s=0.1)
    begun = time.monotonic()
    for _ in range(20):
        await sounding.take()
    assert time.monotonic() - begun < 2
    assert sounding.asked == 1
    assert "no answer" in sounding.trouble
    go_on.set()
    await asyncio.sleep(0.01)
    await sounding.take()
    assert (sounding.value, sounding.trouble) == (7, "")
    await sounding.close()


async def test_an_error_is_said_and_the_last_answer_kept() -> None:
    answers: list[int | Exception] = [7, DatabaseUnavailableError("gone"), ZeroDivisionError()]

    async def answer() -> int:
        match answers.pop(0):
            case Exception() as exc:
                raise exc
            case int() as value:
                return value

    sounding = Sounding(answer, every_s=0, deadline_s=1)
    await sounding.take()
    await sounding.take()
    assert (sounding.value, sounding.trouble) == (7, "gone")
    await sounding.take()
    assert sounding.trouble == "ZeroDivisionError in the worker"


async def test_an_error_is_forgotten_when_nobody_has_asked_for_long() -> None:
    async def answer() -> int:
        raise DatabaseUnavailableError("gone")

    sounding = Sounding(answer, every_s=0, deadline_s=1)
    await sounding.take()
    assert sounding.trouble == "gone"
    sounding._asked_at -= 11
    assert sounding.trouble == ""


async def test_nothing_is_asked_once_it_is_closed() -> None:
    async def silence() -> int:
        await asyncio.Event().wait()
        return 7

    sounding = Sounding(silence, every_s=0, deadline_s=0.01)
    await sounding.take()
    await sounding.close()
    await sounding.take()
    assert sounding.asked == 1
