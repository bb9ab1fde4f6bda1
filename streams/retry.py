"""Trying again, for as long as it takes.

A stage that cannot go on holds what it has and tries again: entries wait in Redis, in order,
and nothing is lost. Whatever the reason, the entry is not acknowledged before its turn came to
an end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from streams.errors import DatabaseUnavailableError
from streams.transport import TransportError

__all__ = ["until_done"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: What is expected to pass by itself. Anything else is a fault of the program: as loud as can
#: be, and tried again all the same, since going on would be to drop the entry.
_EXPECTED = (DatabaseUnavailableError, TransportError)


async def until_done(
    attempt: Callable[[], Awaitable[T]],
    *,
    stage: str,
    give_up_on: tuple[type[Exception], ...] = (),
    on_retry: Callable[[BaseException | None], None] = lambda _: None,
    pause_max_s: float = 5.0,
) -> T:
    """Repeat `attempt` until it returns; raise only what is in `give_up_on`.

    Arguments:
        stage: who tries, for the log.
        on_retry: told before each pause what went wrong.
        pause_max_s: longest pause between two attempts.
    """

    def say(state: RetryCallState) -> None:
        exc = state.outcome.exception() if state.outcome else None
        on_retry(exc)
        pause_s = round(state.next_action.sleep, 3) if state.next_action else 0
        if isinstance(exc, _EXPECTED):
            log.warning(
                "waiting to try again",
                action="stage_retry",
                stage=stage,
                attempt=state.attempt_number,
                pause_s=pause_s,
                error=str(exc),
            )
        else:
            log.error(
                "unexpected error, trying again",
                action="stage_stuck",
                stage=stage,
                attempt=state.attempt_number,
                pause_s=pause_s,
                exc_info=exc,
            )

    try:
        return await attempt()  # nearly always all there is to it, and cheaper on its own
    except give_up_on:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever it is, tenacity goes on from here
        first: list[Exception] = [exc]

    async def again() -> T:
        if first:
            raise first.pop()
        return await attempt()

    async for trial in AsyncRetrying(
        wait=wait_exponential_jitter(multiplier=0.05, max=pause_max_s, jitter=0.05),
        retry=_retry_unless(give_up_on),
        before_sleep=say,
        reraise=True,
    ):
        with trial:
            return await again()
    raise AssertionError("tenacity never ends without a result")


def _retry_unless(give_up_on: tuple[type[Exception], ...]) -> Callable[[RetryCallState], bool]:
    wanted = retry_if_exception_type(Exception)

    def decide(state: RetryCallState) -> bool:
        exc = state.outcome.exception() if state.outcome else None
        return wanted(state) and not isinstance(exc, give_up_on)

    return decide
