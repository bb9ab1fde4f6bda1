"""Commands under ``faust -A streams.app``: importing this package registers them with Faust."""

from __future__ import annotations

from streams.commands.asyncapi import asyncapi
from streams.commands.dead_letters import List, Show
from streams.commands.dead_letters_orders import Discard, Replay
from streams.commands.doctor import doctor
from streams.commands.events import Tail
from streams.commands.gaps import gaps
from streams.commands.lag import lag
from streams.commands.migrate import migrate
from streams.commands.publish import publish
from streams.commands.repartition import repartition
from streams.commands.resync import resync
from streams.commands.run import run
from streams.commands.sink_backfill import Backfill
from streams.commands.sink_deliveries import Deliveries
from streams.commands.sink_redeliver import Redeliver
from streams.commands.sink_retire import Retire
from streams.commands.sinks import sinks
from streams.commands.sinks_pause import Pause, Resume
from streams.commands.status import status
from streams.commands.topology import top, topology
from streams.commands.workers import workers

__all__ = [
    "Backfill",
    "Deliveries",
    "Discard",
    "List",
    "Pause",
    "Redeliver",
    "Replay",
    "Resume",
    "Retire",
    "Show",
    "Tail",
    "asyncapi",
    "doctor",
    "gaps",
    "lag",
    "migrate",
    "publish",
    "repartition",
    "resync",
    "run",
    "sinks",
    "status",
    "top",
    "topology",
    "workers",
]
