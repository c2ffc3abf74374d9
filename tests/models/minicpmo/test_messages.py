"""Tests of chats as messages: the text that the model reads, and what it is told about its voice."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_server.errors import InvalidEvent
from duplex_server.models.minicpmo.messages import Message, Picture, Segment, Sound, render
from duplex_server.models.minicpmo.system_prompts import Language, VoiceMode, voice_system_message

PICTURE = Picture(np.zeros((10, 10, 3), np.uint8))
SOUND = Sound(np.zeros(16_000, np.float32))
QUESTION = Message("user", ("What is this?",))
ENDING = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def shown(rendered: list[str | Segment]) -> str:
    names = {PICTURE: "[picture]", SOUND: "[sound]"}
    return "".join(part if isinstance(part, str) else names[part.content] for part in rendered)


def test_a_question_is_followed_by_an_empty_thought() -> None:
    assert shown(render([QUESTION])) == f"<|im_start|>user\nWhat is this?{ENDING}"


def test_a_model_may_think_first() -> None:
    assert shown(render([QUESTION], think=True)) == (
        "<|im_start|>user\nWhat is this?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_what_a_message_holds_is_joined_by_line_ends_but_in_omni_mode() -> None:
    message = Message("user", (PICTURE, "Look.", "Listen."))
    assert shown(render([message])) == f"<|im_start|>user\n[picture]\nLook.\nListen.{ENDING}"
    assert shown(render([message], omni=True)) == f"<|im_start|>user\n[picture]Look.Listen.{ENDING}"


@pytest.mark.parametrize(("content", "speak"), [(("Hear.", SOUND), False), (("Speak.",), True)])
def test_where_there_is_sound_the_answer_is_made_for_speaking(content: tuple[str | Sound, ...], speak: bool) -> None:
    assert shown(render([Message("user", content)], speak=speak)).endswith(f"{ENDING}<|tts_bos|>")


def test_earlier_answers_are_shown_without_their_thoughts() -> None:
    chat = [
        Message("system", ("Be brief.",)),
        QUESTION,
        Message("assistant", ("<think>\nhm\n</think>\n\nA cat.",)),
        Message("user", ("Sure?",)),
    ]
    assert shown(render(chat)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is this?<|im_end|>\n"
        f"<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nSure?{ENDING}"
    )


def test_every_segment_knows_its_message() -> None:
    rendered = render([Message("system", (SOUND,)), Message("user", (PICTURE, SOUND))])
    assert [part.message for part in rendered if isinstance(part, Segment)] == [0, 1, 1]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [Message("system", ("Be brief.",))],
        [QUESTION, Message("assistant", ("A cat.",))],
        [QUESTION, Message("system", ("Be brief.",)), QUESTION],
        [QUESTION, Message("assistant", (PICTURE,)), QUESTION],
    ],
)
def test_chats_that_the_model_does_not_know_are_refused(messages: list[Message]) -> None:
    with pytest.raises(InvalidEvent):
        render(messages)


@pytest.mark.parametrize("mode", VoiceMode)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_voice_stands_between_instructions(mode: VoiceMode, language: Language) -> None:
    message = voice_system_message(mode, language, SOUND)
    before, sound, *after = message.content
    assert message.role == "system"
    assert isinstance(before, str) and before
    assert sound is SOUND
    assert len(after) == (mode is not VoiceMode.CLONING)
    written = "".join(item for item in message.content if isinstance(item, str))
    assert written.isascii() == (language == "en")


def test_instructions_are_those_of_the_official_code() -> None:
    assert voice_system_message(VoiceMode.OMNI, "en", SOUND).content == (
        "Clone the voice in the provided audio prompt.",
        SOUND,
        "As an assistant, you will speak using this voice style.",
    )
    assert voice_system_message(VoiceMode.ROLEPLAY, "zh", SOUND).content == (
        "模仿输入音频中的声音特征。",
        SOUND,
        "假装你是上述音频中的人物，与我进行对话。",
    )


def test_without_a_recording_the_model_has_a_voice_of_its_own_but_clones_none() -> None:
    assert voice_system_message(VoiceMode.ASSISTANT).content == (
        "Use the <reserved_53> voice.",
        "You are a helpful assistant with the above voice style.",
    )
    assert voice_system_message(VoiceMode.OMNI).content == ("",)
    assert voice_system_message(None).content[0] == (
        "You are a helpful assistant. You can accept audio and text input and output voice and text."
    )
    with pytest.raises(InvalidEvent, match="a recording"):
        voice_system_message(VoiceMode.CLONING)
