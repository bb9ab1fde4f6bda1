"""``migrate``: make the reconciler's own schema, and what it needs for development."""

from __future__ import annotations

from faust.cli.base import option

from config.migrate import migrate as apply_migrations
from streams.commands.command import ReconcilerCommand

__all__ = ["migrate"]


class migrate(ReconcilerCommand):  # noqa: N801 - Faust names the command after the class
    """Make or update the reconciler's own schema in the control plane's database."""

    options = [  # noqa: RUF012 - Faust declares it on the instance
        option(
            "--dev",
            is_flag=True,
            help="Also make the control plane's tables sandboxes and audit_logs, if missing.",
        )
    ]

    async def run(self, dev: bool) -> None:
        """Apply what is missing."""
        names = apply_migrations(self.settings.database_url, dev=dev)
        for name in names:
            self.say(f"applied {name}")
        if not names:
            self.say("nothing to apply")
