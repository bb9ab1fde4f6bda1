"""Server addresses: checked when they are read, their passwords masked wherever they are shown."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

EMBEDDED: Final = "embedded"
"""In place of a URL: this project starts the server itself (development only)."""

MASK: Final = "***"

SECRET_NAME: Final = re.compile(
    r"secret|passw(?:or)?d|passphrase|token|api[-_]?key|authorization|signature", re.IGNORECASE
)
"""Matches a name whose value is never shown."""

# Both are written to take time in proportion to the text: log records are masked with them, and
# what is in a record may come from a payload.
_AFTER_SCHEME: Final = re.compile(r"://([^\s\"'<>]+)")
_ASSIGNMENT: Final = re.compile(r"([^\s=&;?,(\"'<>]{1,64})=([^\s&;,)\"'<>]+)")


class MaskedUrl(str):
    """A URL as it was given, except that its `repr` hides the password.

    It is a plain string to whoever connects with it; `str()` and f-strings show it whole, so
    what is printed on purpose goes through `mask_url`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(mask_url(self))


def mask_url(url: str) -> str:
    """Return one URL with its password, and parameters such as `?token=`, replaced by `***`.

    Where it cannot be told what is the password, more is hidden rather than less: also in what
    only resembles a URL, such as one without its scheme or with a space in it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    return _ASSIGNMENT.sub(_without_secret, f"{scheme}{separator}{_without_password(rest)}")


def mask_text(text: str) -> str:
    """Return a text with the passwords of the URLs in it, and what follows `token=`, masked."""
    if "://" in text:
        text = _AFTER_SCHEME.sub(lambda found: f"://{_without_password(found[1])}", text)
    return _ASSIGNMENT.sub(_without_secret, text) if "=" in text else text


def _without_password(after_scheme: str) -> str:
    # Up to the last "@": a password with an unescaped "/", ":" or "@" is hidden whole.
    userinfo, at, rest = after_scheme.rpartition("@")
    user = re.split(r"[:/?#]", userinfo, maxsplit=1)[0]
    if not at or userinfo[len(user) : len(user) + 1] != ":":
        return after_scheme
    return f"{user}:{MASK}@{rest}"


def _without_secret(found: re.Match[str]) -> str:
    return f"{found[1]}={MASK}" if SECRET_NAME.search(found[1]) else found[0]


def check_redis_url(url: str) -> str:
    """Return the address of a Redis as given; ValueError with what is expected otherwise."""
    if url == EMBEDDED:
        return url
    expected = "expected redis://[user:password@]host[:port][/db] or rediss://..., or 'embedded'"
    parts = _split(url, expected)
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(expected)
    _check_host(parts, expected)
    if not re.fullmatch(r"(/\d{0,5})?", parts.path):
        raise ValueError(f"{expected}; the database is a number")
    return MaskedUrl(url)


def check_postgres_url(url: str) -> str:
    """Return the address of a Postgres as given; ValueError with what is expected otherwise."""
    if url == EMBEDDED:
        return url
    expected = "expected postgresql://[user:password@]host[:port]/database, or 'embedded'"
    parts = _split(url, expected)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError(expected)
    hosts = parts.netloc.rpartition("@")[2]
    if not hosts and any(key == "host" for key, _ in parse_qsl(parts.query)):
        return MaskedUrl(url)  # libpq's own way to name a unix socket
    for host in hosts.split(","):  # libpq tries several hosts in turn
        _check_host(_split(f"{parts.scheme}://{host}", expected), expected)
    return MaskedUrl(url)


def check_http_url(url: str) -> str:
    """Return an http(s) address as given; ValueError with what is expected otherwise."""
    expected = "expected http://host[:port]/... or https://..."
    parts = _split(url, expected)
    if parts.scheme not in ("http", "https"):
        raise ValueError(expected)
    _check_host(parts, expected)
    return MaskedUrl(url)


def _split(url: str, expected: str) -> SplitResult:
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError(f"{expected}; no spaces or control characters")
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{expected}; {mask_url(str(error))}") from None


def _check_host(parts: SplitResult, expected: str) -> None:
    if not parts.hostname:
        raise ValueError(f"{expected}; no host is given")
    # urlsplit's own message repeats the port as given, which after an unescaped "/" in the
    # password is a piece of the password.
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"{expected}; the port is a number from 1 to 65535")
