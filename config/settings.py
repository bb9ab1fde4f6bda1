"""What an operator can set, where it is read from and what is accepted.

Names: `REDIS_URL`, `DATABASE_URL` and `LOG_LEVEL` as the control plane has them; everything else
`CAPSULES_<NAME>` in the environment and `<name>` in the TOML file. The environment wins.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core.core_schema import ValidationInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.mistakes import SettingsError, describe
from config.sink_types import BUILT_IN, check_options
from config.sinks import (
    SINK_MODELS,
    DeliverySettings,
    LogSinkSettings,
    PluginSinkSettings,
    SinkSettings,
    WebhookSinkSettings,
)
from config.sources import (
    SecretPlaces,
    decode_sinks,
    env_name,
    fetch_secrets,
    read_file,
    unknown_names,
)
from config.urls import (
    EMBEDDED,
    check_postgres_url,
    check_redis_url,
    mask_url,
    redis_database,
    redis_hosts,
)

__all__ = [
    "EMBEDDED",
    "DeliverySettings",
    "LogSinkSettings",
    "PluginSinkSettings",
    "Settings",
    "SettingsError",
    "SinkSettings",
    "WebhookSinkSettings",
    "env_name",
    "load_settings",
    "mask_url",
]


class Settings(BaseSettings):
    """Everything an operator can set. Immutable; made by `load_settings`, or directly in a test.

    `_s` is seconds, `_ms` milliseconds, `_bytes` bytes.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    redis_url: Annotated[str, AfterValidator(check_redis_url)] = EMBEDDED
    """`redis://` or `rediss://` URL; `embedded` starts a Valkey under the data directory."""
    redis_sentinel: str = Field(
        default="", pattern=r"^[A-Za-z0-9._-]{0,128}$", validate_default=True
    )
    """What Sentinel calls the primary; `REDIS_URL` then has the Sentinels: `redis://s1,s2:26380/0`."""
    redis_cluster: Literal["on", "off"] = Field(default="off", validate_default=True)
    """`on`: `REDIS_URL` has nodes of a Redis Cluster, one or more, separated by commas."""
    database_url: Annotated[str, AfterValidator(check_postgres_url)] = EMBEDDED
    """`postgresql://` URL of the control plane's database; `embedded` starts a PostgreSQL."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """What the log shows at least."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: for people on a terminal, JSON lines anywhere else."""

    app_id: str = Field(
        default="wrenn-sandbox-reconciler-v1", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
    )
    """The consumer group at the source, and part of the name of every key of ours."""
    worker_name: str = Field(default="", pattern=r"^[A-Za-z0-9._:@-]{0,128}$")
    """How this worker is called in leases and logs; empty: host name and process id."""
    source_stream: str = Field(default="wrenn:events", pattern=r"^[!-~]{1,256}$")
    """The producer's stream."""
    source_start_id: str = Field(default="$", pattern=r"^(\$|\d{1,20}(-\d{1,20})?)$")
    """Where a new consumer group starts: `$` (from now on), `0` (all there is) or an entry id."""

    foreign_idle_s: float = Field(default=60.0, ge=1, le=86_400)
    """How long entries that another consumer holds in our group are idle before we take them."""

    partitions: int = Field(default=16, ge=1, le=256)
    """Streams per topic of ours. Recorded in Redis by the first worker; see `repartition`."""
    fetch_count: int = Field(default=1000, ge=1, le=10_000)
    """Entries asked for per partition and read."""
    prefetch_entries: int = Field(default=2000, ge=1, le=100_000, validate_default=True)
    """Entries per partition that are delivered and not settled; above, it is not read."""
    gather_ms: float = Field(default=8.0, ge=0, le=1000)
    """How long a steady flow gathers before a read; what comes after a pause is read at once."""
    payload_max_bytes: int = Field(default=262_144, ge=1024, le=64 * 1024 * 1024)
    """Larger payloads are dead letters, and not parsed."""
    lane_batch_max: int = Field(default=1000, ge=1, le=10_000)
    """Events per SQL statement."""

    lease_s: float = Field(default=10.0, ge=1, le=60)
    """How long after a worker's death another one takes over."""
    drain_timeout_s: float = Field(default=20.0, ge=0, le=3600)
    """How long a worker that is told to stop may finish what it has started."""
    stall_after_s: float = Field(default=60.0, ge=1, le=3600)
    """How long nothing may move, with entries in hand, before a worker says that it stalls."""
    redis_timeout_s: float = Field(default=5.0, ge=0.1, le=60)
    """Bound on connecting to Redis and on each of its answers."""
    read_block_ms: int = Field(default=2000, ge=1, validate_default=True)
    """How long one read waits in Redis for new entries; less than `redis_timeout_s`."""

    postgres_pool_size: int = Field(default=6, ge=1, le=100)
    """Connections at most; effects take two, and one for each verb where something is refused."""
    postgres_connect_timeout_s: float = Field(default=5.0, ge=1, le=60)
    """Bound on making a connection to Postgres."""
    statement_timeout_ms: int = Field(default=10_000, ge=1, le=3_600_000)
    """Bound on one statement, kept by the server."""
    lock_timeout_ms: int = Field(default=3_000, ge=1, le=3_600_000)
    """Bound on waiting for a row that somebody else has locked."""

    housekeeping_interval_s: float = Field(default=600.0, ge=1, le=86_400)
    """How often one worker of the fleet removes what is kept no longer."""
    watermark_keep_days: int = Field(default=30, ge=1, le=3650)
    """How long the watermark of a capsule that is gone is kept after it has moved last."""
    dead_letter_keep_days: int = Field(default=30, ge=1, le=3650)
    """How long a dead letter is kept after it was replayed or discarded."""
    dead_letters_max: int = Field(default=100_000, ge=1, le=10_000_000)
    """Dead letters that the table holds; beyond, resolved ones go first, then the oldest."""
    deliveries_kept: int = Field(default=1_000, ge=0, le=100_000)
    """Deliveries to each sink that are recorded, the newest ones; 0: none."""

    data_dir: Path = Path(".data")
    """Where the embedded servers keep their data."""
    web_port: int = Field(default=0, ge=0, le=65_535)
    """Port of Faust's web server; 0: none."""
    web_bind: str = Field(default="127.0.0.1", pattern=r"^[A-Za-z0-9.:-]{1,253}$")
    """Address that the web server listens on."""
    web_token: SecretStr = SecretStr("")
    """Who has it may replay and discard on the page `/topology`; empty: it is read-only."""
    traces: Literal["off", "otlp"] = "off"
    """`otlp`: send traces, as `OTEL_*` variables say; needs the extra `otel` (docs/traces.md)."""
    ready_file: str = Field(default="", pattern=r"^[^\x00]{0,4096}$")
    """A file that the worker touches once a second while it is ready; empty: none."""
    sinks: tuple[SinkSettings, ...] = ()
    """Hook sinks: a JSON list in the environment, `[[sinks]]` tables in TOML."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments only: `load_settings` reads the environment, so that a test need not."""
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: object) -> object:
        # `partitions = true` in TOML would otherwise be one partition.
        if isinstance(value, bool):
            raise ValueError("expected no true or false here")  # noqa: TRY004 pydantic's way
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _level_as_others_write_it(cls, value: object) -> object:
        # LOG_LEVEL is shared with the control plane, whose language says WARN.
        level = value.lower() if isinstance(value, str) else value
        return "warning" if level == "warn" else level

    @field_validator("redis_sentinel")
    @classmethod
    def _sentinels_are_given(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("redis_url") == EMBEDDED:
            raise ValueError("expected the Sentinels' hosts in REDIS_URL, which is 'embedded'")
        return value

    @field_validator("redis_cluster")
    @classmethod
    def _one_topology(cls, value: str, info: ValidationInfo) -> str:
        url, sentinel = info.data.get("redis_url"), info.data.get("redis_sentinel")
        if url is None or sentinel is None:  # a mistake itself
            return value
        if value == "off":
            if len(redis_hosts(url)) > 1 and not sentinel:
                raise ValueError(
                    "expected 'on', or CAPSULES_REDIS_SENTINEL to be set,"
                    " where REDIS_URL has more than one host"
                )
        elif sentinel:
            raise ValueError("expected 'off' where CAPSULES_REDIS_SENTINEL is set")
        elif url == EMBEDDED:
            raise ValueError("expected the cluster's hosts in REDIS_URL, which is 'embedded'")
        elif redis_database(url) != 0:
            raise ValueError("expected database 0 in REDIS_URL: a cluster has no other")
        return value

    @field_validator("source_stream")
    @classmethod
    def _source_is_in_our_slot(cls, value: str, info: ValidationInfo) -> str:
        # Our keys have the source's name as their hash tag; a name with a tag of its own, or
        # with a brace that ends ours early, is in another slot.
        if info.data.get("redis_cluster") == "on" and not {"{", "}"}.isdisjoint(value):
            raise ValueError("expected no braces in it where CAPSULES_REDIS_CLUSTER is 'on'")
        return value

    @field_validator("read_block_ms")
    @classmethod
    def _block_ends_before_timeout(cls, value: int, info: ValidationInfo) -> int:
        # A read that blocks longer than the socket's timeout fails each time the stream is idle.
        timeout_s = info.data.get("redis_timeout_s")  # absent when it is a mistake itself
        if timeout_s is not None and value >= timeout_s * 1000:
            raise ValueError(f"expected less than redis_timeout_s, which is {timeout_s:g} s")
        return value

    @field_validator("prefetch_entries")
    @classmethod
    def _one_read_fits(cls, value: int, info: ValidationInfo) -> int:
        # A partition is read only while a whole read fits: with less it would never be.
        fetch_count = info.data.get("fetch_count")
        if fetch_count is not None and value < fetch_count:
            raise ValueError(f"expected at least fetch_count, which is {fetch_count}")
        return value

    @field_validator("web_token")
    @classmethod
    def _token_cannot_be_guessed(cls, value: SecretStr) -> SecretStr:
        token = value.get_secret_value()
        if token and not (len(token) >= 16 and token.isascii() and token.isprintable()):
            raise ValueError("expected at least 16 printable ASCII characters")
        return value

    @field_validator("traces")
    @classmethod
    def _traces_can_be_made(cls, value: str) -> str:
        if value == "otlp" and not _is_installed("opentelemetry.exporter.otlp.proto.http"):
            raise ValueError("expected 'off' where the extra 'otel' is not installed")
        return value

    @field_validator("sinks")
    @classmethod
    def _names_differ(cls, sinks: tuple[SinkSettings, ...]) -> tuple[SinkSettings, ...]:
        names = [sink.name for sink in sinks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"expected different names, but twice: {', '.join(twice)}")
        return sinks


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


class _EnvironmentSource(PydanticBaseSettingsSource):
    """Reads the given mapping, not `os.environ`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self._environ = environ

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._environ.get(env_name(field_name)), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self._environ.get(env_name(name)) for name in Settings.model_fields}
        return {name: value for name, value in found.items() if value is not None}


def load_settings(environ: Mapping[str, str] | None = None, *, cwd: Path | None = None) -> Settings:
    """Read the environment, then the TOML file it names; the environment wins.

    `environ` and `cwd` default to the process's own, read now and not at import. Relative paths
    in the settings are taken from `cwd`. Raises SettingsError with every mistake there is.
    """
    environ = os.environ if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd.absolute()
    mistakes: list[str] = []
    from_file = read_file(environ, cwd, mistakes)
    from_env = _EnvironmentSource(environ)()
    if "sinks" in from_env:
        decode_sinks(from_env, mistakes)
    merged = {**from_file, **from_env}
    known = {name: value for name, value in merged.items() if name in Settings.model_fields}
    places, called = SecretPlaces(environ, cwd), _caller_of("sinks", from_env)
    fetched: dict[int, dict[str, Any]] = {
        **fetch_secrets(known.get("sinks"), places, called, mistakes),
        **_fetch_options(known.get("sinks"), places, called, mistakes),
    }
    mistakes += unknown_names(environ, from_file, known.get("sinks"), Settings.model_fields)
    try:
        settings = Settings(**known)
    except ValidationError as error:
        mistakes += [
            describe(detail, lambda field: _caller_of(field, from_env, from_file), _known_at)
            for detail in error.errors(include_url=False)
        ]
    if mistakes:
        raise SettingsError(mistakes)
    sinks = tuple(
        sink.model_copy(update=_in_place(sink, fetched.get(i, {})))
        for i, sink in enumerate(settings.sinks)
    )
    return settings.model_copy(update={"sinks": sinks, "data_dir": cwd / settings.data_dir})


def _fetch_options(
    sinks: object, places: SecretPlaces, called: str, mistakes: list[str]
) -> dict[int, dict[str, Any]]:
    """Check the options of plugins, and fetch what they refer to, by the sink's place."""
    found: dict[int, dict[str, Any]] = {}
    for i, sink in enumerate(sinks if isinstance(sinks, list) else []):
        kind, options = (
            (sink.get("type"), sink.get("options", {})) if isinstance(sink, dict) else (None, {})
        )
        # What is no text or no table is told by the model.
        if isinstance(kind, str) and kind and kind not in BUILT_IN and isinstance(options, dict):
            checked = check_options(f"{called}[{i}]", kind, options, places, mistakes)
            found[i] = {"options": checked}
    return found


def _in_place(sink: SinkSettings, fetched: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields to set: values where they belong, and no references to them."""
    references = [f"{name}_{kind}" for name in fetched for kind in ("env", "file")]
    fields = type(sink).model_fields
    return {**fetched, **{name: None for name in references if name in fields}}


def _caller_of(
    field: str, from_env: Mapping[str, Any], from_file: Mapping[str, Any] | None = None
) -> str:
    """Return what the operator who gave this field calls it."""
    given_in_file = from_file is None or field in from_file
    return field if given_in_file and field not in from_env else env_name(field)


def _known_at(location: tuple[int | str, ...]) -> Iterable[str]:
    if len(location) == 4 and location[0] == "sinks":
        return SINK_MODELS[str(location[2])].model_fields
    return Settings.model_fields
