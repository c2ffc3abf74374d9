"""Tests of where settings come from and of the sentences that refuse them."""

from __future__ import annotations

import datetime as dt
import socket
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.config import (
    FIELDS,
    Settings,
    accepted_keys,
    effective,
    hashed_key,
    is_loopback,
    load,
    new_key,
    render,
    shown_digest,
)
from duplex_server.errors import ConfigError
from duplex_server.types import InterruptionPolicy


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(flags: dict[str, str] | None = None, env: dict[str, str] | None = None, toml: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, env or {}, toml)
    return str(caught.value)


def test_nothing_given_gives_the_defaults() -> None:
    assert load({}, {}) == Settings()


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    toml = written(tmp_path / "s.toml", "port = 1\nmax_sessions = 1\nrows_per_worker = 1\n")
    result = effective({"port": "3"}, {"DUPLEX_PORT": "2", "DUPLEX_MAX_SESSIONS": "2"}, toml)
    settings = result.settings
    assert (settings.port, settings.max_sessions, settings.rows_per_worker, settings.turn_ttl_s) == (3, 2, 1, 3600)
    assert [result.sources[n] for n in ("port", "max_sessions", "rows_per_worker", "turn_ttl_s")] == [
        "--port",
        "DUPLEX_MAX_SESSIONS",
        str(toml),
        "default",
    ]


def test_the_usual_file_is_read_where_no_other_is_named(tmp_path: Path) -> None:
    written(tmp_path / "duplex-server.toml", "port = 1234")
    other = written(tmp_path / "other.toml", "port = 4321")
    assert load({}, {}).port == 1234
    assert load({}, {"DUPLEX_CONFIG": str(other)}).port == 4321
    assert load({}, {"DUPLEX_CONFIG": "/nowhere"}, other).port == 4321


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("stun:a:1", ("stun:a:1",)),
        ("stun:a:1,stun:b:2", ("stun:a:1", "stun:b:2")),
        (" stun:a , stun:b ", ("stun:a", "stun:b")),
    ],
)
def test_lists_in_variables_are_separated_by_commas_or_spaces(text: str, expected: tuple[str, ...]) -> None:
    assert load({}, {"DUPLEX_ICE_SERVERS": text}).ice_servers == expected


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_switches_in_variables(text: str, expected: bool) -> None:
    assert load({}, {"DUPLEX_INSECURE": text}).insecure is expected


def test_choices_become_what_they_name() -> None:
    assert load({"interruption": "push_to_talk"}, {}).interruption is InterruptionPolicy.PUSH_TO_TALK


def test_other_programs_variables_and_our_clients_key_are_left_alone() -> None:
    assert load({}, {"PATH": "/bin", "DUPLEX_TALK_API_KEY": "12345678"}) == Settings()


@pytest.mark.parametrize(
    ("flags", "env", "parts"),
    [
        ({"port": "x"}, {}, ["--port", '"x"', "a whole number from 0 to 65535", "8000"]),
        ({"port": "65536"}, {}, ["--port", "65535"]),
        ({"port": "1e400"}, {}, ["--port"]),
        ({}, {"DUPLEX_PORT": ""}, ["DUPLEX_PORT", "whole number"]),
        ({}, {"DUPLEX_SESSION_MAX_S": "0"}, ["DUPLEX_SESSION_MAX_S", "above 0"]),
        ({}, {"DUPLEX_SHUTDOWN_GRACE_S": "nan"}, ["DUPLEX_SHUTDOWN_GRACE_S", "86400"]),
        ({}, {"DUPLEX_SHUTDOWN_GRACE_S": "inf"}, ["DUPLEX_SHUTDOWN_GRACE_S", "86400"]),
        ({}, {"DUPLEX_INSECURE": "maybe"}, ["DUPLEX_INSECURE", "true or false"]),
        ({"interruption": "rude"}, {}, ["--interruption", "guarded, immediate, model, push_to_talk"]),
        ({"language": "english!"}, {}, ["--language", "BCP 47"]),
        ({"ice_servers": "example.org"}, {}, ["--ice-servers", "stun:host:port"]),
        ({"allowed_origins": "example.org"}, {}, ["--allowed-origins", "https://example.org"]),
        ({"log_level": "loud"}, {}, ["--log-level", "debug, info, warning, error"]),
    ],
)
def test_a_wrong_value_is_refused_with_its_source_and_what_is_right(
    flags: dict[str, str], env: dict[str, str], parts: list[str]
) -> None:
    sentence = refusal(flags, env)
    for part in parts:
        assert part in sentence


def test_a_secret_is_not_repeated_in_the_refusal() -> None:
    assert "hunter2" not in refusal({"api_keys": "hunter2"})


def test_an_unknown_variable_is_refused_with_the_likely_one() -> None:
    sentence = refusal(env={"DUPLEX_MAX_SESSION": "3"})
    assert "DUPLEX_MAX_SESSION," in sentence
    assert "Did you mean DUPLEX_MAX_SESSIONS?" in sentence


def test_an_unknown_key_in_the_file_is_refused_with_the_likely_one(tmp_path: Path) -> None:
    toml = written(tmp_path / "s.toml", "prot = 1")
    sentence = refusal(toml=toml)
    assert f"{toml} sets prot" in sentence
    assert "Did you mean port?" in sentence


def test_a_table_in_the_file_is_refused(tmp_path: Path) -> None:
    assert "server" in refusal(toml=written(tmp_path / "s.toml", "[server]\nport = 1"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("port = ", "not valid TOML"),
        ('port = "8000"', "whole number"),
        ('api_keys = ["short"]', "8 or more"),
        ('ice_servers = "stun:a"', "a list"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, part: str) -> None:
    toml = written(tmp_path / "s.toml", text)
    sentence = refusal(toml=toml)
    assert part in sentence
    assert str(toml) in sentence


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    toml = tmp_path / "s.toml"
    toml.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refusal(toml=toml)


@pytest.mark.parametrize("by_flag", [True, False])
def test_a_named_file_that_is_missing_is_refused(tmp_path: Path, by_flag: bool) -> None:
    missing = tmp_path / "none.toml"
    sentence = refusal(toml=missing) if by_flag else refusal(env={"DUPLEX_CONFIG": str(missing)})
    assert sentence.startswith("--config" if by_flag else "DUPLEX_CONFIG")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_need_a_key_or_an_explicit_word(host: str, tmp_path: Path) -> None:
    assert "no API key is set" in refusal({"host": host})
    assert "no API key is set" in refusal(
        {"host": host, "api_key_file": str(written(tmp_path / "none", "# none yet\n"))}
    )
    assert load({"host": host, "insecure": "true"}, {}).host == host
    assert load({"host": host, "api_keys": "12345678"}, {}).host == host
    keys = written(tmp_path / "keys", "# mine\n\nabcdefgh\n")
    assert load({"host": host, "api_key_file": str(keys)}, {}).host == host


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("example.org", False),
    ],
)
def test_loopback_addresses(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_keys_come_from_the_settings_and_from_the_file(tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", "from-file-1\n# not this\n\n  from-file-2  \n")
    digests = accepted_keys(load({"api_keys": "from-flag", "api_key_file": str(keys)}, {}))
    assert digests == tuple(map(shown_digest, ("from-flag", "from-file-1", "from-file-2")))


def test_a_key_may_lie_in_the_file_as_its_digest(tmp_path: Path) -> None:
    key = new_key()
    keys = written(tmp_path / "keys", f"{hashed_key(key)}\n")
    assert key not in keys.read_text()
    assert accepted_keys(load({"api_key_file": str(keys)}, {})) == (shown_digest(key),)
    assert accepted_keys(load({"api_keys": hashed_key(key)}, {})) == (shown_digest(key),)


@pytest.mark.parametrize("line", ["short", "two words", "schlüssel-eins", "sha256:12345678"])
def test_a_line_that_is_no_key_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    sentence = refusal({"api_key_file": str(written(tmp_path / "keys", f"abcdefgh\n{line}\n"))})
    assert "Line 2" in sentence
    assert line not in sentence


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        ({"tls_certificate": "c.pem"}, "tls_key"),
        ({"tls_key": "k.pem"}, "tls_certificate"),
        ({"turn_urls": "turn:a:1"}, "turn_secret"),
        ({"turn_secret": "s"}, "turn_urls"),
    ],
)
def test_settings_that_go_together_are_asked_for_together(flags: dict[str, str], missing: str) -> None:
    assert f"needs {missing} too" in refusal(flags)


@pytest.mark.parametrize("path", ["\0", "\ud800"])
def test_a_path_that_no_file_can_have_is_refused(path: str) -> None:
    assert "cannot be the name of a file" in refusal({"api_key_file": path})


def test_a_missing_certificate_is_found_before_the_start(tmp_path: Path) -> None:
    sentence = refusal({"tls_certificate": str(tmp_path / "c.pem"), "tls_key": str(tmp_path / "k.pem")})
    assert "c.pem (tls_certificate) cannot be read" in sentence


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    began = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    signed = (
        x509.CertificateBuilder(name, name, secret.public_key(), 1, began, began + dt.timedelta(days=1))
        .sign(secret, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    certificate.write_bytes(signed)
    key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key


def test_a_certificate_and_its_key_are_taken(certificate: tuple[Path, Path]) -> None:
    chain, key = map(str, certificate)
    assert load({"tls_certificate": chain, "tls_key": key}, {}).tls_key == key


def test_a_key_that_is_not_the_certificates_is_refused(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    chain, key = map(str, certificate)
    assert "do not work together" in refusal({"tls_certificate": key, "tls_key": chain})
    no_pem = str(written(tmp_path / "no.pem", "-"))
    assert "PEM files" in refusal({"tls_certificate": chain, "tls_key": no_pem})


def test_a_key_with_a_password_is_refused_without_asking_for_it(certificate: tuple[Path, Path]) -> None:
    chain, key = certificate
    secret = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sesame")))
    assert "without a password" in refusal({"tls_certificate": str(chain), "tls_key": str(key)})


@pytest.mark.parametrize("model", ["embedded", "echo", "my_package.my_model:build"])
def test_models_that_can_be_asked_for(model: str) -> None:
    assert load({"model": model}, {}).model == model


def test_a_folder_with_a_checkpoint_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert load({"model": str(tmp_path)}, {}).model == str(tmp_path)
    assert "Leave workers at 1" in refusal({"model": str(tmp_path), "workers": "2"})


def test_several_workers_need_a_system_that_shares_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load({}, {"DUPLEX_WORKERS": "2"}).workers == 2
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    assert "one process only" in refusal({"workers": "2"})


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("embeded", "Did you mean embedded?"),
        ("weights/none", "no such folder"),
        (".", "it has no config.json"),
        ("a b:c", "no model of that name"),
    ],
)
def test_a_model_that_is_not_there_is_refused(model: str, part: str) -> None:
    assert part in refusal({"model": model})


def test_what_is_printed_is_a_settings_file_with_the_same_settings(tmp_path: Path) -> None:
    flags = {
        "port": "1",
        "interruption": "model",
        "ice_servers": "stun:a,stun:b",
        "session_max_s": "1.5",
        "insecure": "true",
    }
    result = effective(flags, {})
    toml = written(tmp_path / "s.toml", render(result))
    assert load({}, {}, toml) == result.settings


def test_what_is_printed_names_every_setting_and_its_source_but_no_secret() -> None:
    printed = render(effective({"port": "1", "api_keys": "sesame-open"}, {"DUPLEX_TURN_TTL_S": "60"}))
    assert set(tomllib.loads(printed)) == set(FIELDS) - {"api_keys"}
    assert "set by --port; default 8000" in printed
    assert "set by DUPLEX_TURN_TTL_S" in printed
    assert "sesame" not in printed
    assert "api_keys = (kept secret)" in printed


@given(name=st.sampled_from(sorted(FIELDS)), text=st.text())
def test_any_text_for_any_setting_is_taken_or_refused_with_a_sentence(name: str, text: str) -> None:
    sentence = "taken."
    try:
        load({name: text}, {})
    except ConfigError as error:
        sentence = str(error)
    assert sentence.endswith(".")
