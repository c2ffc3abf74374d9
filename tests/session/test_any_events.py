"""Whatever a client sends to a running session, in whatever order: answers that are documented, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import re
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_server.errors import InvalidEvent
from duplex_server.session.attachment import Attachment
from duplex_server.session.session import Session
from duplex_server.session.voice import Voice
from duplex_server.transports.loopback import MEDIA_TRACK_TRAITS, MESSAGE_TRAITS
from duplex_server.wire.codec import decode_client
from duplex_server.wire.dialogue import Dialogue
from tests.helpers.slots import ScriptedSlot, speech
from tests.helpers.virtual_time import run
from tests.helpers.wire_plans import from_client, on_items
from tests.session.stage import Stage, staged

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
CODES = set(re.findall(r"`([a-z_]+)`", PAGE.split("\n## Errors\n")[1]))

steps = st.one_of(
    from_client,
    on_items,
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.02, 0.3, 1.0])),
    st.tuples(st.just("speak"), st.sampled_from([0.0, 0.1, 1.5])),
    st.tuples(
        st.just("garbage"), st.sampled_from(["", "[]", "{", '{"type": 7}', "\\ud800", '{"type":"session.update"}'])
    ),
)
plans = st.lists(steps, max_size=25)


def give(stage: Stage, text: str) -> None:
    try:
        stage.peer.send(decode_client(text))
    except InvalidEvent as error:
        stage.peer.send_undecodable(error)


async def play(stage: Stage, plan: list[tuple[str, Any]]) -> None:
    turn = 0
    for kind, what in plan:
        if kind == "wait":
            await asyncio.sleep(what)
        elif kind == "speak":
            turn = max([turn, *(turn for turn, _ in stage.slot.cancelled)]) + 1
            stage.slot.say(speech(what, turn=turn, text="Well."))
        else:
            give(stage, what if kind == "garbage" else msgspec.json.encode(what).decode())


@settings(max_examples=60, deadline=None)
@given(media_track=st.booleans(), plan=plans)
def test_any_events_in_any_order(media_track: bool, plan: list[tuple[str, Any]]) -> None:
    async def main() -> None:
        traits = MEDIA_TRACK_TRAITS if media_track else MESSAGE_TRAITS
        async with staged(ScriptedSlot(), traits=traits) as stage:  # which holds all events against the protocol
            await play(stage, plan)
            stage.send(type="session.continue")
            await asyncio.sleep(12)  # longer than anything that is said, and than the model is asked to speak
            stage.send(type="session.heartbeat", event_id="last")
            await asyncio.sleep(0.1)
            log = stage.log()
            assert log[-1]["type"] == "session.heartbeat_ack", "it still answers"
            created = [event["response"]["id"] for event in log if event["type"] == "response.created"]
            done = [event["response"]["id"] for event in log if event["type"] == "response.done"]
            assert created == done, "no response is stuck"
            errors = [event["error"] for event in log if event["type"] == "error"]
            assert {error["code"] for error in errors} <= CODES - {"server_error"}

    run(main(), debug=False)


def test_nothing_is_left_of_a_session() -> None:
    gc.collect()
    left = [thing for thing in gc.get_objects() if type(thing) in (Session, Attachment, Dialogue, Voice)]
    assert not left, f"{len(left)} objects of sessions that are over"
