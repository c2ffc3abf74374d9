"""Codes of a unit for many rows, drawn where the decoder runs: 25 steps that ask the host for nothing in between.

A row that has stopped goes on for nothing, to where it is not read. So a step has one shape, and can be recorded.
Knows nothing about text or turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duplex_server.models.minicpmo.kv import KvCache
from duplex_server.models.minicpmo.recorded_steps import RecordedSteps
from duplex_server.models.minicpmo.speech_llama import LlamaBody

__all__ = ["SpeechSteps", "UnitStart", "penalty_factors"]


@dataclass(frozen=True, slots=True)
class UnitStart:
    """What a row begins a unit with.

    Attributes:
        row: of the cache.
        recent: newest codes that count as said, at most as many as the window.
        may_stop: whether speech may end in this unit.
        seed: of the unit's random numbers, below 2⁶².
    """

    row: int
    recent: Sequence[int]
    may_stop: bool
    seed: int


@dataclass(frozen=True, slots=True)
class SpeechSteps:
    """The steps of a unit.

    Attributes:
        body: the decoder's layers.
        embed: from codes ``[n]`` to what is fed, ``[n, width]``.
        scores: from states ``[n, width]`` to scores of the next codes after the temperature, float32 ``[n, codes]``.
        choose: from scores, seeds ``[n]`` and the number of the step, ``[]``, to codes ``[n]``.
        eos: the code that ends speech.
        penalty: see :func:`penalty_factors`.
        window: newest codes that count for it.
        count: most codes of a unit.
    """

    body: LlamaBody
    embed: Callable[[Tensor], Tensor]
    scores: Callable[[Tensor], Tensor]
    choose: Callable[[Tensor, Tensor, Tensor], Tensor]
    eos: int
    penalty: float
    window: int
    count: int

    def run(self, starts: Sequence[UnitStart], hidden: Tensor, cache: KvCache) -> list[list[int]]:
        """Draw codes for some rows, waiting for the device once.

        Args:
            starts: of each row.
            hidden: of each row the state that its first code is chosen from, ``[B, width]``.
            cache: of the decoder, with recorded steps; a row's length grows by its codes but for the last.

        Returns:
            of each row its codes; fewer than :attr:`count` where it has stopped.
        """
        assert cache.steps is not None
        n_slots = cache.steps.slots(max(start.row for start in starts))
        n_all = cache.steps.look_at(max(cache.lengths[start.row] for start in starts) + self.count)
        states, integers, step, _ = self._buffers(cache.steps, n_slots, n_all)
        told = self._nothing(cache.steps, n_slots)
        for start in starts:
            newest = start.recent[-self.window :]
            told[start.row, :3] = torch.tensor([cache.lengths[start.row], start.seed, start.may_stop])
            if newest:
                told[start.row, -len(newest) :] = torch.tensor(newest)
        integers.copy_(told)
        states.index_copy_(0, torch.tensor([start.row for start in starts]).to(hidden.device), hidden)
        step.zero_()
        drawn = self._replayed(cache, cache.steps, n_slots, n_all, self.count).t().tolist()
        found = []
        for start in starts:
            said: list[int] = drawn[start.row]
            n_said = said.index(self.eos) if self.eos in said else self.count
            cache.lengths[start.row] += min(n_said, self.count - 1)
            found.append(said[:n_said])
        return found

    def rehearse(self, cache: KvCache) -> None:
        """Record all steps that may come."""
        assert cache.steps is not None
        for n_slots, n_all in cache.steps.sizes():
            _, integers, step, _ = self._buffers(cache.steps, n_slots, n_all)
            integers.copy_(self._nothing(cache.steps, n_slots))
            step.zero_()
            self._replayed(cache, cache.steps, n_slots, n_all, 1)

    def _buffers(self, steps: RecordedSteps, n_slots: int, n_all: int) -> Sequence[Tensor]:
        def make() -> tuple[Tensor, ...]:
            weight = self.body.norm.weight
            states = weight.new_zeros(n_slots, weight.shape[0])
            integers = self._nothing(steps, n_slots).to(weight.device)
            return states, integers, integers.new_zeros(1), integers.new_zeros(self.count, n_slots)

        return steps.replays.buffers((steps, "codes", n_slots, n_all), make)

    def _nothing(self, steps: RecordedSteps, n_slots: int) -> Tensor:
        """Return what rows are told that have nothing to do: position, seed, whether they may stop, newest codes."""
        told = torch.zeros(n_slots, 3 + self.window, dtype=torch.int64)
        told[:, 0], told[:, 3:] = steps.padding, self.eos + 1  # an entry beyond the codes counts for none
        return told

    def _replayed(self, cache: KvCache, steps: RecordedSteps, n_slots: int, n_all: int, times: int) -> Tensor:
        def work(states: Tensor, integers: Tensor, step: Tensor, codes: Tensor) -> Tensor:
            """Choose a code of each slot, feed it, and leave everything as the next step wants it."""
            position, seeds, may_stop, recent = integers[:, 0], integers[:, 1], integers[:, 2], integers[:, 3:]
            scores = self.scores(states)
            factors = penalty_factors(recent, self.eos + 1, self.penalty)
            scores = torch.where(scores < 0, scores * factors, scores / factors)
            scores[:, self.eos].masked_fill_(may_stop == 0, -math.inf)
            chosen = self.choose(scores, seeds, step[0])
            codes.index_copy_(0, step, chosen[None])
            states.copy_(self.body.through(self.embed(chosen), steps.where(position[:, None], n_all), cache))
            recent.copy_(torch.cat([recent[:, 1:], chosen[:, None]], dim=1))
            position.copy_((position + 1).clamp(max=steps.padding))
            step.add_(1)
            return codes

        return steps.replays.run((steps, "codes", n_slots, n_all), work, times)


def penalty_factors(recent: Tensor, n_codes: int, penalty: float) -> Tensor:
    """Return ``penalty`` to the power of how often each code is among the newest, float32 ``[B, codes]``.

    Args:
        recent: int64 ``[B, n]``; ``n_codes`` where there is none.
        n_codes: how many codes there are.
        penalty: above 1.
    """
    counts = torch.zeros(len(recent), n_codes + 1, device=recent.device)
    counts.scatter_add_(1, recent, torch.ones_like(recent, dtype=torch.float32))
    return torch.pow(penalty, counts[:, :n_codes])
