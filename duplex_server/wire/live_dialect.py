"""OpenAI's Live API as a dialect: no responses and no turns, but one stream of sound and words placed on its clock.

Knows nothing about sockets; the clock is handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from duplex_server.errors import InvalidEvent
from duplex_server.types import OUTPUT_RATE_HZ
from duplex_server.wire import client_events as c
from duplex_server.wire import extension_events as x
from duplex_server.wire import live_events as live
from duplex_server.wire import server_events as s
from duplex_server.wire.audio_format import PCM_FORMAT, AudioFormat
from duplex_server.wire.codec import decode_as, encode
from duplex_server.wire.events import ClientEvent, ServerEvent
from duplex_server.wire.live_words import LiveWords
from duplex_server.wire.objects import InputTextPart, Item, MessageItem, OutputTextPart
from duplex_server.wire.session_object import (
    AudioConfigPatch,
    AudioInputPatch,
    AudioOutputPatch,
    Session,
    SessionPatch,
)

__all__ = ["LIVE_OPT_IN", "LIVE_PCM_RATES_HZ", "LiveClock", "LiveDialect", "live_patch", "without_format"]

LIVE_OPT_IN = frozenset({"limits"})
"""Groups of extension events that this dialect translates."""
LIVE_PCM_RATES_HZ = frozenset({16_000, 24_000})
"""Source: OpenAI Live API reference, ``audio.format``."""

_ENDING = "session_ending"
"""What ``info`` says before an end that is planned; no error."""

_decoder: msgspec.json.Decoder[live.LiveClientEvent] = msgspec.json.Decoder(live.LiveClientEvent)

_Pending = tuple[Literal["instructions", "thinking", "commentary"], str | None]
_Appended = live.LiveInstructionsAppended | live.LiveThinkingAppended | live.LiveCommentaryAppended
_APPENDED: dict[str, type[_Appended]] = {
    "instructions": live.LiveInstructionsAppended,
    "thinking": live.LiveThinkingAppended,
    "commentary": live.LiveCommentaryAppended,
}


def live_patch(config: live.LiveConfig) -> SessionPatch:
    """Return what a configuration of a Live session means to a session of the Realtime API.

    Raises:
        InvalidEvent: a format with a rate that it does not have.
    """
    audio = config.audio or live.LiveAudio()
    given = audio.format or PCM_FORMAT
    if given.type == "audio/pcm":
        audio_format = AudioFormat(type="audio/pcm", rate=given.rate or OUTPUT_RATE_HZ)
    elif given.rate in (None, msgspec.UNSET, given.rate_hz):
        audio_format = AudioFormat(type=given.type)
    else:
        raise InvalidEvent(f"The rate of {given.type} must be {given.rate_hz}.", param="session.audio.format.rate")
    voice = audio.output.voice if audio.output else None
    return SessionPatch(
        instructions=config.instructions,
        audio=AudioConfigPatch(input=AudioInputPatch(format=audio_format), output=AudioOutputPatch(voice=voice)),
        extra_body=config.extra_body or msgspec.UNSET,
    )


def without_format(config: live.LiveConfig) -> live.LiveConfig:
    """Return a configuration for a connection whose audio format is negotiated, not chosen."""
    if config.audio is None:
        return config
    return msgspec.structs.replace(config, audio=live.LiveAudio(output=config.audio.output))


class LiveClock(Protocol):
    """The clock of a session: that of its output."""

    @property
    def next_ms(self) -> int:
        """Where what is said now will be heard, ms from the session's begin."""
        ...

    def begin(self) -> None:
        """Begin at 0; once more does no harm."""
        ...


class LiveDialect:
    """One connection's side of the Live API.

    Args:
        clock: the session's; begun when the session does.
        config: what the session begins with, where that does not come as ``session.start``.
        session_id: what the session is called towards the peer; None: as it is called here.
    """

    def __init__(
        self, clock: LiveClock, *, config: live.LiveConfig | None = None, session_id: str | None = None
    ) -> None:
        self._clock = clock
        self._config = config or live.LiveConfig()
        self._session_id = session_id
        self._starts_itself = config is not None
        self._start_id: str | None = None
        self._session: live.LiveSession | None = None
        self._words = LiveWords(lambda: clock.next_ms)
        # Replies come in the order of requests, so the oldest that waits is the one that is answered. Each is answered
        # before the next message is read.
        self._acks: deque[tuple[str, str | None]] = deque()  # bounded by what one message asks for
        self._appends: dict[str, _Pending] = {}  # by item id
        self._n_made = 0
        self._speaking = False
        self._context: live.LiveContext | msgspec.UnsetType = msgspec.UNSET
        self.muted = False
        """Whether the peer asked that the model hear silence."""
        self.over = False
        """Whether ``session.closed`` was told."""

    @property
    def audio_format(self) -> AudioFormat:
        """Of the session's output on a WebSocket."""
        audio = self._config.audio
        return audio.format if audio and audio.format else PCM_FORMAT

    def receive(self, text: str, *, max_bytes: int) -> Sequence[ClientEvent]:
        """Translate one message.

        Raises:
            InvalidEvent: it is none of this API, or comes before ``session.start``, or is a second one.
        """
        if len(text) > max_bytes:
            raise InvalidEvent(f"The event is longer than {max_bytes} bytes.", code="message_too_large")
        event = decode_as(_decoder, text)
        if isinstance(event, live.LiveStart):
            return self._start(event)
        if self._session is None and not self._starts_itself:
            raise InvalidEvent(
                "Send session.start first.", param="type", code="session_not_started", event_id=event.event_id
            )
        match event:
            case live.LiveInputAudioAppend():
                if self.muted:
                    return ()
                frames = event.video_frames
                return (c.InputAudioBufferAppend(audio=event.audio, video_frames=frames, event_id=event.event_id),)
            case live.LiveInputImageAppend():
                return (
                    c.InputImageBufferAppend(image=event.image, capture_ms=event.capture_ms, event_id=event.event_id),
                )
            case live.LiveInstructionsAppend():
                return self._append("instructions", event.content, event.event_id)
            case live.LiveThinkingAppend():
                return self._append("thinking", event.content, event.event_id)
            case live.LiveCommentaryAppend():
                return self._append("commentary", event.content, event.event_id)
            case live.LiveMute():
                self.muted = True
                return self._acknowledged("muted", event.event_id)
            case live.LiveUnmute():
                self.muted = False
                return self._acknowledged("unmuted", event.event_id)
            case live.LiveSessionUpdate():
                return self._acknowledged("updated", event.event_id)
            case live.LiveSessionClose():
                self._acks.append(("closed", event.event_id))
                return (c.SessionClose(event_id=event.event_id),)

    def tell(self, event: ServerEvent) -> Sequence[bytes]:
        """Translate one event; most have no counterpart."""
        if self.over:
            return ()
        return [encode(message) for message in self._translate(event)]

    def sound(self, encoded: bytes) -> Sequence[bytes]:
        """Return the message that carries the next piece of output; none after the end."""
        return () if self.over else (encode(live.LiveOutputAudioDelta(delta=encoded)),)

    # -- in -----------------------------------------------------------------------------------------------------------

    def _start(self, event: live.LiveStart) -> Sequence[ClientEvent]:
        if self._session is not None or self._starts_itself:
            raise InvalidEvent(
                "The session has started already.",
                param="type",
                code="session_already_started",
                event_id=event.event_id,
            )
        self._config, self._start_id = event.session, event.event_id
        try:
            update = c.SessionUpdate(session=live_patch(event.session), event_id=event.event_id)
        except InvalidEvent as error:
            error.event_id = event.event_id
            raise
        return (update, *self.history())

    def history(self) -> Sequence[ClientEvent]:
        """Return what makes the conversation's first items."""
        return [
            c.ConversationItemCreate(item=_message(message.role, message.content[0].text))
            for message in self._config.input or ()
        ]

    def _append(
        self, kind: Literal["instructions", "thinking", "commentary"], content: str, event_id: str | None
    ) -> Sequence[ClientEvent]:
        self._n_made += 1
        item_id = f"item_live_{self._n_made}"
        self._appends[item_id] = (kind, event_id)
        item = _message("developer", content)
        assert isinstance(item, MessageItem), "a message"
        create = c.ConversationItemCreate(item=msgspec.structs.replace(item, id=item_id), event_id=event_id)
        # Where the model speaks already, what it is told finds its way into what it says.
        if kind == "commentary" and not self._speaking:
            return (create, c.ResponseCreate())
        return (create,)

    def _acknowledged(self, what: str, event_id: str | None) -> Sequence[ClientEvent]:
        self._acks.append((what, event_id))
        return (c.SessionHeartbeat(),)

    # -- out ----------------------------------------------------------------------------------------------------------

    def _translate(self, event: ServerEvent) -> Sequence[live.LiveServerEvent]:
        match event:
            case s.SessionCreated():
                self._clock.begin()
                self._session = self._resource(event.session)
                return [
                    live.LiveStarted(event_id=event.event_id, session=self._session, **_answers(self._start_id)),
                ]
            case x.SessionHeartbeatAck():
                return self._acknowledge(event.event_id)
            case s.ConversationItemDone():
                return self._appended(event)
            case x.SessionClosed():
                event_id = self._acks.popleft()[1] if self._acks else None
                return [self._close(event.event_id, "close_requested", event_id)]
            case x.SessionGoAway():
                return self._going(event)
            case s.ErrorEvent():
                return self._error(event)
            case s.ResponseCreated():
                self._speaking = True
            case s.ResponseDone():
                self._speaking = False
            case x.SessionLimits():
                return self._filled(event)
            case s.RateLimitsUpdated():
                return [self._used(event.event_id)]
        return self._words.tell(event)

    def _acknowledge(self, event_id: str) -> Sequence[live.LiveServerEvent]:
        if not self._acks:
            return []
        what, asked = self._acks.popleft()
        if what == "updated":
            assert self._session is not None, "an update is taken after the start"
            return [live.LiveUpdated(event_id=event_id, session=self._session, **_answers(asked))]
        kind = live.LiveMuted if what == "muted" else live.LiveUnmuted
        return [kind(event_id=event_id, **_answers(asked))]

    def _appended(self, event: s.ConversationItemDone) -> Sequence[live.LiveServerEvent]:
        pending = self._appends.pop(event.item.id or "", None)
        if pending is None:
            return []
        kind, asked = pending
        now_ms = self._clock.next_ms
        return [_APPENDED[kind](event_id=event.event_id, start_ms=now_ms, end_ms=now_ms, **_answers(asked))]

    def _going(self, event: x.SessionGoAway) -> Sequence[live.LiveServerEvent]:
        if event.reason == "model":
            return [self._close(event.event_id, "remote_hangup", None)]
        message = f"The session will end in {event.time_left_ms / 1000:.0f} s ({event.reason})."
        return [live.LiveInfo(event_id=event.event_id, code=_ENDING, message=message)]

    def _error(self, event: s.ErrorEvent) -> Sequence[live.LiveServerEvent]:
        told = event.error
        for item_id in [key for key, (_, asked) in self._appends.items() if asked == told.event_id]:
            del self._appends[item_id]
        error = live.LiveError(
            type=told.type,
            code=told.code or told.type,
            message=told.message,
            param=told.param,
            client_event_id=told.event_id,
        )
        events: list[live.LiveServerEvent] = [
            live.LiveErrorEvent(event_id=event.event_id, error=error, **_answers(told.event_id))
        ]
        if self._session is None:
            return events
        if told.code == "session_expired":
            events.append(self._close(f"{event.event_id}_closed", "expired", None))
        elif told.type == "server_error":
            events.append(self._close(f"{event.event_id}_closed", "connection_lost", None))
        return events

    def _close(
        self,
        event_id: str,
        reason: Literal["close_requested", "expired", "remote_hangup", "connection_lost"],
        asked: str | None,
    ) -> live.LiveClosed:
        assert self._session is not None, "what has not started does not end"
        self.over = True
        return live.LiveClosed(
            event_id=event_id, reason=reason, session=self._session, usage=self._usage(), **_answers(asked)
        )

    def _filled(self, event: x.SessionLimits) -> Sequence[live.LiveServerEvent]:
        if event.context_tokens is None or not event.context_tokens_max:
            return []
        self._context = live.LiveContext(usage_ratio=event.context_tokens / event.context_tokens_max)
        return [self._used(event.event_id)]

    def _used(self, event_id: str) -> live.LiveUsageUpdated:
        return live.LiveUsageUpdated(event_id=event_id, usage=self._usage(), context_window=self._context)

    def _usage(self) -> live.LiveUsage:
        return live.LiveUsage(seconds=self._clock.next_ms / 1000)

    def _resource(self, session: Session) -> live.LiveSession:
        given = self._config.audio
        return live.LiveSession(
            id=self._session_id or session.id,
            expires_at=session.expires_at or 0,
            model=session.model,
            audio=live.LiveAudio(
                format=_with_rate(self.audio_format) if given is None or not self._starts_itself else None,
                output=live.LiveAudioOutput(voice=session.audio.output.voice),
            ),
            delegation=self._config.delegation,
            instructions=session.instructions or "",
            capabilities=session.capabilities,
        )


def _message(role: Literal["developer", "user", "assistant"], text: str) -> Item:
    if role == "assistant":
        return MessageItem(role="assistant", content=[OutputTextPart(text=text)])
    return MessageItem(role="system" if role == "developer" else "user", content=[InputTextPart(text=text)])


def _with_rate(audio_format: AudioFormat) -> AudioFormat:
    """Return a format as this API spells it: with its rate, G.711 too."""
    return AudioFormat(type=audio_format.type, rate=audio_format.rate_hz)


def _answers(event_id: str | None) -> dict[str, Any]:
    return {} if event_id is None else {"client_event_id": event_id}
