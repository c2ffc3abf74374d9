"""Made-up sessions on the wire: what a peer may send and a session may call, in any order."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import strategies as st

from duplex_server.errors import EngineLost, InvalidEvent
from duplex_server.types import Heard
from duplex_server.wire.dialogue import Outcome
from tests.helpers.wire_driver import WireDriver, ramp

__all__ = ["Plan", "endings", "from_client", "on_items", "plans", "run_plan", "sessions"]

Plan = list[tuple[str, Any]]

ITEM_IDS = st.sampled_from(["mine", "yours", "root", "", *(f"item_0011223344556677{n:06x}" for n in range(1, 7))])
TURNS = st.sampled_from([0, 0, 0, 0, 1, -1])
"""Relative to the newest turn that began; 1 is the next."""
MS = st.integers(-50, 2000)

turn_detections = st.sampled_from(
    [
        None,
        False,
        True,
        {"type": "semantic_vad"},
        {"type": "server_vad", "silence_duration_ms": 200},
        {"type": "semantic_vad", "interrupt_response": False},
        {"create_response": False},
    ]
)
formats = st.sampled_from([{"type": "audio/pcm", "rate": 24000}, {"type": "audio/pcmu"}, {"type": "audio/pcma"}])
sessions = st.fixed_dictionaries(
    {},
    optional={
        "type": st.just("realtime"),
        "instructions": st.sampled_from(["", "Be brief.", None]),
        "output_modalities": st.sampled_from([["audio"], ["text"], ["audio", "text"]]),
        "audio": st.fixed_dictionaries(
            {},
            optional={
                "input": st.fixed_dictionaries({}, optional={"turn_detection": turn_detections, "format": formats}),
                "output": st.fixed_dictionaries(
                    {}, optional={"voice": st.sampled_from(["calm", "bright", "ash"]), "format": formats}
                ),
            },
        ),
        "extra_body": st.fixed_dictionaries(
            {}, optional={"interruption": st.sampled_from(["guarded", "model", "push_to_talk", None, "never"])}
        ),
    },
)
parts = st.sampled_from(
    [
        {"type": "input_text", "text": "hello"},
        {"type": "input_audio", "audio": "AAAAAA==", "transcript": None},
        {"type": "input_image", "image_url": "data:image/jpeg;base64,/9j/"},
        {"type": "output_text", "text": "well"},
        {"type": "output_audio", "transcript": "well"},
    ]
)
items = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("message"),
            "role": st.sampled_from(["user", "assistant", "system"]),
            "content": st.lists(parts, max_size=2),
        },
        optional={"id": ITEM_IDS, "status": st.just("in_progress")},
    ),
    st.just({"type": "function_call_output", "call_id": "c", "output": "42"}),
)
acks = st.fixed_dictionaries(
    {"played_ms": MS}, optional={"item_id": ITEM_IDS, "truncate": st.booleans(), "committed_ms": MS}
)
truncates = st.fixed_dictionaries({"item_id": ITEM_IDS, "audio_end_ms": MS}, optional={"content_index": st.just(0)})
creates: st.SearchStrategy[dict[str, Any] | None] = st.sampled_from(
    [None, {}, {"metadata": {"a": "b"}}, {"conversation": "none"}, {"output_modalities": ["text"]}, {"input": []}]
)


def _client(type_: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just("client"), st.fixed_dictionaries({"type": st.just(type_), **fields}))


def _call(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    return st.tuples(st.just(name), st.tuples(*arguments))


audio = st.binary(min_size=4000, max_size=9000).map(lambda pcm: base64.b64encode(pcm).decode())
texts = st.sampled_from(["", "It is ", "noon."])
from_client = st.one_of(
    _client("session.update", session=sessions),
    _client("input_audio_buffer.append", audio=audio),
    _client("input_audio_buffer.commit"),
    _client("input_audio_buffer.clear"),
    _client("response.create", response=creates),
    _client("response.cancel"),
    _client("output_audio_buffer.clear"),
    _client("barge_in"),
    _client("session.heartbeat"),
    _client("session.pause"),
    _client("session.continue"),
    _client("session.event_ack", server_event_seq=st.integers(-1, 1000)),
    _client("session.resume", session_id=st.just("sess_x"), resume_token=st.just("x")),
    _client("turn.signal", event=st.sampled_from(["user_started", "user_stopped", "barge_in", "hum"])),
    _client("input_image_buffer.append", image=st.sampled_from(["", "/9j/", "?"])),
    _client("nonsense"),
)
on_items = st.one_of(
    _client("conversation.item.create", item=items, previous_item_id=st.none() | ITEM_IDS),
    _client("conversation.item.retrieve", item_id=ITEM_IDS),
    _client("conversation.item.delete", item_id=ITEM_IDS),
    truncates.map(lambda fields: ("client", {"type": "conversation.item.truncate", **fields})),
    acks.map(lambda fields: ("client", {"type": "playback.ack", **fields})),
)
of_user = st.one_of(
    _call("speech_started", MS),
    _call("speech_stopped", MS),
    _call("heard", st.builds(Heard, st.sampled_from(["", "what", "what time", "stop"]), st.booleans())),
)
begin = _call("begin_response", st.just(1))
end = _call("end_response", TURNS, st.sampled_from(Outcome), MS)
of_model = st.one_of(
    _call("text", TURNS, texts, MS.map(abs)),
    _call("audio", TURNS, st.sampled_from([0, 1, 2, 480, 15_000]).map(ramp)),
    _call("playback", TURNS, st.sampled_from(["started", "stopped", "cleared"])),
)
others = st.one_of(
    _call("begin_response", TURNS),
    _call("no_response"),
    _call("overlap", st.sampled_from(["hold", "ignore", "interrupt"]), st.just("onset"), MS),
    _call("playback_position", TURNS, MS, MS, MS),
    _call("closing", st.just("timeout"), st.just(1000)),
    _call("refuse", st.builds(InvalidEvent, st.just("No."))),
)
steps = st.sampled_from([*[of_model] * 6, *[of_user] * 2, begin, end, from_client, on_items, others]).flatmap(
    lambda some: some
)
plans = st.lists(steps, min_size=30, max_size=80)
endings = st.sampled_from([("client", {"type": "session.close"}), ("fail", (EngineLost("w1"),)), None])


TAKES_TURN = {"begin_response", "text", "audio", "playback", "end_response", "playback_position"}


def run_plan(driver: WireDriver, plan: Plan) -> None:
    """Carry a plan out."""
    newest = 0
    for kind, arguments in plan:
        if kind == "client":
            driver.client_text(json.dumps(arguments))
            continue
        if kind in TAKES_TURN:
            turn = newest + arguments[0]
            arguments = (turn, *arguments[1:])
            newest = max(newest, turn) if kind == "begin_response" else newest
        driver.session(kind, *arguments)
