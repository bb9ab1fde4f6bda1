"""What each error of redis-py and of the socket becomes, by what trying again would do."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import redis.exceptions
from redis._parsers import BaseParser
from redis.asyncio.client import Pipeline

from streams.transport import (
    BrokerRefusedError,
    BrokerUnavailableError,
    GroupLostError,
    TransportError,
    broker_errors,
)

#: Replies as the server words them, each with what it becomes.
REPLIES = {
    "OOM command not allowed when used memory > 'maxmemory'.": BrokerUnavailableError,
    "READONLY You can't write against a read only replica.": BrokerUnavailableError,
    "LOADING Redis is loading the dataset in memory": BrokerUnavailableError,
    "MASTERDOWN Link with MASTER is down": BrokerUnavailableError,
    "MISCONF Errors writing to the AOF file: No space left": BrokerUnavailableError,
    "NOREPLICAS Not enough good replicas to write.": BrokerUnavailableError,
    "TRYAGAIN Multiple keys request during rehashing of slot": BrokerUnavailableError,
    "CLUSTERDOWN The cluster is down": BrokerUnavailableError,
    "BUSY Redis is busy running a script.": BrokerUnavailableError,
    "UNKILLABLE Sorry the script already executed write commands": BrokerUnavailableError,
    "ERR max number of clients reached": BrokerUnavailableError,
    "NOGROUP No such key 's' or consumer group 'g' in XREADGROUP": GroupLostError,
    "NOGROUP the consumer group this client was blocked on no longer exists": GroupLostError,
    "UNBLOCKED the stream key no longer exists": GroupLostError,
    "WRONGTYPE Operation against a key holding the wrong kind of value": BrokerRefusedError,
    "NOAUTH Authentication required.": BrokerRefusedError,
    "WRONGPASS invalid username-password pair or user is disabled.": BrokerRefusedError,
    "NOPERM this user has no permissions to run the 'xadd' command": BrokerRefusedError,
    "BUSYGROUP Consumer Group name already exists": BrokerRefusedError,
    "ERR unknown command 'NONSENSE'": BrokerRefusedError,
    "ERR syntax error": BrokerRefusedError,
}


@pytest.mark.parametrize(("reply", "expected"), REPLIES.items(), ids=lambda value: str(value)[:24])
def test_each_reply_of_the_server(reply: str, expected: type[TransportError]) -> None:
    exc = BaseParser.parse_error(reply)
    with pytest.raises(TransportError) as caught, broker_errors("XADD"):
        raise exc
    assert type(caught.value) is expected
    assert caught.value.__cause__ is exc
    assert str(caught.value).startswith("XADD: ")


@pytest.mark.parametrize(("reply", "expected"), REPLIES.items(), ids=lambda value: str(value)[:24])
def test_each_reply_to_a_command_of_a_pipeline(reply: str, expected: type[TransportError]) -> None:
    exc = BaseParser.parse_error(reply)
    Pipeline.annotate_exception(cast("Any", None), exc, 3, ("XADD", "key", "*", "v", "secret"))
    with pytest.raises(TransportError) as caught, broker_errors("XADD"):
        raise exc
    assert type(caught.value) is expected
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (redis.exceptions.ConnectionError("gone"), BrokerUnavailableError),
        (redis.exceptions.TimeoutError("late"), BrokerUnavailableError),
        (ConnectionRefusedError(111, "refused"), BrokerUnavailableError),
        (ConnectionResetError(), BrokerUnavailableError),
        (TimeoutError(), BrokerUnavailableError),
        (OSError("no route"), BrokerUnavailableError),
        (redis.exceptions.InvalidResponse("what"), BrokerUnavailableError),
        (redis.exceptions.DataError("not sent"), BrokerRefusedError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_each_error_of_the_connection(exc: Exception, expected: type[TransportError]) -> None:
    with pytest.raises(TransportError) as caught, broker_errors("XREADGROUP"):
        raise exc
    assert type(caught.value) is expected


@pytest.mark.parametrize("exc", [ValueError("mine"), KeyError(1), asyncio.CancelledError()])
def test_what_is_not_about_redis_passes(exc: BaseException) -> None:
    with pytest.raises(type(exc)) as caught, broker_errors("XADD"):
        raise exc
    assert caught.value is exc


def test_an_error_of_the_transport_is_not_wrapped_again() -> None:
    exc = GroupLostError("XREADGROUP: gone")
    with pytest.raises(GroupLostError) as caught, broker_errors("XACK"):
        raise exc
    assert caught.value is exc
