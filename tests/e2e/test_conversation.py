"""Speaking with the embedded model at the page, in real time."""

from __future__ import annotations

import pytest

from tests.e2e.clips import said
from tests.e2e.conftest import OpenPage
from tests.e2e.serving import Server
from tests.e2e.visitor import TRANSPORTS
from tests.e2e.wire import judge
from tests.helpers.speech import UserVoice

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

_BEGIN_S = 4.0
"""When people begin to speak after they pressed Start: the connection stands by then, even on a busy machine."""
_AGAIN_S = 9.0
"""When they ask again: on a busy machine the fake microphone drops sound, and they may not be understood at once."""
_SILENT_AFTER_MS = 700.0
"""A cut voice must be gone after this: the sound that is on its way, and the browser's jitter buffer."""


@pytest.mark.parametrize("transport", [*TRANSPORTS, "websocket without a track reader"])
def test_asked_the_time_it_answers_aloud_and_in_captions(
    visit: OpenPage, server: Server, voice: UserVoice, transport: str
) -> None:
    question = (_BEGIN_S, "what time is it"), (_BEGIN_S + _AGAIN_S, "what time is it")
    # Only Chromium can read a track; the pages of others listen through an audio graph.
    transport, _, without = transport.partition(" without ")
    script = "delete window.MediaStreamTrackProcessor;" if without else ""
    visitor = visit(server.url, hears=said(voice, *question), transport=transport, script=script)
    visitor.start()
    answer = visitor.answer(r"^it is \d+", 30)
    understood = "line.who === 'you' && line.words[0]?.text === 'what time is it'"
    assert visitor.look(f"duplex.captions.some((line) => {understood})")
    asked_ms = visitor.times("input_audio_buffer.speech_stopped")[0]
    assert 0.6 < visitor.sound_s(asked_ms) < 10.0
    assert visitor.sound_s(0, asked_ms) == 0.0
    latency = visitor.until("duplex.latencies.at(-1)")
    assert latency["latencyMs"] > 0
    assert visitor.page.get_by_text(answer, exact=True).count() >= 1
    visitor.until("duplex.state.view === 'listening'")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("interruption", ["stop", "what time is it"])
def test_interrupted_in_a_story_it_falls_silent(
    visit: OpenPage, server: Server, voice: UserVoice, transport: str, interruption: str
) -> None:
    track = said(voice, (_BEGIN_S, "tell me a story"), (_BEGIN_S + 8.0, interruption))
    visitor = visit(server.url, hears=track, transport=transport)
    visitor.start()
    visitor.until("duplex.state.view === 'interrupted'", 30)
    story = visitor.until("lines('model').find((line) => line.status === 'cut')")
    assert story["heard"]
    assert story["text"].startswith(story["heard"])
    cut = "duplex.events.find((event) => event.type === 'response.done' && event.status === 'cancelled')"
    cut_ms = visitor.until(cut)["t"]
    assert visitor.sound_s(cut_ms - 2000, cut_ms) > 0.5, "the story was heard until then"
    if interruption == "stop":
        visitor.until(f"performance.now() > {cut_ms + 3000}")
        assert visitor.sound_s(cut_ms + _SILENT_AFTER_MS) == 0.0
    else:
        visitor.answer(r"^it is \d+")
        answered_ms = next(t for t in visitor.times("response.created") if t > cut_ms)
        assert visitor.sound_s(cut_ms + _SILENT_AFTER_MS, answered_ms) == 0.0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_typed_message_is_answered_aloud(visit: OpenPage, server: Server, transport: str) -> None:
    visitor = visit(server.url, transport=transport)
    visitor.start()
    visitor.page.get_by_label("Type a message").fill("what is two plus three")
    visitor.page.keyboard.press("Enter")
    visitor.answer("is 5")
    assert visitor.sound_s() > 0.5
    assert visitor.look("duplex.latencies.at(-1).typed")
    assert judge(visitor.page) > 10, "what the page hears is noted, to be judged"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_interrupt_button_silences_a_story(visit: OpenPage, server: Server, transport: str) -> None:
    visitor = visit(server.url, transport=transport)
    visitor.start()
    visitor.page.get_by_label("Type a message").fill("tell me a story")
    visitor.page.keyboard.press("Enter")
    visitor.until("duplex.state.view === 'speaking' && lines('model').at(-1).heard.length > 20")
    visitor.button("Interrupt").click()
    pressed_ms = visitor.look("performance.now()")
    visitor.until("lines('model').at(-1).status === 'cut'")
    visitor.until(f"performance.now() > {pressed_ms + 3000}")
    assert visitor.sound_s(pressed_ms + _SILENT_AFTER_MS) == 0.0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_closed_microphone_hears_nothing(visit: OpenPage, server: Server, voice: UserVoice, transport: str) -> None:
    track = said(voice, (_BEGIN_S, "what time is it"), *((_BEGIN_S + at_s, "what is the date") for at_s in (6.0, 14.0)))
    visitor = visit(server.url, hears=track, transport=transport)
    visitor.start()
    visitor.page.keyboard.press("Space")
    assert visitor.look("duplex.state.view") == "muted"
    visitor.until("duplex.levels.user.length > 0 && performance.now() > duplex.levels.user[0].t + 8000")
    assert visitor.times("input_audio_buffer.speech_started") == []
    visitor.page.keyboard.press("Space")
    visitor.answer("^today is")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_push_to_talk_answers_when_the_key_is_let_go(
    visit: OpenPage, server: Server, voice: UserVoice, transport: str
) -> None:
    track = said(voice, (_BEGIN_S + 2.0, "what is the date"), lasts_s=20)
    visitor = visit(server.url, hears=track, transport=transport, policy="push_to_talk")
    visitor.start()
    opened_ms = visitor.until("duplex.levels.user[0]?.t")
    visitor.until(f"performance.now() > {opened_ms + 4000}")
    visitor.page.keyboard.down("Space")
    visitor.until(f"performance.now() > {opened_ms + 8500}")
    assert visitor.look("duplex.state.view") == "hearing"
    assert visitor.times("response.created") == []
    visitor.page.keyboard.up("Space")
    visitor.answer("^today is")


def test_in_chinese_it_speaks_chinese(visit: OpenPage, server: Server) -> None:
    visitor = visit(server.url, locale="zh-CN")
    visitor.button("开始").click()
    visitor.until("duplex.state.phase === 'live'")
    visitor.page.get_by_label("输入消息").fill("what time is it")
    visitor.page.keyboard.press("Enter")
    visitor.answer("[\u4e00-\u9fff]")
    assert visitor.sound_s() > 0.5
    assert visitor.look("document.documentElement.lang") == "zh-Hans"


def test_goodbye_ends_the_conversation_quietly(visit: OpenPage, server: Server) -> None:
    for transport in TRANSPORTS:
        visitor = visit(server.url, transport=transport)
        visitor.start()
        visitor.page.get_by_label("Type a message").fill("goodbye")
        visitor.page.keyboard.press("Enter")
        visitor.until("duplex.state.view === 'idle'")
        assert visitor.look("duplex.state.loss.reason") == "goodbye"
        assert visitor.look("duplex.captions.at(-1).words.map((word) => word.text).join('')").startswith("Goodbye")
