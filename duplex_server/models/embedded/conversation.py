"""One conversation of the embedded model: what it hears and sees, whether it may speak, and what it says.

Knows nothing about other conversations, engines or sessions.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

from duplex_server.errors import ModelError
from duplex_server.models.embedded import skills
from duplex_server.models.embedded.grammar import STOP_INTENTS, Command, Intent, parse_typed
from duplex_server.models.embedded.listening import UNIT_MS, Ear, Utterance
from duplex_server.models.embedded.recognizer import Recognizer, count_phones
from duplex_server.models.embedded.sight import Change, Look, Scene, Sight, comment
from duplex_server.models.embedded.skills import After, Memory, Reply
from duplex_server.models.embedded.speaking import Speech
from duplex_server.models.embedded.voice import Voice
from duplex_server.types import OUTPUT_RATE_HZ, Floor, Heard, ModelOutput, SessionSetup, Unit

__all__ = ["Conversation"]

_log = logging.getLogger(__name__)

_UNIT_SAMPLES = OUTPUT_RATE_HZ * UNIT_MS // 1000
_LEAD_SAMPLES = OUTPUT_RATE_HZ * 3 // 10
"""How far speech runs ahead of real time: 300 ms, against late units and slow workers."""
_HELD_UNITS = 120 // UNIT_MS
"""A turn that must not go on for this long is given up. Less is an order that crossed its obedience on the way."""
_RESUMABLE_CHARACTERS = 60
"""A shorter reply is not worth going on with."""
_LEAST_VOICED_S, _LEAST_VOICED_S_PER_PHONE = 0.2, 0.03
"""Over the model's own speech, less voice than this is no command. "Stop", the shortest, has 240 ms; at 230 words per
minute a phone has 50 ms, of which the echo guard may take a third for the model's."""
_SHORT_VOICED_S, _SURE = 0.6, 1.0
"""Over the model's own speech, what lasts no longer than a backchannel is obeyed only with such confidence."""
_NEAR_DB = 13.0
"""Over the model's own speech, what is this far below the user's usual level is said by or to somebody else; as in
:mod:`duplex_server.session.turns`."""
_SORRY_VOICED_S = 0.9
_SORRY_SHARE_VOICED = 0.6
"""Only what is as long and as dense as a sentence is worth a "sorry": not a cough, a laugh or a word to somebody."""
_SORRY_LEVEL_DB = 10.0
"""Speech this far below the user's usual level was not meant for us."""
_MOST_SORRIES = 2
"""In a row: who goes on regardless is talking to somebody else."""
_COMMENT_QUIET_UNITS = 1_500 // UNIT_MS
"""Silence of both sides before a remark about the scene."""
_COMMENT_AGE_UNITS = 5_000 // UNIT_MS
"""A remark that could not be made for this long is stale."""
_TYPED_WAIT_UNITS = 2_000 // UNIT_MS
"""An answer waits this long for the user to stop speaking."""
_JUST_SILENCED_UNITS = 2_000 // UNIT_MS
"""For so long after its speech was cut, the model need not say "okay" to "stop"."""

_BIG_CHANGES = frozenset({Change.COVERED, Change.UNCOVERED, Change.DARKER, Change.BRIGHTER})
"""Worth a remark even if the user did not ask the model to watch."""


class Conversation:
    """The state of one row. Used by one thread, but for :meth:`cancel`."""

    def __init__(
        self, recognizer: Recognizer, voice: Voice, setup: SessionSetup, sight: Sight, *, now: Callable[[], datetime]
    ) -> None:
        self._voice = voice
        self._setup = setup
        self._now = now
        self._ear = Ear(recognizer)
        self._sight = sight
        self._look: Look | None = None
        self._memory = Memory(language=_language(setup))
        self._cancels: deque[tuple[int, int]] = deque()  # written by any thread; bounded by the cuts in one unit
        self._turn = self._cancelled_turn = 0
        self._speech: Speech | None = None
        self._past: deque[Speech] = deque(maxlen=3)  # the newest turns, whose cut may still be told; the oldest goes
        self._after = After.NOTHING
        self._rest: tuple[str, ...] = ()  # what an interruption left unsaid
        self._pending: Reply | None = None
        self._pending_units = 0
        self._scene: Scene | None = None
        self._scene_units = 0
        self._held_units = 0
        self._silenced_units = 1_000_000  # since speech was last cut
        self._idle_units = 1_000_000  # since the model last spoke
        self._overlapped = False  # whether the utterance under way is, or was, spoken over the model's speech
        self._n_sorries = 0
        self._user_level_db: float | None = None
        self._asked = False  # whether the request to speak that units carry has been met

    def configure(self, setup: SessionSetup) -> None:
        """Take over what changed; a language that the user chose stays if the set-up's is the same as before."""
        if _language(setup) != _language(self._setup):
            self._memory = replace(self._memory, language=_language(setup))
        self._setup = setup

    def cancel(self, turn: int, played_samples: int) -> None:
        """See :meth:`duplex_server.models.base.Model.cancel`; thread-safe, as appending to a deque is one step."""
        self._cancels.append((turn, played_samples))

    def close(self) -> None:
        """Give back what is shared with others."""
        self._ear.close()

    def live(self, unit: Unit) -> Iterator[ModelOutput]:
        """Live through one unit: hear, look, read, then speak or listen."""
        self._obey_cancels()
        self._silenced_units += 1
        self._idle_units += 1
        self._pending_units += 1
        utterance = self._ear.hear(unit)
        self._see(unit)
        if self._ear.speaking and self._speech is not None:
            self._overlapped = True
        if utterance is not None:
            yield from self._take_utterance(utterance)
        elif self._ear.caption is not None:
            yield ModelOutput(0, heard=Heard(self._ear.caption, final=False))
        if self._ear.stop_heard and self._speech is not None and self._is_near(self._ear.level_db):
            yield self._give_up(yields=True)
        for text in unit.texts:
            yield from self._take_text(text)
        yield from self._meet_request(unit.floor)
        yield from self._use_floor(unit.floor)

    # -- what comes in ------------------------------------------------------------------------------------------------

    def _obey_cancels(self) -> None:
        while self._cancels:
            turn, played_samples = self._cancels.popleft()
            self._cancelled_turn = max(self._cancelled_turn, turn)
            for speech in self._past:
                rest = speech.rest(played_samples) if speech.turn == turn and speech.resumable else ()
                self._rest = rest or self._rest
            if self._speech is not None and self._speech.turn <= turn:
                if self._speech.turn < turn:
                    self._remember_place(self._speech)
                self._speech = None
                self._silenced_units = 0
            self._overlapped = self._overlapped or self._ear.speaking

    def _see(self, unit: Unit) -> None:
        self._scene_units += 1
        for frame in unit.frames:
            self._look = self._sight.look(frame.rgb, frame.captured_s)
            for event in self._look.events:
                if event.change in _BIG_CHANGES or self._memory.watching:
                    self._scene, self._scene_units = event, 0

    def _take_utterance(self, utterance: Utterance) -> Iterator[ModelOutput]:
        overlapped, self._overlapped = self._overlapped, False
        yield ModelOutput(0, heard=Heard(utterance.text, final=True))
        if utterance.command is None:
            if not overlapped and self._is_worth_a_sorry(utterance):
                self._n_sorries += 1
                self._set_pending(skills.misunderstood(self._memory))
            return
        if overlapped and self._speech is not None and not self._is_meant_for_us(utterance):
            return
        self._n_sorries = 0
        self._learn_level(utterance.level_db)
        yield from self._obey(utterance.command)

    def _take_text(self, text: str) -> Iterator[ModelOutput]:
        command = parse_typed(text)
        if command is not None and command.intent is not Intent.OTHER:
            yield from self._obey(command)
        elif text.strip():
            if self._speech is not None:
                yield self._give_up(yields=True)
            self._set_pending(skills.misunderstood(self._memory))

    def _obey(self, command: Command) -> Iterator[ModelOutput]:
        speaking = self._speech is not None
        if command.intent is Intent.BACKCHANNEL or (speaking and command.intent is Intent.CONTINUE):
            return
        if self._speech is not None:
            yield self._give_up(yields=True)
        reply = skills.answer(command, self._memory, look=self._look, now=self._now())
        self._memory = reply.memory
        if reply.quiet and self._silenced_units < _JUST_SILENCED_UNITS:
            self._pending = None
            return
        if reply.after is After.RESUME and command.intent is not Intent.CONTINUE and not speaking:
            reply = replace(reply, after=After.NOTHING)
        self._set_pending(reply)

    def _is_meant_for_us(self, utterance: Utterance) -> bool:
        """Whether what was said over the model's speech is the user's, and more than a sign of listening."""
        near = self._is_near(utterance.level_db)
        return near and not _is_too_short(utterance) and not _may_be_a_backchannel(utterance)

    def _is_near(self, level_db: float) -> bool:
        return self._user_level_db is None or level_db > self._user_level_db - _NEAR_DB

    def _is_worth_a_sorry(self, utterance: Utterance) -> bool:
        near = self._user_level_db is None or utterance.level_db > self._user_level_db - _SORRY_LEVEL_DB
        long = utterance.voiced_s > _SORRY_VOICED_S and utterance.share_voiced > _SORRY_SHARE_VOICED
        return near and long and self._n_sorries < _MOST_SORRIES

    def _learn_level(self, level_db: float) -> None:
        known = self._user_level_db
        self._user_level_db = level_db if known is None else known + 0.3 * (level_db - known)

    # -- what goes out ------------------------------------------------------------------------------------------------

    def _meet_request(self, floor: Floor) -> Iterator[ModelOutput]:
        """See that something is said where a client asked for it."""
        if floor is not Floor.SPEAK:
            self._asked = False
            return
        if self._asked or self._speech is not None:
            self._asked = True
            return
        self._asked = True
        utterance = self._ear.finish()
        if utterance is not None:
            yield ModelOutput(0, heard=Heard(utterance.text, final=True))
            self._overlapped = False
            if utterance.command is not None:
                yield from self._obey(utterance.command)
            elif utterance.voiced_s > 0.5 * _SORRY_VOICED_S:
                self._set_pending(skills.misunderstood(self._memory))
        if self._pending is None:
            first = not self._memory.last_said
            self._set_pending(skills.greeting(self._memory) if first else skills.said_again(self._memory))

    def _use_floor(self, floor: Floor) -> Iterator[ModelOutput]:
        if floor is Floor.LISTEN:
            yield from self._hold()
            return
        self._held_units = 0
        if self._speech is None:
            self._choose_words(floor)
        if self._speech is None:
            yield ModelOutput(0, listening=True)
        else:
            yield from self._speak(self._speech)

    def _hold(self) -> Iterator[ModelOutput]:
        self._held_units += 1
        if self._speech is not None and self._held_units >= _HELD_UNITS:
            yield self._give_up(yields=False)
        yield ModelOutput(0, listening=True)

    def _choose_words(self, floor: Floor) -> None:
        """Begin a turn if there is something to say and nobody else is speaking."""
        if self._pending is not None:
            patience = self._pending_units < _TYPED_WAIT_UNITS and floor is Floor.FREE
            if not (self._ear.speaking and patience):
                self._begin(self._pending)
                self._pending = None
        elif self._scene is not None:
            quiet = min(self._ear.quiet_units, self._idle_units) >= _COMMENT_QUIET_UNITS and not self._ear.speaking
            if self._scene_units > _COMMENT_AGE_UNITS:
                self._scene = None
            elif quiet:
                words = comment(self._scene, self._memory.language)
                self._scene = None
                self._begin(Reply((words,), self._memory))

    def _begin(self, reply: Reply) -> None:
        sentences, resumes = list(reply.sentences), False
        if reply.after is After.RESUME:
            resumes = bool(self._rest)
            sentences += self._rest or ([] if sentences else [reply.nothing_to_resume])
        if not sentences:
            return
        resumable = resumes or sum(map(len, sentences)) > _RESUMABLE_CHARACTERS
        self._turn = max(self._turn, self._cancelled_turn) + 1
        self._speech = Speech(
            self._turn, sentences, language=self._memory.language, resumable=resumable, credit_samples=_LEAD_SAMPLES
        )
        self._past.append(self._speech)
        self._after = reply.after

    def _speak(self, speech: Speech) -> Iterator[ModelOutput]:
        self._idle_units = 0
        memory = self._memory
        try:
            for pcm, text in speech.emit(self._voice, rate=memory.rate * self._setup.speed, volume=memory.volume):
                yield ModelOutput(speech.turn, pcm, text)
                self._obey_cancels()
                if self._speech is not speech:
                    return
        except ModelError:
            _log.exception("a sentence could not be spoken; its turn ends here")
            self._speech = None
            yield ModelOutput(speech.turn, end_of_turn=True)
            return
        speech.credit(_UNIT_SAMPLES)
        if speech.finished:
            self._speech = None
            if speech.resumable:
                self._rest = ()
            goodbye = self._after is After.GOODBYE
            yield ModelOutput(speech.turn, end_of_turn=True, end_of_session=goodbye)

    def _give_up(self, *, yields: bool) -> ModelOutput:
        assert self._speech is not None, "there is a turn to give up"
        speech, self._speech = self._speech, None
        self._remember_place(speech)
        self._silenced_units = 0
        return ModelOutput(speech.turn, end_of_turn=True, yields=yields)

    def _remember_place(self, speech: Speech) -> None:
        """Guess what was heard of a turn that stops; if somebody knows, a cancel follows and corrects it."""
        if speech.resumable:
            self._rest = speech.rest(speech.emitted_samples - _LEAD_SAMPLES) or self._rest

    def _set_pending(self, reply: Reply) -> None:
        self._pending, self._pending_units = reply, 0


def _is_too_short(utterance: Utterance) -> bool:
    """Whether there is less voice in it than its words take: echo that passed for a voice, and made words."""
    return utterance.voiced_s < max(_LEAST_VOICED_S, _LEAST_VOICED_S_PER_PHONE * count_phones(utterance.text))


def _may_be_a_backchannel(utterance: Utterance) -> bool:
    stops = utterance.command is not None and utterance.command.intent in STOP_INTENTS
    return not stops and utterance.voiced_s < _SHORT_VOICED_S and utterance.confidence < _SURE


def _language(setup: SessionSetup) -> str:
    return "zh" if setup.language.lower().startswith("zh") else "en"
