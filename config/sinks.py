"""Which hook sinks receive which events, and with which keys."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from config.urls import check_http_url

SinkName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
"""Part of a topic's name, a metric's label and a page's address: hence so narrow."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105
# Standard Webhooks: "between 24 bytes (192 bits) and 64 bytes (512 bits)".
_KEY_BYTES_MIN: Final = 24
_KEY_BYTES_MAX: Final = 64
_EXPECTED_SECRET: Final = (
    f"expected {SECRET_PREFIX} and {_KEY_BYTES_MIN} to {_KEY_BYTES_MAX} bytes in base64"
)
_TEXT_SECRET_MIN: Final = 16


def check_signing_secret(secret: SecretStr, scheme: object = "standard") -> SecretStr:
    """Return a webhook's secret as given; ValueError, without it, when it is none.

    `standard`: as Standard Webhooks has them; `wrenn`: any text that is not too short.
    """
    text = secret.get_secret_value()
    if scheme == "wrenn":
        if len(text) < _TEXT_SECRET_MIN:
            raise ValueError(f"expected at least {_TEXT_SECRET_MIN} characters")
        return secret
    prefix, _, encoded = text.partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(_EXPECTED_SECRET) from None
    if f"{prefix}_" != SECRET_PREFIX or not _KEY_BYTES_MIN <= len(key) <= _KEY_BYTES_MAX:
        raise ValueError(_EXPECTED_SECRET)
    return secret


def _check_team(text: str) -> str:
    prefix, _, number = text.partition("-")
    digits = set("0123456789abcdefghijklmnopqrstuvwxyz")
    if prefix != "team" or len(number) != 25 or not digits.issuperset(number):
        raise ValueError("expected the id of a team: team- and 25 of 0-9 and a-z")
    if int(number, 36) >= 2**128:
        raise ValueError("expected the id of a team, which is below 2^128")
    return text


def _check_not_empty(wanted: tuple[str, ...]) -> tuple[str, ...]:
    # Not min_length: that is told as well when an item is no good.
    if not wanted:
        raise ValueError("expected at least one; leave it out to want all")
    return wanted


EventType = Literal["created", "paused", "resumed", "destroyed"]
EventTypes = Annotated[tuple[EventType, ...], AfterValidator(_check_not_empty)]
TeamIds = Annotated[
    tuple[Annotated[str, AfterValidator(_check_team)], ...], AfterValidator(_check_not_empty)
]


class _SinkSettings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    name: SinkName
    #: What the sink wants, of which teams; an event that it does not want is done at once.
    events: EventTypes | None = None
    teams: TeamIds | None = None


class DeliverySettings(_SinkSettings):
    """How deliveries are made, whatever the sink."""

    #: Attempts at the same time; None: what suits the type.
    concurrency: int | None = Field(default=None, ge=1, le=1000)
    timeout_s: float = Field(default=10.0, gt=0, le=300)
    #: Of the whole fleet; None: as fast as it goes.
    rate_limit_per_s: float | None = Field(default=None, gt=0, le=100_000)
    #: Whether a capsule's deliveries come one after the other.
    ordered: bool = Field(default=True, strict=True)
    #: From its first attempt on; a delivery that was not taken by then is a dead letter.
    retry_for_s: float = Field(default=259_200.0, ge=0, le=31_536_000)
    #: Behind the first failed attempt, and the longest it grows to.
    retry_pause_min_s: float = Field(default=0.5, gt=0, le=3600)
    retry_pause_max_s: float = Field(default=60.0, gt=0, le=3600, validate_default=True)
    #: Failures in a row that open the breaker, and how long it is open before it is probed.
    breaker_failures: int = Field(default=10, ge=1, le=10_000)
    breaker_pause_s: float = Field(default=5.0, gt=0, le=3600)

    #: Entries in the sink's topic at most, and what becomes of more.
    backlog_max: int = Field(default=1_000_000, ge=1, le=1_000_000_000)
    at_backlog_max: Literal["hold", "dead_letter_oldest"] = "hold"

    @field_validator("retry_pause_max_s")
    @classmethod
    def _pauses_grow(cls, value: float, info: ValidationInfo) -> float:
        least = info.data.get("retry_pause_min_s")  # absent when it is a mistake itself
        if least is not None and value < least:
            raise ValueError(f"expected at least retry_pause_min_s, which is {least:g} s")
        return value


class LogSinkSettings(DeliverySettings):
    """A sink that writes each event to the log."""

    type: Literal["log"] = "log"


class WebhookSinkSettings(DeliverySettings):
    """A sink that posts each event, signed, to an address.

    Exactly one of `secret`, `secret_env` (the name of an environment variable) and `secret_file`
    (a path, from the working directory) says where the signing key is. `next_secret` likewise, or
    none of them: while a key is changed, both sign. What `load_settings` returns always has the
    keys in `secret` and `next_secret`, and the others empty.
    """

    type: Literal["webhook"] = "webhook"
    url: Annotated[str, AfterValidator(check_http_url)]
    scheme: Literal["standard", "wrenn"] = "standard"
    secret: SecretStr | None = None
    secret_env: str | None = Field(default=None, min_length=1)
    secret_file: str | None = Field(default=None, min_length=1)
    next_secret: SecretStr | None = None
    next_secret_env: str | None = Field(default=None, min_length=1)
    next_secret_file: str | None = Field(default=None, min_length=1)
    #: Whether it may be on this machine or in a private network.
    allow_private: bool = Field(default=False, strict=True)

    @model_validator(mode="after")
    def _has_one_secret(self) -> WebhookSinkSettings:
        given = (self.secret, self.secret_env, self.secret_file)
        if sum(value is not None for value in given) != 1:
            raise ValueError("expected exactly one of secret, secret_env and secret_file")
        following = (self.next_secret, self.next_secret_env, self.next_secret_file)
        if sum(value is not None for value in following) > 1:
            raise ValueError(
                "expected at most one of next_secret, next_secret_env and next_secret_file"
            )
        for name in ("secret", "next_secret"):
            secret: SecretStr | None = getattr(self, name)
            if secret is not None:
                try:
                    check_signing_secret(secret, self.scheme)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        return self


class PluginSinkSettings(DeliverySettings):
    """A sink of any other type: one that is installed, or `package.module:Class`.

    `options` is the sink's own, read by its own model (:mod:`config.sink_types`). What
    `load_settings` returns has the values there that were given by `<option>_env` and
    `<option>_file`, hence it is not shown.
    """

    type: str = Field(min_length=1, max_length=200)
    options: dict[str, Any] = Field(default_factory=dict, repr=False)
    #: Of a sink that takes batches: events in one, and how long the first waits for the others.
    batch_max_events: int = Field(default=100, ge=1, le=500)
    batch_max_age_s: float = Field(default=1.0, gt=0, le=60)


def _kind(given: object) -> str:
    name = given.get("type") if isinstance(given, Mapping) else getattr(given, "type", None)
    return str(name) if name in ("log", "webhook") else "plugin"


SinkSettings = Annotated[
    Annotated[LogSinkSettings, Tag("log")]
    | Annotated[WebhookSinkSettings, Tag("webhook")]
    | Annotated[PluginSinkSettings, Tag("plugin")],
    Discriminator(_kind),
]
"""One configured sink; its `type` says which kind."""

SINK_MODELS: Final[Mapping[str, type[BaseModel]]] = {
    "log": LogSinkSettings,
    "webhook": WebhookSinkSettings,
    "plugin": PluginSinkSettings,
}
