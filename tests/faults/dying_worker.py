"""A worker that goes wrong at a named step: ``python -m tests.faults.dying_worker``.

It is the worker as it is in production, with one of its methods wrapped before it starts. Just
before or just after the real call the process is gone, as after ``kill -9``, or something else
happens (:data:`ENDS`). Which step, at which time it is come to, and what happens is in the
environment (:data:`DIE_AT`), as ``<step>:<time>:<end>``.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from tests.worker_process import WorkerProcess

__all__ = ["DIE_AT", "ENDS", "STEPS", "DyingWorker"]

DIE_AT: Final = "TESTS_DIE_AT"


@dataclass(frozen=True)
class Step:
    """A moment in the life of a worker: a call of one method, just begun or just over."""

    module: str
    method: str
    #: Of the call's arguments (and its result, where the step is behind it): is it this step?
    when: Callable[..., bool]
    before: bool = False
    sees_result: bool = False
    #: Does part of the call before the death, in place of all of it.
    part: Callable[..., Awaitable[Any]] | None = None


def _statement_on(table: str) -> Callable[..., bool]:
    # What writes there: housekeeping reads the same tables.
    return lambda _self, statement, *_: f"insert into capsule_reconciler.{table}" in statement


def _sent_to(topic: str) -> Callable[..., bool]:
    return lambda _self, to, records, *_: bool(records) and to[0].startswith(topic)


def _settled_of(topic: str) -> Callable[..., bool]:
    return lambda self, *_: any(tp.topic.startswith(topic) for tp in self._settled)


async def _first_half(
    real: Callable[..., Awaitable[Any]], self: Any, to: list[str], records: Any
) -> Any:
    return await real(self, to, records[: (len(records) + 1) // 2])


def _routed(_self: Any, _holding: Any, _to: str, records: Any, *_: Any) -> bool:
    return bool(records)


async def _first_half_routed(
    real: Callable[..., Awaitable[Any]], self: Any, holding: Any, to: str, records: Any
) -> Any:
    return await real(self, holding, to, records[: (len(records) + 1) // 2])


_FETCH = ("streams.postgres", "Postgres.fetch_row")
_SEND = ("streams.transport.producer", "Producer.send_many")
_ROUTE = ("streams.transport.producer", "Producer.send_while")
_ACKNOWLEDGE = ("streams.transport.acknowledger", "Acknowledger._send")
_READ = ("streams.transport.reader", "Reader._xreadgroup")
_FLEET = "streams.transport.fleet"


def _read_something_new(*arguments: Any) -> bool:
    _self, _streams, ids, _count, answer = arguments
    return ids[0] == b">" and bool(answer)


def _read_something_pending(*arguments: Any) -> bool:
    _self, _streams, ids, _count, answer = arguments
    return ids[0] != b">" and any(answer.values())


STEPS: Final[dict[str, Step]] = {
    "reading": Step(*_READ, when=_read_something_new, sees_result=True),
    "reading-pending": Step(*_READ, when=_read_something_pending, sees_result=True),
    "routing-half": Step(*_ROUTE, when=_routed, part=_first_half_routed),
    "routed": Step(*_ROUTE, when=_routed),
    "routed-settled": Step(*_ACKNOWLEDGE, when=_settled_of("wrenn:events"), before=True),
    "before-statement": Step(*_FETCH, when=_statement_on("watermarks"), before=True),
    "committed": Step(*_FETCH, when=_statement_on("watermarks")),
    "handing-half": Step(*_SEND, when=_sent_to("hooks."), part=_first_half),
    "handed": Step(*_SEND, when=_sent_to("hooks.")),
    "settled": Step(*_ACKNOWLEDGE, when=_settled_of("capsules"), before=True),
    "acknowledged": Step(*_ACKNOWLEDGE, when=lambda *_: True),
    "delivered": Step("agents.hooks.webhook", "WebhookSink.on_sandbox_event", lambda *_: True),
    "delivery-settled": Step(*_ACKNOWLEDGE, when=_settled_of("hooks."), before=True),
    "letter-sent": Step(*_SEND, when=_sent_to("dead-letters")),
    "letter-stored": Step(*_FETCH, when=_statement_on("dead_letters")),
    "dispatching": Step("agents.dispatch", "Dispatch._read", when=lambda *_: True, before=True),
    "taking": Step(
        _FLEET, "Fleet.acquire", when=lambda *arguments: bool(arguments[-1]), sees_result=True
    ),
    "giving-up": Step(_FLEET, "Fleet.release", when=lambda *_: True, before=True),
    "given-up": Step(_FLEET, "Fleet.release", when=lambda *_: True),
    "leaving": Step(_FLEET, "Fleet.leave", when=lambda *_: True, before=True),
    "left": Step(_FLEET, "Fleet.leave", when=lambda *_: True),
    "closing": Step("streams.postgres", "Postgres.close", when=lambda *_: True, before=True),
}


async def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


async def _raise() -> None:
    raise RuntimeError("as a test wants it")


async def _cancel() -> None:
    """As a library may raise it, with nobody having cancelled anything."""
    raise asyncio.CancelledError


async def _hang() -> None:
    await asyncio.Event().wait()


async def _block() -> None:
    time.sleep(600)  # noqa: ASYNC251 - the fault itself


ENDS: Final[dict[str, Callable[[], Awaitable[None]]]] = {
    "die": _die,
    "freeze": _freeze,
    "raise": _raise,
    "cancel": _cancel,
    "hang": _hang,
    "block": _block,
}


class DyingWorker(WorkerProcess):
    """A worker that dies at a step, when it comes to it for the given time."""

    module: ClassVar[str] = "tests.faults.dying_worker"

    def __init__(
        self, directory: Path, step: str, nth: int = 1, *, end: str = "die", **settings: str
    ) -> None:
        assert step in STEPS
        assert end in ENDS
        super().__init__(directory, **settings, **{DIE_AT: f"{step}:{nth}:{end}"})
        self._step = step

    async def died(self, *, timeout_s: float = 30.0) -> None:
        """Wait until it has died at its step, and of nothing else."""
        code = await asyncio.to_thread(self.process.wait, timeout_s)
        assert code == -signal.SIGKILL, f"not dead at {self._step}: {code}\n{self.tail()}"


def _wrap(step: Step, nth: int, end: Callable[[], Awaitable[None]]) -> None:
    module = importlib.import_module(step.module)
    owner_name, _, method = step.method.partition(".")
    owner = getattr(module, owner_name)
    real = getattr(owner, method)
    count = 0

    def is_due(*arguments: Any) -> bool:
        nonlocal count
        is_step = step.when(*arguments)
        count += is_step
        return is_step and count == nth

    async def wrapped(*arguments: Any, **named: Any) -> Any:
        if step.before or step.part is not None:
            if is_due(*arguments):
                if step.part is not None:
                    await step.part(real, *arguments)
                await end()
            return await real(*arguments, **named)
        result = await real(*arguments, **named)
        if is_due(*arguments, *([result] if step.sees_result else [])):
            await end()
        return result

    setattr(owner, method, wrapped)


def main() -> None:
    """Run Faust's command line with one method wrapped."""
    from faust.cli.faust import cli

    name, nth, end = os.environ.pop(DIE_AT).split(":")
    _wrap(STEPS[name], int(nth), ENDS[end])
    cli()


if __name__ == "__main__":
    main()
