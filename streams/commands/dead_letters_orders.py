"""``dead-letters replay`` and ``discard``.

Of letters that are named, either all are ones that the order fits, or nothing is done. With
``--all`` it is for those that are there when the command starts: one that comes later, or changes
meanwhile, is not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from time import monotonic
from typing import Any, ClassVar, Final

import click
import structlog
from faust.cli.base import argument, option

from streams.commands.letters_command import FILTERS, LETTER_ID, LettersCommand
from streams.commands.signals import stop_on_signals
from streams.dead_letters.letters import (
    Filter,
    Letter,
    State,
    check_discardable,
    check_replayable,
    check_sinks,
)
from streams.dead_letters.replay import Resender
from streams.dead_letters.store import LetterStore
from streams.ids import excerpt
from streams.printable import printable
from streams.sinks.room import BacklogRoom

__all__ = ["Discard", "Replay"]

log = structlog.get_logger(__name__)

_DISCARD_STEP: Final = 500
#: The exit code after a signal, as shells have it for Ctrl-C.
_STOPPED: Final = 130
_SELECTION: Final[list[Callable[[Any], Any]]] = [
    argument("ids", type=LETTER_ID, metavar="[ID]...", nargs=-1),
    option("--all", "every", is_flag=True, help="All that the filters leave."),
    *FILTERS,
    option("--dry-run", is_flag=True, help="Only say what would be done."),
]


class _Rate(click.ParamType):
    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            rate = float(value)
        except ValueError:
            rate = math.nan
        if not (0 < rate < math.inf):
            self.fail(f"{excerpt(value)} is not a number above 0", param, ctx)
        return rate


class _OrderCommand(LettersCommand):
    """Base of the two: letters by their numbers, or all that filters leave."""

    abstract: ClassVar[bool] = True

    #: What the command does, in its messages.
    verb: ClassVar[str]

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Refuse lines that name no letters, or name them twice."""
        filters = [
            f"--{name}"
            for name in ("stage", "sink", "reason", "since", "state")
            if options.get(name) is not None
        ]
        if options["every"] and options["ids"]:
            raise click.UsageError("give either IDs or --all")
        if not options["every"] and filters:
            raise click.UsageError(f"{filters[0]} is for --all")
        if not options["every"] and not options["ids"]:
            raise click.UsageError("give IDs, or --all")

    def chosen(
        self, store: LetterStore, options: Mapping[str, Any], states: tuple[State, ...]
    ) -> tuple[Filter, int, int]:
        """Return which letters ``--all`` means, with the highest id, and how many; say so, too."""
        wanted, up_to = self.filter(store, options, states), store.last_id()
        count = store.count(wanted, up_to=up_to)
        self.say(f"{count:,} letters to {self.verb}")
        return wanted, up_to, count

    def say_what_would_be_done(self, letters: Iterable[Letter]) -> None:
        """Print a line for each letter."""
        count = 0
        for letter in letters:
            count += 1
            about = f"{letter.stage} {letter.reason} {letter.origin_id}"
            self.say(f"would {self.verb} letter {letter.id}: {printable(about)}")
        self.say(f"would {self.verb} {count:,} letters; nothing is changed")


class Replay(_OrderCommand):
    """Send letters again, as new entries; name them, or take all that the filters leave.

    What failed in the pipeline begins at the producer's stream again, a delivery goes to its own
    sink alone, and waits where that sink's backlog is full. A replay that was cut off is brought to
    its end by the same command.
    """

    verb = "replay"
    options = [  # noqa: RUF012 - Faust declares it on the instance
        *_SELECTION,
        option(
            "--state",
            type=click.Choice([State.DEAD.value, State.REPLAYING.value]),
            help="Only the dead ones, or only those whose replay was cut off.",
        ),
        option("--rate", type=_Rate(), help="So many a second at most."),
    ]

    async def run(
        self,
        ids: tuple[int, ...],
        every: bool,
        dry_run: bool,
        state: str | None,
        rate: float | None,
        **filters: Any,
    ) -> None:
        """Look whether the order can be carried out, and carry it out."""
        sinks = [sink.name for sink in self.settings.sinks]
        letters: Iterable[Letter]
        with self.letters() as store:
            if every:
                states = (State(state),) if state else (State.DEAD, State.REPLAYING)
                wanted, up_to, count = self.chosen(store, filters, states)
                needed = store.sinks(wanted, up_to=up_to)
                check_sinks(needed, sinks)
                letters = store.oldest_first(wanted, up_to=up_to)
            else:
                letters = store.find(ids)
                check_replayable(ids, letters, sinks)
                needed, count = {letter.sink for letter in letters}, len(letters)
            if dry_run:
                self.say_what_would_be_done(letters)
                return
            async with self.redis() as client:
                resender = Resender(
                    client,
                    store,
                    source=self.settings.source_stream,
                    group=self.settings.app_id,
                    layout=self.reconciler_app.redis_layout,
                )
                await resender.check(needed)
                if not every:
                    store.claim(ids, sinks)
                with stop_on_signals() as stopped:
                    room = BacklogRoom(
                        client,
                        self.settings.sinks,
                        group=self.settings.app_id,
                        layout=self.reconciler_app.redis_layout,
                        stopped=stopped,
                    )
                    sending = _Sending(store, resender, room, _Pace(rate, stopped))
                    try:
                        await sending.send(letters, claimed=not every)
                    finally:
                        self.say(sending.told(count))
                    _end_if_stopped(stopped)


class Discard(_OrderCommand):
    """Decide that nothing is to come of letters; name them, or take all that the filters leave.

    They stay in the table for a while.
    """

    verb = "discard"
    options = _SELECTION

    async def run(self, ids: tuple[int, ...], every: bool, dry_run: bool, **filters: Any) -> None:
        """Look whether the order can be carried out, and carry it out."""
        letters: Iterable[Letter]
        with self.letters() as store:
            if every:
                wanted, up_to, _ = self.chosen(store, filters, (State.DEAD,))
                letters = store.oldest_first(wanted, up_to=up_to)
            else:
                letters = store.find(ids)
                check_discardable(ids, letters)
            if dry_run:
                self.say_what_would_be_done(letters)
            elif every:
                with stop_on_signals() as stopped:
                    await self._discard(store, iter(letters), stopped)
            else:
                store.discard(ids)
                self._tell(ids)

    async def _discard(
        self, store: LetterStore, letters: Iterator[Letter], stopped: asyncio.Event
    ) -> None:
        discarded: list[int] = []
        try:
            while not stopped.is_set() and (step := list(islice(letters, _DISCARD_STEP))):
                discarded += store.discard_dead(step)
                # Signals are seen between two steps.
                await asyncio.sleep(0)
        finally:
            self._tell(discarded)
        _end_if_stopped(stopped)

    def _tell(self, ids: Iterable[int]) -> None:
        unique = sorted(set(ids))
        for letter_id in unique:
            log.info("dead letter discarded", action="letter_discarded", letter=letter_id)
        self.say(f"discarded {len(unique):,} letters")


class _Sending:
    """The sending of letters, and how far it has come."""

    def __init__(
        self, store: LetterStore, resender: Resender, room: BacklogRoom, pace: _Pace
    ) -> None:
        self._store = store
        self._resender = resender
        self._room = room
        self._pace = pace
        self._sent = self._by_others = 0
        self._is_done = False

    async def send(self, letters: Iterable[Letter], *, claimed: bool) -> None:
        """Send `letters`, until it is time to stop; `claimed`: they are ``replaying`` already."""
        for letter in letters:
            # Before it is claimed: one that there is no room for stays as it is.
            if not await self._pace.wait() or not await self._room.take(letter.sink):
                return
            ours = claimed or letter.state is State.REPLAYING or self._store.claim_one(letter)
            if ours and await self._resender.send(letter) is not None:
                self._sent += 1
            else:
                self._by_others += 1
        self._is_done = True

    def told(self, count: int) -> str:
        """Say what was done, of so many."""
        others = f", {self._by_others:,} changed by somebody else" if self._by_others else ""
        left = max(count - self._sent - self._by_others, 0)
        rest = "" if self._is_done else f", {left:,} left"
        return f"replayed {self._sent:,} letters{others}{rest}"


class _Pace:
    """Lets at most `rate` a second pass (None: all), until `stopped` is set."""

    def __init__(self, rate: float | None, stopped: asyncio.Event) -> None:
        self.stopped = stopped
        self._pause_s = 1 / rate if rate else 0.0
        self._next = monotonic()

    async def wait(self) -> bool:
        """Wait for the next turn; False: there is none, it is time to stop."""
        if (left_s := self._next - monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), left_s)
        # After a delay the time that was lost is not made up for.
        self._next = max(self._next, monotonic()) + self._pause_s
        return not self.stopped.is_set()


def _end_if_stopped(stopped: asyncio.Event) -> None:
    if stopped.is_set():
        print("stopped; the same command goes on with the rest", file=sys.stderr)
        sys.exit(_STOPPED)
