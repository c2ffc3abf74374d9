"""A chat as messages, and as the text that the model was trained to read (specification §7.1).

Knows nothing about tokens or tensors. The checkpoint's own chat template is a program; this is what it does for the
roles of system, user and assistant, and nothing of it is executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from duplex_server.errors import InvalidEvent

__all__ = ["Content", "Message", "Picture", "Segment", "Sound", "append_text", "render"]

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """A picture in a message."""

    rgb: npt.NDArray[np.uint8]
    """``[height, width, 3]``."""
    max_slices: int = 9
    """Most slices that are looked at beside the whole."""


@dataclass(frozen=True, eq=False, slots=True)
class Sound:
    """A recording in a message."""

    pcm: npt.NDArray[np.float32]
    """``[n]``, 16 kHz, -1 to 1."""


Content = str | Picture | Sound


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody contributes to a chat."""

    role: Role
    content: tuple[Content, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """Something of a rendered chat that is not text."""

    content: Picture | Sound
    message: int
    """Which message it stands in."""


_THINKING_ENDED = "<think>\n\n</think>\n\n"
"""An empty thought: what makes the model answer at once."""


def render(
    messages: Sequence[Message], *, omni: bool = False, speak: bool = False, think: bool = False
) -> list[str | Segment]:
    """Put a chat into the form in which the model answers it.

    Args:
        messages: at most one system message, which is the first; the last is the user's.
        omni: join what a message holds without a line end between, as for video whose pictures and seconds of sound
            alternate.
        speak: have the model answer as it speaks; always so where the chat holds sound.
        think: let the model think before it answers.

    Returns:
        Text and other things in turn; neighbouring texts are one, so that they can be cut into tokens as a whole.

    Raises:
        InvalidEvent: the messages are not in an order the model knows.
    """
    _check_order(messages)
    speak = speak or any(isinstance(item, Sound) for message in messages for item in message.content)
    found: list[str | Segment] = []
    for place, message in enumerate(messages):
        append_text(found, f"<|im_start|>{message.role}\n")
        for number, item in enumerate(message.content):
            if number and not omni:
                append_text(found, "\n")
            if isinstance(item, str):
                append_text(found, _without_thoughts(item) if message.role == "assistant" else item)
            else:
                found.append(Segment(item, place))
        append_text(found, "<|im_end|>\n")
    append_text(
        found, "<|im_start|>assistant\n" + ("" if think else _THINKING_ENDED) + ("<|tts_bos|>" if speak else "")
    )
    return found


def append_text(found: list[str | Segment], text: str) -> None:
    """Add text to what is rendered, as a part of the text before it if there is one."""
    if found and isinstance(found[-1], str):
        found[-1] += text
    else:
        found.append(text)


def _without_thoughts(answer: str) -> str:
    """Return what an earlier answer said in the end: the model is never shown what it thought before."""
    return answer.rpartition("</think>")[2].lstrip("\n") if "</think>" in answer else answer


def _check_order(messages: Sequence[Message]) -> None:
    if not messages or messages[-1].role != "user":
        raise InvalidEvent("A chat ends with a message of the user.")
    if any(message.role == "system" for message in messages[1:]):
        raise InvalidEvent("Only the first message of a chat can be the system's.")
    for message in messages:
        if message.role == "assistant" and not all(isinstance(item, str) for item in message.content):
            raise InvalidEvent("An answer of the assistant is text.")
