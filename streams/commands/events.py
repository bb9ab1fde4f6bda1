"""``events tail``: entries as they come, or one capsule's way through all stages.

Exit codes: 0, also after Ctrl-C; 1, Redis or Postgres failed; 2, the line cannot be used.

With ``--json`` each line is one document, in ASCII; fields may be added to it, none are removed or
changed: ``at_s``, ``where``, ``source_id``, ``entry_id``, ``capsule_id``, ``verb``, ``outcome``,
``age_s`` (float or null), ``detail``.

``outcome`` is ``arrived`` at the source, ``routed`` into ``capsules``, ``to deliver`` in the topic
of a sink; ``bad`` or ``skip`` is what will become of it; and of a capsule that is followed also
what became of it: ``done``, ``skip``, ``retry`` and ``dead``, and at ``sink.<name>``, from the
record of deliveries, ``delivered`` and ``dead``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from uuid import UUID

import click
import redis.asyncio
from faust.cli.base import cli, option

from streams.capsule_trail import CapsuleTrail
from streams.commands.command import ReconcilerCommand
from streams.commands.lines import BAD_LINE, CAPSULE_ID, ENTRY_ID, NUMBER_MAX
from streams.commands.signals import stop_on_signals
from streams.ids import excerpt, format_capsule_id
from streams.printable import printable
from streams.recorded_topics import DEAD_LETTERS, RecordedTopics, read_recorded_topics
from streams.short import short_age
from streams.trail import Step, belongs, describe, follow, last_ids
from streams.transport import Stream, partition_of

__all__ = ["Tail", "events"]

_SOURCE: Final = "source"
_BLOCK_MS: Final = 500


@cli.group("events")
def events() -> None:
    """Look at entries as they pass, without taking any away from the workers."""


class _Start(click.ParamType):
    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return "$" if value == "$" else ENTRY_ID.convert(value, param, ctx)


class Tail(ReconcilerCommand):
    """Follow entries as they come, or with --capsule one capsule's way through every stage.

    Entries are read beside the consumer group, which is never touched. Streams behind the source
    are trimmed as soon as they are done with: an entry that passes between two looks is not shown
    there, but its effect in Postgres is. Ctrl-C ends it.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option("--capsule", type=CAPSULE_ID, metavar="ID", help="Only this capsule's: cl-..."),
        option(
            "--stream",
            metavar="NAME",
            help="source (default), capsules, hooks.<sink> or dead-letters.",
        ),
        option(
            "--from",
            "start",
            type=_Start(),
            default="$",
            show_default=True,
            metavar="ID|$",
            help="Begin at this entry of the stream; 0 is all there is, $ what comes from now on.",
        ),
        option("--count", type=click.IntRange(min=1), metavar="N", help="End after N lines."),
        option("--no-follow", is_flag=True, help="End when all that is there was shown."),
        option("--json", "as_json", is_flag=True, help="Print each line as JSON."),
    ]
    abstract: ClassVar[bool] = False

    @classmethod
    def as_click_command(cls) -> Callable[..., Any]:
        """Register the command in its group; Faust calls this when the class is made."""

        def run(*args: Any, **options: Any) -> None:
            cls(click.get_current_context(), *args, **options)()

        command = events.command("tail", help=cls.__doc__)(run)
        for parameter in cls.options or []:
            parameter(command)
        return command

    async def run(
        self,
        capsule: UUID | None,
        stream: str | None,
        start: str,
        count: int | None,
        no_follow: bool,
        as_json: bool,
    ) -> None:
        """Follow until told to stop."""
        with stop_on_signals() as stopped:
            async with self.redis() as client:
                topics = await read_recorded_topics(client, self.settings)
                streams = self._streams(topics, stream, capsule)
                trail = None
                if capsule is not None and stream is None:
                    trail = CapsuleTrail(client, topics.layout, self.settings, capsule)
                tail = _Tail(self, client, streams, capsule, trail, as_json=as_json, left=count)
                following = asyncio.create_task(tail.run(start, no_follow=no_follow))
                stopping = asyncio.create_task(stopped.wait())
                done, _ = await asyncio.wait(
                    (following, stopping), return_when=asyncio.FIRST_COMPLETED
                )
                for task in (following, stopping):
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await following if following in done else await asyncio.wait((following,))

    def _streams(
        self, topics: RecordedTopics, name: str | None, capsule: UUID | None
    ) -> list[Stream]:
        """Return the streams that are meant; of a capsule only its own partitions."""
        source = self.settings.source_stream
        known = {_SOURCE: source, **{topic: topic for topic in topics.names[1:]}}
        if name is not None and name not in known:
            print(
                f"--stream: {excerpt(name)} is unknown; there are: {', '.join(known)}",
                file=sys.stderr,
            )
            sys.exit(BAD_LINE)
        names = [known[name or _SOURCE]]
        if name is None and capsule is not None:
            names = list(topics.names)
        streams = topics.layout.all_streams(names)
        if capsule is None:
            return streams
        return [s for s in streams if s.tp.partition == _partition(topics, s, capsule)]


def _partition(topics: RecordedTopics, stream: Stream, capsule: UUID) -> int:
    if not stream.is_ours or stream.tp.topic == DEAD_LETTERS:
        return stream.tp.partition
    return partition_of(capsule.bytes, topics.layout.partitions(stream.tp.topic))


class _Tail:
    """Reads, picks and prints."""

    def __init__(
        self,
        command: Tail,
        client: redis.asyncio.Redis,
        streams: Sequence[Stream],
        capsule: UUID | None,
        trail: CapsuleTrail | None,
        *,
        as_json: bool,
        left: int | None,
    ) -> None:
        self._settings = command.settings
        self._client = client
        self._streams = streams
        self._capsule = capsule
        self._trail = trail
        self._as_json = as_json
        self._left = left

    async def run(self, start: str, *, no_follow: bool) -> None:
        block_ms = min(_BLOCK_MS, int(self._settings.redis_timeout_s * 500))
        after = await self._places(start)
        async for found in follow(self._client, self._streams, after, block_ms=block_ms):
            steps: list[Step] = []
            for one in found:
                known = self._trail.source_ids if self._trail else set()
                if self._capsule is not None and not belongs(one, self._capsule, known):
                    continue
                step = describe(one, payload_max_bytes=self._settings.payload_max_bytes)
                if self._capsule is not None and not step.capsule_id:
                    step = _of_capsule(step, self._capsule)
                if self._trail is not None:
                    self._trail.watch(one, step)
                steps.append(step)
            if self._trail is not None:
                steps += await self._trail.look()
            if not self._print(steps):
                return
            if no_follow and not found and (self._trail is None or self._trail.is_done):
                return

    async def _places(self, start: str) -> dict[bytes, bytes]:
        """Return behind which entry each stream is read; what is behind the source is all news."""
        if start == "$":
            return await last_ids(self._client, self._streams)
        ms, _, seq = start.partition("-")
        before = _before(int(ms), int(seq or 0))
        return {
            stream.key: b"0-0" if self._trail is not None and stream.is_ours else before
            for stream in self._streams
        }

    def _print(self, steps: Iterable[Step]) -> bool:
        """Print `steps`; False: nothing more is wanted."""
        try:
            for step in steps:
                print(_as_json_line(step) if self._as_json else _as_line(step), flush=True)
                if self._left is not None:
                    self._left -= 1
                    if not self._left:
                        return False
        except BrokenPipeError:
            # Whoever read has seen enough; the interpreter would complain at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return False
        return True


def _before(ms: int, seq: int) -> bytes:
    if seq:
        return f"{ms}-{seq - 1}".encode()
    return f"{ms - 1}-{NUMBER_MAX}".encode() if ms else b"0-0"


def _of_capsule(step: Step, capsule: UUID) -> Step:
    fields = step.as_dict() | {"capsule_id": format_capsule_id(capsule)}
    return Step(**fields)


def _as_json_line(step: Step) -> str:
    return json.dumps(step.as_dict(), ensure_ascii=True).replace("\x7f", "\\u007f")


def _as_line(step: Step) -> str:
    at = datetime.fromtimestamp(min(step.at_s, 253_402_300_799.0), UTC)
    age = "" if step.age_s is None else f"+{short_age(max(step.age_s, 0.0))}"
    # All of it may have been written by strangers.
    words = (
        f"{at:%H:%M:%S}.{at.microsecond // 1000:03}",
        f"{printable(step.source_id or step.entry_id):20}",
        f"{printable(step.where):20}",
        f"{printable(step.capsule_id):28}",
        f"{printable(step.verb):9}",
        f"{step.outcome:10}",
        f"{age:8}",
        printable(step.detail),
    )
    return " ".join(words).rstrip()
