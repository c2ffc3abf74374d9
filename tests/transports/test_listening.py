from __future__ import annotations

import socket

import pytest

from duplex_server.config import Settings
from duplex_server.errors import ConfigError
from duplex_server.transports.listening import USER_TIMEOUT_MS, listening_socket, server_options
from duplex_server.transports.uvicorn_internals import websocket_protocol


def test_accepted_connections_give_up_on_a_peer_that_acknowledges_nothing() -> None:
    with (
        listening_socket("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == USER_TIMEOUT_MS


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0", "::1", "[::1]", "::"])
def test_names_and_both_families_can_be_listened_on(host: str) -> None:
    with listening_socket(host, 0) as listening:
        assert listening.getsockname()[1] > 0


def test_all_addresses_of_ipv6_include_ipv4() -> None:
    with listening_socket("::", 0) as listening:
        socket.create_connection(("127.0.0.1", listening.getsockname()[1])).close()


def test_a_port_that_is_taken_is_named() -> None:
    with listening_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*another"):
            listening_socket("127.0.0.1", port)


def test_an_unknown_name_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="no-such-host"):
        listening_socket("no-such-host.invalid", 0)


def test_the_options_follow_the_settings() -> None:
    options = server_options(Settings(max_message_bytes=100_000, tls_certificate="a.pem", tls_key="b.pem"))
    assert options["ws"] == websocket_protocol()
    assert options["ws_max_size"] == 200_000
    assert options["ws_per_message_deflate"] is False
    assert (options["ssl_certfile"], options["ssl_keyfile"]) == ("a.pem", "b.pem")
