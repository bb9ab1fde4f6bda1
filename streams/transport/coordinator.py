"""Which partitions this worker reads: it looks at the fleet's table and does its part.

A partition that must go elsewhere is given up in this order, and the others are not disturbed:
it is read no more; the work that was begun on its entries is finished and acknowledged, within
`drain_timeout_s`; whatever else was in hand is dropped, and stays pending in Redis; only then
may another worker have it, and begins with what is pending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import structlog

from .errors import PartitionsChangedError, TransportError
from .fleet import Fleet, Table
from .layout import Stream
from .ledger import Ledger
from .options import Settle, TransportOptions
from .reader import Reader
from .sharing import plan
from .trouble import Trouble

__all__ = ["Coordinator", "partition_name"]

log = structlog.get_logger(__name__)

#: Looks at the table per lease, at least, and how long a look may be away from the last.
_LOOKS = 8
_LOOK_MAX_S = 0.5


class Listener(Protocol):
    """Who is told of terms, as they begin and however they end."""

    def watch(self, stream: Stream) -> None:
        """A term over `stream` begins; nothing of it was read yet."""

    def forget(self, stream: Stream) -> None:
        """It has ended: drop all that is kept of its entries."""


def partition_name(stream: Stream) -> str:
    """The name of a partition in the fleet's table."""
    return f"{stream.tp.topic}:{stream.tp.partition}"


class Coordinator:
    """Takes and gives up partitions.

    Arguments:
        listeners: are told when a term over a partition begins and ends.
        note_parts: writes down for the next owner what cannot be acknowledged.
        check_topics: raises if a topic is recorded with another number of partitions.
        make_groups: makes the groups that are missing, which were there when this worker joined.
    """

    def __init__(
        self,
        fleet: Fleet,
        reader: Reader,
        ledger: Ledger,
        *,
        options: TransportOptions,
        listeners: Iterable[Listener],
        note_parts: Callable[[Iterable[Stream]], Awaitable[None]],
        check_topics: Callable[[Iterable[str]], Awaitable[None]],
        make_groups: Callable[[Iterable[Stream]], Awaitable[None]],
    ) -> None:
        self._fleet = fleet
        self._reader = reader
        self._ledger = ledger
        self._options = options
        self._listeners = tuple(listeners)
        self._note_parts = note_parts
        self._check_topics = check_topics
        self._make_groups = make_groups
        self._streams: dict[str, Stream] = {}
        self._held: dict[str, Stream] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        #: Given up since `run` has last looked: by what it saw then they are still this worker's.
        self._given_up: set[str] = set()
        self._looking = asyncio.Lock()
        self._stopping = False
        #: No member any more; a beat would make one of this worker again.
        self._left = False
        self.trouble = Trouble()

    def held(self) -> list[Stream]:
        """The streams this worker reads now."""
        return list(self._held.values())

    def would_read(self, streams: Iterable[Stream]) -> None:
        """Take part in the sharing of `streams` from now on."""
        self._streams |= {partition_name(stream): stream for stream in streams}
        self._fleet.would_read(
            self._streams,
            {
                stream.tp.topic: stream.config.counts_as
                for stream in self._streams.values()
                if stream.config.counts_as is not None
            },
        )

    async def register_reader(self, client_id: int) -> None:
        """Make the reader's connection known; to be called before it reads.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        await self._fleet.reads_over(client_id)
        await self._look()

    async def run(self) -> None:
        """Look at the table and do this worker's part, until cancelled.

        Raises:
            PartitionsChangedError: the partitions this worker knows are no longer those there are.
        """
        pause_s = min(self._options.lease_s / _LOOKS, _LOOK_MAX_S)
        while not self._left:
            try:
                self._given_up.clear()
                table = await self._look()
                if not self._stopping:
                    await self._do_part(table)
                self.trouble.end()
            except PartitionsChangedError:
                raise
            except TransportError as exc:
                self.trouble.fail(exc)
                log.warning("fleet not reached", action="fleet_retry", error=str(exc))
            if not self._fleet.is_usable():
                self._drop(list(self._held), why="the lease has run out")
            elif self._reader.waits_to_read:
                self._reader.wake()
            await asyncio.sleep(pause_s)

    async def _look(self) -> Table:
        async with self._looking:
            if self._left:
                return Table((), {})
            held = list(self._held)  # what is taken meanwhile may not be in the table yet
            table = await self._fleet.beat()
            # Nothing is awaited between the beat and this.
            lost = [
                name
                for name in held
                if name in self._held and table.owners.get(name) != self._fleet.token
            ]
            self._drop(lost, why="it is another worker's")
        return table

    def _drop(self, names: list[str], *, why: str) -> None:
        for name in names:
            stream = self._held.pop(name)
            self._end_term(stream)
            log.warning("partition lost", action="partition_lost", partition=name, why=why)
        if names:
            self._reader.wake()

    def _end_term(self, stream: Stream) -> None:
        self._reader.forget(stream)
        self._ledger.close(stream.tp)
        for listener in self._listeners:
            listener.forget(stream)

    async def _do_part(self, table: Table) -> None:
        move = plan(self._fleet.token, table.members, table.owners)
        for name in move.release:
            if name in self._held and name not in self._leaving:
                self._leaving[name] = asyncio.create_task(self._give_up(name), name=f"-{name}")
        if move.acquire:
            # Their number changes only where nobody is a member. This worker was one at its last
            # beat; if it is none any more, it acquires nothing.
            await self._check_topics({self._streams[name].tp.topic for name in move.acquire})
        taken = await self._fleet.acquire(move.acquire)
        # What is ours in the table and not in hand was dropped while Redis was away. Or it was
        # given up while we asked, and is another worker's by now.
        ours = {name for name, token in table.owners.items() if token == self._fleet.token}
        await self._take([*taken, *(ours - self._leaving.keys() - self._given_up)])

    async def _take(self, names: list[str]) -> None:
        new = {
            name: self._streams[name]
            for name in names
            if name in self._streams and name not in self._held
        }
        if not new:
            return
        await self._make_groups(new.values())
        for name, stream in new.items():
            self._ledger.open(stream.tp)
            self._held[name] = stream
            for listener in self._listeners:
                listener.watch(stream)
        self._reader.add(new.values())
        log.info("partitions taken", action="partitions_taken", partitions=sorted(new))

    async def _give_up(self, name: str) -> None:
        try:
            stream = self._held.get(name)
            if stream is None:
                return  # dropped before this began, as a worker that was frozen does
            try:
                async with asyncio.timeout(self._options.drain_timeout_s):
                    await self._finish([stream], stopping=False)
            except TimeoutError:
                log.warning("partition given up unfinished", action="drain_timeout", partition=name)
            if self._held.pop(name, None) is not None:
                self._end_term(stream)
            await self._fleet.release([name])
            log.info("partition given up", action="partition_given_up", partition=name)
        except TransportError as exc:
            # It stays ours in the table; the next look takes it up again or gives it up.
            log.warning("partition not given up", action="fleet_retry", error=str(exc))
        finally:
            del self._leaving[name]
            self._given_up.add(name)

    async def _finish(self, streams: list[Stream], *, stopping: bool) -> None:
        """Read no more of `streams`, and finish what was begun."""
        for stream in streams:
            self._ledger.begin_closing(stream.tp)
        await self._reader.remove(streams)
        for stream in streams:
            # Faust cannot be told to begin nothing more of one partition. When it stops, it
            # throws away what it has not begun.
            everything = stream.config.settle is Settle.FAUST and not stopping
            await self._ledger.wait_finished(stream.tp, everything=everything)
        await self._note_parts(streams)

    async def finish_all(self) -> None:
        """Take nothing more, and finish what was begun on anything; the caller bounds the time."""
        self._stopping = True
        await self._finish(self.held(), stopping=True)

    async def leave(self) -> None:
        """Give everything up at once and be no member any more.

        Raises:
            TransportError: Redis is unreachable or refuses.
        """
        self._stopping = True
        for task in self._leaving.values():
            task.cancel()
        streams = self.held()
        self._held.clear()
        for stream in streams:
            self._end_term(stream)
        # Also of what was dropped meanwhile: nobody may be there to take it over.
        await self._reader.retire_names(self._streams.values())
        async with self._looking:
            # A beat behind the farewell would leave a ghost, to which the others would leave its
            # share for the length of a lease.
            self._left = True
            await self._fleet.leave()
        log.info("fleet left", action="fleet_left", partitions=len(streams))
