"""Whatever is sent in a dialect, and whatever the session calls meanwhile: only its documented messages come out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.live import ServerEvent as LiveServerEvent
from pydantic import TypeAdapter

from duplex_server.errors import InvalidEvent
from duplex_server.wire.dialect import Dialect
from duplex_server.wire.dialogue import Outcome
from duplex_server.wire.events import ServerEvent
from duplex_server.wire.extension_events import SessionLimits
from duplex_server.wire.live_dialect import LIVE_OPT_IN, LIVE_PCM_RATES_HZ, LiveDialect
from duplex_server.wire.requests import AddText, CreateResponse
from duplex_server.wire.session_object import OPT_IN_NAMES
from duplex_server.wire.vllm_dialect import VLLM_PCM_RATES_HZ, VllmDialect
from tests.helpers.openai_schema import validate
from tests.helpers.wire_driver import WireDriver
from tests.helpers.wire_oracle import EXTENSIONS, WireOracle
from tests.helpers.wire_plans import Plan, plans, run_plan

_LIVE: TypeAdapter[Any] = TypeAdapter(LiveServerEvent)

texts = st.sampled_from(["", "It rains.", "x" * 70_000])
ids = st.sampled_from([None, "one", "two"])


def sent(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), "event_id": ids, **fields})


live_formats = st.sampled_from(
    [None, {"type": "audio/pcm", "rate": 16000}, {"type": "audio/pcm", "rate": 1}, {"type": "audio/pcmu", "rate": 8000}]
)
live_sessions = st.fixed_dictionaries(
    {},
    optional={
        "model": st.just("any"),
        "instructions": texts,
        "audio": st.fixed_dictionaries({}, optional={"format": live_formats, "output": st.just({"voice": "marin"})}),
        "input": st.lists(
            st.sampled_from(
                [
                    {"role": "user", "content": [{"type": "input_text", "text": "I am Ada."}]},
                    {"role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]},
                    {"role": "developer", "content": []},
                ]
            ),
            max_size=2,
        ),
        "delegation": st.sampled_from([None, {"type": "client"}]),
    },
)
live_events = st.one_of(
    sent("session.start", session=live_sessions),
    sent("session.update", session=st.just({})),
    sent("session.input_audio.append", audio=st.sampled_from(["", "AAAA", "?"])),
    sent("session.input_image.append", image=st.sampled_from(["", "AAAA"])),
    sent("session.input_audio.mute"),
    sent("session.input_audio.unmute"),
    sent("session.instructions.append", content=texts),
    sent("session.thinking.append", content=texts),
    sent("session.commentary.append", content=texts),
    sent("session.close"),
    sent("decision.create"),
    sent("response.create"),
)
vllm_events = st.one_of(
    sent(
        "session.update",
        session=st.fixed_dictionaries(
            {},
            optional={
                "modalities": st.sampled_from([["audio", "text"], ["text"], ["smell"]]),
                "input_audio_format": st.sampled_from(["pcm16", "g711_ulaw", "pcm_f32le", None]),
                "turn_detection": st.sampled_from([None, False, {"type": "server_vad"}, {"type": "model"}]),
                "overlap_policy": st.sampled_from(["listen_only", "barge_in_on_speech", "other"]),
                "extra_body": st.sampled_from([None, {"auto_response": True}, {"auto_response": False}]),
                "temperature": st.just(0.7),
            },
        ),
    ),
    sent("input_audio_buffer.append", audio=st.sampled_from(["", "AAAA", "AAAA" * 2000])),
    sent("input_audio_buffer.commit", response_create=st.booleans(), is_speech=st.sampled_from([True, False, None])),
    sent("input.commit"),
    sent("input.cancel"),
    sent("input.text.append", text=texts),
    sent("turn.signal", event=st.sampled_from(["barge_in", "other"])),
    sent("barge_in"),
    sent("response.cancel"),
    sent("session.heartbeat"),
    sent("push_chunk"),
)


class DialectDriver(WireDriver):
    """A conversation whose peer speaks a dialect; ``spelt`` is what that peer got."""

    def __init__(self, dialect: Dialect, **options: Any) -> None:
        self.spelt: list[dict[str, Any]] = []
        self._dialect = dialect
        super().__init__(**options)

    def tell(self, events: Any) -> list[dict[str, Any]]:
        for event in events:
            self._spell(event)
            super().tell([event])
        return []

    def _spell(self, event: ServerEvent) -> None:
        self.spelt += [json.loads(message) for message in self._dialect.tell(event)]

    def client_text(self, text: str | bytes) -> list[dict[str, Any]]:
        try:
            events = self._dialect.receive(str(text), max_bytes=100_000)
        except InvalidEvent as error:
            return self.tell(self.dialogue.refuse(error))
        for event in events:
            reply = self.dialogue.receive(event)
            self.requests += reply.requests
            self.tell(reply.events)
        return []


class Clock:
    next_ms = 0

    def begin(self) -> None: ...


def interleave(driver: DialectDriver, messages: Sequence[dict[str, Any]], plan: Plan) -> None:
    """Let the peer speak between what happens."""
    steps = [step for step in plan if step[0] != "client"]
    stride = max(1, len(steps) // max(1, len(messages)))
    for n, message in enumerate(messages):
        steps.insert(n * (stride + 1), ("client", message))
    run_plan(driver, steps)


def ends_once(spelt: Sequence[dict[str, Any]], kind: str) -> bool:
    kinds = [event["type"] for event in spelt]
    return kinds.count(kind) <= 1 and (kind not in kinds or kinds[-1] == kind)


@settings(max_examples=150, deadline=None)
@given(messages=st.lists(live_events, max_size=12), plan=plans)
def test_a_live_peer_gets_nothing_but_legal_live_events(messages: list[dict[str, Any]], plan: Plan) -> None:
    dialect = LiveDialect(Clock())
    driver = DialectDriver(dialect, media_track=True, opt_in=LIVE_OPT_IN, input_rates_hz=LIVE_PCM_RATES_HZ)
    interleave(driver, messages, plan)
    for event in driver.spelt:
        _LIVE.validate_python(event)
    assert [event["type"] for event in driver.spelt if event["type"] != "error"][:1] in ([], ["session.started"])
    assert ends_once(driver.spelt, "session.closed")
    assert [event["type"] for event in driver.spelt].count("session.started") == 1


@settings(max_examples=150, deadline=None)
@given(messages=st.lists(vllm_events, max_size=12), plan=plans)
def test_a_vllm_peer_gets_legal_realtime_events_in_legal_order(messages: list[dict[str, Any]], plan: Plan) -> None:
    driver = DialectDriver(VllmDialect(), opt_in=OPT_IN_NAMES, input_rates_hz=VLLM_PCM_RATES_HZ)
    interleave(driver, messages, plan)
    oracle = WireOracle(media_track=False, opted_in=True, timely=False)
    for event in driver.spelt:
        oracle.feed(event)
        if not event["type"].startswith("session."):  # its input rate is one that OpenAI's models do not know
            assert validate(event) or event["type"] in EXTENSIONS
        if event["type"] in ("response.created", "response.done"):
            assert event["response_id"] == event["response"]["id"]
    oracle.finish(all_ended=False)


def test_a_commentary_asks_for_a_response_only_where_none_is_open() -> None:
    driver = DialectDriver(LiveDialect(Clock()), media_track=True, opt_in=LIVE_OPT_IN)
    driver.speak()
    driver.client("session.commentary.append", content="It rains.")
    assert [event["type"] for event in driver.spelt][-1] == "session.commentary.appended"
    assert driver.take_requests() == [AddText("It rains.")]
    driver.tell(driver.dialogue.end_response(1, Outcome.COMPLETED, 200))
    driver.client("session.commentary.append", content="It snows.")
    assert driver.take_requests() == [AddText("It snows."), CreateResponse()]


def test_how_full_the_context_is_comes_with_the_usage() -> None:
    driver = DialectDriver(LiveDialect(Clock()), media_track=True, opt_in=LIVE_OPT_IN)
    driver.tell([SessionLimits(event_id="1", max_session_ms=1000)])
    assert driver.spelt[-1]["type"] == "session.started", "a model without a context says nothing of it"
    driver.tell([SessionLimits(event_id="2", max_session_ms=1000, context_tokens=2000, context_tokens_max=8000)])
    assert driver.spelt[-1]["context_window"] == {"usage_ratio": 0.25}
    driver.speak()
    driver.tell(driver.dialogue.end_response(1, Outcome.COMPLETED, 200))
    assert driver.spelt[-1]["type"] == "session.usage.updated"
    assert driver.spelt[-1]["context_window"] == {"usage_ratio": 0.25}
