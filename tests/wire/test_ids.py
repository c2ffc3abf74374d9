from __future__ import annotations

from collections.abc import Callable

import pytest

from duplex_server.wire.ids import MAX_GATEWAYS, Ids, gateway_of, new_call_id, new_session_id


def test_ids_are_told_apart_by_kind_and_session() -> None:
    one, other = Ids("sess_aaaa"), Ids("sess_bbbb")
    made = [make() for ids in (one, other) for make in (ids.event, ids.item, ids.response, ids.event)]
    assert len(set(made)) == len(made)
    assert made[0] == "event_aaaa000001"
    assert all(len(made_id) <= 32 for made_id in made)
    assert len(Ids("sess_" + "a" * 40).item()) <= 32


@pytest.mark.parametrize("new_id", [new_session_id, new_call_id])
def test_an_id_names_its_gateway(new_id: Callable[[int], str]) -> None:
    for gateway in (0, 7, MAX_GATEWAYS - 1):
        assert gateway_of(new_id(gateway)) == gateway
    assert len({new_id(3) for _ in range(50)}) == 50


@pytest.mark.parametrize("id_", ["", "sess", "sess_", "sess_1", "sess_zz", "rtc_-1", "rtc_+1", "item_01ab", "rtc_ 1ab"])
def test_what_is_no_id_names_none(id_: str) -> None:
    assert gateway_of(id_) is None
