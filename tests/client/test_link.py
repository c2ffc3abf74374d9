"""Addresses as people write them."""

from __future__ import annotations

import pytest

from duplex_server.client.link import address
from duplex_server.errors import ConfigError


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("localhost:8000", "ws://localhost:8000/v1/realtime"),
        ("http://127.0.0.1:8000/", "ws://127.0.0.1:8000/v1/realtime"),
        ("https://a.example", "wss://a.example/v1/realtime"),
        ("wss://a.example/v1/realtime?model=x", "wss://a.example/v1/realtime?model=x"),
        ("https://a.example/duplex/v1/realtime", "wss://a.example/duplex/v1/realtime"),
        ("https://a.example/duplex", "wss://a.example/duplex/v1/realtime"),
        ("http://[::1]:8000", "ws://[::1]:8000/v1/realtime"),
    ],
)
def test_an_address_may_be_written_in_several_ways(server: str, expected: str) -> None:
    assert address(server, path="/v1/realtime", scheme="ws") == expected


def test_the_call_endpoint_has_the_same_host_and_query() -> None:
    found = address("wss://a.example/v1/realtime?model=x", path="/v1/realtime/calls", scheme="http", query={"a": "b c"})
    assert found == "https://a.example/v1/realtime/calls?model=x&a=b+c"


@pytest.mark.parametrize("server", ["", "ftp://a.example", "http://", "/v1/realtime"])
def test_what_is_no_address_is_refused(server: str) -> None:
    with pytest.raises(ConfigError, match="not the address"):
        address(server, path="/v1/realtime", scheme="ws")
