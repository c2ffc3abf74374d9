from __future__ import annotations

import pytest

from duplex_server.errors import (
    AuthError,
    CapacityError,
    DuplexError,
    EngineLost,
    InvalidEvent,
    LimitExceeded,
    MediaError,
    ModelError,
    ModelTimeout,
    SessionExpired,
)
from duplex_server.wire.error_objects import error_object


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (InvalidEvent("No."), "invalid_request_error", "invalid_value"),
        (InvalidEvent("No.", code="unsupported_value"), "invalid_request_error", "unsupported_value"),
        (MediaError("Not a picture."), "invalid_request_error", "invalid_media"),
        (LimitExceeded("Too much.", limit="x", value="1"), "invalid_request_error", "limit_exceeded"),
        (
            LimitExceeded("Too fast.", limit="x", value="1", code="input_backpressure"),
            "rate_limit_error",
            "input_backpressure",
        ),
        (AuthError("No."), "invalid_request_error", "invalid_api_key"),
        (CapacityError(3), "server_error", "server_overloaded"),
        (SessionExpired("timeout", "Over."), "invalid_request_error", "session_expired"),
        (ModelTimeout(4), "server_error", "model_timeout"),
        (EngineLost("w"), "server_error", "engine_lost"),
        (ModelError("x"), "server_error", "server_error"),
    ],
)
def test_errors_have_a_type_and_a_code(error: DuplexError, kind: str, code: str) -> None:
    told = error_object(error)
    assert (told.type, told.code) == (kind, code)
    assert told.message


@pytest.mark.parametrize("error", [ModelError("/root/x.py"), DuplexError("/root/x.py"), EngineLost("/root")])
def test_what_a_peer_need_not_know_is_not_told(error: DuplexError) -> None:
    assert "root" not in error_object(error).message


def test_the_place_of_the_fault_is_told() -> None:
    told = error_object(InvalidEvent("No.", param="session.audio", event_id="e1"))
    assert (told.param, told.event_id, told.message) == ("session.audio", "e1", "No.")


def test_long_messages_are_cut() -> None:
    assert len(error_object(InvalidEvent("x" * 9999)).message) == 500
