from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from duplex_server.config import Settings, hashed_key, shown_digest
from duplex_server.errors import AuthError
from duplex_server.security import Entry, ForeignOrigin, Gate, NotPermitted, OwnTally, Throttled, Visitor
from duplex_server.security.limits import FAILURE_EVERY_S, FREE_FAILURES

KEY = "correct-horse-battery"
LOCAL = "127.0.0.1:8000"


class Clock:
    """The time of day, as a test sets it."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


def guarded(*origins: str, clock: Clock | None = None, **limits: int) -> Gate:
    keys = [shown_digest(KEY), shown_digest("another-key")]
    return Gate(keys, origins, loopback=False, clock_s=clock or Clock(), tally=OwnTally(**limits))


def anonymous(*origins: str) -> Gate:
    return Gate([], origins, loopback=True, clock_s=Clock())


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
    gate.admit(Visitor(query_key=KEY))
    assert KEY not in repr(vars(gate))
    assert KEY.encode() not in b"".join(gate._digests)


def test_the_digest_of_a_key_is_no_key() -> None:
    with pytest.raises(AuthError):
        guarded().admit(Visitor(query_key=hashed_key(KEY)))


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
    gate = Gate([shown_digest(KEY)], [], loopback=True, clock_s=Clock())
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
    gate = Gate.of(Settings(host="0.0.0.0", api_key_file=str(file)), Clock())
    gate.admit(Visitor(host="any", query_key=KEY))
    with pytest.raises(AuthError):
        gate.admit(Visitor(host="any"))
    Gate.of(Settings(), Clock()).admit(Visitor(host=LOCAL))


def test_an_open_server_lets_everybody_in() -> None:
    Gate.of(Settings(host="0.0.0.0", insecure=True), Clock()).admit(Visitor(host="192.0.2.7:8000"))


def test_guesses_are_slowed_and_counted() -> None:
    clock = Clock()
    gate = guarded(clock=clock)
    for _ in range(FREE_FAILURES):
        with pytest.raises(AuthError):
            gate.admit(Visitor(query_key="wrong-key", address="192.0.2.1"))
    with pytest.raises(Throttled) as refusal:
        gate.admit(Visitor(query_key=KEY, address="192.0.2.1"))
    assert 0 < refusal.value.retry_after_s <= FAILURE_EVERY_S
    gate.admit(Visitor(query_key=KEY, address="192.0.2.2"))
    clock.now_s += refusal.value.retry_after_s
    gate.admit(Visitor(query_key=KEY, address="192.0.2.1"))
    assert gate.failed_attempts == FREE_FAILURES + 1


def test_who_shows_no_key_guesses_none() -> None:
    gate = guarded()
    for _ in range(2 * FREE_FAILURES):
        with pytest.raises(AuthError):
            gate.admit(Visitor(address="192.0.2.1"))
    gate.admit(Visitor(query_key=KEY, address="192.0.2.1"))


def secret_of(gate: Gate, *, ttl_s: int = 600, max_sessions: int | None = None) -> str:
    owner = gate.admit_owner(Visitor(query_key=KEY, host=LOCAL))
    session = {"instructions": "Be brief."}
    minting = gate.mint(owner, ttl_s=ttl_s, session=session, max_session_s=60.0, max_sessions=max_sessions)
    return asyncio.run(minting)[0]


def begin(gate: Gate, entry: Entry) -> Callable[[], None]:
    return asyncio.run(gate.begin_session(entry))


def test_a_client_secret_opens_until_it_expires() -> None:
    clock = Clock()
    gate = guarded(clock=clock)
    value = secret_of(gate, ttl_s=10)
    assert value.startswith("ek_")
    entry = gate.admit(Visitor(authorization=f"Bearer {value}"))
    assert (entry.session, entry.max_session_s) == ({"instructions": "Be brief."}, 60.0)
    assert entry.key_id == gate.admit(Visitor(query_key=KEY)).key_id
    clock.now_s += 10
    with pytest.raises(AuthError):
        gate.admit(Visitor(authorization=f"Bearer {value}"))
    assert gate.admit(Visitor(authorization=f"Bearer {value}"), to_go_on=True).key_id == entry.key_id


def test_a_client_secret_widens_nothing() -> None:
    gate = guarded()
    with pytest.raises(NotPermitted):
        gate.admit_owner(Visitor(authorization=f"Bearer {secret_of(gate)}"))


def test_a_client_secret_begins_no_more_sessions_than_it_may() -> None:
    gate = guarded(key_max_sessions=10)
    entry = gate.admit(Visitor(query_key=secret_of(gate, max_sessions=2)))
    begin(gate, entry)()
    begin(gate, entry)
    with pytest.raises(AuthError, match="as many sessions"):
        begin(gate, entry)


def test_the_sessions_of_a_secret_are_its_owners() -> None:
    gate = guarded(key_max_sessions=2)
    key, other = (gate.admit(Visitor(query_key=shown)) for shown in (KEY, "another-key"))
    secret = gate.admit(Visitor(query_key=secret_of(gate)))
    begin(gate, key)
    end = begin(gate, secret)
    with pytest.raises(Throttled):
        begin(gate, key)
    begin(gate, other)
    end()
    end()
    begin(gate, key)
    with pytest.raises(Throttled):
        begin(gate, secret)


def test_a_refused_session_counts_for_nothing() -> None:
    gate = guarded(key_max_sessions=1)
    entry = gate.admit(Visitor(query_key=secret_of(gate, max_sessions=0)))
    for _ in range(3):
        with pytest.raises(AuthError):
            begin(gate, entry)
    begin(gate, gate.admit(Visitor(query_key=KEY)))


def test_sessions_come_no_faster_than_the_key_may() -> None:
    clock = Clock()
    gate = guarded(clock=clock, key_sessions_per_minute=3)
    entry = gate.admit(Visitor(query_key=KEY))
    for _ in range(3):
        begin(gate, entry)()
    with pytest.raises(Throttled) as refusal:
        begin(gate, entry)
    assert refusal.value.retry_after_s == pytest.approx(20)
    clock.now_s += 20
    begin(gate, entry)


def test_where_no_key_is_needed_a_secret_still_brings_its_session() -> None:
    gate = anonymous()
    value = secret_of(gate)
    assert gate.admit(Visitor(query_key=value, host=LOCAL)).session == {"instructions": "Be brief."}
    assert gate.admit(Visitor(query_key="ek_made_up", host=LOCAL)).session is None
