"""The choice of the next token from the scores of some rows, each with its own history and random numbers.

Knows nothing about what the tokens do. Two ways: the official one, reproduced bug for bug for comparison with it, and
ours, over all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duplex_server.models.minicpmo.tokens import SPECIAL

__all__ = ["BARRED_MAX", "Choice", "Sampler", "SamplingOptions", "less_likely", "top_k_top_p"]

_REPEATABLE = frozenset(
    {
        SPECIAL.listen,
        SPECIAL.speak,
        SPECIAL.chunk_eos,
        SPECIAL.chunk_tts_eos,
        SPECIAL.turn_eos,
        SPECIAL.tts_bos,
        SPECIAL.tts_eos,
        SPECIAL.im_end,
    }
)
"""What decides, and says nothing: deciding the same as before is no repetition."""
BARRED_MAX = 8
"""Most ids that one choice bars."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How a token is chosen. Defaults are the official ones (specification §4.4)."""

    greedy: bool = False
    """Take the likeliest instead of drawing."""
    temperature: float = 0.7
    top_k: int = 20
    top_p: float = 0.8
    repetition_penalty: float = 1.05
    repetition_window: int = 512
    """Newest tokens of the conversation that count as said."""
    turn_end_penalty: float = 1.1
    """Makes ``<|turn_eos|>`` less likely."""
    listen_scale: float = 1.0
    """Multiplies the odds of ``<|listen|>`` (officially: the score of ``<|im_end|>``)."""
    listen_top_k: int | None = None
    """Listen whenever ``<|listen|>`` is among so many likeliest; None: draw."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What one row brings to a choice."""

    history: Sequence[int]
    """Tokens that were chosen before, oldest first."""
    generator: torch.Generator
    """The row's own, on the CPU."""
    barred: Collection[int] = ()
    """Ids that must not be chosen this time."""
    listen_scale: float = 1.0
    """The conversation's own factor to :attr:`SamplingOptions.listen_scale`."""


class Sampler:
    """Chooses tokens.

    Args:
        options: how.
        bad_ids: never chosen, from the tokenizer's file.
        official: as the official code does, bug for bug.
    """

    def __init__(self, options: SamplingOptions, bad_ids: Iterable[int], *, official: bool = False) -> None:
        self.options = options
        self._official = official
        forbidden = {*bad_ids, SPECIAL.tts_pad} | ({SPECIAL.chunk_eos} if official else set())
        self._forbidden = torch.tensor(sorted(forbidden), dtype=torch.int64)
        self._forbidden_on: dict[torch.device, Tensor] = {}

    @torch.inference_mode()
    def choose(self, logits: Tensor, choices: Sequence[Choice]) -> list[int]:
        """Return one token for each row; waits for the device.

        Args:
            logits: ``[B, vocabulary]``, unchanged.
            choices: of each row.
        """
        if self._official:
            return [self._choose_officially(scores, choice) for scores, choice in zip(logits, choices, strict=True)]
        told = (part.to(logits.device) for part in self.told(choices))
        found: list[int] = self.chosen_from(logits, *told).tolist()
        return found

    def told(self, choices: Sequence[Choice], n_said: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Bring choices into the form of :meth:`chosen_from`, on the host. Draws what chance decides.

        Args:
            choices: of each row.
            n_said: columns for what was said; None: as many as are needed.
        """
        options = self.options
        said = [
            [token for token in choice.history[-options.repetition_window :] if token not in _REPEATABLE]
            for choice in choices
        ]
        n_said = max(map(len, said)) if n_said is None else n_said
        # Filled up with an id that is forbidden: whatever divides or replaces −∞, it stays.
        filled = [[*row, *[SPECIAL.tts_pad] * (n_said - len(row))] for row in said]
        barred = [[*choice.barred, *[SPECIAL.tts_pad] * (BARRED_MAX - len(choice.barred))] for choice in choices]
        scales = [math.log(options.listen_scale * choice.listen_scale) for choice in choices]
        uniform = [0.0 if options.greedy else float(torch.rand(1, generator=choice.generator)) for choice in choices]
        return (
            torch.tensor(filled, dtype=torch.int64).reshape(len(choices), n_said),
            torch.tensor(barred, dtype=torch.int64),
            torch.tensor([scales, uniform]).t(),
        )

    def chosen_from(self, logits: Tensor, said: Tensor, barred: Tensor, numbers: Tensor) -> Tensor:
        """Choose without asking the host for anything: int64 ``[B]``.

        Args:
            logits: ``[B, vocabulary]``, unchanged.
            said: ids that are made less likely, int64 ``[B, n]``.
            barred: ids that must not be chosen, int64 ``[B, m]``.
            numbers: of each row what is added to the score of listening, and the number in 0..1 that decides,
                float32 ``[B, 2]``.
        """
        options = self.options
        scores = logits.float().index_fill(1, self._forbidden_at(logits.device), -math.inf)
        scores.scatter_(1, barred, -math.inf)
        if options.repetition_penalty != 1 and said.shape[1]:
            # An id that stands there twice is written twice, with the same value.
            scores.scatter_(1, said, less_likely(scores.take_along_dim(said, 1), options.repetition_penalty))
        scores[:, SPECIAL.turn_eos] = less_likely(scores[:, SPECIAL.turn_eos], options.turn_end_penalty)
        scores[:, SPECIAL.listen] += numbers[:, 0]
        chosen = scores.argmax(dim=-1) if options.greedy else self._drawn(scores, numbers[:, 1])
        if options.listen_top_k is not None:
            better = (scores > scores[:, SPECIAL.listen, None]).sum(dim=-1)
            chosen = chosen.masked_fill(better < options.listen_top_k, SPECIAL.listen)
        return chosen

    def _forbidden_at(self, device: torch.device) -> Tensor:
        if device not in self._forbidden_on:
            self._forbidden_on[device] = self._forbidden.to(device)
        return self._forbidden_on[device]

    def _drawn(self, scores: Tensor, uniform: Tensor) -> Tensor:
        """Draw from the likeliest tokens; one uniform number of each row decides."""
        best, ids = (scores / self.options.temperature).topk(self.options.top_k, dim=-1)  # [B, k], largest first
        shares = best.softmax(dim=-1)
        kept = shares.masked_fill(shares.cumsum(dim=-1) - shares > self.options.top_p, 0)
        reached = kept.cumsum(dim=-1)
        place = (reached <= uniform[:, None] * reached[:, -1:]).sum(dim=-1, keepdim=True)
        return ids.take_along_dim(place.clamp(max=ids.shape[1] - 1), 1)[:, 0]

    def _choose_officially(self, logits: Tensor, choice: Choice) -> int:
        """Choose from ``logits`` ``[vocabulary]`` in the order of specification §4.4, in the type they have."""
        options = self.options
        if SPECIAL.chunk_eos not in choice.barred:
            if options.greedy:
                first = int(logits.argmax())
            else:
                first = _multinomial(logits.softmax(dim=-1), choice.generator)
            if first == SPECIAL.chunk_eos:
                return first
        scores = logits.index_fill(0, self._forbidden.to(logits.device), -math.inf)
        if choice.barred:
            scores[list(choice.barred)] = -math.inf
        if (said := sorted(set(choice.history[-options.repetition_window :]))) and options.repetition_penalty != 1:
            # Negative scores, too, are divided, which makes their tokens likelier.
            scores[said] = scores[said] / options.repetition_penalty
        scores[SPECIAL.turn_eos] = less_likely(scores[SPECIAL.turn_eos], options.turn_end_penalty)
        scores[SPECIAL.im_end] *= options.listen_scale * choice.listen_scale
        if options.listen_top_k is not None and int((scores > scores[SPECIAL.im_end]).sum()) < options.listen_top_k:
            return SPECIAL.im_end
        if options.greedy:
            return int(scores.argmax())
        filtered = top_k_top_p((scores / options.temperature)[None], options.top_k, options.top_p)[0]
        return _multinomial(filtered.softmax(dim=-1), choice.generator)


def top_k_top_p(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """Return ``scores`` ``[B, V]`` with −∞ for all but the likeliest.

    Args:
        scores: after the temperature.
        top_k: how many are kept first, and more where the last of them is not alone; 0: all.
        top_p: of those, the fewest whose probabilities exceed it.
    """
    if top_k > 0:
        least = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, -math.inf)
    if top_p < 1:
        ordered, ids = scores.sort(descending=True, dim=-1)
        reached = ordered.softmax(dim=-1).cumsum(dim=-1)
        beyond = torch.zeros_like(reached, dtype=torch.bool)
        beyond[..., 1:] = reached[..., :-1] > top_p
        scores = scores.masked_fill(beyond.scatter(-1, ids, beyond), -math.inf)
    return scores


def less_likely(scores: Tensor, penalty: float) -> Tensor:
    """Return ``scores`` made less likely whatever their sign."""
    return torch.where(scores > 0, scores / penalty, scores * penalty)


def _multinomial(shares: Tensor, generator: torch.Generator) -> int:
    return int(torch.multinomial(shares, 1, generator=generator))
