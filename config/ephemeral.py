"""Throw-away servers for tests: quick to start, and each can be stopped, killed and restarted."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final, Literal

from config.postgres_server import PostgresServer
from config.server_process import free_port
from config.valkey_server import ValkeyServer

_STOP_SIGNALS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class EphemeralServers:
    """A Valkey and a Postgres of their own in `directory`, on ports that stay the same.

    Data survive a stop and a kill of the server, as with real ones; without `fsync` they would
    not survive a crash of the machine. The directory is the caller's to remove.
    """

    def __init__(self, directory: Path, *, fsync: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.redis = ValkeyServer(directory / "valkey", free_port(), fsync=fsync)
        self.postgres = PostgresServer(directory / "postgres", free_port(), "wrenn", fsync=fsync)

    @property
    def redis_url(self) -> str:
        """The address of database 0."""
        return self.redis.url()

    @property
    def database_url(self) -> str:
        """The address of the database `wrenn`, empty at first."""
        return self.postgres.url()

    def start(self) -> EphemeralServers:
        """Start both; EmbeddedServerError if one does not come up."""
        try:
            self.start_redis()
            self.start_postgres()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop both, at once: what is in the directory is not needed any more."""
        self.kill_redis()
        self.stop_postgres("immediate")

    def start_redis(self) -> None:
        """Start Valkey with the data it had; nothing if it runs."""
        if self.redis.running_pid() is None:
            self.redis.start()

    def stop_redis(self) -> None:
        """Stop Valkey as an operator would."""
        self.redis.stop()

    def kill_redis(self) -> None:
        """End Valkey with SIGKILL."""
        self.redis.kill()

    def start_postgres(self) -> None:
        """Start Postgres with the data it had, after recovery; nothing if it runs."""
        if self.postgres.running_pid() is None:
            self.postgres.start()

    def stop_postgres(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop Postgres; `immediate` leaves it to recover when it starts, as a crash does."""
        self.postgres.stop(_STOP_SIGNALS[mode])

    def kill_postgres(self) -> None:
        """End the postmaster with SIGKILL; its children end when they notice."""
        self.postgres.kill()

    def __enter__(self) -> EphemeralServers:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
