"""What only clients that know us are told, and may ask for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from duplex_server.engine.base import UnitDone
from duplex_server.errors import SessionExpired
from duplex_server.session.limits import SessionLimits
from duplex_server.session.unit_log import UnitLog
from duplex_server.transports.loopback import MEDIA_TRACK_TRAITS, MESSAGE_TRAITS
from duplex_server.types import Compaction, ModelOutput, ModelSpec, Refusal, UnitCost
from tests.helpers.slots import ScriptedSlot, speech
from tests.helpers.virtual_time import run
from tests.session.stage import staged

CLONER = ModelSpec(name="cloner", unit_ms=100, clones_voices=True, context_tokens_max=8192)


def test_every_unit_tells_what_was_decided_and_what_it_cost() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.send(type="session.heartbeat")
            await asyncio.sleep(0.35)
            cost = UnitCost(prefill_ms=10, decode_ms=60, voice_ms=20, n_tokens=5, context_tokens=300)
            stage.slot.say(speech(0.5))
            await asyncio.sleep(0.05)
            assert stage.slot.on_unit is not None
            stage.slot.on_unit(UnitDone(0, False, 0.5, 3.0, 4, None))
            stage.slot.on_unit(UnitDone(1, True, 5.0, 120.0, 4, cost))
            await asyncio.sleep(0.1)
            listen, speak = stage.of("response.listen")[0], stage.of("response.speak")[0]
            assert (listen["unit"], listen["input_ms"], listen["response"]["status"]) == (0, 100, "listening")
            created = stage.of("response.created")[0]
            assert (speak["unit"], speak["response_id"]) == (1, created["response"]["id"])
            first, second = stage.of("duplex.unit")
            assert (first["decision"], first["late"], first["late_by"], first["t_llm_ms"]) == (
                "listen",
                False,
                None,
                None,
            )
            assert (second["decision"], second["late"], second["late_by"]) == ("speak", True, "step")
            assert (second["t_llm_ms"], second["kv_tokens"], second["batch"]) == (60, 300, 4)
            assert second["t_total_ms"] == pytest.approx(second["queue_ms"] + 125)

    run(main())


def test_nobody_counts_units_for_a_client_that_does_not_ask() -> None:
    log = UnitLog(100, 0.0)
    log.done(UnitDone(7, False, 1.0, 1.0, 1, None))
    assert log.take() == [], "gathered before anybody asked"
    for index in range(3000):
        log.gathered(index, index / 10)
        log.handed(index, index / 10)
    assert len(log._gathered_s) == len(log._queued_ms) == 1024


def test_pictures_that_the_model_was_given_are_told() -> None:
    async def main() -> None:
        async with staged() as stage:
            for _ in range(3):
                stage.peer.send_picture(np.zeros((8, 8, 3), np.uint8))
            await asyncio.sleep(0.3)
            (consumed,) = stage.of("input_image.consumed")
            assert consumed["dropped"] == 2 and consumed["unit"] <= 1

    run(main())


def test_limits_are_told_and_change_with_the_context() -> None:
    async def main() -> None:
        async with staged(spec=CLONER, limits=SessionLimits(session_max_s=60)) as stage:
            await asyncio.sleep(1)
            stage.slot.say(ModelOutput(0, listening=True, compaction=Compaction(8000, 6000)))
            await asyncio.sleep(0.1)
            first, second = stage.of("session.limits")
            assert (first["max_session_ms"], first["remaining_ms"], first["context_tokens_max"]) == (
                60_000,
                60_000,
                8192,
            )
            assert second["context_tokens"] == 6000 and second["remaining_ms"] < 59_100
            (compacted,) = stage.of("context.compacted")
            assert (compacted["tokens_before"], compacted["tokens_after"]) == (8000, 6000)

    run(main())


@pytest.mark.parametrize("reason", ["timeout", "shutdown", "paused"])
def test_every_planned_end_is_told_half_a_minute_ahead(reason: str) -> None:
    async def main() -> None:
        limits = SessionLimits(session_max_s=40 if reason == "timeout" else 3600, pause_max_s=40)
        async with staged(limits=limits, shutdown_grace_s=30.0) as stage, asyncio.TaskGroup() as tasks:
            if reason == "shutdown":
                tasks.create_task(stage.manager.drain())
            if reason == "paused":
                stage.send(type="session.pause")
            await stage.peer.wait_closed()
            (told_s,) = [at_s for at_s, event in stage.peer.received if type(event).__name__ == "SessionGoAway"]
            assert stage.of("session.go_away")[0]["reason"] == reason
            assert stage.peer.closed_s is not None and stage.peer.closed_s - told_s >= 29.9
            assert isinstance(stage.peer.closed_with, SessionExpired)
            assert stage.log()[-1]["type"] == "session.closed" and stage.log()[-1]["reason"] == reason

    run(main(), debug=False)


def test_a_paused_session_stands_still() -> None:
    async def main() -> None:
        async with staged(traits=MEDIA_TRACK_TRAITS) as stage:
            stage.slot.say(speech(3.0))
            await asyncio.sleep(1)
            stage.send(type="session.pause")
            await asyncio.sleep(0.1)
            n_units, n_ticks = len(stage.slot.units), len(stage.peer.audio)
            await stage.speak(2.0)
            assert (len(stage.slot.units), len(stage.peer.audio)) == (n_units, n_ticks), "it neither hears nor speaks"
            (paused,) = stage.of("session.paused")
            assert paused["expires_at"] == pytest.approx(1.7e9 + 1 + 300, abs=1)
            stage.send(type="session.pause")
            stage.send(type="session.continue")
            await asyncio.sleep(4)
            assert stage.of("session.paused")[1]["expires_at"] == paused["expires_at"], "asking again wins no time"
            assert len(stage.of("session.continued")) == 1
            assert len(stage.heard()) == pytest.approx(72_000, abs=480), "all of it is heard"
            assert not stage.of("input_audio_buffer.speech_started")

    run(main())


def test_a_paused_session_does_not_look_at_the_cameras_track() -> None:
    """Stills are sent on purpose and are taken."""

    async def main() -> None:
        async with staged() as stage:
            stage.send(type="session.pause")
            await asyncio.sleep(0.1)
            stage.peer.send_picture(np.full((48, 64, 3), 200, np.uint8))
            await asyncio.sleep(0.2)
            stage.send(type="session.continue")
            await asyncio.sleep(0.5)
            assert not any(unit.frames for unit in stage.slot.units)
            stage.peer.send_picture(np.full((48, 64, 3), 200, np.uint8))
            await asyncio.sleep(0.5)
            assert sum(len(unit.frames) for unit in stage.slot.units) == 1

    run(main())


def test_turn_signals_give_the_floor() -> None:
    async def main() -> None:
        async with staged(ScriptedSlot(lambda unit: []), traits=MESSAGE_TRAITS) as stage:
            stage.slot.say(speech(5.0))
            await asyncio.sleep(1)
            stage.send(type="turn.signal", event="user_started")
            await asyncio.sleep(0.1)
            assert stage.of("response.done")[0]["response"]["status"] == "cancelled"
            stage.send(type="turn.signal", event="user_stopped")
            await asyncio.sleep(0.1)
            assert len(stage.of("response.created")) == 2
            assert [event["event"] for event in stage.of("turn.event")] == ["user_started", "user_stopped"]

    run(main())


def test_audio_tells_which_words_it_holds() -> None:
    async def main() -> None:
        async with staged(traits=MESSAGE_TRAITS) as stage:
            stage.slot.say(speech(0.4, text="One ", end=False))
            stage.slot.say(speech(0.4, text="two ", end=False))
            stage.slot.say(speech(0.4, text="three."))
            await asyncio.sleep(2)
            deltas = stage.of("response.output_audio.delta")
            marks = [mark for delta in deltas for mark in delta["metadata"]["audio_text_marks"]]
            assert marks == [{"text_chars": 4, "audio_end_ms": 400}, {"text_chars": 8, "audio_end_ms": 800}]
            assert {delta["sample_rate_hz"] for delta in deltas} == {24_000}

    run(main())


def test_audio_tells_for_which_unit_it_was_made_and_when_the_turn_ends() -> None:
    async def main() -> None:
        async with staged(traits=MESSAGE_TRAITS) as stage:
            for unit in (7, 8, 9):
                stage.slot.say(replace(speech(0.4, end=unit == 9), unit=unit))
            await asyncio.sleep(2)
            deltas = stage.of("response.output_audio.delta")
            units = [delta["metadata"]["unit"] for delta in deltas]
            assert [delta["audio_start_ms"] // 400 + 7 for delta in deltas] == units and set(units) == {7, 8, 9}
            assert [delta["metadata"]["end_of_turn"] for delta in deltas] == [False] * (len(deltas) - 1) + [True]

    run(main())


def test_a_set_up_that_the_model_refuses_ends_nothing() -> None:
    async def main() -> None:
        async with staged() as stage:
            stage.send(type="session.update", session={"instructions": "Be brief."})
            await asyncio.sleep(0.2)
            stage.send(type="session.update", session={"instructions": "x" * 60_000}, event_id="ev_1")
            await asyncio.sleep(0.2)
            asked = stage.slot.setups[-1]
            stage.slot.say(ModelOutput(0, refusal=Refusal("Too long.", "session.instructions", asked.revision)))
            await asyncio.sleep(0.1)
            (error,) = stage.of("error")
            assert (error["error"]["message"], error["error"]["event_id"]) == ("Too long.", "ev_1")
            assert stage.of("session.updated")[-1]["session"]["instructions"] == "Be brief."
            assert stage.slot.setups[-1].instructions == "Be brief."
            stage.slot.say(speech(0.2))
            await asyncio.sleep(0.5)
            assert stage.of("response.done")[0]["response"]["status"] == "completed"

    run(main())


def test_how_media_gets_through_is_told_every_five_seconds() -> None:
    async def main() -> None:
        async with staged(opt_in=frozenset({"connection"})) as stage:
            await asyncio.sleep(15.5)
            told = stage.of("connection.stats")
            assert len(told) == 3
            assert told[-1]["lost_packets"] == 0
            assert told[-1]["rtt_ms"] is None, "this connection does not know"

    run(main())
