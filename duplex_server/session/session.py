"""One conversation: the tasks that carry input to the model and its speech to the peer, and nothing else.

Every decision is made by a plain object (timeline, turns, playout, dialogue); this file moves values between them.

    transport.receive → read → timeline ─ beat ─→ voice windows → turns
                                           │
                                           └──→ units → feed → slot
    transport ← beat ← playout ← drain ← slot.outputs

Knows nothing about JSON, codecs, or who may enter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from duplex_server.engine.base import Slot
from duplex_server.errors import ClientError, ModelTimeout
from duplex_server.media.vad import VoiceDetector
from duplex_server.session.attachment import Attachment
from duplex_server.session.camera import Camera
from duplex_server.session.clock import SessionClock
from duplex_server.session.ending import Ending
from duplex_server.session.idleness import Idleness
from duplex_server.session.limits import SessionLimits
from duplex_server.session.microphone import Microphone
from duplex_server.session.observer import SessionObserver, SessionSummary
from duplex_server.session.reporting import Reporting
from duplex_server.session.setup import setup_of
from duplex_server.session.timeline import InputTimeline, UnitCutter
from duplex_server.session.transport import MediaAudio, MediaFrame, Received
from duplex_server.session.turns import Hold, Ignore, Interrupt, SpeechStarted, SpeechStopped, TurnEvent, Turns
from duplex_server.session.voice import Voice
from duplex_server.types import (
    INPUT_RATE_HZ,
    Floor,
    InterruptionPolicy,
    ModelOutput,
    ModelSpec,
    Pcm,
    Unit,
)
from duplex_server.wire import requests as asked
from duplex_server.wire.dialogue import Dialogue, Outcome
from duplex_server.wire.events import ServerEvent
from duplex_server.wire.reply import Reply

__all__ = ["Session", "SessionLimits"]

_SPEAK_PATIENCE_S = 3.0
"""How long the model is asked to speak before a ``response.create`` is answered with an empty response.

Three of MiniCPM-o's units; clients give up after 10 s (realtime protocol notes §3.1)."""
_POSITION_EVERY_TICKS = 10


class Session:
    """Serve one peer until it leaves. All state lives on the event loop and changes in synchronous methods."""

    def __init__(
        self,
        *,
        session_id: str,
        spec: ModelSpec,
        transport: Attachment,
        slot: Slot,
        dialogue: Dialogue,
        detector: VoiceDetector | None,
        limits: SessionLimits,
        observer: SessionObserver,
    ) -> None:
        self.session_id = session_id
        self._spec = spec
        self._transport = transport
        self._slot = slot
        self._dialogue = dialogue
        self._detector = detector
        self._limits = limits
        self._observer = observer
        self._clock = SessionClock(spec.unit_ms)
        self._timeline = InputTimeline(int(limits.input_ahead_s * INPUT_RATE_HZ))
        self._cutter = UnitCutter(spec)
        self._turns = Turns(dialogue.turn_taking, confirm_ms=limits.confirm_ms)
        self._voice = Voice(transport, dialogue, on_turn=self._turn_begins, on_sound=self._turn_is_heard)
        self._microphone = Microphone(self._timeline, limits.input_ahead_s, self._refuse, observer.input_refused)
        # When full the engine is hopelessly behind: ModelTimeout.
        self._units: asyncio.Queue[Unit] = asyncio.Queue(int(limits.engine_behind_s * 1000 / spec.unit_ms))
        self._camera = Camera(limits.pictures, self._cutter.add_frame, self._refuse)
        self._speak_by_s: float | None = None  # until when the model is asked to speak
        self._idleness = Idleness(self._clock.now_s)
        self._began_s = self._loop_s
        self._ending = Ending(self._began_s, limits.session_max_s)
        self._attached, self._generation = True, transport.generation  # as of the last tick
        self._reporting = Reporting(dialogue.reports, spec, limits, self._ending, slot, transport, self._began_s)
        self._paused = False  # the client asked for it
        self._n_interruptions = 0
        self._answered_samples = 0  # last_voiced_end of the speech that the newest response answered

    async def run(self) -> None:
        """Serve the peer; returns when its event stream ends. No task outlives the call.

        Raises:
            ExceptionGroup: with the DuplexError that ended the session, or a bug.

        Cancellation closes the slot and leaves the transport to the caller.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._send(self._dialogue.open())
                self._reporting.tell_limits(self._began_s)
                jobs = (self._beat, self._feed, self._drain, self._camera.look)
                running = [tasks.create_task(job(), name=f"{self.session_id}:{job.__name__}") for job in jobs]
                await self._transport.receive(self._read)
                for task in running:
                    task.cancel()
        finally:
            async with asyncio.timeout(5):
                await self._slot.aclose()

    def wind_down(self, within_s: float) -> None:
        """End the session within a limit: tell the peer now, close when the limit is over."""
        self._ending.plan("shutdown", self._loop_s + within_s)

    def summary(self, ended_by: str) -> SessionSummary:
        """Return what the session came to."""
        return SessionSummary(
            session_id=self.session_id,
            transport=self._transport.traits.name,
            duration_s=self._loop_s - self._began_s,
            ended_by=ended_by,
            n_turns=self._voice.n_turns,
            n_interruptions=self._n_interruptions,
            n_stale_samples=self._voice.playout.n_stale_samples,
            n_underruns=self._voice.playout.n_underruns,
            n_frames_dropped=self._n_frames_dropped,
            input=self._timeline.statistics,
        )

    def _read(self, received: Received) -> None:
        self._receive(received)
        self._reporting.follow_wishes()

    def _receive(self, received: Received) -> None:
        match received:
            case MediaAudio():
                self._hear_later(received)
            case MediaFrame():
                if not self._paused:
                    self._put_image(received, self._position_s)
            case ClientError():
                self._refuse(received)
            case _:
                self._act_on(self._dialogue.receive(received))

    def _act_on(self, reply: Reply) -> None:
        self._send(reply.events)
        for request in reply.requests:
            self._perform(request)

    def _perform(self, request: asked.Request) -> None:
        match request:  # CommitInput changes nothing: the model has heard all that came, and waits for CreateResponse
            case asked.AppendAudio():
                self._hear_later(request)
            case asked.AppendImage():
                captured_s = self._position_s if request.captured_ms is None else request.captured_ms / 1000
                self._put_image(request, captured_s)
            case asked.AddText():
                self._add_text(request.text)
            case asked.Configure():
                self._turns.taking = request.turn_taking
                self._slot.configure(setup_of(request))
            case asked.ClearInput():
                self._microphone.clear()
            case asked.CreateResponse():
                if request.instructions:
                    self._add_text(request.instructions)
                self._speak_by_s = self._clock.now_s + _SPEAK_PATIENCE_S
            case asked.CancelResponse() | asked.ClearOutput():
                self._speak_by_s = None
                self._cut(Outcome.CANCELLED)
            case asked.Pause():
                self._pause()
            case asked.Continue():
                self._paused = False
                self._ending.give_up("paused")
                self._send(self._dialogue.reports.continued())
            case asked.BargeIn():
                self._apply(self._turns.client_interrupted(self._position_samples))
            case asked.CloseSession():
                self._ending.plan("client", self._loop_s)

    def _add_text(self, text: str) -> None:
        """A question about a picture must not reach the model before the picture."""
        self._camera.after(partial(self._cutter.add_text, text))

    def _hear_later(self, audio: asked.AppendAudio | MediaAudio) -> None:
        if not self._paused:
            self._microphone.put(audio)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._ending.plan("paused", self._loop_s + self._limits.pause_max_s)
        left_s = self._ending.left_s("paused", self._loop_s) - self._ending.left_s("timeout", self._loop_s)
        self._send(self._dialogue.reports.paused(round((self._dialogue.session.expires_at or 0) + left_s)))

    def _put_image(self, image: asked.AppendImage | MediaFrame, captured_s: float) -> None:
        if self._spec.max_frames:
            self._camera.put(image, captured_s)

    def _refuse(self, error: ClientError) -> None:
        self._send(self._dialogue.refuse(error))

    def _send(self, events: Sequence[ServerEvent]) -> None:
        for event in events:
            self._transport.send(event)

    async def _beat(self) -> None:
        """Hear what is due, play one tick, while the peer is there."""
        clock = self._clock
        await clock.start()
        n_beats = 0
        while not self._is_over():
            self._follow_attachment()
            clock.hold(self._paused or not self._attached)
            if not clock.paused:
                self._microphone.digest()
                for tick in self._timeline.take():
                    self._hear(tick)
                self._voice.play(clock.tick_s)
                n_beats += 1
                if n_beats % _POSITION_EVERY_TICKS == 0:
                    self._voice.report_position(clock.tick_s)
            self._reporting.tick()
            self._transport.repeat_audio()
            await clock.next_tick()
        await self._finish()

    async def _feed(self) -> None:
        while True:
            unit = await self._units.get()
            await self._slot.push(unit)
            self._reporting.unit_handed(unit, self._loop_s)

    async def _drain(self) -> None:
        async for output in self._slot.outputs():
            self._take_output(output)
            await self._voice.room()

    def _follow_attachment(self) -> None:
        """A session whose peer was lost stands still, and waits for so long as it may."""
        transport = self._transport
        if transport.generation != self._generation:
            self._generation, self._attached = transport.generation, True
            self._ending.give_up("lost")
            self._timeline.excuse(int(self._limits.resume_grace_s * INPUT_RATE_HZ))
            self._reporting.tell_limits(self._loop_s)
        if self._attached and not transport.attached:
            self._attached = False
            self._ending.plan("lost", self._loop_s + self._limits.resume_grace_s)

    @property
    def _n_frames_dropped(self) -> int:
        return self._cutter.n_frames_dropped + self._camera.n_replaced

    @property
    def _loop_s(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def _position_samples(self) -> int:
        return self._timeline.statistics.taken

    @property
    def _position_s(self) -> float:
        return self._position_samples / INPUT_RATE_HZ

    def _hear(self, tick: Pcm) -> None:
        now_s = self._clock.now_s
        speech_probability = 0.0
        if self._detector is not None:
            audible = self._voice.playout.audible(now_s)
            for window in self._detector.push(tick):
                echo = self._voice.echo.is_echo(window.pcm)
                if not echo:
                    speech_probability = max(speech_probability, window.probability)
                self._apply(self._turns.hear(window, echo=echo, model_audible=audible))
        self._watch(now_s)
        unit = self._cutter.push(tick, speech_probability, self._floor(now_s))
        if unit is None:
            return
        if self._units.full():
            raise ModelTimeout(unit.index)
        self._reporting.unit_gathered(unit, self._loop_s, self._n_frames_dropped)
        self._units.put_nowait(unit)
        self._observer.units_waiting(self._units.qsize() - 1)

    def _watch(self, now_s: float) -> None:
        """End a turn that does not go on; ask the model to speak if nobody has for too long."""
        if self._voice.is_stalled(now_s):
            self._cut(Outcome.FAILED)
        began_s = self._idleness.since_s
        busy = self._turns.user_speaking or self._voice.is_heard(now_s) or self._speak_by_s is not None
        if self._idleness.is_over(now_s, self._turns.taking.idle_ms, busy=busy):
            now_ms = int(self._position_s * 1000)
            self._send(self._dialogue.idled(max(0, now_ms - int((now_s - began_s) * 1000)), now_ms))
            self._speak_by_s = now_s + _SPEAK_PATIENCE_S

    def _floor(self, now_s: float) -> Floor:
        if self._speak_by_s is not None:
            if now_s < self._speak_by_s:
                return Floor.LISTEN if self._camera.awaited else Floor.SPEAK
            self._speak_by_s = None
            self._send(self._dialogue.no_response())
        if self._turns.must_listen:
            return Floor.LISTEN
        taking = self._turns.taking
        waits_for_word = not taking.create_response or taking.policy is InterruptionPolicy.PUSH_TO_TALK
        return Floor.LISTEN if waits_for_word and not self._voice.turn_open else Floor.FREE

    def _apply(self, events: Sequence[TurnEvent]) -> None:
        dialogue, reports = self._dialogue, self._turns.taking.report_speech
        for event in events:
            at_ms = event.at_samples * 1000 // INPUT_RATE_HZ
            delay_s = (self._position_samples - event.at_samples) / INPUT_RATE_HZ
            match event:
                case SpeechStarted():
                    self._send(dialogue.speech_started(at_ms) if reports else [])
                case SpeechStopped():
                    self._send(dialogue.speech_stopped(at_ms) if reports else [])
                case Hold():
                    self._voice.duck(True)
                    self._send(dialogue.overlap("hold", "onset", at_ms))
                    self._observer.overlap_judged("hold", "onset", delay_s)
                case Ignore():
                    self._voice.duck(False)
                    self._send(dialogue.overlap("ignore", event.reason, at_ms))
                    self._observer.overlap_judged("ignore", event.reason, delay_s)
                case Interrupt():
                    self._n_interruptions += 1
                    self._send(dialogue.overlap("interrupt", event.reason, at_ms))
                    self._observer.overlap_judged("interrupt", event.reason, delay_s)
                    self._cut(Outcome.INTERRUPTED)

    def _take_output(self, output: ModelOutput) -> None:
        if output.heard is not None:
            self._send(self._dialogue.heard(output.heard))
        if output.refusal is not None:
            self._act_on(self._dialogue.setups.refused(output.refusal))
        self._reporting.model_said(output, self._loop_s)
        if output.end_of_session:
            self._ending.model_leaves()
        if output.yields and self._voice.playout.current(output.turn):
            self._apply(self._turns.model_yielded(self._position_samples))
        if len(output.audio) or output.text or output.end_of_turn:
            self._voice.put(output, self._clock.now_s)
        if output.tokens is not None and self._dialogue.count(output.turn, output.tokens):
            self._slot.cancel(output.turn, self._voice.end_early(output.turn))

    def _turn_begins(self) -> None:
        self._speak_by_s = None
        self._apply(self._turns.model_began())

    def _turn_is_heard(self) -> None:
        self._observer.response_began(self._response_delay_s())

    def _response_delay_s(self) -> float | None:
        ended = self._turns.last_voiced_end_samples
        if ended <= self._answered_samples:
            return None
        self._answered_samples = ended
        return (self._position_samples - ended) / INPUT_RATE_HZ

    def _cut(self, outcome: Outcome) -> None:
        """Stop the model in one place: nothing queued, nothing late, and it knows what was heard."""
        cut = self._voice.cut(outcome, self._clock.now_s)
        self._slot.cancel(cut.newest_turn, cut.played_samples)

    def _is_over(self) -> bool:
        now_s = self._loop_s
        announcement = self._ending.announcement(now_s)
        if announcement is not None:
            self._send(self._dialogue.reports.closing(*announcement))
        return self._ending.is_over(now_s, model_audible=self._voice.is_heard(self._clock.now_s))

    async def _finish(self) -> None:
        """Close the transport, which ends :meth:`_read` and with it the session."""
        error = self._ending.error
        if self._ending.reason == "model":  # untold, the peer would take it for a lost connection and come back
            self._send(self._dialogue.reports.closing("model", 0))
        self._send(self._dialogue.fail(error) if error else [])
        self._send(self._dialogue.reports.closed(self._ending.reason))
        await self._transport.close(error)
