"""Addresses of servers: what is accepted, what it means, shown without their passwords."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from config.settings import SettingsError, load_settings
from config.urls import check_redis_url, mask_text, mask_url
from streams.broker_url import broker_url, public_broker_url


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://u:p@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:p@h", "redis://:***@h"),
        ("redis://u@h:1", "redis://u@h:1"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://u:a@b:c/d@h", "redis://u:***@h"),
        ("postgres://h/d?user=u&password=p&x=1", "postgres://h/d?user=u&password=***&x=1"),
        ("redis://u:p@s1:1,s2:2/0", "redis://u:***@s1:1,s2:2/0"),
        ("rediss://h?ssl_password=p", "rediss://h?ssl_password=***"),
        ("embedded", "embedded"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_a_text_is_shown_without_the_passwords_in_it() -> None:
    text = "from redis://u:p1@h to 'postgres://u:p2@h/d', token=t3 at me@example"
    shown = "from redis://u:***@h to 'postgres://u:***@h/d', token=*** at me@example"
    assert mask_text(text) == shown


@pytest.mark.parametrize("piece", ["://:", "://a:b", "token", "secret=", "a=b", "=", "@:"])
def test_masking_a_long_text_takes_time_in_proportion_to_it(piece: str) -> None:
    text = piece * (256 * 1024 // len(piece))
    began = time.process_time()
    mask_text(text)
    # Some 10 ms; a pattern that backtracks takes minutes for a text of this length.
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    "url",
    [
        "rediss://u:p@h:1/0?ssl_ca_certs=/ca.crt&ssl_cert_reqs=none&ssl_check_hostname=no",
        "rediss://h?ssl_certfile=/c.crt&ssl_keyfile=/c.key&ssl_password=p",
        "redis://u:p,w@s1:26379,s2,[::1]:26379/3",
    ],
)
def test_an_address_of_redis_is_taken_as_given(url: str) -> None:
    assert check_redis_url(url) == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h?ssl_ca_certs=/ca.crt", "rediss://"),
        ("rediss://h?ssl_ca_cert=/ca.crt", "ssl_ca_certs"),
        ("rediss://h?ssl_cert_reqs=maybe", "required"),
        ("rediss://h?ssl_ca_certs=", "a value"),
        ("redis://h?protocol=3", "no protocol="),
        ("redis://h?cluster=on", "no cluster="),
        ("redis://s1,,s2", "no host"),
        ("redis://s1:1,s2:x", "port"),
    ],
)
def test_a_mistake_in_an_address_of_redis_is_told(url: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        check_redis_url(url)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"REDIS_URL": "redis://a,b"}, "CAPSULES_REDIS_SENTINEL"),
        ({"REDIS_URL": "redis://a/1", "CAPSULES_REDIS_CLUSTER": "on"}, "database 0"),
        ({"CAPSULES_REDIS_CLUSTER": "on"}, "REDIS_URL"),
        ({"CAPSULES_REDIS_SENTINEL": "main"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://a", "CAPSULES_REDIS_CLUSTER": "true"}, "'on' or 'off'"),
        (
            {
                "REDIS_URL": "redis://a",
                "CAPSULES_REDIS_CLUSTER": "on",
                "CAPSULES_REDIS_SENTINEL": "main",
            },
            "CAPSULES_REDIS_SENTINEL",
        ),
        (
            {
                "REDIS_URL": "redis://a",
                "CAPSULES_REDIS_CLUSTER": "on",
                "CAPSULES_SOURCE_STREAM": "{a}b",
            },
            "braces",
        ),
    ],
)
def test_servers_that_cannot_be_meant_are_one_mistake(
    environ: dict[str, str], named: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, cwd=tmp_path)
    (line,) = caught.value.mistakes
    assert named in line


@pytest.mark.parametrize(
    ("environ", "meant", "shown"),
    [
        (
            {"REDIS_URL": "redis://u:a%2Fb@h:1/2"},
            "redis://u:a%2Fb@h:1/2",
            "redis://h:1/2",
        ),
        (
            {"REDIS_URL": "rediss://u:p@h?ssl_ca_certs=/ca&ssl_password=p"},
            "rediss://u:p@h/?ssl_ca_certs=/ca&ssl_password=p",
            "rediss://h",
        ),
        (
            {"REDIS_URL": "redis://u:p,q@s1:1,s2:2,s3/4", "CAPSULES_REDIS_SENTINEL": "main"},
            "redis://u:p,q@s1:1/4?seed=s2:2&seed=s3&sentinel=main",
            "redis://s1:1/4?seed=s2:2&seed=s3&sentinel=main",
        ),
        (
            {
                "REDIS_URL": "redis://n1,n2:2",
                "CAPSULES_REDIS_CLUSTER": "on",
                "CAPSULES_APP_ID": "app",
            },
            "redis://n1/?seed=n2:2&cluster=%7Bwrenn:events%7D:app:",
            "redis://n1/?seed=n2:2&cluster=%7Bwrenn:events%7D:app:",
        ),
    ],
    ids=["one server", "tls", "sentinel", "cluster"],
)
def test_the_settings_about_redis_are_one_url_and_it_is_shown_without_secrets(
    environ: dict[str, str], meant: str, shown: str, tmp_path: Path
) -> None:
    settings = load_settings(environ, cwd=tmp_path)
    assert str(broker_url(settings)) == meant
    assert str(public_broker_url(settings)) == shown
