"""What can go wrong between this worker and Redis, in this transport's own words.

::

    TransportError
    ├── BrokerUnavailableError   no answer, or an answer that says "not now": try again
    ├── GroupLostError           the stream or its consumer group is gone: make it anew
    ├── BrokerRefusedError       an answer that trying again will not change (ACL, type, syntax)
    ├── NotOwnedError            another worker reads the partition by now
    ├── UnsupportedError         asked for something this transport does not do
    ├── UnknownTopicError        a topic that was never declared to this transport
    └── PartitionsChangedError   another number of partitions than is recorded in Redis
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis.exceptions

__all__ = [
    "BrokerRefusedError",
    "BrokerUnavailableError",
    "GroupLostError",
    "JournalUnavailableError",
    "NotOwnedError",
    "PartitionsChangedError",
    "TransportError",
    "UnknownTopicError",
    "UnsupportedError",
    "broker_errors",
    "translate",
]

#: Error replies after which the same command may succeed later.
_TRANSIENT_PREFIXES = (
    "BUSY ",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNKILLABLE",
)
#: Valkey and Redis 7 word the loss of a group under a blocked reader differently.
_GROUP_LOST_PREFIXES = ("NOGROUP", "UNBLOCKED")
#: A blocked reader's server has become a replica.
_DEMOTED_PREFIX = "UNBLOCKED force unblock"
#: What redis-py puts between a command of a pipeline, in front, and the server's reply.
_IN_PIPELINE = " of pipeline caused error: ("


class TransportError(Exception):
    """Anything that went wrong between this worker and Redis."""


class BrokerUnavailableError(TransportError):
    """No answer, or one that says "not now"; the command may or may not have taken effect."""


class GroupLostError(TransportError):
    """The stream or its consumer group no longer exists."""


class JournalUnavailableError(TransportError):
    """The journal of losses does not answer; what is asked of it may be asked again."""


class NotOwnedError(TransportError):
    """Another worker reads the partition by now: nothing was done in its name."""


class BrokerRefusedError(TransportError):
    """Redis answered with an error that trying again will not change."""


class UnsupportedError(TransportError):
    """The app asks for something that this transport does not do."""


class UnknownTopicError(TransportError):
    """A topic that was never declared to this transport."""


class PartitionsChangedError(TransportError):
    """A topic has another number of partitions than is recorded in Redis."""


def _reply(exc: Exception) -> str:
    """What the server said; of a pipeline without the command, which has somebody's data in it."""
    _, annotated, reply = str(exc).rpartition(_IN_PIPELINE)
    return reply.removesuffix(",)").strip("'\"") if annotated else reply


def translate(exc: Exception, command: str) -> TransportError:
    """Return the transport's error for `exc`, raised by redis-py under `command`."""
    text = _reply(exc)
    if isinstance(exc, redis.exceptions.ResponseError):
        # redis-py strips the code of errors it has a class for, so ask the class as well.
        if text.startswith(_DEMOTED_PREFIX):
            return BrokerUnavailableError(f"{command}: {text}")
        if text.startswith(_GROUP_LOST_PREFIXES):
            return GroupLostError(f"{command}: {text}")
        transient = isinstance(
            exc,
            redis.exceptions.ReadOnlyError
            | redis.exceptions.OutOfMemoryError
            | redis.exceptions.TryAgainError
            | redis.exceptions.AskError  # and MOVED: the next attempt goes elsewhere
            | redis.exceptions.ClusterDownError
            | redis.exceptions.MasterDownError,
        )
        if transient or text.startswith(_TRANSIENT_PREFIXES):
            return BrokerUnavailableError(f"{command}: {text}")
        return BrokerRefusedError(f"{command}: {text}")
    if isinstance(
        exc,
        redis.exceptions.AuthenticationError
        | redis.exceptions.AuthorizationError
        | redis.exceptions.DataError,  # not even sent
    ):
        return BrokerRefusedError(f"{command}: {text}")
    return BrokerUnavailableError(f"{command}: {type(exc).__name__}: {text}")


@contextmanager
def broker_errors(command: str) -> Iterator[None]:
    """Raise redis-py's and the socket's errors as :class:`TransportError`."""
    try:
        yield
    except (redis.exceptions.RedisError, OSError) as exc:
        raise translate(exc, command) from exc
