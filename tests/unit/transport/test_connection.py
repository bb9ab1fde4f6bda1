"""Commands go out as redis-py would send them, packed in C."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import Connection
from redis.exceptions import DataError
from yarl import URL

from streams.transport.connection import connect

Argument = bytes | str | int | float

ARGUMENTS: st.SearchStrategy[Argument] = st.one_of(
    st.binary(max_size=50),
    st.text(max_size=20),
    st.integers(),
    st.floats(allow_nan=False),
    st.binary(min_size=7_000, max_size=7_000),
)


def _connection() -> Connection:
    client = connect(URL("redis://127.0.0.1:1/0"), timeout_s=1, name="test")
    made: Connection = client.connection_pool.make_connection()
    return made


@given(
    name=st.sampled_from(["XADD", "XGROUP CREATE", b"XREADGROUP", b"CLIENT ID"]),
    arguments=st.lists(ARGUMENTS, max_size=20),
)
def test_a_command_goes_out_as_redis_py_would_send_it(
    name: bytes | str, arguments: list[Argument]
) -> None:
    ours = b"".join(_connection().pack_command(name, *arguments))
    assert ours == b"".join(Connection().pack_command(name, *arguments))


@pytest.mark.parametrize("value", [None, True, ["a"], {"a": 1}])
def test_what_is_no_argument_is_refused_as_redis_py_refuses_it(value: object) -> None:
    with pytest.raises(DataError, match="XADD"):
        _connection().pack_command("XADD", b"key", value)  # type: ignore[arg-type]
