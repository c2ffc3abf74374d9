"""Speech codes for an answer that comes in chunks of text, outside duplex: four ways to remember what was said before.

Knows nothing about chats or sound. One utterance at a time (specification §7.1, §7.3).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from duplex_server.models.minicpmo.config import TtsConfig
from duplex_server.models.minicpmo.speech_memory import SpeechMemory
from duplex_server.models.minicpmo.speech_tokens import SpeechDecoder, penalised

__all__ = ["AttentionMode", "Utterance", "UtteranceOptions"]

LEAST_KEPT = 3
"""Codes that are always among those drawn from. Source: the official code."""


class AttentionMode(enum.Enum):
    """What the decoder remembers of an utterance while it goes on; values as in ``tts_config.attention_type``."""

    FULL = "full_attention"
    """Everything, up to the positions it was trained for."""
    SLIDING_WINDOW = "sliding_window"
    """The newest positions."""
    SLIDING_RECOMPUTE = "sliding_recompute"
    """The chunk before, computed anew together with each chunk."""
    REINDEX = "reindex"
    """The first chunk and the one before, moved together."""


@dataclass(frozen=True, slots=True)
class UtteranceOptions:
    """How codes are chosen. Defaults are those of the published checkpoint."""

    attention: AttentionMode = AttentionMode.FULL
    greedy: bool = False
    """Take the likeliest instead of drawing."""
    temperature: float = 0.8
    top_p: float = 0.85
    top_k: int = 25
    repetition_penalty: float = 1.05
    repetition_window: int = 16
    window_positions: int = 300
    """What a sliding window holds."""
    least_codes: int = 0
    """Codes of a chunk before speech may end: 50 officially where the whole answer is one chunk."""
    most_codes: int = 500
    """Codes of a chunk: 2048 officially where the whole answer is one chunk."""

    @classmethod
    def of(cls, config: TtsConfig) -> UtteranceOptions:
        """Return what a checkpoint says."""
        return cls(
            AttentionMode(config.attention_type),
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            repetition_penalty=config.repetition_penalty,
            window_positions=config.streaming_sliding_window_audio_window_size,
        )


class Utterance:
    """What was said so far of one answer, and the codes of what comes next.

    Args:
        decoder: the speech-token decoder.
        options: how codes are chosen.
        generator: of what is drawn, on the CPU.
        strict_parity: leave the last code of a chunk out of what the next one remembers, and a gap in its place, as the
            official code does.
    """

    def __init__(
        self,
        decoder: SpeechDecoder,
        options: UtteranceOptions,
        generator: torch.Generator,
        *,
        strict_parity: bool = False,
    ) -> None:
        self._decoder, self._options, self._generator = decoder, options, generator
        self._strict = strict_parity
        capacity = decoder.config.max_position_embeddings
        self._memory = SpeechMemory(decoder.model, capacity)
        self._chunks: list[tuple[Tensor, list[int]]] = []  # condition and codes; bounded by the answer's length
        self._starts: list[int] = []  # of each chunk, as position
        self._codes: list[int] = []
        self._unfed: int | None = None

    @torch.inference_mode()
    def speak(self, ids: Sequence[int], hidden: Tensor, *, last: bool) -> list[int]:
        """Return the codes of the next chunk of text.

        Args:
            ids: its tokens.
            hidden: the language model's state after each, ``[n, llm_dim]``.
            last: whether the answer ends with it.
        """
        decoder, config = self._decoder, self._decoder.config
        weight = decoder.emb_text.weight
        ending = [config.text_eos_token_id] if last else []
        texts = decoder.emb_text(torch.tensor([*ids, *ending, config.audio_bos_token_id], device=weight.device))
        meant = decoder.projector_semantic(hidden.to(weight))
        if config.normalize_projected_hidden:
            meant = functional.normalize(meant, dim=-1)
        return self.speak_from(torch.cat([texts[: len(ids)] + meant, texts[len(ids) :]]))

    @torch.inference_mode()
    def speak_from(self, condition: Tensor) -> list[int]:
        """Return the codes for a condition ``[n, width]``, which ends with the beginning of audio."""
        state = self._begin(condition)
        codes: list[int] = []
        for place in range(self._options.most_codes):
            code = self._choose(state, may_end=place >= self._options.least_codes)
            if code == self._decoder.config.eos_code:
                break
            codes.append(code)
            self._codes.append(code)
            if place < self._options.most_codes - 1:
                state = self._feed(self._embedded([code]))
        else:
            if self._strict:
                self._memory.skip_position()
            else:
                self._unfed = codes[-1]
        self._chunks.append((condition, codes))
        return codes

    def _begin(self, condition: Tensor) -> Tensor:
        """Feed a chunk's condition and what the mode wants to be there before it."""
        unfed = [] if self._unfed is None else [self._embedded([self._unfed])]
        self._unfed = None
        match self._options.attention:
            case AttentionMode.SLIDING_RECOMPUTE if self._chunks:
                before, codes = self._chunks[-1]
                self._memory.clear()
                return self._feed(torch.cat([before, *([self._embedded(codes)] if codes else []), condition]))
            case AttentionMode.REINDEX if len(self._chunks) > 1:
                self._memory.cut_out(self._starts[1], self._starts[-1])
                self._starts = [*self._starts[:1], self._starts[1]]
            case _:
                pass
        self._starts.append(self._memory.next_position)
        return self._feed(torch.cat([*unfed, condition]))

    def _feed(self, embeds: Tensor) -> Tensor:
        """Add positions ``[n, width]``; returns the state of the last, ``[1, width]``."""
        state = self._memory.add(embeds)
        if self._options.attention is AttentionMode.SLIDING_WINDOW:
            self._memory.keep_newest(self._options.window_positions)
        return state

    def _embedded(self, codes: Sequence[int]) -> Tensor:
        table = self._decoder.emb_code[0]
        found: Tensor = table(torch.tensor(codes, device=self._decoder.emb_text.weight.device))
        return found

    def _choose(self, state: Tensor, *, may_end: bool) -> int:
        options = self._options
        scores: Tensor = self._decoder.head_code[0](state).float() / options.temperature  # [1, codes]
        if self._codes:
            scores = penalised(scores, [self._codes[-options.repetition_window :]], options.repetition_penalty)
        if not may_end:
            scores[:, self._decoder.config.eos_code] = -math.inf
        if options.greedy:
            return int(scores.argmax())
        ordered, ids = scores[0].cpu().sort(descending=True)
        shares = ordered.softmax(dim=0)
        if self._codes:  # officially the first code of an utterance is drawn from all
            n_nucleus = int((shares.cumsum(dim=0) - shares <= options.top_p).sum())
            shares = shares[: max(LEAST_KEPT, min(n_nucleus, options.top_k))]
        return int(ids[torch.multinomial(shares, 1, generator=self._generator)])
