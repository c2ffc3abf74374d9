"""Speech codes of many conversations to 24 kHz sound, each in its own voice, as they come.

Knows nothing about where codes come from. What a conversation's flow model remembers is taken from a pool when a turn
begins and given back when it ends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from duplex_server.models.minicpmo.flow import Flow, FlowChunk, FlowVoice
from duplex_server.models.minicpmo.flow_cache import CHUNK_FRAMES, FlowPool, FlowSlot
from duplex_server.models.minicpmo.flow_encoder import LOOKAHEAD_CODES
from duplex_server.models.minicpmo.flow_past import Past, RecordedFlow
from duplex_server.models.minicpmo.vocoder import Vocoder, alike
from duplex_server.models.minicpmo.voice_prompt import VoicePrompt

__all__ = ["LEAD_SAMPLES", "OUTPUT_HZ", "SILENCE_CODE", "Token2Wav", "Token2WavState"]

OUTPUT_HZ = 24_000
SILENCE_CODE = 4218
"""What the official code begins every turn with, three times (specification §6.4)."""
CHUNK_CODES = 25
LEAST_CODES = 8
"""A turn's first unit is spoken from as few as this, however short it is (specification §6.4)."""
LEAD_SAMPLES = 3840
"""Silence before a turn's first sound: as long as the vocoders hold back, so that a unit's sound lasts its second and
the next unit's is there before it ends."""
MOST_VOICES = 64
"""Voices whose caches are kept: 160 MB each with five steps and a prompt of five seconds, in float32."""


@dataclass(slots=True)
class _Row:
    """One conversation."""

    voice: FlowVoice
    generator: torch.Generator
    codes: list[int] = field(default_factory=lambda: [SILENCE_CODE] * LOOKAHEAD_CODES)
    """Not spoken yet, or to be looked at again."""
    slot: FlowSlot | None = None
    tail: Any = None
    """The vocoder's."""
    first: bool = True
    """Whether the turn has made no sound yet."""


class Token2WavState:
    """All conversations' turns. Only one thread uses it.

    Args:
        pool: of what the flow model remembers.
        recorded: where steps are recorded, and for how many conversations; None: they are not.
    """

    def __init__(self, pool: FlowPool, recorded: RecordedFlow | None = None) -> None:
        self._pool, self.recorded = pool, recorded
        self._rows: dict[int, _Row] = {}

    def open(self, row: int, voice: FlowVoice, generator: torch.Generator) -> None:
        """Begin a conversation, or change its voice from the next turn on.

        Args:
            row: the conversation.
            voice: see :meth:`Token2Wav.voice`.
            generator: the row's, on the vocoder's device.
        """
        self.close(row)
        self._rows[row] = _Row(voice, generator)

    def close(self, row: int) -> None:
        """Forget a conversation, if it is there."""
        if row in self._rows:
            self.reset(row)
            del self._rows[row]

    def reset(self, row: int) -> None:
        """End a row's turn, or give it up; what was held back is lost."""
        found = self._rows[row]
        if found.slot is not None:
            self._pool.give_back(found.slot)
        self._rows[row] = _Row(found.voice, found.generator)

    def reserve(self, row: int) -> None:
        """Take from the pool what a row needs to speak, unless it has.

        Raises:
            CapacityError: there is no room; the row is as before.
        """
        found = self._rows[row]
        if found.slot is None:
            found.slot = self._pool.take(found.voice.base)

    @torch.inference_mode()
    def restart(self, row: int, waiting: Sequence[int]) -> None:
        """Begin a row's turn anew in the middle of it: with codes that wait, and without what its sound has been.

        Args:
            row: one that has reserved its place, and keeps it. What is remembered there need not be whole.
            waiting: codes that have not been spoken.
        """
        found = self._rows[row]
        assert found.slot is not None
        found.slot.copy_from(found.voice.base)
        self._rows[row] = _Row(found.voice, found.generator, list(waiting), found.slot)

    def waiting(self, row: int) -> list[int]:
        """Codes that a row holds back."""
        return list(self._rows[row].codes)

    def __getitem__(self, row: int) -> _Row:
        return self._rows[row]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Codes of one row for one call of the flow model."""

    codes: Sequence[int]
    final: bool


class Token2Wav:
    """Flow model and vocoder.

    Args:
        flow: with its weights.
        vocoder: with its weights.
        noise: that speech starts from, ``[80, frames]``, on the flow model's device.
        steps: of the flow model's solver. The official code takes 10, its demonstration 5.
        strict: round samples to 16 bits and fill units of less than a second with silence on the left.
    """

    def __init__(
        self, flow: Flow, vocoder: Vocoder[Any], noise: Tensor, *, steps: int = 10, strict: bool = False
    ) -> None:
        self.flow, self.vocoder, self.noise, self.steps = flow, vocoder, noise, steps
        self._strict = strict
        self._voices: OrderedDict[str, FlowVoice] = OrderedDict()

    @property
    def device(self) -> torch.device:
        return self.flow.encoder_proj.weight.device

    def new_state(self, most_speaking: int | None = None, recorded: RecordedFlow | None = None) -> Token2WavState:
        """Return the state of no conversations.

        Args:
            most_speaking: conversations that may speak at a time; None: as many as memory holds.
            recorded: see :class:`Token2WavState`.
        """
        pool = FlowPool(self.flow.sizes, self.steps, self.flow.encoder_proj.weight, most_speaking)
        return Token2WavState(pool, recorded)

    def voice(self, prompt: VoicePrompt) -> FlowVoice:
        """Take up a voice, or find it taken up: conversations of equal prompts share it."""
        found = self._voices.get(prompt.key)
        if found is None:
            found = self.flow.listen_to(
                prompt.codes.to(self.device),
                prompt.speaker.to(self.device),
                prompt.mel.to(self.device),
                self.noise,
                self.steps,
            )
            self._voices[prompt.key] = found
            if len(self._voices) > MOST_VOICES:
                self._voices.popitem(last=False)  # who speaks with it keeps it
        self._voices.move_to_end(prompt.key)
        return found

    @torch.inference_mode()
    def rehearse(self, prompt: VoicePrompt, state: Token2WavState) -> None:
        """Record the steps of units in the middle of a turn, where steps are recorded.

        Args:
            prompt: steps of all voices of its length are recorded.
            state: of all rows.
        """
        if state.recorded is not None:
            Past.rehearse(self.flow.decoder.estimator, self.voice(prompt).base, state.recorded)
            self.vocoder.rehearse(self.noise[:, :CHUNK_FRAMES], state.recorded.most, state.recorded.replays)

    @torch.inference_mode()
    def push(
        self, rows: Sequence[int], codes: Sequence[Sequence[int]], ends: Sequence[bool], state: Token2WavState
    ) -> list[Tensor | None]:
        """Speak the next codes of some rows.

        Args:
            rows: each once, all open.
            codes: of a unit, at most 25 each.
            ends: whether the row's turn ends with them; it begins anew then.
            state: of all rows.

        Returns:
            per row float32 ``[samples]`` at 24 kHz on the vocoder's device, -1 to 1; None where there is none yet.

        Raises:
            CapacityError: a row that had not reserved its place found none; no row has been changed.
            torch.OutOfMemoryError: no codes have been taken, and the rows have forgotten what their turns' sound has
                been, as after :meth:`Token2WavState.restart`: what they say next begins after a short pause.
        """
        for row in rows:
            state.reserve(row)
        waiting = [state.waiting(row) for row in rows]
        try:
            return self._pushed(rows, codes, ends, state)
        except torch.OutOfMemoryError:
            for row, held_back in zip(rows, waiting, strict=True):
                state.restart(row, held_back)
            raise

    def _pushed(
        self, rows: Sequence[int], codes: Sequence[Sequence[int]], ends: Sequence[bool], state: Token2WavState
    ) -> list[Tensor | None]:
        pieces = [self._cut(state[row], new, end) for row, new, end in zip(rows, codes, ends, strict=True)]
        sounds: list[list[Tensor]] = [[] for _ in rows]
        for turn in range(max(map(len, pieces), default=0)):
            having = [place for place in range(len(rows)) if turn < len(pieces[place])]
            now = [pieces[place][turn] for place in having]
            for together in alike((len(piece.codes), piece.final) for piece in now):
                speakers = [state[rows[having[i]]] for i in together]
                found = self._speak(speakers, [now[i] for i in together], state.recorded)
                for i, sound in zip(together, found, strict=True):
                    sounds[having[i]].append(sound)
        finished = [self._finished(sound, end) for sound, end in zip(sounds, ends, strict=True)]
        for row, end in zip(rows, ends, strict=True):
            if end:
                state.reset(row)
        return finished

    def _cut(self, row: _Row, new: Sequence[int], end: bool) -> list[_Piece]:
        """Append codes to what a row holds back and take what can be spoken (specification §6.4)."""
        row.codes.extend(new)
        full = CHUNK_CODES + LOOKAHEAD_CODES
        least = LEAST_CODES if row.first else full
        pieces = []
        while len(row.codes) >= least:
            taken = row.codes[:full]
            pieces.append(_Piece(taken, final=False))
            del row.codes[: len(taken) - LOOKAHEAD_CODES]
        if end:
            pieces.append(_Piece(tuple(row.codes), final=True))
            row.codes.clear()
        return pieces

    def _speak(self, rows: Sequence[_Row], pieces: Sequence[_Piece], recorded: RecordedFlow | None) -> list[Tensor]:
        """Speak pieces of one length and kind."""
        final = pieces[0].final
        chunks = []
        for row, piece in zip(rows, pieces, strict=True):
            assert row.slot is not None
            chunks.append(FlowChunk(torch.tensor(piece.codes, device=self.device), row.voice, row.slot))
            if row.tail is None:
                row.tail = self.vocoder.begin(row.generator)
        mels = self.flow.speak(chunks, self.noise, self.steps, final=final, recorded=recorded)
        tails, replays = [row.tail for row in rows], None if recorded is None else recorded.replays
        sounds = self.vocoder.stream([mel.t() for mel in mels], tails, final=final, replays=replays)
        led = [
            torch.cat([sound.new_zeros(LEAD_SAMPLES), sound]) if row.first and not final else sound
            for row, sound in zip(rows, sounds, strict=True)
        ]
        for row in rows:
            row.first = False
        return led

    def _finished(self, sounds: Sequence[Tensor], end: bool) -> Tensor | None:
        if not sounds:
            return None
        sound = torch.cat(list(sounds)) if len(sounds) > 1 else sounds[0]
        if not self._strict:
            return sound
        sound = (sound.clamp(-1, 1) * 32767).to(torch.int16).float() / 32768
        if not end and len(sound) < OUTPUT_HZ:
            sound = torch.cat([sound.new_zeros(OUTPUT_HZ - len(sound)), sound])
        return sound
