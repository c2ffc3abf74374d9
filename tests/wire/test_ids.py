from __future__ import annotations

from duplex_server.wire.ids import Ids


def test_ids_are_told_apart_by_kind_and_session() -> None:
    one, other = Ids("sess_aaaa"), Ids("sess_bbbb")
    made = [make() for ids in (one, other) for make in (ids.event, ids.item, ids.response, ids.event)]
    assert len(set(made)) == len(made)
    assert made[0] == "event_aaaa000001"
    assert all(len(made_id) <= 32 for made_id in made)
    assert len(Ids("sess_" + "a" * 40).item()) <= 32
