"""What the flow model's decoder remembers of some rows, brought together for each step of the ODE and taken back.

Knows nothing about the network. Rows of one call make the same number of frames; their pasts may differ in length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from duplex_server.models.minicpmo.flow_cache import CHUNK_FRAMES, KEPT_FRAMES, FlowSlot
from duplex_server.models.minicpmo.replays import Replays, at_least

__all__ = ["ROWS_AT_ONCE", "Past", "RecordedFlow", "Workspace"]

ROWS_AT_ONCE = 32
"""Rows whose past is brought together at a time: 55 MB each at the published sizes with a prompt of five seconds."""
_ROWS = (1, 4, 16, ROWS_AT_ONCE)
"""Rows for which a step is recorded. Ours."""
_KEYS = 448
"""Keys of a recorded step: the new ones, the newest 100, and a voice prompt of up to 6 s. Ours. One size for all
voices, since clients bring them; with a longer prompt steps are taken without a recording, and take longer."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """One step's past of all rows: read, and written over with what the step makes.

    Attributes:
        attention: of each block keys and values, conditional and not, the new ones before each row's past and zeros
            behind a shorter one: ``[depth, 2, 2, B, heads, new + longest, head]``.
            None where there is neither a past nor a future.
        conv: the convolutions' last inputs ``[depth, 2, B, 2 · width, 2]``.
        mask: what is added to the scores, 0 or −∞: ``[2B, 1, 1, new + longest]``; None if all is seen.
    """

    attention: Tensor | None
    conv: Tensor
    mask: Tensor | None

    def with_new(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Join the new keys and values, each [2B, heads, new, head], with the past: [2B, heads, L, head]."""
        if self.attention is None:
            return keys, values
        here = self.attention[block].flatten(1, 2)  # [2 (k, v), 2B, heads, L, head], a view
        here[0, :, :, : keys.shape[2]] = keys
        here[1, :, :, : values.shape[2]] = values
        return here[0], here[1]

    def conv_inputs(self, block: int) -> Tensor:
        """The convolutions' last inputs [2B, 2 · width, 2]."""
        return self.conv[block].flatten(0, 1)

    def keep_conv_inputs(self, block: int, last: Tensor) -> None:
        """Remember the convolutions' last inputs [2B, 2 · width, 2]."""
        self.conv[block].flatten(0, 1).copy_(last)


class Estimator(Protocol):
    """The network: from inputs ``[2B, new, n_inputs]``, a time ``[]`` and the past to ``[2B, new, mels]``."""

    n_inputs: int

    def __call__(self, inputs: Tensor, now: Tensor, past: Workspace) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class RecordedFlow:
    """Recordings of the flow model.

    Attributes:
        replays: of its device.
        conversations: that may speak together.
    """

    replays: Replays
    conversations: int

    @property
    def most(self) -> int:
        """Rows of one call."""
        return min(self.conversations, ROWS_AT_ONCE)

    def rows(self, count: int) -> int:
        """Return for how many rows a step is recorded that has ``count``."""
        return at_least(count, _ROWS, self.most)


class Past:
    """What the rows of one call remember, and how they take up what is new.

    Args:
        slots: one per row.
        new: frames that the call makes.
        keep: whether later calls follow.
        strict: drop what the official code drops.
        recorded: where steps of the slots' device are recorded, and for how many rows at most; None: they are not.
    """

    def __init__(
        self,
        slots: Sequence[FlowSlot],
        new: int,
        *,
        keep: bool,
        strict: bool,
        recorded: RecordedFlow | None = None,
    ) -> None:
        self._slots, self._new, self._keep, self._strict = slots, new, keep, strict
        # Only what every unit but a turn's last has is worth a recording.
        fits = new + max(slot.capacity for slot in slots) <= _KEYS
        usual = new == CHUNK_FRAMES and keep and not strict and fits
        self._replays = recorded.replays if usual and recorded is not None else None
        lengths = [slot.length for slot in slots]
        self._n_rows, self._n_keys = len(slots), new + max(lengths)
        if self._replays is not None and recorded is not None:
            self._n_rows, self._n_keys = recorded.rows(len(slots)), _KEYS
        like = slots[0].attention
        whole = self._n_rows == len(slots) and min(lengths) == self._n_keys - new
        ends = torch.tensor([*lengths, *[0] * (self._n_rows - len(slots))]) + new
        allowed = torch.arange(self._n_keys) < ends[:, None]
        mask = torch.zeros(allowed.shape).masked_fill_(~allowed, -torch.inf).repeat(2, 1)[:, None, None]
        if self._replays is None:
            self._workspace = self._new_workspace(None if whole else mask.to(like))
        else:
            self._workspace = self._kept_workspace(self._replays)
            assert self._workspace.mask is not None
            self._workspace.mask.copy_(mask)

    def through(self, estimator: Estimator, inputs: Tensor, now: Tensor, step: int) -> Tensor:
        """Take one step of the ODE through the network, with the past of that step, which takes up what is new.

        Args:
            estimator: the network.
            inputs: ``[2B, new, n]``, conditional rows first.
            now: the time, on the host.
            step: which.

        Returns:
            ``[2B, new, mels]``
        """
        self._bring(step)
        if self._replays is None:
            made = estimator(inputs, now.to(inputs.device), self._workspace)
        else:
            made = self._recorded(self._replays, estimator, inputs, now)
        if self._keep:
            self._take_back(step)
        return made

    @classmethod
    def rehearse(cls, estimator: Estimator, base: FlowSlot, recorded: RecordedFlow) -> None:
        """Record a step for all numbers of rows that may come.

        Args:
            estimator: the network.
            base: a voice.
            recorded: where, and for how many rows.
        """
        for n_rows in dict.fromkeys(recorded.rows(count) for count in range(1, recorded.most + 1)):
            past = cls([base] * n_rows, CHUNK_FRAMES, keep=True, strict=False, recorded=recorded)
            if past._replays is None:  # the voice is too long
                return
            mels = base.attention.new_zeros(2 * n_rows, CHUNK_FRAMES, estimator.n_inputs)
            past._recorded(recorded.replays, estimator, mels, torch.zeros(()))

    def advance(self) -> None:
        """Count the new frames, once all steps have kept them."""
        if self._keep:
            for slot in self._slots:
                slot.advance(self._new)

    def _new_workspace(self, mask: Tensor | None) -> Workspace:
        of_slot, conv = self._slots[0].attention, self._slots[0].conv
        _, depth, _, _, heads, _, head = of_slot.shape
        attention = None
        if self._keep or self._n_keys > self._new:
            # What stands behind a shorter row's past is masked, and must be numbers nevertheless.
            attention = of_slot.new_zeros(depth, 2, 2, self._n_rows, heads, self._n_keys, head)
        return Workspace(attention, conv.new_zeros(depth, 2, self._n_rows, *conv.shape[3:]), mask)

    def _kept_workspace(self, replays: Replays) -> Workspace:
        def make() -> tuple[Tensor, ...]:
            like = self._slots[0].attention
            made = self._new_workspace(like.new_zeros(2 * self._n_rows, 1, 1, self._n_keys))
            assert made.mask is not None and made.attention is not None
            return made.attention, made.conv, made.mask

        # Bound to nothing but its shape: each call brings its rows' past anew.
        return Workspace(*replays.buffers(("flow past", self._n_rows, self._n_keys), make))

    def _recorded(self, replays: Replays, estimator: Estimator, inputs: Tensor, now: Tensor) -> Tensor:
        workspace, n_rows = self._workspace, self._n_rows
        key = ("flow", n_rows, self._n_keys)

        def make() -> tuple[Tensor, ...]:
            padded = inputs.new_zeros(2 * n_rows, *inputs.shape[1:])
            assert workspace.mask is not None and workspace.attention is not None
            return padded, torch.zeros((), device=inputs.device), workspace.attention, workspace.conv, workspace.mask

        padded, time, *_ = replays.buffers(key, make)
        padded.unflatten(0, (2, n_rows))[:, : len(self._slots)] = inputs.unflatten(0, (2, -1))
        time.copy_(now)
        made = replays.run(key, lambda x, t, attention, conv, mask: estimator(x, t, Workspace(attention, conv, mask)))
        return made.unflatten(0, (2, n_rows))[:, : len(self._slots)].flatten(0, 1)

    def _bring(self, step: int) -> None:
        """Copy the rows' past of a step into the workspace."""
        attention, conv = self._workspace.attention, self._workspace.conv
        targets, parts = [], []
        for row, slot in enumerate(self._slots):
            targets.append(conv[:, :, row])
            parts.append(slot.conv[step])
            if slot.length and attention is not None:
                targets.append(attention[:, :, :, row, :, self._new : self._new + slot.length])
                parts.append(slot.attention[step, ..., : slot.length, :])
        torch._foreach_copy_(targets, parts)

    def _take_back(self, step: int) -> None:
        """Keep what a step has made: the new keys and values over the oldest of the rows' rings, all in one call."""
        attention, conv = self._workspace.attention, self._workspace.conv
        assert attention is not None
        targets, parts = [], []
        for row, slot in enumerate(self._slots):
            targets.append(slot.conv[step])
            parts.append(conv[:, :, row])
            new = attention[:, :, :, row, :, : self._new]
            if self._strict:
                slot.keep_as_official(step, new)
                continue
            begin = max(0, self._new - KEPT_FRAMES)
            for view in slot.newest(step, self._new - begin):
                targets.append(view)
                parts.append(new[..., begin : begin + view.shape[-2], :])
                begin += view.shape[-2]
        torch._foreach_copy_(targets, parts)
