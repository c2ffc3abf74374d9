"""vLLM-Omni's duplex dialect: the Realtime API with our extensions, and with some words of its own.

Its client sends the session in the API's older spelling, 16 kHz sound, and a few events under other names; it looks for
``response_id`` beside ``response``. Knows nothing about sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from duplex_server.errors import InvalidEvent
from duplex_server.wire import client_events as c
from duplex_server.wire.audio_format import AudioFormat
from duplex_server.wire.codec import decode_as, encode
from duplex_server.wire.events import ClientEvent, ResponseCreated, ResponseDone, ServerEvent
from duplex_server.wire.objects import InputTextPart, MessageItem
from duplex_server.wire.session_object import (
    AudioConfigPatch,
    AudioInputPatch,
    AudioOutputPatch,
    ExtraBodyPatch,
    SessionPatch,
    TurnDetectionPatch,
)

__all__ = ["VLLM_PCM_RATES_HZ", "VLLM_SESSION", "VllmDialect"]

VLLM_PCM_RATES_HZ = frozenset({16_000, 24_000})
"""Rates of PCM input; its own client sends 16 kHz."""

_PCM_16K = AudioFormat(type="audio/pcm", rate=16_000)
VLLM_SESSION = SessionPatch(audio=AudioConfigPatch(input=AudioInputPatch(format=_PCM_16K)))
"""What a session of this dialect begins with."""

_FORMATS = {
    "pcm16": _PCM_16K,
    "pcm_s16le": _PCM_16K,
    "s16le": _PCM_16K,
    "g711_ulaw": AudioFormat(type="audio/pcmu"),
    "g711_alaw": AudioFormat(type="audio/pcma"),
}
_POLICIES: dict[str, Literal["model", "immediate"]] = {"listen_only": "model", "barge_in_on_speech": "immediate"}
"""Its ``overlap_policy``: speech over the model's voice is heard and changes nothing, or stops it."""


class _OldExtra(msgspec.Struct, kw_only=True, frozen=True):
    auto_response: bool | UnsetType | None = UNSET


class _OldSession(msgspec.Struct, kw_only=True, frozen=True):
    """Keys of ``session`` that the Realtime API does not have, or has elsewhere now."""

    modalities: list[Literal["audio", "text"]] | UnsetType | None = UNSET
    input_audio_format: str | UnsetType | None = UNSET
    voice: str | UnsetType | None = UNSET
    turn_detection: TurnDetectionPatch | bool | UnsetType | None = UNSET
    overlap_policy: str | UnsetType | None = UNSET
    extra_body: _OldExtra | UnsetType | None = UNSET


class _OldUpdate(msgspec.Struct, kw_only=True, frozen=True):
    session: _OldSession = _OldSession()


class _OldCommit(msgspec.Struct, kw_only=True, frozen=True):
    response_create: bool | UnsetType | None = UNSET
    is_speech: bool | UnsetType | None = UNSET


class _Named(msgspec.Struct, kw_only=True, frozen=True, tag_field="type"):
    event_id: str | None = None


class _InputCommit(_Named, kw_only=True, frozen=True, tag="input.commit"):
    """Another name of ``input_audio_buffer.commit``."""


class _InputCancel(_Named, kw_only=True, frozen=True, tag="input.cancel"):
    """Another name of ``input_audio_buffer.clear``."""


class _InputText(_Named, kw_only=True, frozen=True, tag="input.text.append"):
    """Typed text, without an item around it."""

    text: str


_decoder: msgspec.json.Decoder[ClientEvent | _InputCommit | _InputCancel | _InputText] = msgspec.json.Decoder(
    ClientEvent | _InputCommit | _InputCancel | _InputText
)
_old_update = msgspec.json.Decoder(_OldUpdate)
_old_commit = msgspec.json.Decoder(_OldCommit)


class VllmDialect:
    """One connection's side of the dialect."""

    muted = False

    def __init__(self) -> None:
        self._responding = False

    def receive(self, text: str, *, max_bytes: int) -> Sequence[ClientEvent]:
        """Translate one message.

        Raises:
            InvalidEvent: it is none of this dialect, or longer than ``max_bytes``.
        """
        if len(text) > max_bytes:
            raise InvalidEvent(f"The event is longer than {max_bytes} bytes.", code="message_too_large")
        event = decode_as(_decoder, text)
        match event:
            case c.SessionUpdate():
                return (_updated(event, decode_as(_old_update, text).session),)
            case c.InputAudioBufferCommit() | _InputCommit():
                return self._commit(event.event_id, decode_as(_old_commit, text))
            case _InputCancel():
                return (c.InputAudioBufferClear(event_id=event.event_id),)
            case _InputText():
                item = MessageItem(role="user", content=[InputTextPart(text=event.text)])
                return (c.ConversationItemCreate(item=item, event_id=event.event_id),)
            case c.TurnSignal():  # of this dialect's signals, only this one means something here
                return (c.BargeIn(event_id=event.event_id),) if event.event == "barge_in" else ()
        return (event,)

    def tell(self, event: ServerEvent) -> Sequence[bytes]:
        """Encode one event, with what this dialect's clients look for besides."""
        if not isinstance(event, (ResponseCreated, ResponseDone)):
            return (encode(event),)
        self._responding = isinstance(event, ResponseCreated)
        spelt: dict[str, Any] = msgspec.to_builtins(event)
        return (msgspec.json.encode({**spelt, "response_id": event.response.id}),)

    def _commit(self, event_id: str | None, asked: _OldCommit) -> Sequence[ClientEvent]:
        if asked.is_speech is False:  # what was sent was silence: the model has heard it, and nobody said anything
            return ()
        commit = c.InputAudioBufferCommit(event_id=event_id)
        wants = asked.response_create is True and not self._responding
        return (commit, c.ResponseCreate()) if wants else (commit,)


def _updated(event: c.SessionUpdate, old: _OldSession) -> c.SessionUpdate:
    """Return an update with what was said in the older spelling, where the newer one is silent."""
    patch = event.session
    audio = patch.audio or AudioConfigPatch()
    source, output, extra = audio.input or AudioInputPatch(), audio.output or AudioOutputPatch(), patch.extra_body
    if isinstance(old.input_audio_format, str) and source.format is UNSET:
        source = msgspec.structs.replace(source, format=_format_named(old.input_audio_format, event.event_id))
    if old.turn_detection is not UNSET and source.turn_detection is UNSET:
        source = msgspec.structs.replace(source, turn_detection=old.turn_detection)
    if isinstance(old.voice, str) and output.voice is UNSET:
        output = msgspec.structs.replace(output, voice=old.voice)
    policy = _policy(source, old)
    if policy is not None and (not extra or extra.interruption is UNSET):
        extra = msgspec.structs.replace(extra or ExtraBodyPatch(), interruption=policy)
    modalities = patch.output_modalities
    if modalities is UNSET and old.modalities is not UNSET:
        modalities = old.modalities
    session = msgspec.structs.replace(
        patch,
        audio=msgspec.structs.replace(audio, input=source, output=output),
        extra_body=extra,
        output_modalities=modalities,
    )
    return msgspec.structs.replace(event, session=session)


def _policy(source: AudioInputPatch, old: _OldSession) -> Literal["model", "immediate", "push_to_talk"] | None:
    """Return who may interrupt; None if the update does not say."""
    if isinstance(old.overlap_policy, str) and old.overlap_policy in _POLICIES:
        return _POLICIES[old.overlap_policy]
    automatic = old.extra_body.auto_response if old.extra_body else UNSET
    off = source.turn_detection in (None, False)
    if automatic is False:
        return "push_to_talk"
    # Without turn detection, this dialect's model decides alone; asking for "auto_response" says the same.
    return "model" if off and (automatic is True or old.turn_detection is not UNSET) else None


def _format_named(name: str, event_id: str | None) -> AudioFormat:
    audio_format = _FORMATS.get(name)
    if audio_format is None:
        raise InvalidEvent(
            f"The input format must be one of {', '.join(_FORMATS)}.",
            param="session.input_audio_format",
            code="unsupported_value",
            event_id=event_id,
        )
    return audio_format
