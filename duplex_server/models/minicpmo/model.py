"""MiniCPM-o 4.5 as a duplex model: units of a second of many conversations in one batch.

Knows nothing about sessions; what it must keep to is :class:`duplex_server.models.base.Model`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from duplex_server.errors import CapacityError, ClientError, DuplexError, ModelError, ModelLoadError
from duplex_server.models.base import RowFailure, RowOutput, RowUnit
from duplex_server.models.minicpmo.duplex import DuplexLoop
from duplex_server.models.minicpmo.kv import ContextFull
from duplex_server.models.minicpmo.mel import MelChunk, StreamingMel
from duplex_server.models.minicpmo.options import (
    HEAD_MAX_TOKENS,
    TYPED_MAX_TOKENS,
    TYPED_PER_UNIT_TOKENS,
    DuplexOptions,
)
from duplex_server.models.minicpmo.parts import Parts
from duplex_server.models.minicpmo.refusals import RETRY_AFTER_S, refusal_of
from duplex_server.models.minicpmo.replays import Replays
from duplex_server.models.minicpmo.sampling import Sampler
from duplex_server.models.minicpmo.seeing import Seeing
from duplex_server.models.minicpmo.speaking import Speaking
from duplex_server.models.minicpmo.spreading import spread
from duplex_server.models.minicpmo.stopwatch import DECODE, PREFILL, Stopwatch
from duplex_server.models.minicpmo.tokenizer import TextStream
from duplex_server.models.minicpmo.units import Compacted, Head, RowFull, SaidToken, TurnCut, UnitEnd, UnitInput
from duplex_server.models.minicpmo.voices import Voice, Voices, same_recording
from duplex_server.types import (
    OUTPUT_RATE_HZ,
    Compaction,
    ModelOutput,
    ModelSpec,
    Pcm,
    Refusal,
    SessionSetup,
    Tokens,
    Unit,
)

__all__ = ["MiniCPMO"]

log = logging.getLogger(__name__)

UNIT_MS = 1000
"""Source: the model was trained on units of one second."""
CODES_PER_S = 25
"""Speech codes that make a second of sound. Source: specification §6, the rate of the S3 tokenizer."""
USUAL_SYSTEM = "Streaming Omni Conversation."
"""What the model is told where nobody gave instructions. Source: specification §4.1."""
WITH_INSTRUCTIONS = "Streaming Duplex Conversation! "
"""What stands before instructions. Source: as above."""


@dataclass
class _Row:
    """One conversation, beside what the loop and the speech models keep of it."""

    setup: SessionSetup
    mel: StreamingMel
    text: TextStream
    typed: list[int] = field(default_factory=list)  # bounded by TYPED_MAX_TOKENS
    read: Tokens = field(default_factory=Tokens)  # with the newest unit
    said_turn: int = 0  # newest turn of which something was handed out, and not its end
    error: DuplexError | None = None  # to be told with the next unit
    refusals: list[Refusal] = field(default_factory=list)  # likewise; bounded by what comes for one unit
    failed: bool = False  # it has been told; nothing more is done for it until it is closed


class MiniCPMO:
    """A :class:`~duplex_server.models.base.Model`.

    Args:
        parts: what was loaded, hearing included.
        rows: how many conversations.
        voices: whom it can speak as.
        options: how conversations are held.
        observe: called with the name of each stage of a step and the seconds it took; for measuring.

    Raises:
        ModelLoadError: there is not enough memory for so many rows.
    """

    def __init__(
        self,
        parts: Parts,
        rows: int,
        voices: Voices,
        options: DuplexOptions | None = None,
        *,
        observe: Callable[[str, float], None] | None = None,
    ) -> None:
        options = options or DuplexOptions()
        assert parts.audio is not None, "a duplex model hears"
        self.spec = ModelSpec(
            name="minicpm-o-4.5",
            unit_ms=UNIT_MS,
            max_frames=options.max_frames if parts.vision is not None else 0,
            frame_max_px=options.frame_max_px,
            languages=("en", "zh"),
            voices=voices.names,
            counts_tokens=True,
            clones_voices=voices.clones,
            context_tokens_max=options.capacity(parts.config.query_num),
        )
        self._parts = parts
        self._audio = parts.audio
        self._voices = voices
        self._options = options
        tokenizer = parts.tokenizer
        replays = {device: Replays(device) for device in parts.devices} if options.recorded else {}
        self._seeing = Seeing(parts.vision, parts.config.slicing, options.max_frames, options.max_slices)
        self._loop = DuplexLoop(
            parts.llm,
            rows,
            options.capacity(parts.config.query_num),
            sampler=Sampler(options.sampling, tokenizer.bad_token_ids, official=options.official),
            window=options.window,
            special_ids=tokenizer.special_ids,
            marker=tokenizer.encode("\n\nprevious: "),
            official=options.official,
            together=options.together,
            replays=replays.get(parts.llm.devices[0]),
        )
        self._heard = parts.audio.new_cache(rows, together=options.together, replays=replays.get(parts.audio.device))
        self._speaking: Speaking | None = None
        if parts.decoder is not None and parts.token2wav is not None:
            of_speech = replays.get(parts.token2wav.device)
            self._speaking = Speaking(
                parts.decoder, parts.token2wav, rows, together=options.together, replays=of_speech
            )
        self._rows: dict[int, _Row] = {}
        self._watch = Stopwatch(parts.llm.devices[0], observe)

    def rehearse(self) -> None:
        """Record all steps that may come, where steps are recorded, so that no conversation has to wait for it.

        Raises:
            torch.OutOfMemoryError: there is no memory for the rows.
        """
        self._audio.rehearse(self._heard)
        self._loop.rehearse(self._options.usual_tokens(self._parts.config.query_num))
        if self._speaking is not None:
            voice = self._voices.of(SessionSetup())
            self._speaking.rehearse(None if voice is None else voice.prompt)

    # -- conversations ------------------------------------------------------------------------------------------------

    def open(self, row: int, setup: SessionSetup) -> None:
        """Start a conversation: the system prompt with the voice's recording is taken in now.

        Raises:
            CapacityError: there is no memory for it.
            ClientError: the instructions are too long, or the recording of the voice cannot be used, by anybody or for
                lack of the networks that look at recordings.
        """
        seed = secrets.randbits(63) if self._options.seed is None else self._options.seed
        try:
            voice = self._voices.of(setup)
            self._loop.open(row, self._head(setup, voice), seed)
            self._loop.prefer_listening(row, setup.listen_scale)
            self._give_voice(row, voice, seed)
        except (torch.OutOfMemoryError, CapacityError, ContextFull, ModelLoadError) as error:
            self.close(row)
            raise refusal_of(error) from error
        self._heard.reset(row)
        mel = StreamingMel(strict_parity=self._options.official)
        self._rows[row] = _Row(setup, mel, self._parts.tokenizer.stream())

    def configure(self, row: int, setup: SessionSetup) -> None:
        """Change instructions and voice: the head is exchanged and what was said so far stays.

        What cannot be had is refused with the next unit, and changes nothing; memory that is full fails the row then.
        """
        found = self._rows[row]
        before = found.setup
        self._loop.prefer_listening(row, setup.listen_scale)
        same_voice = before.voice == setup.voice and same_recording(before.voice_reference, setup.voice_reference)
        if found.failed or (same_voice and before.instructions == setup.instructions):
            return
        try:
            voice = self._voices.of(setup)
            self._loop.replace_head(row, self._head(setup, voice))
            if not same_voice:
                self._give_voice(row, voice, self._options.seed or 0)
            found.setup = setup
        except (ContextFull, ModelLoadError, ClientError) as error:
            told = refusal_of(error)
            found.refusals.append(
                Refusal(str(told), getattr(told, "param", None) or "session.ref_audio", setup.revision)
            )
        except (torch.OutOfMemoryError, CapacityError, ModelError) as error:
            found.error = refusal_of(error)

    def cancel(self, row: int, turn: int, played_samples: int) -> None:
        """Give a turn up. One assignment, which is looked at between decode steps and between stages."""
        self._loop.cancel(row, turn, played_samples)

    def close(self, row: int) -> None:
        """Forget a conversation."""
        self._rows.pop(row, None)
        self._loop.close(row)
        if self._speaking is not None:
            self._speaking.close(row)

    # -- units --------------------------------------------------------------------------------------------------------

    def step(self, batch: Sequence[RowUnit]) -> Iterator[RowOutput | RowFailure]:
        """Take a unit of each of some rows: hear and look, decide and say, speak; each for all rows at once.

        Yields:
            That a row listens, as soon as it has decided; what others say, text with the sound that it belongs to,
            when the sound is made; a failure where a row's context or the memory is full.
        """
        self._watch.begin()
        going = []
        for given in batch:
            row = self._rows[given.row]
            if row.error is not None and not row.failed:
                yield self._failure(given.row, row.error)
            if not row.failed:
                going.append(given)
                self._take_typed(row, given.unit)
                yield from (RowOutput(given.row, ModelOutput(0, refusal=refusal)) for refusal in row.refusals)
                row.refusals.clear()
        if not going:
            return
        chunks = {given.row: self._rows[given.row].mel.feed(given.unit.audio) for given in going}
        while going:
            try:
                inputs = self._perceived(going, [chunks[given.row] for given in going])
            except torch.OutOfMemoryError:
                # Nothing of the conversations has been changed. The longest makes room for the others.
                victim = max(going, key=lambda given: self._loop.cache.lengths[given.row])
                going.remove(victim)
                yield self._no_memory(victim.row)
            else:
                yield from self._answered(inputs)
                return

    def _answered(self, inputs: Sequence[UnitInput]) -> Iterator[RowOutput | RowFailure]:
        saying: list[UnitEnd] = []
        for given in inputs:
            taken = self._rows[given.row]
            taken.read, taken.typed = given.tokens, taken.typed[len(given.text) :]
        for event in self._loop.step(inputs, lambda: self._watch.ended(PREFILL)):
            match event:
                case TurnCut():
                    yield from self._cut(event)
                case Compacted(row, before, after):
                    yield RowOutput(row, ModelOutput(0, compaction=Compaction(before, after)))
                case UnitEnd(listening=True):
                    cost = self._watch.cost(0, self._loop.length(event.row))
                    read = self._rows[event.row].read
                    yield RowOutput(event.row, ModelOutput(0, listening=True, tokens=read, cost=cost))
                case UnitEnd():
                    saying.append(event)
                case RowFull(row, of_memory=True):
                    yield self._no_memory(row)
                case RowFull(row):
                    yield self._failure(row, ModelError("The conversation is longer than the model can remember."))
                case SaidToken():
                    pass
        self._watch.ended(DECODE)
        yield from self._spoken(saying)

    def _perceived(self, batch: Sequence[RowUnit], chunks: Sequence[MelChunk]) -> list[UnitInput]:
        """Turn what came into embeddings: one call for the sound of all rows, one for their pictures."""
        seen = self._seeing.embeddings([given.unit.frames for given in batch])
        self._watch.ended("see")
        heard = self._audio.stream(chunks, [given.row for given in batch], self._heard)
        self._watch.ended("hear")
        return [
            UnitInput(given.row, audio, pictures, self._rows[given.row].typed[:TYPED_PER_UNIT_TOKENS], given.unit.floor)
            for given, audio, pictures in zip(batch, heard, seen, strict=True)
        ]

    def _take_typed(self, row: _Row, unit: Unit) -> None:
        """Let what was typed wait to be read; a text for which there is no room is refused."""
        for text in unit.texts:
            tokens = self._parts.tokenizer.encode(text)
            if len(row.typed) + len(tokens) > TYPED_MAX_TOKENS:
                waits = f"{len(tokens)} more tokens of text would wait to be read, of at most {TYPED_MAX_TOKENS}."
                row.refusals.append(Refusal(waits, "item.content"))
            else:
                row.typed += tokens

    def _cut(self, cut: TurnCut) -> Iterator[RowOutput]:
        """Forget the speech of a turn that is over; say so unless the server knows."""
        found = self._rows[cut.row]
        found.text.finish()
        if self._speaking is not None:
            self._speaking.drop(cut.row)
        if found.said_turn == cut.turn and cut.turn > self._loop.cancelled_turn(cut.row):
            yield RowOutput(cut.row, ModelOutput(cut.turn, end_of_turn=True))
        found.said_turn = 0

    # -- speech -------------------------------------------------------------------------------------------------------

    def _spoken(self, ends: Sequence[UnitEnd]) -> Iterator[RowOutput | RowFailure]:
        with_voice = []
        for end in ends:
            if self._given_up(end):
                continue
            if self._speaking is None or not self._speaking.has_voice(end.row):
                yield from self._said(end, None)
                continue
            try:
                self._speaking.reserve(end.row)
                with_voice.append(end)
            except CapacityError as error:
                yield self._failure(end.row, error)
        if self._speaking is None or not with_voice:
            return
        generators = [self._loop.generator(end.row) for end in with_voice]
        for end, sound in self._speaking.speak(with_voice, generators, self._given_up, self._watch.ended):
            if sound is None:
                yield self._no_memory(end.row)
            else:
                yield from self._said(end, sound)

    def _given_up(self, end: UnitEnd) -> bool:
        return end.turn <= self._loop.cancelled_turn(end.row)

    def _said(self, end: UnitEnd, sound: Pcm | None) -> Iterator[RowOutput]:
        """Give out what a row said: its tokens spread evenly over the unit's sound, which no model aligns for us."""
        found = self._rows[end.row]
        texts = [found.text.feed([token]) for token in end.spoken]
        if end.end_of_turn:
            texts.append(found.text.finish())
        if sound is not None:
            self._loop.sounded(end.row, len(sound))
        pieces = spread(texts, _SILENCE if sound is None else sound)
        found.said_turn = 0 if end.end_of_turn else end.turn
        n_codes = 0 if sound is None else len(sound) * CODES_PER_S // OUTPUT_RATE_HZ
        counted: Tokens | None = found.read + Tokens(text_out=len(end.spoken), audio_out=n_codes)
        cost = self._watch.cost(len(end.spoken), self._loop.length(end.row))
        for place, (text, piece) in enumerate(pieces):
            last = place == len(pieces) - 1
            ends = end.end_of_turn and last
            said = ModelOutput(end.turn, piece, text, end_of_turn=ends, tokens=counted, cost=cost if last else None)
            yield RowOutput(end.row, said)
            counted = None

    # -- what it is told first ----------------------------------------------------------------------------------------

    def _head(self, setup: SessionSetup, voice: Voice | None) -> Head:
        """Return the system prompt (specification §4.1).

        Raises:
            ClientError: the instructions are too long.
        """
        system = WITH_INSTRUCTIONS + setup.instructions if setup.instructions else USUAL_SYSTEM
        encode = self._parts.tokenizer.encode
        if voice is None:
            head = Head(encode(f"<|im_start|>system\n{system}"), encode("<|im_end|>"))
        else:
            head = Head(
                encode(f"<|im_start|>system\n{system}\n<|audio_start|>"),
                encode("<|audio_end|><|im_end|>"),
                voice.reference,
            )
        if (length := head.layout().length) > HEAD_MAX_TOKENS:
            raise ClientError(
                f"Instructions and voice take {length} tokens, of at most {HEAD_MAX_TOKENS}.",
                param="session.instructions",
            )
        return head

    def _give_voice(self, row: int, voice: Voice | None, seed: int) -> None:
        if self._speaking is not None and voice is not None and voice.prompt is not None:
            self._speaking.open(row, voice.prompt, seed)

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _no_memory(self, row: int) -> RowFailure:
        log.error("no memory for the unit of %d conversations; one of them is ended", len(self._rows))
        return self._failure(row, CapacityError(RETRY_AFTER_S))

    def _failure(self, row: int, error: DuplexError) -> RowFailure:
        self._rows[row].failed = True
        return RowFailure(row, error)


_SILENCE: Pcm = np.zeros(0, np.float32)
