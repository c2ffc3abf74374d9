"""One session's side of the protocol: what is answered, in which order, under which ids.

Sans-I/O and synchronous: client events go in and answers and requests come out; the session tells what happens and
gets the events that say so. Whatever the peer sends, and in whatever order the session calls, the events that come out
are in legal order; what makes no sense any more (a turn that is over) gives none. Knows nothing about sockets or time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from duplex_server.errors import ClientError, DuplexError, InvalidEvent
from duplex_server.types import Heard, InterruptionPolicy, ModelSpec, Pcm, SessionSetup, Tokens
from duplex_server.wire import client_events as c
from duplex_server.wire import events as s
from duplex_server.wire.error_objects import error_object
from duplex_server.wire.events import ClientEvent, ServerEvent
from duplex_server.wire.history import History
from duplex_server.wire.ids import Ids
from duplex_server.wire.input_answers import InputAnswers
from duplex_server.wire.item_answers import ItemAnswers
from duplex_server.wire.objects import ResponseError
from duplex_server.wire.reply import Reply
from duplex_server.wire.reports import Reports
from duplex_server.wire.requests import (
    BargeIn,
    CancelResponse,
    ClearOutput,
    CloseSession,
    Continue,
    CreateResponse,
    Pause,
    TurnTaking,
)
from duplex_server.wire.response_stream import Outcome, ResponseSettings, ResponseStream, SoundPlace
from duplex_server.wire.responses import Responses
from duplex_server.wire.session_object import Session, SessionPatch
from duplex_server.wire.session_state import REALTIME_PCM_RATES_HZ, SessionState
from duplex_server.wire.setups import Setups
from duplex_server.wire.user_turns import UserTurns

__all__ = ["Dialogue", "Outcome", "Reply"]

IMAGE_MAX_BYTES = 8 * 1024 * 1024
"""Longest encoded picture, unless the server's settings say otherwise."""


class Dialogue:
    """State of one conversation on the wire."""

    def __init__(
        self,
        *,
        spec: ModelSpec,
        session_id: str,
        media_track: bool,
        setup: SessionSetup,
        turn_taking: TurnTaking,
        opt_in: frozenset[str] = frozenset(),
        expires_at: int = 0,
        image_max_bytes: int = IMAGE_MAX_BYTES,
        base: Sequence[SessionPatch] = (),
        input_rates_hz: frozenset[int] = REALTIME_PCM_RATES_HZ,
    ) -> None:
        """Start with the server's defaults, changed by ``base``.

        Args:
            spec: the served model.
            session_id: ``sess_…``; all other ids are made from it.
            media_track: audio travels outside of the events, both ways.
            setup: what the model is set to until the client changes it.
            turn_taking: the server's default; ``semantic_vad`` means its policy.
            opt_in: groups of extension events that the client asked for when it connected.
            expires_at: when the session ends, Unix seconds; 0: no limit.
            image_max_bytes: longest encoded picture.
            base: what the session begins with, later over earlier.
            input_rates_hz: rates that the client's PCM may have.

        Raises:
            InvalidEvent: a value in ``base`` cannot be had.
        """
        self._media_track = media_track
        self._ids = Ids(session_id)
        self._history = History()
        self._items = ItemAnswers(self._ids, self._history, image_max_bytes=image_max_bytes)
        self._user = UserTurns(self._ids, self._history)
        self._state = SessionState(
            spec=spec,
            session_id=session_id,
            setup=setup,
            turn_taking=turn_taking,
            opt_in=opt_in,
            expires_at=expires_at,
            input_rates_hz=input_rates_hz,
        )
        for patch in base:
            self._state.update(patch, voice_locked=False)
        self._input = InputAnswers(self._ids, self._user, self._state.input_format, image_max_bytes=image_max_bytes)
        self._responses = Responses(self._ids, self._history)
        self.reports = Reports(self._ids, self._responses, self._wants)
        """What is told of extensions."""
        self.setups = Setups(self._ids, self._state)
        """What the model was asked to be; takes its refusals."""
        self._was_heard = False
        self._closed = False

    @property
    def session(self) -> Session:
        """The effective session object."""
        return self._state.session

    @property
    def setup(self) -> SessionSetup:
        """What the model is set to now."""
        return self._state.setup

    @property
    def turn_taking(self) -> TurnTaking:
        """How the session decides who speaks now."""
        return self._state.turn_taking

    def open(self) -> list[ServerEvent]:
        """Return the first events of the connection."""
        return [s.SessionCreated(event_id=self._ids.event(), session=self._state.session)]

    def receive(self, event: ClientEvent) -> Reply:
        """Answer a client event. Never raises on what a peer sends; after ``session.close`` nothing is answered."""
        if self._closed:
            return Reply()
        try:
            return self._answer(event)
        except ClientError as error:
            error.event_id = event.event_id
            return Reply(self.refuse(error))

    def refuse(self, error: ClientError) -> list[ServerEvent]:
        """Return the ``error`` event for something that the client did."""
        return [] if self._closed else [s.ErrorEvent(event_id=self._ids.event(), error=error_object(error))]

    def fail(self, error: DuplexError) -> list[ServerEvent]:
        """Return what is said when the session cannot go on: the open response fails, then ``error``."""
        if self._closed:
            return []
        told = error_object(error)
        reason = ResponseError(type=told.type, code=told.code, message=told.message)
        events = self._finish(Outcome.FAILED, self._responses.generated_ms, reason)
        return [*events, s.ErrorEvent(event_id=self._ids.event(), error=told)]

    def speech_started(self, at_ms: int) -> list[ServerEvent]:
        """Tell that the user speaks since ``at_ms`` on the input clock; clients then stop their playback."""
        if self._closed or not self.turn_taking.report_speech:
            return []
        return [*self._user.speech_started(at_ms)]

    def speech_stopped(self, at_ms: int) -> list[ServerEvent]:
        """Tell that the user fell silent at ``at_ms``, and make an item of what was said."""
        if self._closed:
            return []
        self._input.committed()
        return [*self._user.speech_stopped(at_ms)]

    def idled(self, start_ms: int, end_ms: int) -> list[ServerEvent]:
        """Tell that nobody has spoken between these times on the input clock, for which the model is asked to speak."""
        if self._closed:
            return []
        self._input.committed()
        return [*self._user.idled(start_ms, end_ms)]

    def heard(self, heard: Heard) -> list[ServerEvent]:
        """Tell what the model understood, on the newest user item.

        Held back while that item does not exist yet: until announced speech ends, until a push-to-talk commit, and,
        where speech over the model's voice may still turn out to be an interruption, until the response ends.
        """
        if self._closed or not self._state.transcribes:
            return []
        policy = self.turn_taking.policy
        judging = policy in (InterruptionPolicy.GUARDED, InterruptionPolicy.IMMEDIATE) and self._responses.speaks
        return [*self._user.heard(heard, defer=judging or policy is InterruptionPolicy.PUSH_TO_TALK)]

    def begin_response(self, turn: int) -> list[ServerEvent]:
        """Open the response that carries ``turn``; the one that a client asked for, if there is one."""
        if self._closed or not self._responses.is_new(turn):
            return []
        events: list[ServerEvent] = []
        if self._responses.speaks:
            events += self._finish(Outcome.COMPLETED, self._responses.generated_ms)
        if self._responses.open is None:
            events += self._create(None)
        return [*events, *self._responses.begin(turn)]

    def text(self, turn: int, text: str, audio_ms: int, end_ms: int = 0) -> list[ServerEvent]:
        """Tell what the model says from ``audio_ms`` to ``end_ms`` of the response's audio; 0: the end is not known."""
        response = self._current(turn)
        return [*response.text(text, audio_ms, end_ms)] if response else []

    def count(self, turn: int, tokens: Tokens) -> bool:
        """Count what the model read and wrote; return whether the open response has become longer than it may."""
        return not self._closed and self._responses.count(turn, tokens)

    def audio(self, turn: int, pcm: Pcm, place: SoundPlace | None = None) -> list[ServerEvent]:
        """Count audio as sent, and return the deltas that carry it; none with a media track.

        Args:
            turn: the turn it belongs to.
            pcm: float32 ``[n_samples]`` at 24 kHz.
            place: where the model made it, if that is known.
        """
        response = self._current(turn)
        if response is None:
            return []
        self._was_heard = True
        return [*response.audio(pcm, place)]

    def is_silent(self, turn: int) -> bool:
        """Whether the response that carries ``turn`` is to be read, not heard."""
        response = self._current(turn)
        return response is not None and response.text_only

    def end_response(self, turn: int, outcome: Outcome, played_ms: int) -> list[ServerEvent]:
        """Close the response that carries ``turn``.

        Args:
            turn: nothing happens if it is not the open one.
            outcome: why it ended.
            played_ms: how much of it the user heard.
        """
        return self._finish(outcome, played_ms) if self._current(turn) else []

    def no_response(self) -> list[ServerEvent]:
        """Close a response that a client asked for and the model did not give.

        The answer is ``response.done`` with status ``completed`` and an empty ``output``: the model was asked, and had
        nothing to say. Nothing happens if none is waiting.
        """
        return [] if self._responses.speaks else self._finish(Outcome.COMPLETED, 0)

    def playback(self, turn: int, state: Literal["started", "stopped", "cleared"]) -> list[ServerEvent]:
        """Tell what the media track does with a turn's audio; nothing without a media track."""
        return [] if self._closed else [*self._responses.playback(turn, state)]

    def overlap(self, action: str, reason: str, at_ms: int) -> list[ServerEvent]:
        """Tell what was made of speech over the model's voice (group ``overlap``).

        On ``ignore`` the user item of what was understood meanwhile follows: no interruption will bring one.
        """
        events = self.reports.overlap(self.turn_taking.policy.value, action, reason, at_ms)
        return events if action != "ignore" or self._closed else [*events, *self._release()]

    def _answer(self, event: ClientEvent) -> Reply:
        match event:
            case c.InputAudioBufferAppend():
                return self._input.append(event)
            case c.InputImageBufferAppend():
                return self._input.append_picture(event)
            case c.SessionUpdate():
                return self._update(event)
            case c.InputAudioBufferCommit():
                return self._input.commit(media_track=self._media_track)
            case c.InputAudioBufferClear():
                return self._input.clear()
            case c.ConversationItemCreate():
                reserved, audio_format = self._user.announced, self._state.input_format
                return self._items.create(event, reserved=reserved, audio_format=audio_format)
            case c.ConversationItemRetrieve():
                return self._items.retrieve(event)
            case c.ConversationItemTruncate():
                return self._items.truncate(event)
            case c.ConversationItemDelete():
                return self._items.delete(event)
            case c.ResponseCreate():
                return self._create_response(event)
            case c.ResponseCancel():
                return self._cancel_response(event)
            case c.OutputAudioBufferClear():
                return self._clear_output()
            case c.BargeIn():
                return Reply(requests=[BargeIn()])
            case c.PlaybackAck():
                return Reply([*self._responses.acknowledge(event)])
            case c.SessionHeartbeat():
                return Reply([s.SessionHeartbeatAck(event_id=self._ids.event())])
            case c.SessionPause():
                return Reply(requests=[Pause()])
            case c.SessionContinue():
                return Reply(requests=[Continue()])
            case c.TurnSignal():
                return self._take_signal(event)
            case c.SessionEventAck():  # what may be forgotten is the connection's affair
                return Reply()
            case c.SessionResume():
                raise InvalidEvent(
                    "A session is resumed by the first event of a new connection, with '?autostart=0' in its URL.",
                    param="type",
                )
            case c.SessionClose():
                return self._close(event)

    def _update(self, event: c.SessionUpdate) -> Reply:
        setup, taking, reference = self.setup, self.turn_taking, self._state.reference
        self._state.update(event.session, voice_locked=self._was_heard)
        self._input.reformat(self._state.input_format)
        events: list[ServerEvent] = [s.SessionUpdated(event_id=self._ids.event(), session=self._state.session)]
        if not self.turn_taking.report_speech:
            events += self._user.abandon()
        same = self.setup == setup and self.turn_taking == taking and self._state.reference is reference
        return Reply(events, [] if same else [self.setups.ask(event.event_id)])

    def _create_response(self, event: c.ResponseCreate) -> Reply:
        if self._responses.open is not None:
            raise InvalidEvent(
                "A response is active already. Wait for response.done, or cancel it.",
                code="conversation_already_has_active_response",
            )
        params = event.response
        if params is not None and (params.conversation or "auto") != "auto":
            raise InvalidEvent(
                "Responses outside of the conversation are not available.",
                param="response.conversation",
                code="unsupported_value",
            )
        if params is not None and params.input is not None:
            raise InvalidEvent(
                "A response cannot have an input of its own.", param="response.input", code="unsupported_value"
            )
        return Reply(self._create(params), [CreateResponse(params.instructions if params else None)])

    def _take_signal(self, event: c.TurnSignal) -> Reply:
        told: list[ServerEvent] = [s.TurnEvent(event_id=self._ids.event(), event=event.event)]
        if event.event in ("user_started", "barge_in"):
            return Reply(told, [BargeIn()])
        if event.event != "user_stopped" or self._responses.open is not None:
            return Reply(told)
        return Reply([*told, *self._create(None)], [CreateResponse()])

    def _cancel_response(self, event: c.ResponseCancel) -> Reply:
        response = self._responses.open
        if response is None or event.response_id not in (None, response.response_id):
            # livekit looks for these first two words.
            raise InvalidEvent("Cancellation failed: no such response is active.", code="response_cancel_not_active")
        return Reply([*self._drop_unbegun()], [CancelResponse()])

    def _clear_output(self) -> Reply:
        if not self._media_track:
            return Reply()
        return Reply([*self._drop_unbegun()], [ClearOutput()])

    def _close(self, event: c.SessionClose) -> Reply:
        events, reason = self._finish(Outcome.CANCELLED, self._responses.generated_ms), event.reason or "client"
        self._closed = True
        return Reply([*events, s.SessionClosed(event_id=self._ids.event(), reason=reason)], [CloseSession(reason)])

    def _current(self, turn: int) -> ResponseStream | None:
        return None if self._closed else self._responses.current(turn)

    def _wants(self, group: str) -> bool:
        return not self._closed and group in self._state.opt_in

    def _create(self, params: c.ResponseParams | None) -> list[ServerEvent]:
        text_only = self._state.text_only
        if params is not None and params.output_modalities is not None:
            text_only = params.output_modalities == ["text"]
        settings = ResponseSettings(
            audio_format=self._state.output_format,
            voice=self.setup.voice,
            text_only=text_only,
            media_track=self._media_track,
            max_output_tokens=self._token_limit(params),
            metadata=params.metadata if params else None,
            marks=self._wants("playback"),
        )
        return [*self._responses.create(settings)]

    def _token_limit(self, params: c.ResponseParams | None) -> int | Literal["inf"]:
        asked = params.max_output_tokens if params else None
        return self._state.token_limit(self._state.session.max_output_tokens if asked is None else asked)

    def _drop_unbegun(self) -> list[ServerEvent]:
        """Cancel a response that was asked for and has not begun; a begun one is cut, and closed, by the session."""
        return [] if self._responses.speaks else self._finish(Outcome.CANCELLED, 0)

    def _finish(self, outcome: Outcome, played_ms: int, error: ResponseError | None = None) -> list[ServerEvent]:
        if self._responses.open is None:
            return []
        return [*self._responses.finish(outcome, played_ms, error), *self._release()]

    def _release(self) -> list[ServerEvent]:
        """Report what was understood and held back, unless the client's button will bring the item for it."""
        waits = self.turn_taking.policy is InterruptionPolicy.PUSH_TO_TALK or not self._state.transcribes
        return [] if waits else [*self._user.release()]
