from __future__ import annotations

from streams.commands.command import ReconcilerCommand


class run(ReconcilerCommand):
    """x"""

    async def run(self) -> None:
        """x"""
