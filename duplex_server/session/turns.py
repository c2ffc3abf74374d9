"""Who has the floor: what a voice window means while the model is silent, and while it speaks.

Pure and synchronous; positions are samples of the input clock. The session carries the decisions out. Knows nothing
about events, models or where audio goes.

While the model is silent, speech is reported. While it speaks, the policy decides. Under ``GUARDED`` an onset is
*held*: the voice is lowered, and raised again (*ignored*) if what was heard was a backchannel, a cough or noise, or
the floor changes (*interrupted*) once the voice has gone on for long enough, and is neither the model's echo, nor a
hum, nor somebody far from the microphone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from duplex_server.media.pcm import SILENCE_DB
from duplex_server.media.vad import WINDOW_SAMPLES, VoiceWindow
from duplex_server.types import INPUT_RATE_HZ, InterruptionPolicy
from duplex_server.wire.requests import TurnTaking

__all__ = ["Hold", "Ignore", "Interrupt", "SpeechStarted", "SpeechStopped", "TurnEvent", "Turns"]

_SPEECH = 0.5
"""Source: Silero VAD's own default threshold."""
_SILENCE = 0.35
"""Below this a voiced stretch has ended. Source: Silero VAD's default, 0.15 under the threshold."""
_ONSET_WINDOWS = 3
"""Of the last four windows, for an onset that is reported: one or two are clicks and key strokes."""
_HOLD_WINDOWS = 2
"""For an onset over the model's voice, which only lowers it, or under ``IMMEDIATE`` must be fast: 64 ms."""
_RELEASE_WINDOWS = 3
"""Quiet windows in a row after which a held onset is over and the voice comes back: 96 ms, longer than most closures
within a word. Where it was too soon:"""
_RESUME_SAMPLES = INPUT_RATE_HZ * 280 // 1000
"""a held onset that goes on within this time is the same onset. Source: 250 ms is the usual bound between pauses of
articulation and of speech (Goldman-Eisler, Psycholinguistics, 1968), and the detector adds a window."""
_VOICED_SHARE = 0.5
"""Of an interruption's time, this much must be voice: running speech has 10 to 30 % of closures and pauses."""
_TAIL_DB = 8.0
"""Below the loudest window of the held sound; stressed syllables come back to it, a dying vowel does not."""
_RISE_DB = 3.0
_RING_DB = 25.0
"""Below the loudest window even the fricatives of a phrase do not fall; a window this faint is the detector's
ringing."""
_NOISE_SAMPLES = 5 * WINDOW_SAMPLES
"""A held sound with less voice than this (160 ms) is called noise, with more a backchannel."""
_ECHO_SILENCE = 0.5
"""What a window of echo counts towards the end of a voiced stretch: half a silent one."""
_PATIENCE_FACTOR = 3.0
"""A hold ends undecided after this many times the confirmation: nobody pauses that much within one interruption."""
_NEAR_DB = 13.0
"""Speech this far below the user's usual level comes from somebody else, or is not meant for us. A talker at 3 m is
about 15 dB below one at 0.5 m (inverse distance law, 20 log10 6)."""
_FAINTEST_DB = -50.0
"""Speech below this is never an interruption before the user's level is known."""
_LEVEL_STEP = 0.05
"""Weight of a new voiced window in the user's usual level: it settles within a second of speech."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The user began to speak."""

    at_samples: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The user fell silent, at the end of the last voiced window."""

    at_samples: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Somebody may be interrupting: lower the voice."""

    at_samples: int


@dataclass(frozen=True, slots=True)
class Ignore:
    """It was no interruption: raise the voice again."""

    at_samples: int
    reason: str
    """``"noise"``, ``"backchannel"`` or ``"turn_over"`` (the model finished meanwhile)."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """The user takes the floor: stop the model. If speech made it, :class:`SpeechStarted` comes just before."""

    at_samples: int
    reason: str
    """``"speech"`` (enough of it), ``"onset"`` (policy), ``"model"`` (it yields) or ``"client"``."""


TurnEvent = SpeechStarted | SpeechStopped | Hold | Ignore | Interrupt


@dataclass(slots=True)
class _Held:
    """An onset over the model's voice that is being judged."""

    onset: int
    until: int
    """End of its last loud window."""
    voiced: int
    peak_db: float
    newest_db: float
    quiet_windows: float = 0.0


class Turns:
    """Decide, window by window, whether the user speaks and whether the model must give way."""

    def __init__(self, taking: TurnTaking, *, confirm_ms: int) -> None:
        """
        Args:
            taking: policy and reporting; may be replaced while running.
            confirm_ms: how long speech must go on to confirm an interruption under ``GUARDED``.
        """
        self.taking = taking
        self._confirm_samples = INPUT_RATE_HZ * confirm_ms // 1000
        self._voiced: deque[bool] = deque(maxlen=4)  # the newest windows; the oldest goes
        self._speaking = False
        self._held: _Held | None = None
        self._lapsed: _Held | None = None  # what was ignored last, in case it goes on
        self._silent_windows = 0.0
        self._last_voiced_end = 0
        self._user_level_db: float | None = None
        self._forced_listening = False

    @property
    def user_speaking(self) -> bool:
        """Whether the user has been found to speak, with the silence that ends it not yet over."""
        return self._speaking

    @property
    def holding(self) -> bool:
        """Whether an onset is being judged."""
        return self._held is not None

    @property
    def must_listen(self) -> bool:
        """Whether the model must listen: an interruption was confirmed and the user has not paused since."""
        return self._forced_listening

    @property
    def last_voiced_end_samples(self) -> int:
        """End of the newest voiced window: when the user's speech ended, if it has."""
        return self._last_voiced_end

    def hear(self, window: VoiceWindow, *, echo: bool, model_audible: bool) -> list[TurnEvent]:
        """Judge one voice window.

        Args:
            window: the next window of input.
            echo: what is voiced in it is the model's own sound.
            model_audible: whether the listener hears the model now.
        """
        voiced = window.probability >= _SPEECH and not echo and (not model_audible or self._near(window.level_db))
        self._voiced.append(voiced)
        if voiced:
            self._last_voiced_end = window.end_samples
            self._silent_windows = 0.0
            if not model_audible:
                self._learn_level(window.level_db)
        elif window.probability < _SILENCE or echo:
            self._silent_windows += self._silence_of(window)
        if self._silent_windows >= _RELEASE_WINDOWS:
            self._forced_listening = False
        if self._held is not None:
            return self._judge(window, voiced, model_audible)
        if self._speaking:
            return self._await_silence()
        return self._await_onset(window, voiced, model_audible)

    def model_began(self) -> list[TurnEvent]:
        """The model became audible: what the user says from here on is judged anew."""
        self._voiced.clear()
        if not self._speaking:
            return []
        self._speaking = False
        return [SpeechStopped(self._last_voiced_end)]

    def model_yielded(self, at_samples: int) -> list[TurnEvent]:
        """The model gives way by itself because of what it understood."""
        return self._interrupt("model", at_samples)

    def client_interrupted(self, at_samples: int) -> list[TurnEvent]:
        """The client says that the user interrupts."""
        return self._interrupt("client", at_samples)

    def _interrupt(self, reason: str, at_samples: int) -> list[TurnEvent]:
        onset = self._held.onset if self._held is not None else at_samples
        heard = self._held is not None or reason == "model"
        self._held = None
        self._forced_listening = heard and self._silent_windows < _RELEASE_WINDOWS
        if not heard or self._speaking:
            return [Interrupt(onset, reason)]
        self._speaking = True
        return [SpeechStarted(onset), Interrupt(onset, reason)]

    def _await_onset(self, window: VoiceWindow, voiced: bool, model_audible: bool) -> list[TurnEvent]:
        policy = self.taking.policy
        if model_audible and policy in (InterruptionPolicy.MODEL, InterruptionPolicy.PUSH_TO_TALK):
            return []
        recent = list(self._voiced)
        if model_audible and policy is InterruptionPolicy.GUARDED:
            if len(recent) < _HOLD_WINDOWS or not all(recent[-_HOLD_WINDOWS:]):
                return []
            return [self._hold(window)]
        if not voiced or sum(recent) < (_HOLD_WINDOWS if model_audible else _ONSET_WINDOWS):
            return []
        onset = max(0, window.end_samples - len(recent) * WINDOW_SAMPLES)
        self._speaking = True
        if model_audible:
            self._forced_listening = True
            return [SpeechStarted(onset), Interrupt(onset, "onset")]
        return [SpeechStarted(onset)]

    def _judge(self, window: VoiceWindow, voiced: bool, model_audible: bool) -> list[TurnEvent]:
        held = self._held
        assert held is not None, "there is an onset to judge"
        # A detector rings on for some 80 ms after the voice; those windows are faint, and count as silence.
        held.peak_db = max(held.peak_db, window.level_db if voiced else SILENCE_DB)
        below_peak_db = held.peak_db - window.level_db
        if voiced and not window.hummed:
            held.voiced += WINDOW_SAMPLES
            rises = window.level_db > held.newest_db + _RISE_DB  # a new syllable; a dying vowel never does
            held.until = window.end_samples if below_peak_db < _TAIL_DB or rises else held.until
        held.newest_db = window.level_db
        rings = voiced and below_peak_db > _RING_DB
        held.quiet_windows = 0.0 if voiced and not rings else held.quiet_windows + (rings or self._silence_of(window))
        if not model_audible:  # the model finished; what was held is plain speech if it goes on
            self._held = None
            self._speaking = held.quiet_windows < _RELEASE_WINDOWS
            return [Ignore(held.onset, "turn_over"), *([SpeechStarted(held.onset)] if self._speaking else [])]
        lasted = held.until - held.onset
        if lasted >= self._confirm_samples and held.voiced >= _VOICED_SHARE * lasted:
            self._held = None
            self._speaking = self._forced_listening = True
            return [SpeechStarted(held.onset), Interrupt(held.onset, "speech")]
        impatient = window.end_samples - held.onset > _PATIENCE_FACTOR * self._confirm_samples
        if held.quiet_windows < _RELEASE_WINDOWS and not impatient:
            return []
        self._held, self._lapsed = None, None if impatient else held
        self._voiced.clear()
        return [Ignore(held.onset, "backchannel" if held.voiced > _NOISE_SAMPLES else "noise")]

    def _silence_of(self, window: VoiceWindow) -> float:
        """Return what a window without voice counts towards the end of a voiced stretch."""
        # Speech that the echo explains is probably nobody's, but a user may be speaking beneath it.
        return 1.0 if window.probability < _SPEECH else _ECHO_SILENCE

    def _hold(self, window: VoiceWindow) -> Hold:
        lapsed, self._lapsed = self._lapsed, None
        onset = window.end_samples - _HOLD_WINDOWS * WINDOW_SAMPLES
        if lapsed is not None and onset - lapsed.until <= _RESUME_SAMPLES:  # the pause was one between two words
            lapsed.until, lapsed.quiet_windows = window.end_samples, 0.0
            lapsed.voiced += _HOLD_WINDOWS * WINDOW_SAMPLES
            self._held = lapsed
        else:
            level_db = window.level_db
            self._held = _Held(onset, window.end_samples, _HOLD_WINDOWS * WINDOW_SAMPLES, level_db, level_db)
        return Hold(self._held.onset)

    def _await_silence(self) -> list[TurnEvent]:
        silent_ms = self._silent_windows * WINDOW_SAMPLES * 1000 / INPUT_RATE_HZ
        if silent_ms < self.taking.silence_ms:
            return []
        self._speaking = False
        return [SpeechStopped(self._last_voiced_end)]

    def _near(self, level_db: float) -> bool:
        if self._user_level_db is None:
            return level_db > _FAINTEST_DB
        return level_db > self._user_level_db - _NEAR_DB

    def _learn_level(self, level_db: float) -> None:
        if self._user_level_db is None:
            self._user_level_db = level_db
        elif level_db > self._user_level_db - _NEAR_DB:  # somebody further away does not count as the user
            self._user_level_db += _LEVEL_STEP * (level_db - self._user_level_db)
