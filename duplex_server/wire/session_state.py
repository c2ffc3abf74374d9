"""The session object's life: how it begins, what an update makes of it, and what it means to model and session.

An update is applied whole or not at all. Knows nothing about events or their order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from duplex_server.errors import InvalidEvent
from duplex_server.types import InterruptionPolicy, ModelSpec, SessionSetup
from duplex_server.wire.audio_format import G711_RATE_HZ, PCM_FORMAT, AudioFormat
from duplex_server.wire.capabilities import capabilities_of
from duplex_server.wire.requests import TurnTaking
from duplex_server.wire.session_object import (
    OPT_IN_NAMES,
    SEMANTIC_VAD,
    SERVER_VAD,
    AudioConfig,
    AudioInputConfig,
    AudioInputPatch,
    AudioOutputConfig,
    AudioOutputPatch,
    ExtraBody,
    Session,
    SessionPatch,
    Transcription,
    TurnDetection,
    TurnDetectionPatch,
    VoiceId,
)
from duplex_server.wire.voice_reference import CUSTOM_VOICE, VoiceReference, decode_voice_reference, same_voice

__all__ = ["REALTIME_PCM_RATES_HZ", "SessionState", "Settings"]

REALTIME_PCM_RATES_HZ = frozenset({24_000})
"""Source: OpenAI Realtime API reference, ``audio/pcm``."""

_MAX_TOOLS_BYTES = 262_144
"""Ours: tools are echoed in every ``session.updated``, which has to stay below 1 MiB for some clients."""

_GENERIC_POLICIES = (InterruptionPolicy.GUARDED, InterruptionPolicy.IMMEDIATE)


_LISTEN_SCALES = {"low": 1.2, "medium": 1.0, "auto": 1.0, "high": 0.85}
"""Source: realtime protocol notes §4.2, in the terms of MiniCPM-o's ``listen_prob_scale``."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an update can change; replaced as a whole."""

    session: Session
    transcribe: bool
    language: str
    override: InterruptionPolicy | None
    asked_events: frozenset[str]
    reference: VoiceReference | None = None


class SessionState:
    """The effective settings of one session."""

    def __init__(
        self,
        *,
        spec: ModelSpec,
        session_id: str,
        setup: SessionSetup,
        turn_taking: TurnTaking,
        opt_in: frozenset[str],
        expires_at: int,
        input_rates_hz: frozenset[int] = REALTIME_PCM_RATES_HZ,
    ) -> None:
        self._spec = spec
        self._input_rates_hz = input_rates_hz
        self._default_setup = setup
        self._default_taking = turn_taking
        self._opt_in = opt_in
        voice = setup.voice if setup.voice in spec.voices else spec.voices[0]
        session = Session(
            id=session_id,
            model=spec.name,
            expires_at=expires_at,
            instructions=setup.instructions,
            audio=AudioConfig(
                input=AudioInputConfig(turn_detection=_initial_detection(turn_taking)),
                output=AudioOutputConfig(voice=voice, speed=setup.speed),
            ),
            capabilities=capabilities_of(spec),
        )
        settings = Settings(session, spec.transcribes, setup.language, None, frozenset())
        self._settings = self._completed(settings)

    @property
    def session(self) -> Session:
        """The effective session object."""
        return self._settings.session

    @property
    def transcribes(self) -> bool:
        """Whether the client is told what the model understood."""
        return self._settings.transcribe

    @property
    def opt_in(self) -> frozenset[str]:
        """Groups of extension events that this client is sent."""
        return self._opt_in | self._settings.asked_events

    @property
    def text_only(self) -> bool:
        """Whether responses are written instead of spoken."""
        return self.session.output_modalities == ["text"]

    @property
    def input_format(self) -> AudioFormat:
        """Format of audio that the client appends."""
        return self.session.audio.input.format or PCM_FORMAT

    @property
    def output_format(self) -> AudioFormat:
        """Format of audio deltas."""
        return self.session.audio.output.format or PCM_FORMAT

    @property
    def setup(self) -> SessionSetup:
        """What the model is set to."""
        output = self.session.audio.output
        return replace(
            self._default_setup,
            instructions=self.session.instructions or "",
            language=self._settings.language,
            voice=output.voice if output.voice in self._spec.voices else self._default_voice,
            speed=1.0 if output.speed is None else output.speed,
            listen_scale=_listen_scale(self.session.audio.input.turn_detection),
        )

    @property
    def reference(self) -> VoiceReference | None:
        """The recording of the voice to speak with."""
        return self._settings.reference

    @property
    def turn_taking(self) -> TurnTaking:
        """How the session decides who speaks."""
        return self._taking_of(self._settings)

    @property
    def settings(self) -> Settings:
        """All of them, as they are now."""
        return self._settings

    def set_back(self, earlier: Settings) -> None:
        """Let the model be asked for what earlier settings asked of it; everything else stays."""
        session, before = self._settings.session, earlier.session
        output = msgspec.structs.replace(session.audio.output, voice=before.audio.output.voice)
        audio = msgspec.structs.replace(session.audio, output=output)
        session = msgspec.structs.replace(session, instructions=before.instructions, audio=audio)
        self._settings = replace(self._settings, session=session, reference=earlier.reference)

    def token_limit(self, asked: int | Literal["inf"] | None) -> int | Literal["inf"]:
        """Return what a response may have of tokens, if that is asked for: there is no limit where none are counted."""
        return asked if self._spec.counts_tokens and asked is not None else "inf"

    def update(self, patch: SessionPatch, *, voice_locked: bool) -> None:
        """Apply an update, whole or not at all.

        Args:
            patch: the keys to change.
            voice_locked: the model has been heard, so its voice may not change any more.

        Raises:
            InvalidEvent: a value that cannot be had; nothing has changed.
        """
        settings = self._settings
        session = _merge_plain(settings.session, patch, self._default_setup)
        if not isinstance(patch.max_output_tokens, UnsetType):
            session = msgspec.structs.replace(session, max_output_tokens=self.token_limit(patch.max_output_tokens))
        audio = session.audio
        if patch.audio:
            if patch.audio.input:
                settings = replace(settings, transcribe=self._transcribe_of(patch.audio.input))
                audio = msgspec.structs.replace(audio, input=self._merge_input(audio.input, patch.audio.input))
            if patch.audio.output:
                output = self._merge_output(audio.output, patch.audio.output, voice_locked)
                audio = msgspec.structs.replace(audio, output=output)
        settings, output = self._merge_reference(settings, audio.output, patch, voice_locked)
        settings = self._merge_extra(settings, patch)
        audio = msgspec.structs.replace(audio, output=output)
        session = msgspec.structs.replace(session, audio=audio)
        self._settings = self._completed(replace(settings, session=session))

    @property
    def _default_voice(self) -> str:
        voices = self._spec.voices
        return self._default_setup.voice if self._default_setup.voice in voices else voices[0]

    def _completed(self, settings: Settings) -> Settings:
        """Write what follows from other settings into the session object."""
        session = settings.session
        transcription = Transcription(model=self._spec.name, language=settings.language)
        source = msgspec.structs.replace(
            session.audio.input, transcription=transcription if settings.transcribe else None
        )
        extra = ExtraBody(
            interruption=self._taking_of(settings).policy.value,
            language=settings.language,
            duplex_events=sorted(self._opt_in | settings.asked_events),
        )
        audio = msgspec.structs.replace(session.audio, input=source)
        return replace(settings, session=msgspec.structs.replace(session, audio=audio, extra_body=extra))

    def _taking_of(self, settings: Settings) -> TurnTaking:
        detection, override = settings.session.audio.input.turn_detection, settings.override
        default = self._default_taking
        if override is InterruptionPolicy.PUSH_TO_TALK or (detection is None and override is None):
            policy = InterruptionPolicy.PUSH_TO_TALK
            return TurnTaking(policy=policy, create_response=False, report_speech=False, silence_ms=default.silence_ms)
        if detection is None:
            assert override is not None, "no turn detection and no override is push to talk"
            return TurnTaking(policy=override, report_speech=False, silence_ms=default.silence_ms)
        if not detection.interrupt_response:
            policy = InterruptionPolicy.MODEL
        elif detection.type == "server_vad":
            policy = InterruptionPolicy.IMMEDIATE
        else:
            policy = default.policy if default.policy in _GENERIC_POLICIES else InterruptionPolicy.GUARDED
        silence_ms = detection.silence_duration_ms
        return TurnTaking(
            policy=override or policy,
            create_response=detection.create_response,
            silence_ms=default.silence_ms if isinstance(silence_ms, UnsetType) else silence_ms,
            idle_ms=None if isinstance(detection.idle_timeout_ms, UnsetType) else detection.idle_timeout_ms,
        )

    def _transcribe_of(self, patch: AudioInputPatch) -> bool:
        if patch.transcription is UNSET:
            return self._settings.transcribe
        return self._spec.transcribes and patch.transcription is not None

    def _merge_input(self, current: AudioInputConfig, patch: AudioInputPatch) -> AudioInputConfig:
        audio_format, detection = current.format, current.turn_detection
        if not isinstance(patch.format, UnsetType):
            audio_format = _echoed_format(patch.format, "input", self._input_rates_hz)
        if not isinstance(patch.turn_detection, UnsetType):
            detection = _merge_detection(detection, patch.turn_detection)
        return msgspec.structs.replace(current, format=audio_format, turn_detection=detection)

    def _merge_output(
        self, current: AudioOutputConfig, patch: AudioOutputPatch, voice_locked: bool
    ) -> AudioOutputConfig:
        audio_format, speed = current.format, current.speed
        if not isinstance(patch.format, UnsetType):
            audio_format = _echoed_format(patch.format, "output", REALTIME_PCM_RATES_HZ)
        if not isinstance(patch.speed, UnsetType):
            speed = self._default_setup.speed if patch.speed is None else patch.speed
        voice = self._voice_of(current.voice, patch.voice, voice_locked)
        return AudioOutputConfig(format=audio_format, voice=voice, speed=speed)

    def _voice_of(self, current: str | None, asked: str | VoiceId | UnsetType | None, locked: bool) -> str | None:
        if isinstance(asked, UnsetType):
            return current
        name = asked.id if isinstance(asked, VoiceId) else asked
        if name == current == CUSTOM_VOICE:
            return current
        if name is None or name not in self._spec.voices:  # other servers' names are no error
            return current if locked else self._default_voice
        if locked and name != current:
            raise InvalidEvent(
                "The voice cannot be changed after the model was heard.",
                param="session.audio.output.voice",
                code="cannot_update_voice",
            )
        return name

    def _merge_reference(
        self, settings: Settings, output: AudioOutputConfig, patch: SessionPatch, locked: bool
    ) -> tuple[Settings, AudioOutputConfig]:
        reference = settings.reference if output.voice == CUSTOM_VOICE else None
        for param in ("tts_ref_audio", "ref_audio"):
            asked = getattr(patch, param)
            if isinstance(asked, UnsetType):
                continue
            if asked is not None and not self._spec.clones_voices:
                raise InvalidEvent(
                    f"The model {self._spec.name!r} cannot take over a recorded voice.",
                    param=f"session.{param}",
                    code="unsupported_value",
                )
            reference = None if asked is None else decode_voice_reference(asked, param=f"session.{param}")
            if locked and not same_voice(reference, settings.reference):
                raise InvalidEvent(
                    "The voice cannot be changed after the model was heard.",
                    param=f"session.{param}",
                    code="cannot_update_voice",
                )
            named = self._default_voice if output.voice == CUSTOM_VOICE else output.voice
            output = msgspec.structs.replace(output, voice=named if reference is None else CUSTOM_VOICE)
            break
        return replace(settings, reference=reference), output

    def _merge_extra(self, settings: Settings, patch: SessionPatch) -> Settings:
        extra = patch.extra_body
        if not extra:
            return settings
        if not isinstance(extra.interruption, UnsetType):
            override = None if extra.interruption is None else InterruptionPolicy(extra.interruption)
            settings = replace(settings, override=override)
        if not isinstance(extra.language, UnsetType):
            language = self._default_setup.language if extra.language is None else extra.language
            if language not in self._spec.languages and extra.language is not None:
                known = ", ".join(self._spec.languages)
                raise InvalidEvent(
                    f"The model does not speak this language; it speaks {known}.", param="session.extra_body.language"
                )
            settings = replace(settings, language=language)
        if not isinstance(extra.duplex_events, UnsetType):
            settings = replace(settings, asked_events=OPT_IN_NAMES.intersection(extra.duplex_events or ()))
        return settings


def _listen_scale(detection: TurnDetection | None) -> float:
    eagerness = detection.eagerness if detection else UNSET
    return 1.0 if isinstance(eagerness, UnsetType) else _LISTEN_SCALES[eagerness]


def _initial_detection(taking: TurnTaking) -> TurnDetection | None:
    """Return the turn detection that says what the server's default is."""
    if taking.policy is InterruptionPolicy.PUSH_TO_TALK:
        return None
    return msgspec.structs.replace(
        SEMANTIC_VAD,
        create_response=taking.create_response,
        interrupt_response=taking.policy is not InterruptionPolicy.MODEL,
    )


def _merge_plain(session: Session, patch: SessionPatch, setup: SessionSetup) -> Session:
    """Merge the keys of the first level."""
    changed: dict[str, Any] = {}
    if not isinstance(patch.output_modalities, UnsetType):
        # Both at once means speech with its transcript, which is what "audio" is.
        changed["output_modalities"] = ["text"] if patch.output_modalities == ["text"] else ["audio"]
    if not isinstance(patch.instructions, UnsetType):
        changed["instructions"] = setup.instructions if patch.instructions is None else patch.instructions
    defaults = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "truncation": "auto"}
    for key, default in defaults.items():
        value = getattr(patch, key)
        if isinstance(value, UnsetType):
            continue
        if len(msgspec.json.encode(value)) > _MAX_TOOLS_BYTES:
            raise InvalidEvent(f"'{key}' is longer than {_MAX_TOOLS_BYTES} bytes.", param=f"session.{key}")
        changed[key] = default if value is None else value
    return msgspec.structs.replace(session, **changed)


def _merge_detection(current: TurnDetection | None, patch: TurnDetectionPatch | bool | None) -> TurnDetection | None:
    if patch is True:
        raise InvalidEvent(
            "Turn detection must be an object, or null to turn it off.", param="session.audio.input.turn_detection"
        )
    if patch is None or patch is False:
        return None
    kind = current.type if current else "semantic_vad"
    if not isinstance(patch.type, UnsetType):
        kind = patch.type
    default = SEMANTIC_VAD if kind == "semantic_vad" else SERVER_VAD
    merged = current if current is not None and current.type == kind else default
    changed: dict[str, Any] = {}
    for key in ("create_response", "interrupt_response", "eagerness", "threshold"):
        value = getattr(patch, key)
        if value is not UNSET and getattr(default, key) is not UNSET:
            changed[key] = getattr(default, key) if value is None else value
    for key in ("prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms"):
        value = getattr(patch, key)
        if value is not UNSET and getattr(default, key) is not UNSET:
            changed[key] = getattr(default, key) if value is None else round(value)
    return msgspec.structs.replace(merged, **changed)


def _echoed_format(asked: AudioFormat | None, side: str, pcm_rates_hz: frozenset[int]) -> AudioFormat:
    """Return the format as strict clients want it back: PCM with its rate, G.711 without."""
    if asked is None:
        return PCM_FORMAT
    allowed = pcm_rates_hz if asked.type == "audio/pcm" else frozenset({G711_RATE_HZ})
    if asked.rate and asked.rate not in allowed:
        rates = " or ".join(map(str, sorted(allowed)))
        raise InvalidEvent(f"The rate of {asked.type} must be {rates}.", param=f"session.audio.{side}.format.rate")
    rate = asked.rate_hz if asked.type == "audio/pcm" else UNSET
    return AudioFormat(type=asked.type, rate=rate)
