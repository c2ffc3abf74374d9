from __future__ import annotations

import pytest

from duplex_server.security import Attempts, Throttled
from duplex_server.security.limits import FREE_FAILURES, MAX_ADDRESSES


def exhaust(attempts: Attempts, address: str, now_s: float = 0.0) -> None:
    for _ in range(FREE_FAILURES):
        attempts.check(address, now_s)
        attempts.note_failure(address, now_s)


def test_addresses_of_one_ipv6_network_count_as_one() -> None:
    attempts = Attempts()
    exhaust(attempts, "2001:db8::1")
    with pytest.raises(Throttled):
        attempts.check("2001:db8::ffff", 0.0)
    attempts.check("2001:db8:0:1::1", 0.0)
    attempts.check("192.0.2.1", 0.0)
    exhaust(attempts, "::ffff:192.0.2.1")
    attempts.check("::ffff:192.0.2.2", 0.0)


def test_no_more_addresses_are_remembered_than_fit() -> None:
    attempts = Attempts()
    exhaust(attempts, "first")
    for n in range(MAX_ADDRESSES):
        attempts.note_failure(f"address {n}", 0.0)
    attempts.check("first", 0.0)
    assert len(attempts._buckets) == MAX_ADDRESSES


def test_a_clock_that_is_set_back_forgives_nothing_and_blocks_nobody_for_ever() -> None:
    attempts = Attempts()
    exhaust(attempts, "here", 1000.0)
    with pytest.raises(Throttled):
        attempts.check("here", 0.0)
    attempts.check("here", 60.0)
