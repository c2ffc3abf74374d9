"""Tests of the list of settings itself."""

from __future__ import annotations

import msgspec
import pytest

from duplex_server.config import FIELDS, Settings
from duplex_server.session.session import SessionLimits


def test_every_setting_says_what_it_means_in_a_sentence_and_what_it_may_be() -> None:
    for field in FIELDS.values():
        assert field.meaning.endswith("."), field.name
        assert field.allowed, field.name


def test_every_default_is_allowed() -> None:
    for field in FIELDS.values():
        default = field.default if isinstance(field.default, tuple) else msgspec.to_builtins(field.default)
        assert msgspec.convert(default, field.type) == field.default, field.name


def test_the_server_listens_to_this_machine_alone_unless_told_otherwise() -> None:
    assert Settings().host == "127.0.0.1"
    assert not Settings().insecure


def test_settings_cannot_be_changed_once_loaded() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "flag", "variable"),
    [("port", "--port", "DUPLEX_PORT"), ("api_key_file", "--api-key-file", "DUPLEX_API_KEY_FILE")],
)
def test_flag_and_variable_follow_from_the_name(name: str, flag: str, variable: str) -> None:
    assert (FIELDS[name].flag, FIELDS[name].variable) == (flag, variable)


def test_numbers_say_their_limits() -> None:
    assert FIELDS["port"].allowed == "a whole number from 0 to 65535"
    assert FIELDS["session_max_s"].allowed == "a number above 0 and at most 86400"


def test_what_sessions_are_limited_to_by_default_is_said_once() -> None:
    settings, limits = Settings(), SessionLimits()
    assert (settings.confirm_ms, settings.session_max_s) == (limits.confirm_ms, limits.session_max_s)
    assert settings.input_ahead_s == limits.input_ahead_s


def test_only_secrets_are_secret() -> None:
    assert {name for name, field in FIELDS.items() if field.secret} == {"api_keys", "turn_secret"}
