"""Pictures of all rows: cut side by side, and turned into embeddings in one call. Knows nothing about conversations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from duplex_server.models.minicpmo.config import SliceConfig
from duplex_server.models.minicpmo.pictures import Patches, slice_picture
from duplex_server.models.minicpmo.vision import VisionTower
from duplex_server.types import VideoFrame

__all__ = ["Seeing"]

_MOST_CUTTERS = 8
"""Threads that cut pictures, which is mostly Pillow's work and holds up no other. Ours: on an H200's host 16 pictures
took 9 ms instead of 14, of a size that is not scaled."""


class Seeing:
    """A vision tower, or none.

    Args:
        vision: the tower; None: pictures are not looked at.
        slices: sizes of slices and patches.
        max_frames: most pictures of a unit; the newest count.
        max_slices: most slices of a picture beside the whole.
    """

    def __init__(self, vision: VisionTower | None, slices: SliceConfig, max_frames: int, max_slices: int) -> None:
        self._vision, self._slices = vision, slices
        self._max_frames, self._max_slices = max_frames, max_slices
        self._cutters = ThreadPoolExecutor(min(_MOST_CUTTERS, os.cpu_count() or 1), "pictures")

    def embeddings(self, units: Sequence[Sequence[VideoFrame]]) -> list[list[Tensor]]:
        """Return of each unit's pictures the embeddings, ``[1 + slices, queries, hidden]`` each.

        Args:
            units: pictures of each.
        """
        counts = [min(len(frames), self._max_frames) for frames in units]
        if self._vision is None or not any(counts):
            return [[] for _ in units]
        frames = [frame for frames, count in zip(units, counts, strict=True) for frame in frames[len(frames) - count :]]
        cut = [self._cut(frames[0])] if len(frames) == 1 else list(self._cutters.map(self._cut, frames))
        parts = [part for picture in cut for part in picture]
        embeds = iter(self._vision.encode(parts).split([len(picture) for picture in cut]))
        return [[next(embeds) for _ in range(count)] for count in counts]

    def _cut(self, frame: VideoFrame) -> list[Patches]:
        return slice_picture(frame.rgb, self._max_slices, self._slices.scale_resolution, self._slices.patch_size)
