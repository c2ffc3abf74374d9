"""Conversations in which the two take turns, and the user's turn comes bit by bit (specification §7.3).

Knows nothing about speech or about who notices that a turn is over. One conversation; duplex conversations share rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from duplex_server.errors import InvalidEvent, LimitExceeded
from duplex_server.models.minicpmo.audio_encoder import AudioCache
from duplex_server.models.minicpmo.chat import AnswerOptions, AnswerToken, choose_token
from duplex_server.models.minicpmo.chat_prompt import PromptEncoder, count_audio_embeddings
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.mel import UNIT_SAMPLES, StreamingMel
from duplex_server.models.minicpmo.messages import Content, Message, Segment, Sound, append_text
from duplex_server.models.minicpmo.tokens import SPECIAL
from duplex_server.models.minicpmo.units import Layout, embedded

__all__ = ["SPOKEN", "HalfDuplex", "Mark", "TurnWindow"]

SPOKEN = AnswerOptions(repetition_window=128)
"""How an answer is chosen. Source: the official code."""
UNSPEAKABLE = ':：;；#"“”‘’@*【】「」()（）[]&/$'
"""Signs that no speech is made from, not to be chosen in answers that are spoken. Our list, of the kinds that
specification §7.3 names."""
_ROW = 0


@dataclass(frozen=True, slots=True)
class TurnWindow:
    """When the oldest rounds, a turn of each, are forgotten; the system message stays."""

    high_tokens: int = 8000
    low_tokens: int = 6000


@dataclass(frozen=True, slots=True)
class Mark:
    """A conversation at some moment within the user's turn, to go back to."""

    length: int
    n_rounds: int
    user_speaks: bool
    closing: str
    mel: StreamingMel
    heard: Sequence[Tensor] | None


class HalfDuplex:
    """One conversation.

    Args:
        llm: the language model.
        prompts: with the encoders that are loaded.
        window: when old rounds are forgotten.
        capacity: positions of the whole conversation; above ``window.high_tokens``, by as much as one round may take.
    """

    def __init__(
        self, llm: Qwen3, prompts: PromptEncoder, *, window: TurnWindow | None = None, capacity: int = 12_000
    ) -> None:
        self._llm, self._prompts = llm, prompts
        self._window = window or TurnWindow()
        self._cache = llm.new_cache(1, capacity)
        self._mel = StreamingMel(context=0)
        self._heard: AudioCache | None = None
        if prompts.audio is not None:
            weight = prompts.audio.apm.conv1.weight
            self._heard = AudioCache(prompts.config.audio, 1, dtype=weight.dtype, device=weight.device)
        signs = [prompts.tokenizer.encode(sign) for sign in UNSPEAKABLE]
        forbidden = {*prompts.tokenizer.bad_token_ids, *(ids[0] for ids in signs if len(ids) == 1)}
        self._forbidden = torch.tensor(sorted(forbidden), device=llm.lm_head.weight.device)
        self._starts: list[int] = []  # where each round begins; bounded by the capacity
        self._user_speaks = False
        self._closing = ""

    @property
    def length(self) -> int:
        """Positions that are in use."""
        return self._cache.lengths[_ROW]

    def begin(self, system: Message | None = None) -> None:
        """Start anew, with a system message or none."""
        self._cache.truncate(_ROW, 0)
        self._starts.clear()
        self._user_speaks, self._closing = False, ""
        self._forget_sound()
        if system is not None:
            rendered: list[str | Segment] = [f"<|im_start|>{system.role}\n"]
            for item in system.content:
                append_text(rendered, item) if isinstance(item, str) else rendered.append(Segment(item, 0))
            append_text(rendered, "<|im_end|>\n")
            self._feed(self._prompts.encode(rendered, streaming=True))

    def hear(self, content: Sequence[Content]) -> None:
        """Take the next bit of the user's turn, which begins with the first one after an answer.

        Sound is taken by the second; what is less is filled up with silence, so that it should be a turn's last bit. It
        is heard behind the turn's sound so far.

        Raises:
            InvalidEvent: something that no part is loaded for; nothing was taken.
            LimitExceeded: the round is longer than the conversation may be; nothing was taken.
        """
        if self._heard is None and any(isinstance(item, Sound) for item in content):
            raise InvalidEvent("There is a recording, and the model was loaded without its ears.")
        begins = not self._user_speaks
        if begins:
            self._slide()
        parts = self._parts(content, f"{self._closing}<|im_start|>user\n" if begins else "")
        self._check_room(sum(_n_positions(part) for part in parts))
        layout = Layout()
        for part in parts:
            if isinstance(part, Sound):
                self._add_sound(layout, part)
            else:
                for piece in part.parts:
                    layout.add(piece)
        start = self.length
        if layout.length:
            self._feed(layout)
        if begins:
            self._starts.append(start)
            self._user_speaks, self._closing = True, ""

    @torch.inference_mode()
    def answer(
        self, options: AnswerOptions = SPOKEN, *, generator: torch.Generator, speak: bool = True
    ) -> Iterator[AnswerToken]:
        """End the user's turn and yield the answer. Who stops asking has interrupted it: the next turn follows.

        Args:
            options: how tokens are chosen.
            generator: of what is drawn, on the CPU.
            speak: have the model answer as it speaks, without signs that cannot be spoken.

        Raises:
            LimitExceeded: there is no room for an answer.
        """
        assert self._user_speaks, "there is nothing to answer"
        opening = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n" + ("<|tts_bos|>" if speak else "")
        layout = Layout()
        layout.add(self._prompts.tokenizer.encode(opening))
        state = self._feed(layout)
        self._user_speaks = False
        self._closing = "<|tts_eos|><|im_end|>\n" if speak else "<|im_end|>\n"
        self._forget_sound()
        text = self._prompts.tokenizer.stream()
        said: list[int] = []
        for _ in range(min(options.max_tokens, self._cache.capacity - self.length)):
            forbidden = self._forbidden if speak else None
            token = choose_token(self._llm.logits(state), said, options, generator, forbidden)
            if token in (SPECIAL.im_end, SPECIAL.endoftext):
                return
            said.append(token)
            state = self._llm.forward([self._llm.embed([token])], [_ROW], self._cache)[0][-1]
            if token == SPECIAL.tts_eos:
                self._closing = "<|im_end|>\n"
                return
            yield AnswerToken(token, text.feed([token]), state)

    def mark(self) -> Mark:
        """Remember this moment: whoever guesses that the user's turn is over may answer and :meth:`go_back`."""
        heard = None if self._heard is None else self._heard.copy(_ROW)
        return Mark(self.length, len(self._starts), self._user_speaks, self._closing, copy.deepcopy(self._mel), heard)

    def go_back(self, mark: Mark) -> None:
        """Undo what came after a mark: the user was not done. No turn may have begun since."""
        assert len(self._starts) == mark.n_rounds and self.length >= mark.length, "a turn has begun since"
        self._cache.truncate(_ROW, mark.length)
        self._user_speaks, self._closing = mark.user_speaks, mark.closing
        self._mel = copy.deepcopy(mark.mel)
        if self._heard is not None and mark.heard is not None:
            self._heard.restore(_ROW, mark.heard)

    def _parts(self, content: Sequence[Content], opening: str) -> list[Layout | Sound]:
        """Encode what is no sound, neighbouring texts as one; sound changes what was heard, and comes later."""
        parts: list[Layout | Sound] = []
        rendered: list[str | Segment] = [opening] if opening else []
        for item in content:
            if isinstance(item, Sound):
                parts += [self._prompts.encode(rendered, streaming=True), item]
                rendered = []
            elif isinstance(item, str):
                append_text(rendered, item)
            else:
                rendered.append(Segment(item, 0))
        return [*parts, self._prompts.encode(rendered, streaming=True)]

    def _check_room(self, n: int) -> None:
        if self.length + n > self._cache.capacity:
            raise LimitExceeded(
                f"The conversation would have {self.length + n} tokens.",
                limit="capacity",
                value=f"{self._cache.capacity} tokens",
            )

    def _feed(self, layout: Layout) -> Tensor:
        """Add positions; returns the state of the last, ``[hidden]``."""
        self._check_room(layout.length)
        return self._llm.forward(embedded([layout], self._llm.embed), [_ROW], self._cache)[0][-1]

    def _add_sound(self, layout: Layout, sound: Sound) -> None:
        assert self._prompts.audio is not None and self._heard is not None
        for begin in range(0, len(sound.pcm), UNIT_SAMPLES):
            second = np.zeros(UNIT_SAMPLES, np.float32)
            piece = sound.pcm[begin : begin + UNIT_SAMPLES]
            second[: len(piece)] = piece
            layout.add([SPECIAL.audio_start])
            layout.add(self._prompts.audio.stream([self._mel.feed(second)], [_ROW], self._heard)[0])
            layout.add([SPECIAL.audio_end])

    def _forget_sound(self) -> None:
        self._mel.reset()
        if self._heard is not None:
            self._heard.reset(_ROW)

    def _slide(self) -> None:
        """Forget the oldest rounds if there is too much; the newest stays."""
        if self.length <= self._window.high_tokens or len(self._starts) < 2:
            return
        first = self._starts[0]
        kept = next(
            (start for start in self._starts[1:] if self.length - (start - first) <= self._window.low_tokens),
            self._starts[-1],
        )
        self._cache.move(_ROW, kept, first)
        self._starts = [start - (kept - first) for start in self._starts if start >= kept]


def _n_positions(part: Layout | Sound) -> int:
    if isinstance(part, Layout):
        return part.length
    return -(-len(part.pcm) // UNIT_SAMPLES) * (count_audio_embeddings(UNIT_SAMPLES) + 2)
