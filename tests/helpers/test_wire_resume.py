"""A session over several connections: what is lost, changed or said twice is noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.wire_driver import WireDriver, ramp
from tests.helpers.wire_oracle import OrderError
from tests.helpers.wire_resume import SessionOracle, check_connections

Log = list[dict[str, Any]]
_HEARD = 9
"""Events that arrived before the connection broke."""


def _numbered() -> Log:
    driver = WireDriver(opt_in=("resume",))
    driver.tell(driver.dialogue.begin_response(1))
    for n in range(4):
        driver.tell(driver.dialogue.text(1, f"{n} ", n * 100))
        driver.tell(driver.dialogue.audio(1, ramp(2400)))
    driver.client("session.update", session={"instructions": "Be brief."})
    return [{**event, "server_event_seq": n} for n, event in enumerate(driver.sent, 1)]


def _resumed(session: dict[str, Any], generation: int, replay_from: int) -> dict[str, Any]:
    return {
        "type": "session.resumed",
        "event_id": f"event_resumed_{generation}",
        "session": session,
        "resume_token": f"token_{generation}",
        "attachment_generation": generation,
        "replay_from_seq": replay_from,
        "client_events_received": 0,
    }


def _legal() -> list[Log]:
    """Two connections, of which the second repeats two events that had arrived."""
    events = _numbered()
    events[0]["resume_token"] = "token_1"
    return [events[:_HEARD], [_resumed(events[0]["session"], 2, _HEARD - 1), *events[_HEARD - 2 :]]]


def test_a_resumed_session_passes() -> None:
    check_connections(_legal(), media_track=False, all_ended=False)
    check_connections([_numbered()], media_track=False, all_ended=False)


def _put(connection: int, place: int, **changes: Any) -> Callable[[list[Log]], None]:
    def plant(connections: list[Log]) -> None:
        connections[connection][place].update(changes)

    return plant


def _drop(connection: int, place: int) -> Callable[[list[Log]], None]:
    def plant(connections: list[Log]) -> None:
        del connections[connection][place]

    return plant


def _repeat(connection: int, place: int) -> Callable[[list[Log]], None]:
    def plant(connections: list[Log]) -> None:
        connections[connection].insert(place, connections[connection][place])

    return plant


FAULTS = {
    "lost on the way": _drop(0, 3),
    "lost at the break": _drop(1, 3),
    "not sent again": _drop(1, 1),
    "said twice": _repeat(1, 4),
    "said twice before the break": _repeat(0, 4),
    "no number": lambda connections: connections[0][2].pop("server_event_seq"),
    "sent again, and changed": _put(1, 2, delta="something else"),
    "another session": _put(1, 0, session={"id": "sess_another"}),
    "the old token": _put(1, 0, resume_token="token_1"),
    "an old generation": _put(1, 0, attachment_generation=1),
    "sent again from elsewhere": _put(1, 0, replay_from_seq=_HEARD),
    "resumed without a word": _drop(1, 0),
    "resumed twice": _repeat(1, 0),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_noticed(fault: Callable[[list[Log]], None]) -> None:
    connections = copy.deepcopy(_legal())
    fault(connections)
    with pytest.raises(OrderError):
        check_connections(connections, media_track=False, all_ended=False)


def test_nothing_follows_session_replaced() -> None:
    first, _ = _legal()
    replaced = {"type": "session.replaced", "event_id": "event_replaced", "attachment_generation": 2}
    oracle = SessionOracle(media_track=False)
    with pytest.raises(OrderError, match="nothing may follow"):
        oracle.connection([*first[:3], replaced, *first[3:]])


def test_what_is_lost_must_be_named() -> None:
    first, second = _legal()
    resync: dict[str, Any] = {"type": "session.resync_required", "event_id": "event_r", "reason": "journal_overflow"}
    resync |= {"first_missing_seq": _HEARD + 1, "last_missing_seq": _HEARD + 2}
    resumed = {**second[0], "replay_from_seq": _HEARD + 3}
    rest = [event for event in second[1:] if event["server_event_seq"] > _HEARD + 2]
    check_connections([first, [resumed, resync, *rest]], media_track=False, all_ended=False)
    with pytest.raises(OrderError, match="is missing"):
        check_connections([first, [resumed, *rest]], media_track=False, all_ended=False)
