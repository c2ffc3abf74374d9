from __future__ import annotations

import socket

import pytest

from duplex_server.config import Settings
from duplex_server.errors import ConfigError
from duplex_server.transports.port import USER_TIMEOUT_MS, invitation, listening_socket, reserving_socket


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


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_a_port_that_is_held_is_shared_by_those_who_listen_on_it(host: str) -> None:
    with reserving_socket(host, 0) as reserving:
        port = reserving.getsockname()[1]
        address = ("::1" if host == "::" else host, port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with listening_socket(host, port, shared=True) as one, listening_socket(host, port, shared=True) as other:
            for listening in (one, other):
                listening.setblocking(False)
            n_taken = {one: 0, other: 0}
            for _ in range(64):
                with socket.create_connection(address):
                    for listening in n_taken:
                        try:
                            listening.accept()[0].close()
                            n_taken[listening] += 1
                        except BlockingIOError:
                            pass
            assert sum(n_taken.values()) == 64
            assert all(n_taken.values()), "the system deals them out"


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_of_another_server_is_not_shared(shared: bool) -> None:
    with listening_socket("127.0.0.1", 0, shared=shared) as others, pytest.raises(ConfigError, match="another"):
        reserving_socket("127.0.0.1", others.getsockname()[1])


def test_a_port_that_is_held_is_nobody_elses() -> None:
    with reserving_socket("127.0.0.1", 0) as reserving, pytest.raises(ConfigError, match="another"):
        listening_socket("127.0.0.1", reserving.getsockname()[1])


def test_people_are_told_where_the_server_is() -> None:
    with reserving_socket("127.0.0.1", 0) as reserving:
        port = reserving.getsockname()[1]
        assert f"Open http://localhost:{port}/ in a browser" in invitation(Settings(), reserving)
        bare = Settings(web_client=False, tls_certificate="a.pem", tls_key="b.pem")
        assert f"https://localhost:{port}/v1/realtime" in invitation(bare, reserving)
