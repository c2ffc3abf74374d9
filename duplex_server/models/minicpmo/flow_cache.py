"""What a speaking conversation's flow model remembers, and the pool that holds it while it speaks.

Knows nothing about what the numbers mean. Buffers are allocated once, at their full size, when a turn first needs one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from duplex_server.errors import CapacityError
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes

__all__ = [
    "CHUNK_FRAMES",
    "KEPT_CODES",
    "KEPT_FRAMES",
    "MAX_PROMPT_FRAMES",
    "EncoderCache",
    "FlowPool",
    "FlowSlot",
    "KeyValues",
    "gathered",
]

KEPT_FRAMES = 100
"""Newest mel frames that later ones attend to, besides the voice prompt: two seconds (specification §6.3)."""
KEPT_CODES = KEPT_FRAMES // 2
CHUNK_FRAMES = 50
MAX_PROMPT_FRAMES = 844
"""The official buffers end at 1000 frames: prompt, newest, and a chunk with its look-ahead of 56 (§6.1)."""

RETRY_AFTER_S = 10.0
"""A turn of speech is rarely longer, and gives its place back."""


class KeyValues:
    """Keys and values of some blocks in order of time: the voice prompt, then the newest steps.

    Args:
        sizes: of the model.
        blocks: how many attention blocks.
        prompt: steps of the voice prompt, which are never dropped.
        kept: newest steps that are kept besides.
        chunk: most steps that one call adds.
        like: a tensor of their device and type.
    """

    def __init__(self, sizes: FlowSizes, blocks: int, prompt: int, kept: int, chunk: int, like: Tensor) -> None:
        self._prompt, self._kept = prompt, kept
        head = sizes.size // sizes.heads
        self._buffer = like.new_zeros(blocks, 2, sizes.heads, prompt + kept + chunk, head)
        self.length = 0

    def block(self, index: int) -> Tensor:
        """Keys and values of one block [2, heads, length, head], as a view."""
        return self._buffer[index, :, :, : self.length]

    def append(self, index: int, new: Tensor) -> None:
        """Write what one block computed, [2, heads, n, head], behind its past; :meth:`advance` makes it count."""
        self._buffer[index, :, :, self.length : self.length + new.shape[2]] = new

    def advance(self, new: int) -> None:
        """Count ``new`` steps that every block has appended, and drop the oldest beyond what is kept."""
        self.length += new
        excess = self.length - self._prompt - self._kept
        if excess > 0:
            newest = self._buffer[:, :, :, self.length - self._kept : self.length].clone()
            self.length -= excess
            self._buffer[:, :, :, self._prompt : self.length] = newest

    def copy_from(self, base: KeyValues) -> None:
        """Become what ``base`` is: a voice's cache before anything was said."""
        self.length = base.length
        self._buffer[:, :, :, : self.length] = base._buffer[:, :, :, : self.length]


class EncoderCache:
    """The encoder's past of one row: two convolutions and two rates of attention."""

    def __init__(self, sizes: FlowSizes, prompt_frames: int, like: Tensor) -> None:
        self.lookahead = like.new_zeros(sizes.size, 2)
        self.upsample = like.new_zeros(sizes.size, 4)
        codes, code_chunk = prompt_frames // 2, CHUNK_FRAMES // 2
        self.tokens = KeyValues(sizes, sizes.blocks, codes, KEPT_CODES, code_chunk, like)
        self.mels = KeyValues(sizes, sizes.up_blocks, prompt_frames, KEPT_FRAMES, CHUNK_FRAMES, like)

    def copy_from(self, base: EncoderCache) -> None:
        """Become what ``base`` is."""
        self.lookahead.copy_(base.lookahead)
        self.upsample.copy_(base.upsample)
        self.tokens.copy_from(base.tokens)
        self.mels.copy_from(base.mels)


def gathered(views: Sequence[Tensor], longest: int) -> Tensor:
    """Stack rows [2, heads, T_i, head] to [2, B, heads, longest, head], shorter ones at the right behind zeros."""
    shape = (2, len(views), views[0].shape[1], longest, views[0].shape[3])
    equal = all(view.shape[2] == longest for view in views)
    stacked = views[0].new_empty(shape) if equal else views[0].new_zeros(shape)
    targets = [stacked[:, row, :, longest - view.shape[2] :] for row, view in enumerate(views)]
    torch._foreach_copy_(targets, list(views))
    return stacked


class FlowSlot:
    """All that the flow model remembers of one speaking conversation.

    The DiT has no positions, so its keys may stand in any order: the voice prompt first, then a ring of the newest
    frames. In strict parity they stand as in the official code, newest first, because what it drops depends on it.

    Attributes:
        attention: [steps, depth, 2 (key, value), 2 (conditional, not), heads, prompt + kept, head]
        conv: the convolutions' last inputs [steps, depth, 2 (conditional, not), 2 · width, 2]
        length: frames in ``attention`` that count.
        frames: mel frames made in this turn, for the place in the noise table.
    """

    def __init__(self, sizes: FlowSizes, prompt_frames: int, steps: int, like: Tensor) -> None:
        self.prompt_frames = prompt_frames
        self.capacity = prompt_frames + KEPT_FRAMES
        self.encoder = EncoderCache(sizes, prompt_frames, like)
        self.attention = like.new_empty(
            steps, sizes.depth, 2, 2, sizes.hidden // sizes.head_dim, self.capacity, sizes.head_dim
        )
        self.conv = like.new_zeros(steps, sizes.depth, 2, 2 * sizes.hidden, 2)
        self.length = 0
        self.frames = 0

    def copy_from(self, base: FlowSlot) -> None:
        """Become what ``base`` is: a voice before anything was said."""
        self.encoder.copy_from(base.encoder)
        self.attention[..., : base.length, :] = base.attention[..., : base.length, :]
        self.conv.copy_(base.conv)
        self.length = base.length
        self.frames = 0

    def newest(self, step: int, count: int) -> list[Tensor]:
        """Views [depth, 2, 2, heads, n, head] of where a step's next ``count`` frames go, at most 100: over the oldest
        of the ring.

        They are one after the other what is to be written; :meth:`advance` counts it.
        """
        place = self.frames % KEPT_FRAMES
        first = min(count, KEPT_FRAMES - place)
        whole = self.attention[step]
        views = [whole.narrow(4, self.prompt_frames + place, first)]
        if first < count:
            views.append(whole.narrow(4, self.prompt_frames, count - first))
        return views

    def keep_as_official(self, step: int, new: Tensor) -> None:
        """Put new keys and values first, then drop as the official code does: all but the first ``prompt_frames`` and
        the last 100, which are the end of the voice prompt and not what was said last.
        """
        joined = torch.cat([new, self.attention[step, ..., : self.length, :]], dim=4)
        if joined.shape[4] > self.capacity:
            joined = torch.cat([joined[..., : self.prompt_frames, :], joined[..., -KEPT_FRAMES:, :]], dim=4)
        self.attention[step, ..., : joined.shape[4], :] = joined

    def advance(self, new: int) -> None:
        """Count ``new`` frames that every block has kept."""
        self.length = min(self.length + new, self.capacity)
        self.frames += new


@dataclass(slots=True)
class FlowPool:
    """Slots that conversations take when they begin to speak and give back when they end.

    A slot is allocated when first needed and used again by the next speaker whose voice prompt has the same length.

    Args:
        sizes: of the flow model.
        steps: of the ODE.
        like: a tensor of the caches' device and dtype.
        limit: most slots in use; None: as many as memory holds.
    """

    sizes: FlowSizes
    steps: int
    like: Tensor
    limit: int | None = None
    in_use: int = 0
    _free: list[FlowSlot] = field(default_factory=list)

    @torch.inference_mode()
    def take(self, base: FlowSlot) -> FlowSlot:
        """Hand out a slot that is a copy of a voice's ``base``.

        Raises:
            CapacityError: all are in use, or memory is exhausted. Nothing is held then.
        """
        if self.limit is not None and self.in_use >= self.limit:
            raise CapacityError(RETRY_AFTER_S)
        slot = next((free for free in self._free if free.prompt_frames == base.prompt_frames), None)
        if slot is not None:
            self._free.remove(slot)
        else:
            slot = self._allocated(base.prompt_frames)
        slot.copy_from(base)
        self.in_use += 1
        return slot

    def give_back(self, slot: FlowSlot) -> None:
        """Take a slot back; its holder must not use it any more."""
        self.in_use -= 1
        self._free.append(slot)

    def _allocated(self, prompt_frames: int) -> FlowSlot:
        try:
            return FlowSlot(self.sizes, prompt_frames, self.steps, self.like)
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            self._free.clear()  # slots for voices of other lengths, which nobody uses now
            raise CapacityError(RETRY_AFTER_S) from error
