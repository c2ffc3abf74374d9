"""The objects that events carry: conversation items, responses, errors.

Each Struct is the JSON object of the same shape. Optional keys that a peer may not expect are ``UNSET`` and then left
out; keys that clients look for are always present, ``null`` when there is nothing to say. Knows nothing about order.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from duplex_server.types import Tokens
from duplex_server.wire.audio_format import AudioFormat

__all__ = [
    "ContentPart",
    "ErrorObject",
    "FunctionCallItem",
    "FunctionCallOutputItem",
    "InputAudioPart",
    "InputImagePart",
    "InputTextPart",
    "Item",
    "ItemContent",
    "ItemStatus",
    "MessageItem",
    "OutputAudioPart",
    "OutputTextPart",
    "RateLimit",
    "Response",
    "ResponseAudio",
    "ResponseAudioOutput",
    "ResponseAudioPart",
    "ResponseError",
    "ResponseStatus",
    "ResponseTextPart",
    "StatusDetails",
    "TranscriptionUsage",
    "Usage",
    "UsageInputDetails",
    "UsageOutputDetails",
    "usage_of",
]

MAX_CONTENT_PARTS = 64
"""Parts of one message; ours. Clients send one to three."""

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]


class InputTextPart(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="input_text"):
    """What somebody typed."""

    text: str = ""


class InputAudioPart(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="input_audio"):
    """What the user said. ``audio`` comes from clients only; it is never sent back."""

    transcript: str | None = None
    """Always present in what the server sends: openai-agents-js stops to play audio without the key."""
    audio: bytes | UnsetType | None = UNSET


class InputImagePart(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="input_image"):
    """A picture. ``image_url`` (a data URL) comes from clients only; it is never sent back."""

    image_url: str | UnsetType | None = UNSET
    detail: str | UnsetType | None = UNSET


class OutputTextPart(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="output_text"):
    """What the assistant wrote."""

    text: str = ""


class OutputAudioPart(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="output_audio"):
    """What the assistant said."""

    transcript: str | None = ""


ItemContent = InputTextPart | InputAudioPart | InputImagePart | OutputTextPart | OutputAudioPart


class MessageItem(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="message"):
    """One entry of the conversation that somebody said, showed or typed."""

    role: Literal["user", "assistant", "system"]
    id: str | None = None
    object: Literal["realtime.item"] = "realtime.item"
    status: ItemStatus | None = None
    content: Annotated[list[ItemContent], Meta(max_length=MAX_CONTENT_PARTS)] = []


class FunctionCallItem(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="function_call"):
    """A tool call. Kept in the conversation for clients that restore one; no model here makes any."""

    name: str
    arguments: str
    id: str | None = None
    object: Literal["realtime.item"] = "realtime.item"
    status: ItemStatus | None = None
    call_id: str | None = None


class FunctionCallOutputItem(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="function_call_output"):
    """A tool's answer, from the client."""

    call_id: str
    output: str
    id: str | None = None
    object: Literal["realtime.item"] = "realtime.item"
    status: ItemStatus | None = None


Item = MessageItem | FunctionCallItem | FunctionCallOutputItem


class ResponseAudioPart(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="audio"):
    """``part`` of ``response.content_part.*`` for speech. (Items call the same thing ``output_audio``.)"""

    transcript: str | None = ""


class ResponseTextPart(msgspec.Struct, kw_only=True, frozen=True, tag_field="type", tag="text"):
    """``part`` of ``response.content_part.*`` for written text."""

    text: str | None = ""


ContentPart = ResponseAudioPart | ResponseTextPart


class UsageInputDetails(msgspec.Struct, kw_only=True, frozen=True):
    """Input tokens by kind."""

    text_tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0


class UsageOutputDetails(msgspec.Struct, kw_only=True, frozen=True):
    """Output tokens by kind."""

    text_tokens: int = 0
    audio_tokens: int = 0


class Usage(msgspec.Struct, kw_only=True, frozen=True):
    """Tokens of a response; all zero for a model that does not count tokens."""

    total_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    input_token_details: UsageInputDetails = UsageInputDetails()
    output_token_details: UsageOutputDetails = UsageOutputDetails()


def usage_of(tokens: Tokens) -> Usage:
    """Return what a model counted as the wire shows it."""
    n_in = tokens.text_in + tokens.audio_in + tokens.image_in
    n_out = tokens.text_out + tokens.audio_out
    return Usage(
        total_tokens=n_in + n_out,
        input_tokens=n_in,
        output_tokens=n_out,
        input_token_details=UsageInputDetails(
            text_tokens=tokens.text_in, audio_tokens=tokens.audio_in, image_tokens=tokens.image_in
        ),
        output_token_details=UsageOutputDetails(text_tokens=tokens.text_out, audio_tokens=tokens.audio_out),
    )


class ResponseError(msgspec.Struct, kw_only=True, frozen=True):
    """Why a response failed."""

    type: str | None = None
    code: str | None = None
    message: str | None = None


class StatusDetails(msgspec.Struct, kw_only=True, frozen=True):
    """Why a response was not completed."""

    type: Literal["completed", "cancelled", "incomplete", "failed"] | None = None
    reason: Literal["turn_detected", "client_cancelled", "max_output_tokens", "content_filter"] | UnsetType | None = (
        UNSET
    )
    error: ResponseError | UnsetType | None = UNSET


class ResponseAudioOutput(msgspec.Struct, kw_only=True, frozen=True):
    """In what format and voice a response is spoken."""

    format: AudioFormat | None = None
    voice: str | None = None


class ResponseAudio(msgspec.Struct, kw_only=True, frozen=True):
    """The ``audio`` object of a response."""

    output: ResponseAudioOutput | None = None


class Response(msgspec.Struct, kw_only=True, frozen=True):
    """One span of the assistant's speech: the wire's name for a turn."""

    id: str = ""
    object: Literal["realtime.response"] = "realtime.response"
    status: ResponseStatus | None = None
    status_details: StatusDetails | None = None
    output: list[Item] = []
    conversation_id: str | None = None
    output_modalities: list[Literal["audio", "text"]] | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    audio: ResponseAudio | None = None
    usage: Usage | None = None
    metadata: dict[str, str] | None = None
    generated_ms: int | UnsetType = UNSET
    """Extension: audio made for this response, ms. Only in ``response.done``."""
    played_ms: int | UnsetType = UNSET
    """Extension: how much of it the server believes was heard, ms. Only in ``response.done``."""


class ErrorObject(msgspec.Struct, kw_only=True, frozen=True):
    """What went wrong. All five keys are always present."""

    type: str = "server_error"
    code: str | None = None
    message: str = ""
    param: str | None = None
    event_id: str | None = None
    """``event_id`` of the client event at fault."""


class RateLimit(msgspec.Struct, kw_only=True, frozen=True):
    """One limit on requests or tokens. This server has none and sends an empty list."""

    name: str | None = None
    limit: int | None = None
    remaining: int | None = None
    reset_seconds: float | None = None


class TranscriptionUsage(msgspec.Struct, kw_only=True, frozen=True):
    """What was transcribed, by length."""

    type: str = "duration"
    seconds: float = 0.0
