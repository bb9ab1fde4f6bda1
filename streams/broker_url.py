"""The settings about Redis as one URL, in the transport's words."""

from __future__ import annotations

from urllib.parse import urlsplit

from yarl import URL

from config.settings import Settings
from config.urls import redis_hosts
from streams.topics import key_prefix

__all__ = ["broker_url", "public_broker_url"]


def broker_url(settings: Settings) -> URL:
    """Return where to connect, with credentials, as :mod:`streams.transport.servers` reads it."""
    # A URL has one host; the others go into the query.
    first, *others = redis_hosts(settings.redis_url)
    parts = urlsplit(settings.redis_url)
    user, at, _ = parts.netloc.rpartition("@")
    url = URL(parts._replace(netloc=f"{user}{at}{first}").geturl())
    url = url.extend_query([("seed", host) for host in others])
    if settings.redis_sentinel:
        return url.extend_query(sentinel=settings.redis_sentinel)
    if settings.redis_cluster == "on":
        return url.extend_query(cluster=key_prefix(settings))
    return url


def public_broker_url(settings: Settings) -> URL:
    """Return the URL to be shown: without credentials and TLS settings."""
    url = broker_url(settings).with_user(None).with_password(None)
    return url.without_query_params(*(name for name in url.query if name.startswith("ssl_")))
