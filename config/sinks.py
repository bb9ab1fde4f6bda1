"""Which hook sinks receive the events, and with which keys."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
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


def check_signing_secret(secret: SecretStr) -> SecretStr:
    """Return a Standard Webhooks secret as given; ValueError, without it, when it is none."""
    prefix, _, encoded = secret.get_secret_value().partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError(_EXPECTED_SECRET) from None
    if f"{prefix}_" != SECRET_PREFIX or not _KEY_BYTES_MIN <= len(key) <= _KEY_BYTES_MAX:
        raise ValueError(_EXPECTED_SECRET)
    return secret


class _SinkSettings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    name: SinkName


class LogSinkSettings(_SinkSettings):
    """A sink that writes each event to the log."""

    type: Literal["log"] = "log"


class WebhookSinkSettings(_SinkSettings):
    """A sink that posts each event, signed, to an address.

    Exactly one of `secret`, `secret_env` (the name of an environment variable) and `secret_file`
    (a path, from the working directory) says where the signing key is. What `load_settings`
    returns always has it in `secret`, and the other two empty.
    """

    type: Literal["webhook"] = "webhook"
    url: Annotated[str, AfterValidator(check_http_url)]
    secret: Annotated[SecretStr, AfterValidator(check_signing_secret)] | None = None
    secret_env: str | None = Field(default=None, min_length=1)
    secret_file: str | None = Field(default=None, min_length=1)
    timeout_s: float = Field(default=10.0, gt=0, le=300)
    concurrency: int = Field(default=16, ge=1, le=1000)

    @model_validator(mode="after")
    def _has_one_secret(self) -> WebhookSinkSettings:
        given = (self.secret, self.secret_env, self.secret_file)
        if sum(value is not None for value in given) != 1:
            raise ValueError("expected exactly one of secret, secret_env and secret_file")
        return self


SinkSettings = Annotated[LogSinkSettings | WebhookSinkSettings, Field(discriminator="type")]
"""One configured sink; its `type` says which kind."""
