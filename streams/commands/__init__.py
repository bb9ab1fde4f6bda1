"""Commands under ``faust -A streams.app``: importing this package registers them with Faust."""

from __future__ import annotations

from streams.commands.migrate import migrate
from streams.commands.publish import publish
from streams.commands.repartition import repartition
from streams.commands.run import run
from streams.commands.status import status
from streams.commands.topology import topology

__all__ = ["migrate", "publish", "repartition", "run", "status", "topology"]
