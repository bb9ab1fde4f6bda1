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

_TLS_OPTIONS: Final = frozenset(
    {
        *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
        *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers"),
    }
)
"""What redis-py takes in the query of a `rediss://` URL and an operator has a use for."""

_TLS_EXPECTED: Final = ", ".join(sorted(_TLS_OPTIONS))

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
    """Return the address of Redis as given; ValueError with what is expected otherwise.

    Several hosts, separated by commas, are those of Sentinels or of a cluster.
    """
    if url == EMBEDDED:
        return url
    expected = "expected redis://[user:password@]host[:port][/db] or rediss://..., or 'embedded'"
    parts = _split(url, expected)
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(expected)
    for host in redis_hosts(url):
        _check_host(_split(f"{parts.scheme}://{host}", expected), expected)
    if not re.fullmatch(r"(/\d{0,5})?", parts.path):
        raise ValueError(f"{expected}; the database is a number")
    _check_tls_options(parts)
    return MaskedUrl(url)


def redis_hosts(url: str) -> list[str]:
    """Return the hosts in the address of Redis, each with its port if it has one."""
    return urlsplit(url).netloc.rpartition("@")[2].split(",")


def redis_database(url: str) -> int:
    """Return the number of the database in the address of Redis."""
    return int(urlsplit(url).path.strip("/") or 0)


def _check_tls_options(parts: SplitResult) -> None:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - _TLS_OPTIONS)
    if unknown:
        raise ValueError(f"expected no {unknown[0]}= after the '?', only {_TLS_EXPECTED}")
    if options and parts.scheme != "rediss":
        raise ValueError(f"expected rediss:// where {min(options)}= is given")
    if options.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise ValueError("expected ssl_cert_reqs=none, optional or required")
    blank = sorted(name for name, value in options.items() if not value)
    if blank:
        raise ValueError(f"expected a value for {blank[0]}=")


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
