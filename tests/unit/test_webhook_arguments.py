"""Which arguments the webhook sink refuses, and that it does so without showing them."""

from __future__ import annotations

import traceback

import pytest

from agents.hooks import WebhookSink

SECRET = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="
TOKEN = "query-token"


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "====", "not-base64-at-all!", "c2VjcmV0*", "whsec_a", "schlüssel"]
)
def test_an_unusable_secret_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="base64") as caught:
        WebhookSink("billing", "https://example.com/", (secret,))
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "/hook", "ftp://example.com/", f"example.com/?{TOKEN}", f"http://[{TOKEN}/"]
)
def test_an_unusable_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match="absolute http or https") as caught:
        WebhookSink("billing", url, (SECRET,))
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_timeout_that_bounds_nothing_is_refused(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        WebhookSink("billing", "https://example.com/", (SECRET,), timeout_s)


def test_a_sink_without_a_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one secret"):
        WebhookSink("billing", "https://example.com/", ())
