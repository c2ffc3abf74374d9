from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest

from duplex_server.config import Settings
from duplex_server.errors import AuthError
from duplex_server.security import ForeignOrigin, Gate, Visitor, relay_credentials

KEY = "correct-horse-battery"
LOCAL = "127.0.0.1:8000"


def guarded(*origins: str) -> Gate:
    return Gate([KEY, "another-key"], origins, loopback=False)


def anonymous(*origins: str) -> Gate:
    return Gate([], origins, loopback=True)


@pytest.mark.parametrize(
    "visitor",
    [
        Visitor(authorization=f"Bearer {KEY}"),
        Visitor(authorization=f"bearer  {KEY} "),
        Visitor(authorization="Bearer another-key"),
        Visitor(subprotocols=["realtime", f"openai-insecure-api-key.{KEY}", "openai-agents-sdk.1"]),
        Visitor(query_key=KEY),
    ],
)
def test_a_key_opens_whichever_way_it_is_shown(visitor: Visitor) -> None:
    guarded().admit(visitor)


@pytest.mark.parametrize(
    "visitor",
    [
        Visitor(),
        Visitor(authorization="Bearer "),
        Visitor(authorization="Bearer wrong"),
        Visitor(authorization=f"Basic {KEY}"),
        Visitor(authorization=KEY),
        Visitor(subprotocols=["realtime", KEY]),
        Visitor(query_key=KEY + "x"),
        Visitor(query_key="schlüssel\udcff"),
        Visitor(authorization="Bearer wrong", query_key=KEY),
    ],
)
def test_anything_else_does_not(visitor: Visitor) -> None:
    with pytest.raises(AuthError) as refusal:
        guarded().admit(visitor)
    assert refusal.value.error_code == "invalid_api_key"
    assert KEY not in str(refusal.value)


def test_the_keys_are_not_kept() -> None:
    gate = guarded()
    assert KEY not in repr(vars(gate))
    assert KEY.encode() not in b"".join(gate._digests)


@pytest.mark.parametrize("host", [LOCAL, "localhost:8000", "[::1]:8000", "app.localhost"])
def test_on_loopback_nobody_needs_a_key(host: str) -> None:
    anonymous().admit(Visitor(host=host))
    anonymous().admit(Visitor(host=host, origin=f"http://{host}"))


def test_a_page_of_another_site_is_kept_out_even_where_no_key_is_needed() -> None:
    with pytest.raises(ForeignOrigin):
        anonymous().admit(Visitor(host=LOCAL, origin="https://evil.example"))


def test_a_name_that_somebody_pointed_at_this_machine_is_not_ours() -> None:
    with pytest.raises(ForeignOrigin, match="allowed_origins"):
        anonymous().admit(Visitor(host="evil.example:8000"))
    with pytest.raises(ForeignOrigin):
        anonymous().admit(Visitor(host="evil.example:8000", origin="http://evil.example:8000"))


def test_a_key_protects_under_any_name() -> None:
    gate = Gate([KEY], [], loopback=True)
    gate.admit(Visitor(host="talk.example", origin="https://talk.example", query_key=KEY))


def test_an_allowed_origin_may_connect() -> None:
    gate = anonymous("https://app.example")
    gate.admit(Visitor(host=LOCAL, origin="https://APP.example"))
    gate.admit(Visitor(host="app.example"))
    with pytest.raises(ForeignOrigin):
        gate.admit(Visitor(host=LOCAL, origin="https://app.example:444"))


def test_a_star_allows_every_origin() -> None:
    anonymous("*").admit(Visitor(host="whatever", origin="null"))


@pytest.mark.parametrize("origin", ["null", "http://", "http://[", "file://", "http://localhost:99999999"])
def test_odd_origins_are_foreign(origin: str) -> None:
    with pytest.raises(ForeignOrigin):
        anonymous().admit(Visitor(host=LOCAL, origin=origin))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://talk.example", "talk.example"),
        ("https://talk.example", "talk.example:443"),
        ("http://talk.example:8000", "TALK.example:8000"),
    ],
)
def test_our_own_page_may_connect(origin: str, host: str) -> None:
    guarded().admit(Visitor(host=host, origin=origin, query_key=KEY))


def test_the_gate_follows_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# staff\n{KEY}\n")
    gate = Gate.of(Settings(host="0.0.0.0", api_key_file=str(file)))
    gate.admit(Visitor(host="any", query_key=KEY))
    with pytest.raises(AuthError):
        gate.admit(Visitor(host="any"))
    Gate.of(Settings()).admit(Visitor(host=LOCAL))


def test_an_open_server_lets_everybody_in() -> None:
    Gate.of(Settings(host="0.0.0.0", insecure=True)).admit(Visitor(host="192.0.2.7:8000"))


def test_relay_credentials_are_what_coturn_computes() -> None:
    made = relay_credentials("north", ttl_s=600, now_s=1_700_000_000.9, name="rtc_1")
    assert made.username == "1700000600:rtc_1"
    assert made.expires_at == 1_700_000_600
    expected = hmac.new(b"north", b"1700000600:rtc_1", hashlib.sha1).digest()
    assert made.password == base64.b64encode(expected).decode()
