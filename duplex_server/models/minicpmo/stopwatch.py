"""How long the stages of a step take, one after the other.

Knows nothing about what is done in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from duplex_server.types import UnitCost

__all__ = ["DECODE", "PREFILL", "Stopwatch"]

PREFILL = "prefill"
"""The language model's way through a unit's input, to the first decision about it."""
DECODE = "decode"


class Stopwatch:
    """Times of one step at a time.

    Args:
        device: of the language model. What a GPU was told to do counts where its result is waited for.
        observe: called with the name of each stage and its seconds; waits for the GPU at each stage's end.
    """

    def __init__(self, device: torch.device, observe: Callable[[str, float], None] | None) -> None:
        self.observe = observe
        self._on_gpu = device.type == "cuda"
        self._began_s = self._stage_began_s = 0.0
        self._ended_s: dict[str, float] = {}

    def begin(self) -> None:
        """A step begins."""
        self._began_s = self._stage_began_s = time.perf_counter()
        self._ended_s = {}

    def ended(self, stage: str) -> None:
        """A stage is over, and the next one begins."""
        if self._on_gpu and self.observe is not None:
            torch.cuda.synchronize()
        now_s = time.perf_counter()
        if self.observe is not None:
            self.observe(stage, now_s - self._stage_began_s)
        self._stage_began_s = self._ended_s[stage] = now_s

    def cost(self, n_tokens: int, context_tokens: int) -> UnitCost:
        """Return what a conversation's unit has cost whose answer is there now: its part of the step, and the waiting
        for what was done for the others of its batch.

        Args:
            n_tokens: that were written.
            context_tokens: what its context holds.
        """
        now_s = time.perf_counter()
        prefilled_s = self._ended_s.get(PREFILL, now_s)
        decoded_s = self._ended_s.get(DECODE, now_s)
        return UnitCost(
            prefill_ms=(prefilled_s - self._began_s) * 1000,
            decode_ms=(decoded_s - prefilled_s) * 1000,
            voice_ms=(now_s - decoded_s) * 1000,
            n_tokens=n_tokens,
            context_tokens=context_tokens,
        )
