"""Addresses of servers, shown without their passwords."""

from __future__ import annotations

import time

import pytest

from config.urls import mask_text, mask_url


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://u:p@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:p@h", "redis://:***@h"),
        ("redis://u@h:1", "redis://u@h:1"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://u:a@b:c/d@h", "redis://u:***@h"),
        ("postgres://h/d?user=u&password=p&x=1", "postgres://h/d?user=u&password=***&x=1"),
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
