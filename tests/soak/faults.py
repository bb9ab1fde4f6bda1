"""What may happen to a run at any moment, each for a while, and over when its function returns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import psycopg2

from config.ephemeral import EphemeralServers
from tests.reconciliation import Ground
from tests.soak.crew import Crew
from tests.soak.sink import MOODS, MoodySink

__all__ = ["FAULTS", "Field"]


@dataclass
class Field:
    """What faults can get at."""

    rng: random.Random
    servers: EphemeralServers
    ground: Ground
    crew: Crew
    sink: MoodySink
    lease_s: float


def kill_a_worker(field: Field) -> str:
    """SIGKILL, and another worker in its place."""
    name = field.crew.any_but_the_kept(field.rng)
    field.crew.kill(name)
    return name


def stop_a_worker(field: Field) -> str:
    """SIGTERM, and another worker in its place."""
    name = field.crew.any_but_the_kept(field.rng)
    field.crew.stop(name)
    return name


def freeze_a_worker(field: Field) -> str:
    """SIGSTOP for half a lease up to three, then SIGCONT: any worker."""
    name = field.rng.choice(sorted(field.crew.workers))
    seconds = field.rng.uniform(0.5, 3) * field.lease_s
    field.crew.freeze(name, seconds)
    return f"{name} for {seconds:.1f} s"


def kill_postgres(field: Field) -> str:
    """SIGKILL, and a start with recovery after a while."""
    field.servers.kill_postgres()
    seconds = field.rng.uniform(0, 2)
    time.sleep(seconds)  # the fault itself
    field.servers.start_postgres()
    return f"away for {seconds:.1f} s"


def end_sessions_of_postgres(field: Field) -> str:
    """All sessions of the workers end in the middle of what they do."""
    with field.ground.cursor() as cursor:
        cursor.execute(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        (ended,) = cursor.fetchone()
    return f"{ended} sessions"


def hold_rows(field: Field) -> str:
    """Somebody's transaction holds one row in three for two seconds."""
    with (
        closing(psycopg2.connect(field.ground.database_url)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("set lock_timeout = '5s'")
        cursor.execute("select id from sandboxes where hashtext(id::text) % 3 = 0 for update")
        time.sleep(2)  # the fault itself
        return f"{cursor.rowcount} rows"


def kill_redis(field: Field) -> str:
    """SIGKILL, and a start from the append-only file after a while."""
    field.servers.kill_redis()
    seconds = field.rng.uniform(0, 1.5)
    time.sleep(seconds)  # the fault itself
    field.servers.start_redis()
    return f"away for {seconds:.1f} s"


def cut_connections_of_redis(field: Field) -> str:
    """All connections end, the publisher's too."""
    with field.ground.redis() as client:
        cut = client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    return f"{cut} connections"


def pause_redis(field: Field) -> str:
    """Redis answers nobody, or takes no writes, for up to two seconds."""
    pause_ms = field.rng.randrange(200, 2_000)
    mode = field.rng.choice(("ALL", "WRITE"))
    with field.ground.redis() as client:
        client.execute_command("CLIENT", "PAUSE", pause_ms, mode)
    time.sleep(pause_ms / 1000)  # the fault itself
    return f"{mode} for {pause_ms} ms"


def upset_the_sink(field: Field) -> str:
    """The sink refuses, asks to be left alone, or does not answer, for up to four seconds."""
    mood = field.rng.choice(MOODS)
    seconds = field.rng.uniform(1, 4)
    field.sink.mood = mood
    time.sleep(seconds)  # the fault itself
    field.sink.mood = "well"
    return f"{mood} for {seconds:.1f} s"


FAULTS: Final[tuple[Callable[[Field], str], ...]] = (
    kill_a_worker,
    stop_a_worker,
    freeze_a_worker,
    kill_postgres,
    end_sessions_of_postgres,
    hold_rows,
    kill_redis,
    cut_connections_of_redis,
    pause_redis,
    upset_the_sink,
)
