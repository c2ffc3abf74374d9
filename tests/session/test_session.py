"""A whole session in virtual time: what the peer sees and hears, and what the model is told."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from duplex_server.errors import EngineLost
from duplex_server.session.session import SessionLimits
from duplex_server.transports.loopback import MESSAGE_TRAITS
from duplex_server.types import Floor, Heard, InterruptionPolicy, ModelOutput, Tokens
from tests.helpers.slots import speech
from tests.helpers.virtual_time import run
from tests.session.stage import SPEC, staged

RATE = 24_000


def png(size: int = 8) -> str:
    encoded = io.BytesIO()
    Image.new("RGB", (size, size), (200, 30, 30)).save(encoded, "PNG")
    return base64.b64encode(encoded.getvalue()).decode()


def test_a_spontaneous_turn_is_a_response_with_its_text_placed_in_its_audio() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(0.5, text="Hello ", end=False))
            stage.slot.say(speech(0.5, text="there."))
            await asyncio.sleep(2)
            deltas = stage.of("response.output_audio_transcript.delta")
            assert [(event["delta"], event["audio_start_ms"]) for event in deltas] == [("Hello ", 0), ("there.", 500)]
            assert stage.of("response.done")[0]["response"]["status"] == "completed"
            assert stage.types()[-1] == "output_audio_buffer.stopped"
            assert len(stage.heard()) == RATE

    run(main())


def test_audio_leaves_one_tick_at_a_time_at_real_time_pace() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(1.0))
            await asyncio.sleep(2)
            times = np.array([at_s for at_s, _ in stage.peer.audio])
            assert np.allclose(np.diff(times), 0.02)

    run(main())


def test_input_goes_on_while_output_plays() -> None:
    async def main() -> None:
        async with staged(policy=InterruptionPolicy.MODEL) as stage:
            stage.slot.say(speech(5.0))
            await stage.speak(2.0)
            assert sum(np.abs(unit.audio).mean() > 0.01 for unit in stage.slot.units) >= 18

    run(main())


def test_a_confirmed_interruption_silences_at_once_and_drops_what_comes_late() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(20.0, text="A long story.", end=False))
            await stage.be_silent(3.0)
            began_s = asyncio.get_running_loop().time()
            speaking = asyncio.create_task(stage.speak(2.0))
            await asyncio.sleep(1.0)
            stage.slot.say(speech(5.0))  # late output of the cut turn
            await speaking
            assert stage.last_sound_s() - began_s < 0.6
            (turn, played_samples), *_ = stage.slot.cancelled
            assert turn == 1 and played_samples == pytest.approx(3.5 * RATE, abs=0.1 * RATE)
            names = stage.types()
            assert names.index("input_audio_buffer.speech_started") < names.index("response.done")
            response = stage.of("response.done")[0]["response"]
            assert (response["status"], response["status_details"]["reason"]) == ("cancelled", "turn_detected")
            truncated = stage.of("conversation.item.truncated")[0]
            assert truncated["audio_end_ms"] == pytest.approx(3500, abs=100)
            assert "output_audio_buffer.cleared" in names
            summary_late = 5.0 * RATE
        assert stage.notes.summaries[0].n_stale_samples == summary_late
        assert stage.notes.summaries[0].n_interruptions == 1

    run(main())


def test_after_an_interruption_the_model_must_listen_until_the_user_pauses() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(20.0))
            await stage.be_silent(1.0)
            await stage.speak(1.5)
            n_units = len(stage.slot.units)
            await stage.be_silent(1.0)
            floors = [unit.floor for unit in stage.slot.units]
            assert floors[n_units - 3] is Floor.LISTEN and floors[-1] is Floor.FREE
            assert floors[5] is Floor.FREE

    run(main())


def test_a_backchannel_lowers_the_voice_and_costs_no_word() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(4.0, value=0.5))
            await stage.be_silent(1.0)
            await stage.speak(0.3)
            await stage.be_silent(4.0)
            heard = stage.heard()
            assert len(heard) == 4 * RATE, "nothing was dropped"
            assert stage.of("response.done")[0]["response"]["status"] == "completed"
            assert stage.slot.cancelled == []
            levels_db = 20 * np.log10(np.abs(heard).reshape(-1, 480).max(axis=1) / 0.5)
            lowered = np.flatnonzero(levels_db < -12) * 0.02
            assert 1.0 < lowered[0] < 1.12, "within 120 ms of the onset"
            assert lowered[-1] < 1.3 + 0.3, "and back within 300 ms of its end"
            assert [event["action"] for event in stage.of("overlap.decision")] == ["hold", "ignore"]
            assert stage.of("input_audio_buffer.speech_started") == [], "a client would stop playing"

    run(main())


def test_a_model_that_yields_is_cut_before_the_speech_is_long_enough() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(20.0, end=False))
            await stage.be_silent(1.0)
            await stage.speak(0.2)
            stage.slot.say(ModelOutput(1, yields=True, end_of_turn=True))
            stage.slot.say(speech(0.2, turn=2, text="Okay."))
            await stage.be_silent(1.0)
            statuses = [event["response"]["status"] for event in stage.of("response.done")]
            assert statuses == ["cancelled", "completed"]
            assert stage.slot.cancelled[0][0] == 1

    run(main())


def test_a_new_turn_waits_for_the_one_before_it() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(1.0, turn=1, text="One."))
            stage.slot.say(speech(1.0, turn=2, text="Two."))
            await asyncio.sleep(3)
            marks = [name for name in stage.types() if name in ("response.created", "response.done")]
            assert marks == ["response.created", "response.done"] * 2

    run(main())


def test_the_client_can_cancel_and_nothing_is_heard_after_it() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(20.0))
            await asyncio.sleep(1)
            now_s = asyncio.get_running_loop().time()
            stage.send(type="response.cancel")
            await asyncio.sleep(1)
            assert stage.last_sound_s() <= now_s + 0.02
            response = stage.of("response.done")[0]["response"]
            assert response["status_details"]["reason"] == "client_cancelled"

    run(main())


def test_push_to_talk_listens_until_it_is_asked_and_lets_the_model_finish() -> None:
    async def main() -> None:
        async with staged(policy=InterruptionPolicy.PUSH_TO_TALK) as stage:
            await stage.speak(1.0)
            assert {unit.floor for unit in stage.slot.units} == {Floor.LISTEN}
            stage.send(type="response.create")
            await stage.be_silent(0.2)
            assert stage.floors()[-1] is Floor.SPEAK
            stage.slot.say(speech(0.5, end=False))
            await stage.be_silent(0.3)
            assert stage.floors()[-1] is Floor.FREE, "the turn is the model's own until it ends it"
            stage.slot.say(ModelOutput(1, end_of_turn=True))
            await stage.be_silent(0.5)
            assert stage.floors()[-1] is Floor.LISTEN

    run(main())


def test_a_response_that_the_model_does_not_give_ends_empty() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.send(type="response.create", response={"metadata": {"client_event_id": "e1"}})
            await asyncio.sleep(5)
            assert stage.of("response.created")[0]["response"]["metadata"] == {"client_event_id": "e1"}
            done = stage.of("response.done")[0]["response"]
            assert (done["status"], done["output"]) == ("completed", [])

    run(main())


def test_what_the_model_heard_is_the_users_transcript() -> None:
    async def main() -> None:
        async with staged() as stage:
            await stage.speak(0.6)
            stage.slot.say(ModelOutput(0, heard=Heard("what time is it", True)))
            await stage.be_silent(1.0)
            completed = stage.of("conversation.item.input_audio_transcription.completed")
            assert [event["transcript"] for event in completed] == ["what time is it"]

    run(main())


def test_pictures_reach_the_unit_and_one_that_is_none_is_an_error_the_session_survives() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.send(type="input_image_buffer.append", image=base64.b64encode(b"no picture").decode(), event_id="p1")
            await asyncio.sleep(0.3)
            error = stage.of("error")[0]["error"]
            assert (error["code"], error["event_id"]) == ("invalid_media", "p1")
            stage.send(type="input_image_buffer.append", image=png())
            await asyncio.sleep(0.5)
            huge = base64.b64encode(bytes(9 * 2**20)).decode()
            stage.send(type="input_image_buffer.append", image=huge, event_id="p2")
            await asyncio.sleep(0.3)
            error = stage.of("error")[1]["error"]
            assert error["event_id"] == "p2" and "bytes" in error["message"]
            frames = [frame for unit in stage.slot.units for frame in unit.frames]
            assert [frame.rgb.shape for frame in frames] == [(8, 8, 3)]

    run(main())


def test_input_that_comes_too_fast_is_refused_once_per_burst_and_the_session_goes_on() -> None:
    async def main() -> None:
        async with staged(limits=SessionLimits(input_ahead_s=2.0)) as stage:
            second = base64.b64encode(bytes(48_000)).decode()
            for _ in range(10):
                stage.send(type="input_audio_buffer.append", audio=second)
            await asyncio.sleep(1)
            assert [event["error"]["code"] for event in stage.of("error")] == ["input_backpressure"]
            assert stage.notes.refused_s == pytest.approx(8, abs=0.1)
            stage.slot.say(speech(0.2))
            await asyncio.sleep(1)
            assert stage.of("response.done")

    run(main())


def test_messages_carry_the_audio_where_there_is_no_track() -> None:
    async def main() -> None:
        async with staged(traits=MESSAGE_TRAITS) as stage:
            stage.slot.say(speech(1.0, text="Hello."))
            await asyncio.sleep(2)
            sizes = [len(base64.b64decode(event["delta"])) for event in stage.of("response.output_audio.delta")]
            assert sum(sizes) == 2 * RATE and all(size % 2 == 0 for size in sizes)
            assert stage.peer.audio == []
            assert stage.types()[-1] == "response.done"

    run(main())


def test_a_client_that_wants_text_hears_nothing() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.send(type="session.update", session={"type": "realtime", "output_modalities": ["text"]})
            await asyncio.sleep(0.1)
            stage.slot.say(speech(0.5, text="Read me."))
            await asyncio.sleep(2)
            assert stage.peer.audio == []
            assert [event["text"] for event in stage.of("response.output_text.done")] == ["Read me."]

    run(main())


def test_the_engine_that_is_lost_is_told_to_the_peer_and_closes_the_connection() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.break_down(EngineLost("model-0"))
            await stage.peer.wait_closed()
            error = stage.of("error")[0]["error"]
            assert (error["type"], error["code"]) == ("server_error", "engine_lost")
            assert "model-0" not in error["message"]
            assert isinstance(stage.peer.closed_with, EngineLost)

    run(main())


def test_a_bug_ends_the_session_without_telling_the_peer_what_it_was(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.break_down(KeyError("secret internals"))
            await stage.peer.wait_closed()
            error = stage.of("error")[0]["error"]
            assert error["type"] == "server_error" and "secret" not in error["message"]
        assert stage.notes.summaries[0].ended_by == "bug"

    run(main())
    assert "secret internals" in caplog.text


def test_an_engine_far_behind_ends_the_session() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.gate = asyncio.Event()  # never set
            await stage.peer.wait_closed()
            assert stage.of("error")[0]["error"]["code"] == "model_timeout"

    run(main())


def test_a_session_at_its_limit_is_announced_then_closed() -> None:
    async def main() -> None:
        async with staged(limits=SessionLimits(session_max_s=100.0)) as stage:
            began_s = asyncio.get_running_loop().time()
            await stage.peer.wait_closed()
            assert stage.peer.closed_s == pytest.approx(began_s + 100, abs=0.1)
            away = stage.of("session.go_away")[0]
            assert away["reason"] == "timeout" and away["time_left_ms"] == pytest.approx(30_000, abs=50)
            assert stage.of("error")[-1]["error"]["code"] == "session_expired"

    run(main())


def test_goodbye_is_heard_to_its_end_before_the_connection_closes() -> None:
    async def main() -> None:
        async with staged() as stage:
            output = speech(1.0, text="Goodbye.")
            stage.slot.say(ModelOutput(1, output.audio, "Goodbye.", end_of_turn=True, end_of_session=True))
            await stage.peer.wait_closed()
            assert len(stage.heard()) == RATE
            assert stage.peer.closed_with is None

    run(main())


def test_the_answers_delay_is_measured_from_the_end_of_speech() -> None:
    async def main() -> None:
        async with staged() as stage:
            await stage.speak(1.0)
            await stage.be_silent(0.3)
            stage.slot.say(speech(0.2))
            await stage.be_silent(1.0)
            stage.slot.say(speech(0.2, turn=2))
            await stage.be_silent(0.5)
        answered, spontaneous = stage.notes.delays_s
        assert answered == pytest.approx(0.32, abs=0.06) and spontaneous is None

    run(main())


def test_a_session_that_ends_leaves_no_task() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(5.0))
            await stage.speak(1.0)
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_a_turn_that_does_not_go_on_is_ended_and_the_session_goes_on() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.slot.say(speech(30.0, text="Once upon a time", end=False))
            await asyncio.sleep(39)
            assert not stage.of("response.done"), "what is being heard has not stalled"
            await asyncio.sleep(2)
            (done,) = stage.of("response.done")
            assert done["response"]["status"] == "failed"
            assert stage.slot.cancelled == [(1, 30 * RATE)]
            stage.slot.say(speech(0.5, turn=2, text="And then."))
            await asyncio.sleep(2)
            assert stage.of("response.done")[-1]["response"]["status"] == "completed"

    run(main())


def test_after_a_long_silence_the_model_is_asked_to_speak() -> None:
    async def main() -> None:
        async with staged() as stage:
            detection = {"type": "server_vad", "idle_timeout_ms": 5000}
            stage.send(type="session.update", session={"audio": {"input": {"turn_detection": detection}}})
            await stage.be_silent(4.0)
            await stage.speak(1.0)
            await stage.be_silent(4.5)
            assert Floor.SPEAK not in stage.floors(), "the user spoke meanwhile"
            await stage.be_silent(1.5)
            (told,) = stage.of("input_audio_buffer.timeout_triggered")
            assert told["audio_end_ms"] - told["audio_start_ms"] == pytest.approx(5000, abs=40)
            items = [event["item"]["id"] for event in stage.of("conversation.item.added")]
            assert items[-1] == told["item_id"]
            assert stage.floors()[-1] is Floor.SPEAK
            stage.slot.say(speech(0.5, text="Are you there?"))
            await stage.be_silent(5.0)
            assert len(stage.of("input_audio_buffer.timeout_triggered")) == 1, (
                "it is counted from the end of the answer"
            )
            await stage.be_silent(1.0)
            assert len(stage.of("input_audio_buffer.timeout_triggered")) == 2

    run(main())


@pytest.mark.parametrize(("eagerness", "scale"), [("low", 1.2), ("medium", 1.0), ("high", 0.85), ("auto", 1.0)])
def test_an_eager_model_listens_less(eagerness: str, scale: float) -> None:
    async def main() -> None:
        async with staged() as stage:
            detection = {"type": "semantic_vad", "eagerness": eagerness}
            stage.send(type="session.update", session={"audio": {"input": {"turn_detection": detection}}})
            await asyncio.sleep(0.1)
            assert stage.slot.setups[-1].listen_scale == scale
            stage.send(type="session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad"}}}})
            await asyncio.sleep(0.1)
            assert stage.slot.setups[-1].listen_scale == 1.0

    run(main())


COUNTING = dataclasses.replace(SPEC, counts_tokens=True)


def test_what_the_model_counts_is_the_usage_of_its_responses() -> None:
    async def main() -> None:
        async with staged(spec=COUNTING) as stage:
            stage.slot.say(ModelOutput(0, listening=True, tokens=Tokens(text_in=5, audio_in=10)))
            stage.slot.say(ModelOutput(0, listening=True, tokens=Tokens(audio_in=10, image_in=64)))
            stage.slot.say(counted(1, Tokens(audio_in=10, text_out=4, audio_out=25), end=True))
            stage.slot.say(counted(2, Tokens(audio_in=10, text_out=2, audio_out=12), end=True))
            await asyncio.sleep(3)
            first, second = (event["response"]["usage"] for event in stage.of("response.done"))
            assert first["input_token_details"] == {
                "text_tokens": 5,
                "audio_tokens": 30,
                "image_tokens": 64,
                "cached_tokens": 0,
            }
            assert first["output_token_details"] == {"text_tokens": 4, "audio_tokens": 25}
            assert (first["input_tokens"], first["output_tokens"], first["total_tokens"]) == (99, 29, 128)
            assert (second["input_tokens"], second["output_tokens"]) == (10, 14)

    run(main())


def counted(turn: int, tokens: Tokens, *, end: bool) -> ModelOutput:
    return dataclasses.replace(speech(0.5, turn=turn, text="word ", end=end), tokens=tokens)


def test_a_response_has_no_more_tokens_than_it_may_and_is_heard_as_far_as_it_came() -> None:
    async def main() -> None:
        async with staged(spec=COUNTING) as stage:
            stage.send(type="session.update", session={"max_output_tokens": 50})
            await asyncio.sleep(0.1)
            assert stage.of("session.updated")[0]["session"]["max_output_tokens"] == 50
            for _ in range(3):
                stage.slot.say(counted(1, Tokens(text_out=5, audio_out=15), end=False))
            await asyncio.sleep(0.1)
            assert stage.slot.cancelled == [(1, 3 * RATE // 2)]
            stage.slot.say(counted(1, Tokens(text_out=5, audio_out=15), end=True))  # late output
            await asyncio.sleep(3)
            (done,) = stage.of("response.done")
            response = done["response"]
            assert (response["status"], response["status_details"]["reason"]) == ("incomplete", "max_output_tokens")
            assert response["max_output_tokens"] == 50
            assert len(stage.heard()) == 3 * RATE // 2, "what was made is heard"
            stage.send(type="response.create", response={"max_output_tokens": "inf"})
            await asyncio.sleep(0.1)
            stage.slot.say(counted(2, Tokens(text_out=500), end=True))
            await asyncio.sleep(2)
            assert stage.of("response.done")[-1]["response"]["status"] == "completed"

    run(main())


def test_where_no_tokens_are_counted_none_are_limited() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.send(type="session.update", session={"max_output_tokens": 50})
            await asyncio.sleep(0.1)
            assert stage.of("session.updated")[0]["session"]["max_output_tokens"] == "inf"

    run(main())
