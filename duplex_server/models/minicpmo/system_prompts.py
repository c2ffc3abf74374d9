"""What the model was trained to be told first when it speaks with a voice (specification §7.2).

Knows nothing about audio; the recording of the voice is passed on as it is.
"""

from __future__ import annotations

import enum
from typing import Literal

from duplex_server.errors import InvalidEvent
from duplex_server.models.minicpmo.messages import Message, Sound

__all__ = ["Language", "VoiceMode", "voice_system_message"]

Language = Literal["en", "zh"]


class VoiceMode(enum.Enum):
    """What the voice is for."""

    OMNI = "omni"
    """Hears and sees at once."""
    ASSISTANT = "audio_assistant"
    """Helps, in that voice."""
    ROLEPLAY = "audio_roleplay"
    """Is the person who is heard."""
    CLONING = "voice_cloning"
    """Reads in that voice what is written."""


_PROMPTS: dict[VoiceMode, dict[Language, tuple[str, str]]] = {
    VoiceMode.OMNI: {
        "en": (
            "Clone the voice in the provided audio prompt.",
            "As an assistant, you will speak using this voice style.",
        ),
        "zh": (
            "模仿音频样本的音色并生成新的内容。",
            "请用这种声音风格来为用户提供帮助。 请认真、高质量地回复用户的问题。 请用高自然度的方式和用户聊天。",
        ),
    },
    VoiceMode.ASSISTANT: {
        "en": (
            "Use the voice in the audio prompt to synthesize new content.",
            "You are a helpful assistant with the above voice style.",
        ),
        "zh": (
            "模仿音频样本的音色并生成新的内容。",
            "你的任务是用这种声音模式来当一个助手。请认真、高质量地回复用户的问题。请用高自然度的方式和用户聊天。"
            "你是由面壁智能开发的人工智能助手：面壁小钢炮。",
        ),
    },
    VoiceMode.ROLEPLAY: {
        "en": (
            "Clone the voice in the provided audio prompt.",
            "Try to role-play the character based on the audio prompt above.",
        ),
        "zh": ("模仿输入音频中的声音特征。", "假装你是上述音频中的人物，与我进行对话。"),
    },
    VoiceMode.CLONING: {
        "en": ("Clone the voice in the provided audio prompt.", ""),
        "zh": ("模仿输入音频中的声音特征。", ""),
    },
}
"""What stands before and after the recording, letter by letter as in training. Source: MiniCPM-o 4.5's model card and
its ``get_sys_prompt``."""

_DEFAULT_VOICE = "Use the <reserved_53> voice."
"""Names a voice that the model knows without a recording. Source: as above."""

PLAIN = "You are a helpful assistant. You can accept audio and text input and output voice and text."
"""Where no mode is asked for. Source: as above."""


def voice_system_message(mode: VoiceMode | None, language: Language = "en", reference: Sound | None = None) -> Message:
    """Return the system message for a mode.

    Args:
        mode: what the voice is for; None: nothing special.
        language: of the instructions; the model answers in the language it is spoken to.
        reference: a few seconds of the voice; None: the model's own.

    Raises:
        InvalidEvent: a voice is to be cloned and there is none.
    """
    if mode is None:
        return Message("system", (PLAIN,))
    before, after = _PROMPTS[mode][language]
    if reference is not None:
        return Message("system", (before, reference, after) if after else (before, reference))
    match mode:
        case VoiceMode.CLONING:
            raise InvalidEvent("To clone a voice the model needs a recording of it.")
        case VoiceMode.OMNI:
            return Message("system", ("",))
        case _:
            return Message("system", (_DEFAULT_VOICE, after))
