from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_server.types import InterruptionPolicy, SessionSetup
from duplex_server.wire.requests import Configure, TurnTaking
from tests.helpers.openai_schema import validate
from tests.helpers.wire_driver import SPEC, WireDriver, ramp
from tests.helpers.wire_plans import sessions


def _session(driver: WireDriver) -> dict[str, Any]:
    shown = [event["session"] for event in driver.sent if event["type"] in ("session.created", "session.updated")]
    return dict(shown[-1])


def _detection(driver: WireDriver) -> Any:
    return _session(driver)["audio"]["input"]["turn_detection"]


def _update(driver: WireDriver, **session: Any) -> dict[str, Any]:
    (answer,) = driver.client("session.update", event_id="u1", session=session)
    return answer


def _detect(driver: WireDriver, detection: Any) -> dict[str, Any]:
    return _update(driver, audio={"input": {"turn_detection": detection}})


def test_a_new_session_shows_every_setting() -> None:
    session = _session(WireDriver())
    assert session == {
        "type": "realtime",
        "object": "realtime.session",
        "id": "sess_00112233445566778899aabb",
        "model": "embedded",
        "expires_at": 1_800_000_000,
        "output_modalities": ["audio"],
        "instructions": "",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": {"model": "embedded", "language": "en"},
                "noise_reduction": None,
                "turn_detection": {
                    "type": "semantic_vad",
                    "create_response": True,
                    "interrupt_response": True,
                    "eagerness": "auto",
                },
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "calm", "speed": 1.0},
        },
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "max_output_tokens": "inf",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "include": None,
        "reasoning": None,
        "extra_body": {"interruption": "guarded", "language": "en", "duplex_events": []},
        "capabilities": {
            "implementation_level": "model_native_duplex",
            "chunk_period_ms": 40,
            "input_modes": ["audio", "text", "video_frames", "input_image", "video_track"],
            "supports_barge_in": True,
            "supports_session_resume": True,
            "supports_pause": True,
            "supports_audio_truncate": True,
            "max_video_fps": 25.0,
            "transcribes": True,
            "languages": ["en", "zh"],
            "voices": ["calm", "bright"],
            "clones_voices": False,
            "context_tokens_max": None,
            "examples": ["What time is it?"],
            "interruption_policies": ["guarded", "immediate", "model", "push_to_talk"],
            "duplex_events": ["connection", "limits", "listen", "overlap", "playback", "resume", "unit"],
        },
    }


def test_a_blind_deaf_model_says_so() -> None:
    spec = replace(SPEC, max_frames=0, transcribes=False)
    session = _session(WireDriver(spec=spec))
    assert session["capabilities"]["input_modes"] == ["audio", "text"]
    assert session["audio"]["input"]["transcription"] is None


def test_what_stock_clients_send_first_is_taken() -> None:
    driver = WireDriver()
    agents: dict[str, Any] = {
        "model": "gpt-realtime-2.1",
        "output_modalities": ["audio"],
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": {"model": "gpt-4o-mini-transcribe"},
                "noise_reduction": {"type": "far_field"},
                "turn_detection": {"type": "semantic_vad", "interrupt_response": True},
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "ash", "speed": 1},
        },
        "tools": [{"type": "function", "name": "weather", "parameters": {}, "strict": True}],
        "tracing": "auto",
    }
    pipecat: dict[str, Any] = {
        "type": "realtime",
        "audio": {"input": {"turn_detection": False}},
        "tool_choice": "auto",
        "include": None,
    }
    for session in (agents, {"type": "realtime", "tracing": "auto"}, pipecat):
        answer = _update(driver, **session)
        assert answer["type"] == "session.updated"
        assert validate(answer)
    shown = _session(driver)
    assert shown["model"] == "embedded"
    assert shown["audio"]["output"]["voice"] == "calm"
    assert shown["audio"]["input"]["transcription"]["model"] == "embedded"
    assert shown["tools"] == agents["tools"]


def test_an_update_changes_only_what_it_names() -> None:
    driver = WireDriver()
    before = _session(driver)
    _update(driver, instructions="Be brief.")
    assert _session(driver) == {**before, "instructions": "Be brief."}
    _update(driver)
    assert _session(driver) == {**before, "instructions": "Be brief."}


@pytest.mark.parametrize(
    "wrong",
    [
        {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}},
        {"audio": {"output": {"format": {"type": "audio/pcmu", "rate": 24000}}}},
        {"audio": {"input": {"turn_detection": True}}},
        {"extra_body": {"language": "tlh"}},
        {"tools": [{"description": "x" * 300_000}]},
    ],
)
def test_a_wrong_update_changes_nothing(wrong: dict[str, Any]) -> None:
    driver = WireDriver()
    before = _session(driver)
    answer = _update(driver, **{"instructions": "Be brief.", "output_modalities": ["text"], **wrong})
    assert answer["type"] == "error"
    assert answer["error"]["code"] == "invalid_value"
    assert answer["error"]["event_id"] == "u1"
    assert answer["error"]["param"].startswith("session.")
    assert driver.requests == []
    _update(driver)
    assert _session(driver) == before


def test_null_goes_back_to_the_default() -> None:
    driver = WireDriver(setup=SessionSetup(instructions="Be kind.", voice="bright", speed=0.9))
    before = _session(driver)
    _update(
        driver,
        instructions="Be brief.",
        tools=[{"type": "function"}],
        tool_choice="none",
        parallel_tool_calls=False,
        truncation="disabled",
        output_modalities=["text"],
        audio={
            "input": {"format": {"type": "audio/pcmu"}},
            "output": {"format": {"type": "audio/pcma"}, "voice": "calm", "speed": 1.2},
        },
        extra_body={"language": "zh", "interruption": "model", "duplex_events": ["overlap"]},
    )
    assert _session(driver) != before
    keys = ("instructions", "tools", "tool_choice", "parallel_tool_calls", "truncation", "output_modalities")
    _update(
        driver,
        **dict.fromkeys(keys),
        audio={"input": {"format": None}, "output": {"format": None, "voice": None, "speed": None}},
        extra_body={"language": None, "interruption": None, "duplex_events": None},
    )
    assert _session(driver) == before


def test_empty_values_clear() -> None:
    driver = WireDriver(setup=SessionSetup(instructions="Be kind."))
    _update(driver, tools=[{"type": "function"}])
    _update(driver, instructions="", tools=[])
    assert driver.dialogue.setup.instructions == ""
    assert _session(driver)["tools"] == []


@pytest.mark.parametrize(
    ("asked", "shown"), [(["audio"], ["audio"]), (["text"], ["text"]), (["audio", "text"], ["audio"]), ([], ["audio"])]
)
def test_audio_with_text_is_audio(asked: list[str], shown: list[str]) -> None:
    driver = WireDriver()
    _update(driver, output_modalities=asked)
    assert _session(driver)["output_modalities"] == shown


def test_g711_is_echoed_without_a_rate() -> None:
    driver = WireDriver()
    _update(driver, audio={"input": {"format": {"type": "audio/pcmu", "rate": 8000}}})
    assert _session(driver)["audio"]["input"]["format"] == {"type": "audio/pcmu"}


SEMANTIC = {"type": "semantic_vad", "create_response": True, "interrupt_response": True, "eagerness": "auto"}
SERVER = {
    "type": "server_vad",
    "create_response": True,
    "interrupt_response": True,
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
    "idle_timeout_ms": None,
}


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({"type": "semantic_vad"}, SEMANTIC),
        ({"type": "semantic_vad", "eagerness": "low"}, {**SEMANTIC, "eagerness": "low"}),
        ({"create_response": False}, {**SEMANTIC, "create_response": False}),
        ({"type": "server_vad"}, SERVER),
        ({"type": "server_vad", "idle_timeout_ms": 5000}, {**SERVER, "idle_timeout_ms": 5000}),
        ({"type": "server_vad", "silence_duration_ms": 250.4}, {**SERVER, "silence_duration_ms": 250}),
        ({"type": "server_vad", "eagerness": "low", "threshold": 0.7}, {**SERVER, "threshold": 0.7}),
        (None, None),
        (False, None),
    ],
)
def test_turn_detection_is_echoed_with_its_defaults(asked: Any, shown: Any) -> None:
    driver = WireDriver()
    assert _detect(driver, asked)["type"] == "session.updated"
    assert _detection(driver) == shown


def test_turn_detection_of_the_same_type_is_merged() -> None:
    driver = WireDriver()
    _detect(driver, {"type": "server_vad", "threshold": 0.8})
    _detect(driver, {"silence_duration_ms": 200})
    assert _detection(driver) == {**SERVER, "threshold": 0.8, "silence_duration_ms": 200}
    _detect(driver, {"threshold": None})
    assert _detection(driver) == {**SERVER, "silence_duration_ms": 200}
    _detect(driver, {"type": "semantic_vad"})
    assert _detection(driver) == SEMANTIC


PTT = InterruptionPolicy.PUSH_TO_TALK
GUARDED = InterruptionPolicy.GUARDED
IMMEDIATE = InterruptionPolicy.IMMEDIATE
MODEL = InterruptionPolicy.MODEL


@pytest.mark.parametrize(
    ("default", "detection", "override", "taking"),
    [
        (GUARDED, {"type": "semantic_vad"}, None, TurnTaking(GUARDED)),
        (IMMEDIATE, {"type": "semantic_vad"}, None, TurnTaking(IMMEDIATE)),
        (MODEL, {"type": "semantic_vad", "interrupt_response": True}, None, TurnTaking(GUARDED)),
        (PTT, {"type": "semantic_vad"}, None, TurnTaking(GUARDED)),
        (GUARDED, {"type": "server_vad"}, None, TurnTaking(IMMEDIATE)),
        (GUARDED, {"type": "server_vad", "silence_duration_ms": 200}, None, TurnTaking(IMMEDIATE, silence_ms=200)),
        (GUARDED, {"type": "server_vad", "interrupt_response": False}, None, TurnTaking(MODEL)),
        (GUARDED, {"interrupt_response": False}, None, TurnTaking(MODEL)),
        (GUARDED, {"create_response": False}, None, TurnTaking(GUARDED, create_response=False)),
        (GUARDED, None, None, TurnTaking(PTT, create_response=False, report_speech=False)),
        (GUARDED, {"type": "semantic_vad"}, "immediate", TurnTaking(IMMEDIATE)),
        (GUARDED, {"type": "server_vad"}, "guarded", TurnTaking(GUARDED)),
        (GUARDED, {"type": "semantic_vad"}, "model", TurnTaking(MODEL)),
        (
            GUARDED,
            {"type": "semantic_vad"},
            "push_to_talk",
            TurnTaking(PTT, create_response=False, report_speech=False),
        ),
        (GUARDED, None, "guarded", TurnTaking(GUARDED, report_speech=False)),
    ],
)
def test_turn_detection_means_a_policy(
    default: InterruptionPolicy, detection: Any, override: str | None, taking: TurnTaking
) -> None:
    driver = WireDriver(turn_taking=TurnTaking(default))
    _update(driver, audio={"input": {"turn_detection": detection}}, extra_body={"interruption": override})
    assert driver.dialogue.turn_taking == taking
    assert _session(driver)["extra_body"]["interruption"] == taking.policy.value


@pytest.mark.parametrize(
    ("default", "shown"),
    [
        (TurnTaking(GUARDED), SEMANTIC),
        (TurnTaking(IMMEDIATE), SEMANTIC),
        (TurnTaking(MODEL), {**SEMANTIC, "interrupt_response": False}),
        (TurnTaking(GUARDED, create_response=False), {**SEMANTIC, "create_response": False}),
        (TurnTaking(PTT, create_response=False, report_speech=False), None),
    ],
)
def test_the_servers_default_shows_in_turn_detection(default: TurnTaking, shown: Any) -> None:
    driver = WireDriver(turn_taking=default)
    assert _detection(driver) == shown
    assert driver.dialogue.turn_taking == default


def test_the_session_is_told_only_of_changes() -> None:
    driver = WireDriver()
    _update(driver, instructions="", tools=[], audio={"output": {"voice": "ash"}})
    assert driver.take_requests() == []
    _update(driver, instructions="Be brief.", extra_body={"language": "zh"})
    (request,) = driver.take_requests()
    assert isinstance(request, Configure)
    assert request.setup == SessionSetup(instructions="Be brief.", language="zh", voice="calm", revision=1)
    assert request.turn_taking == TurnTaking()
    _update(driver, instructions="Be brief.", extra_body={"language": "zh"})
    assert driver.take_requests() == []


def test_voice_and_speed_reach_the_model() -> None:
    driver = WireDriver()
    _update(driver, audio={"output": {"voice": {"id": "bright"}, "speed": 1.25}})
    assert driver.dialogue.setup == SessionSetup(voice="bright", speed=1.25)
    assert _session(driver)["audio"]["output"]["voice"] == "bright"


def test_a_voice_that_was_heard_cannot_be_changed() -> None:
    driver = WireDriver()
    driver.tell(driver.dialogue.begin_response(1))
    driver.tell(driver.dialogue.audio(1, ramp(480)))
    answer = _update(driver, audio={"output": {"voice": "bright"}})
    assert answer["error"]["code"] == "cannot_update_voice"
    for voice in ("calm", "ash", None):  # the same, a stranger's, the default
        assert _update(driver, audio={"output": {"voice": voice}})["type"] == "session.updated"
    assert driver.dialogue.setup.voice == "calm"


def test_transcription_can_be_turned_off_and_on() -> None:
    driver = WireDriver()
    _update(driver, audio={"input": {"transcription": None}})
    assert _session(driver)["audio"]["input"]["transcription"] is None
    _update(driver, audio={"input": {"transcription": {"model": "whisper-1", "language": "de"}}})
    assert _session(driver)["audio"]["input"]["transcription"] == {"model": "embedded", "language": "en"}


def test_transcription_cannot_be_asked_of_a_model_without() -> None:
    driver = WireDriver(spec=replace(SPEC, transcribes=False))
    _update(driver, audio={"input": {"transcription": {"model": "whisper-1"}}})
    assert _session(driver)["audio"]["input"]["transcription"] is None


def test_groups_of_events_can_be_asked_for_and_given_up() -> None:
    driver = WireDriver(opt_in=["limits"])
    _update(driver, extra_body={"duplex_events": ["overlap", "telepathy"]})
    assert _session(driver)["extra_body"]["duplex_events"] == ["limits", "overlap"]
    assert driver.tell(driver.dialogue.overlap("hold", "onset", 5))
    _update(driver, extra_body={"duplex_events": []})
    assert driver.tell(driver.dialogue.overlap("hold", "onset", 5)) == []
    assert driver.tell(driver.dialogue.reports.closing("timeout", 5))


@settings(max_examples=150, deadline=None)
@given(updates=st.lists(sessions, max_size=6))
def test_the_same_update_twice_is_the_same_as_once(updates: list[dict[str, Any]]) -> None:
    driver = WireDriver()
    for session in updates:
        _update(driver, **session)
    last = copy.deepcopy(_session(driver))
    if updates:
        _update(driver, **updates[-1])
    assert _session(driver) == last
