from __future__ import annotations

from duplex_server.config import Settings
from duplex_server.transports.listening import server_options
from duplex_server.transports.uvicorn_internals import websocket_protocol


def test_the_options_follow_the_settings() -> None:
    options = server_options(Settings(max_message_bytes=100_000, tls_certificate="a.pem", tls_key="b.pem"))
    assert options["ws"] == websocket_protocol()
    assert options["ws_max_size"] == 200_000
    assert options["ws_per_message_deflate"] is False
    assert (options["ssl_certfile"], options["ssl_keyfile"]) == ("a.pem", "b.pem")
