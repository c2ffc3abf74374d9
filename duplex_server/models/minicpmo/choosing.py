"""The choice of the next tokens from the states of some rows: plainly, or recorded with the head that gives the scores.

Knows nothing about what the tokens do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from duplex_server.models.minicpmo.kv import KvCache
from duplex_server.models.minicpmo.llm import Qwen3
from duplex_server.models.minicpmo.replays import Replays, at_least
from duplex_server.models.minicpmo.sampling import BARRED_MAX, Choice, Sampler
from duplex_server.models.minicpmo.tokens import SPECIAL

__all__ = ["Choosing", "PlainChoice", "RecordedChoice", "choosing"]

_ROWS = (1, 4, 16, 32, 64, 128)
"""Rows for which a choice is recorded. Ours."""


class Choosing(Protocol):
    """Who chooses."""

    def choose(self, states: Tensor, choices: Sequence[Choice]) -> list[int]:
        """Return one token for each row; waits for the device.

        Args:
            states: ``[B, width]``.
            choices: of each row.
        """
        ...

    def rehearse(self, most: int) -> None:
        """Record all choices of up to ``most`` rows, where they are recorded."""
        ...


def choosing(sampler: Sampler, llm: Qwen3, cache: KvCache, *, official: bool) -> Choosing:
    """Return who chooses for a language model: recorded if the steps over ``cache`` are, and the head is beside them.

    Args:
        sampler: says how.
        llm: gives the scores.
        cache: of the rows.
        official: whether the sampler is the official one, which asks the host for each row.
    """
    if cache.steps is None or official or {llm.lm_head.weight.device} != set(llm.devices):
        return PlainChoice(sampler, llm)
    return RecordedChoice(sampler, llm, cache.steps.replays)


class PlainChoice:
    """Lets a sampler choose.

    Args:
        sampler: chooses.
        llm: gives the scores.
    """

    def __init__(self, sampler: Sampler, llm: Qwen3) -> None:
        self._sampler, self._llm = sampler, llm

    def choose(self, states: Tensor, choices: Sequence[Choice]) -> list[int]:
        """See :class:`Choosing`."""
        return self._sampler.choose(self._llm.logits(states), choices)

    def rehearse(self, most: int) -> None:
        """See :class:`Choosing`."""


class RecordedChoice:
    """Chooses as a :class:`Sampler` does.

    Args:
        sampler: not the official one, which asks the host for each row.
        llm: gives the scores; its head lies beside its last layer.
        replays: of that device.
    """

    def __init__(self, sampler: Sampler, llm: Qwen3, replays: Replays) -> None:
        self._sampler, self._llm, self._replays = sampler, llm, replays
        self._n_said = sampler.options.repetition_window

    @torch.inference_mode()
    def choose(self, states: Tensor, choices: Sequence[Choice]) -> list[int]:
        """See :class:`Choosing`."""
        count = len(choices)
        n_rows = at_least(count, _ROWS, max(count, _ROWS[-1]))
        buffers = self._buffers(n_rows)
        for buffer, given in zip(buffers, (states, *self._sampler.told(choices, self._n_said)), strict=True):
            buffer[:count].copy_(given)
        chosen: list[int] = self._replayed(n_rows)[:count].tolist()
        return chosen

    @torch.inference_mode()
    def rehearse(self, most: int) -> None:
        """See :class:`Choosing`."""
        for n_rows in dict.fromkeys(at_least(count, _ROWS, max(count, _ROWS[-1])) for count in range(1, most + 1)):
            self._buffers(n_rows)
            self._replayed(n_rows)

    def _buffers(self, n_rows: int) -> Sequence[Tensor]:
        def make() -> tuple[Tensor, ...]:
            like = self._llm.model.norm.weight
            nothing = torch.full((n_rows, self._n_said + BARRED_MAX), SPECIAL.tts_pad, device=like.device)
            said, barred = nothing.split([self._n_said, BARRED_MAX], dim=1)
            numbers = torch.zeros(n_rows, 2, device=like.device)
            return like.new_zeros(n_rows, len(like)), said.contiguous(), barred.contiguous(), numbers

        return self._replays.buffers((self, n_rows), make)

    def _replayed(self, n_rows: int) -> Tensor:
        return self._replays.run(
            (self, n_rows), lambda states, *told: self._sampler.chosen_from(self._llm.logits(states), *told)
        )
