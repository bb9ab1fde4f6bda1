"""``repartition``: change the number of partitions while the workers are stopped."""

from __future__ import annotations

import click
from faust.cli.base import option

from streams.commands.command import ReconcilerCommand
from streams.repartition import Change, Repartition
from streams.topics import key_prefix

__all__ = ["repartition"]


class repartition(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Change the recorded number of partitions; all workers must be stopped.

    Events may wait in the producer's stream meanwhile. Entries that are not done yet in our own
    topics are refused, or moved in order (--move).
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option("--partitions", type=click.IntRange(1, 256), required=True, help="The new number."),
        option("--move", is_flag=True, help="Move what is not done yet to its new partition."),
        option("--yes", is_flag=True, help="Do it; without, only say what would be done."),
    ]

    async def run(self, partitions: int, move: bool, yes: bool) -> None:
        """Look, and change the number where that is wanted."""
        async with self.redis() as client:
            change = await Repartition(
                client,
                key_prefix(self.settings),
                group=self.settings.app_id,
                partitions=partitions,
                silence_s=self.settings.lease_s + self.settings.read_block_ms / 1000,
            ).run(move=move, apply=yes)
        self.say(_summary(change, done=yes))


def _summary(change: Change, *, done: bool) -> str:
    new = change.partitions
    if not change.is_needed:
        return f"there are {new} partitions already"
    topics = ", ".join(f"{topic}: {old} -> {new}" for topic, old in change.recorded.items())
    moved = f", entries moved: {sum(change.left.values())}"
    if not done:
        return f"would change {topics}{moved}; nothing is changed without --yes"
    return f"changed {topics}{moved}; start the workers with CAPSULES_PARTITIONS={new}"
