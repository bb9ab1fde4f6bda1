from __future__ import annotations

from streams.commands.command import ReconcilerCommand


class publish(ReconcilerCommand):
    """x"""

    async def run(self) -> None:
        """x"""
