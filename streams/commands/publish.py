"""``publish``: a control plane for development, which keeps the reconciler busy."""

from __future__ import annotations

import asyncio
import contextlib
import random
from time import monotonic
from typing import Final

import click
import redis.asyncio
from faust.cli.base import option

from streams.commands.command import ReconcilerCommand
from streams.commands.signals import stop_on_signals
from streams.simulation.rows import Batch, Origin, SandboxRows, find_sandboxes
from streams.simulation.simulation import Simulation
from streams.topics import PAYLOAD_FIELD
from streams.transport import broker_errors

__all__ = ["publish"]

# As the real producer trims.
_MAXLEN: Final = 10_000
_SHARE: Final = click.FloatRange(0, 0.45)


class publish(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Play a control plane with its hosts: write sandboxes, publish events (development only)."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option(
            "--count",
            type=click.IntRange(min=0),
            default=1000,
            show_default=True,
            help="Events to publish; 0: until Ctrl-C.",
        ),
        option(
            "--rate",
            type=click.FloatRange(min=0),
            default=0,
            show_default=True,
            help="Events per second; 0: as fast as possible.",
        ),
        option(
            "--capsules",
            type=click.IntRange(min=1),
            default=200,
            show_default=True,
            help="Capsules that live at the same time.",
        ),
        option("--seed", type=int, help="The same seed plays the same lives."),
        option(
            "--noise",
            type=_SHARE,
            default=0.1,
            show_default=True,
            help="Share of events that are to be skipped by rule.",
        ),
        option(
            "--bad",
            type=_SHARE,
            default=0.005,
            show_default=True,
            help="Share of events that cannot be read.",
        ),
    ]

    async def run(
        self,
        count: int,
        rate: float,
        capsules: int,
        seed: int | None,
        noise: float,
        bad: float,
    ) -> None:
        """Play until enough events are published, or until told to stop."""
        if find_sandboxes(self.settings.database_url) is not Origin.DEVELOPMENT:
            self.fail(
                "publish writes made-up sandboxes, and only where they do no harm: into a database"
                " whose tables `faust -A streams.app migrate --dev` has made"
            )
        if seed is None:
            seed = random.SystemRandom().getrandbits(32)
        simulation = Simulation(seed, capsules=capsules, noise=noise, bad=bad)
        started = monotonic()
        with stop_on_signals() as stopped:
            async with self.redis() as client:
                rows = await asyncio.to_thread(SandboxRows, self.settings.database_url)
                with contextlib.closing(rows):
                    player = _Player(client, rows, self.settings.source_stream, stopped)
                    await player.play(simulation, count=count, rate=rate)
        self.say(
            f"published {player.published:,} events in {monotonic() - started:.1f} s (seed {seed})"
        )


class _Player:
    """Plays the steps of a simulation on real servers."""

    def __init__(
        self, client: redis.asyncio.Redis, rows: SandboxRows, stream: str, stopped: asyncio.Event
    ) -> None:
        self.published = 0
        self._client = client
        self._rows = rows
        self._stream = stream
        self._stopped = stopped
        self._batch = Batch()

    async def play(self, simulation: Simulation, *, count: int, rate: float) -> None:
        """Play `count` events, or for ever; `rate` events per second, or all at once."""
        started = monotonic()
        played = 0
        for step in simulation.steps():
            if step.payload is not None:
                if count and played == count:
                    break
                if rate:
                    await self._wait_until(started + played / rate)
                played += 1
            if not self._batch.has_room_for(step):
                await self._flush()
            if self._stopped.is_set():
                break
            self._batch.add(step)
        await self._flush()

    async def _wait_until(self, moment: float) -> None:
        """Let time pass, if there is any left; what waits is not to wait longer."""
        if moment > monotonic():
            await self._flush()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), moment - monotonic())

    async def _flush(self) -> None:
        batch, self._batch = self._batch, Batch()
        await asyncio.to_thread(self._rows.write, batch)
        pipeline = self._client.pipeline(transaction=False)
        for payload in batch.payloads:
            pipeline.xadd(self._stream, {PAYLOAD_FIELD: payload}, maxlen=_MAXLEN, approximate=True)
        with broker_errors("XADD"):
            await pipeline.execute()
        self.published += len(batch.payloads)
