from __future__ import annotations

from duplex_server.session.idleness import Idleness


def test_it_counts_from_the_last_that_was_said() -> None:
    idle = Idleness(0.0)
    assert not idle.is_over(4.9, 5000, busy=False)
    assert not idle.is_over(5.0, 5000, busy=True)
    assert not idle.is_over(9.9, 5000, busy=False)
    assert idle.is_over(10.0, 5000, busy=False)
    assert not idle.is_over(14.9, 5000, busy=False)
    assert idle.is_over(15.0, 5000, busy=False)


def test_without_a_timeout_it_never_ends_and_one_that_is_set_later_begins_then() -> None:
    idle = Idleness(0.0)
    assert not idle.is_over(1000.0, None, busy=False)
    assert not idle.is_over(1004.0, 5000, busy=False)
    assert idle.is_over(1005.0, 5000, busy=False)
