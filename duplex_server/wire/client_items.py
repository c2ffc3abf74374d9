"""What clients put into the conversation: checked, decoded, and stripped of what is not echoed.

Knows nothing about ids or order.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

import msgspec
from msgspec import UnsetType

from duplex_server.errors import ClientError, InvalidEvent, LimitExceeded
from duplex_server.wire.audio_format import AudioFormat, AudioIntake
from duplex_server.wire.objects import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputAudioPart,
    InputImagePart,
    InputTextPart,
    Item,
    ItemContent,
    MessageItem,
    OutputAudioPart,
    OutputTextPart,
)
from duplex_server.wire.requests import AddText, AppendAudio, AppendImage, Request

__all__ = ["ReadItem", "check_item_id", "decode_picture", "read_item"]

MAX_TEXT_CHARS = 65_536
"""Ours: longest text in one item; beyond what a speech model can take in one go."""
MAX_ITEM_ID_CHARS = 128
"""Ours; OpenAI takes 32, clients make up to 36."""

_ALLOWED: dict[str, tuple[type, ...]] = {
    "user": (InputTextPart, InputAudioPart, InputImagePart),
    "assistant": (OutputTextPart, OutputAudioPart),
    "system": (InputTextPart,),
}


@dataclass(frozen=True, slots=True)
class ReadItem:
    """A client's item, ready for the history, and what it asks of the session."""

    item: Item
    requests: list[Request]
    is_picture: bool


def read_item(
    item: Item, *, item_id: str, event_id: str | None, audio_format: AudioFormat, image_max_bytes: int
) -> ReadItem:
    """Check and decode an item.

    Args:
        item: as the client sent it.
        item_id: what it is called from now on.
        event_id: of the client event, for errors that turn up later.
        audio_format: of ``input_audio`` parts.
        image_max_bytes: longest encoded picture.

    Raises:
        ClientError: something in it cannot be had; ``param`` says what.
    """
    if isinstance(item, FunctionCallItem):
        _check_length(item.arguments, "item.arguments")
        return ReadItem(msgspec.structs.replace(item, id=item_id, status="completed"), [], False)
    if isinstance(item, FunctionCallOutputItem):
        _check_length(item.output, "item.output")
        return ReadItem(msgspec.structs.replace(item, id=item_id, status="completed"), [], False)
    content: list[ItemContent] = []
    requests: list[Request] = []
    for index, part in enumerate(item.content):
        param = f"item.content[{index}]"
        if not isinstance(part, _ALLOWED[item.role]):
            kind = part.__struct_config__.tag
            raise InvalidEvent(f"A message of role '{item.role}' cannot have '{kind}'.", param=f"{param}.type")
        match part:
            case InputTextPart(text=text):
                _check_length(text, f"{param}.text")
                if text.strip():
                    requests.append(AddText(text))
                content.append(part)
            case InputAudioPart(audio=audio, transcript=transcript):
                _check_length(transcript or "", f"{param}.transcript")
                pcm = AudioIntake(audio_format).decode(audio) if isinstance(audio, bytes) else None
                if pcm is not None and len(pcm):
                    requests.append(AppendAudio(pcm, audio_format.rate_hz))
                content.append(InputAudioPart(transcript=transcript))
            case InputImagePart(image_url=url):
                picture = _picture_of(url, param=f"{param}.image_url", max_bytes=image_max_bytes)
                requests.append(AppendImage(data=picture, captured_ms=None, event_id=event_id))
                content.append(InputImagePart())
            case OutputTextPart(text=text):
                _check_length(text, f"{param}.text")
                content.append(part)
            case OutputAudioPart(transcript=transcript):
                _check_length(transcript or "", f"{param}.transcript")
                content.append(part)
    clean = MessageItem(id=item_id, role=item.role, status="completed", content=content)
    is_picture = bool(content) and all(isinstance(part, InputImagePart) for part in content)
    return ReadItem(clean, requests, is_picture)


def decode_picture(text: str, *, param: str, max_bytes: int) -> bytes:
    """Decode a picture given as base64, bare or in a ``data:`` URL. What is in it is not looked at.

    Raises:
        InvalidEvent: not base64, empty, or a data URL of something else than a picture.
        LimitExceeded: longer than ``max_bytes``.
    """
    head, comma, encoded = text[:128].partition(",")
    if head.startswith("data:"):
        if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
            raise InvalidEvent("A picture must be base64 or a 'data:image/…;base64,' URL.", param=param)
        encoded = text[len(head) + 1 :]
    else:
        encoded = text
    if len(encoded) > (max_bytes + 2) // 3 * 4:
        message = f"The picture is longer than {max_bytes} bytes. Send a smaller or more compressed one."
        raise LimitExceeded(message, limit="image_max_bytes", value=f"{max_bytes} bytes", param=param)
    try:
        picture = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:  # not base64, or not even ASCII
        raise InvalidEvent("The picture is not valid base64.", param=param) from None
    if not picture:
        raise InvalidEvent("The picture is empty.", param=param)
    return picture


def _picture_of(url: str | UnsetType | None, *, param: str, max_bytes: int) -> bytes:
    if not isinstance(url, str):
        raise InvalidEvent("A picture needs an 'image_url'.", param=param, code="missing_required_parameter")
    if not url.startswith("data:"):
        raise InvalidEvent("A picture must come in a 'data:' URL; this server fetches nothing.", param=param)
    return decode_picture(url, param=param, max_bytes=max_bytes)


def _check_length(text: str, param: str) -> None:
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidEvent(f"Text of one item may have {MAX_TEXT_CHARS} characters.", param=param)


def check_item_id(item_id: str) -> None:
    """Refuse an id that no client needs.

    Raises:
        ClientError: empty, or too long.
    """
    if not 0 < len(item_id) <= MAX_ITEM_ID_CHARS:
        raise ClientError(f"An item id must have 1 to {MAX_ITEM_ID_CHARS} characters.", param="item.id")
