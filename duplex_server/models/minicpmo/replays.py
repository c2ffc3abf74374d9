"""Work of a GPU that is recorded once for each shape and replayed from then on, by CUDA graphs.

A step of the language model is more than a thousand small kernels. Telling the GPU of each takes longer than it needs
for them; a recording is told it in one call. Knows nothing about what the work is.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Replays", "at_least"]

log = logging.getLogger(__name__)

Buffers = tuple[Tensor, ...]


@dataclass(slots=True)
class _Kept:
    """Work of one shape.

    Attributes:
        buffers: where it reads what it is given; it may write there, too.
        graph: the recording; None before the first time, and where there is none.
        made: what the recording returns.
        plainly: do it without a recording, since it could not be recorded.
    """

    buffers: Buffers
    graph: torch.cuda.CUDAGraph | None = None
    made: Tensor | None = None
    plainly: bool = False


class Replays:
    """Recordings of one device, and the buffers that they work on. Only one thread uses it.

    On a processor nothing is recorded, and the work is done as it comes: so both ways are the same code.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._records = device.type == "cuda"
        self._kept: dict[Hashable, _Kept] = {}
        self._pool: Any = None  # torch's own handle, whose type has no public name
        self._beside: torch.cuda.Stream | None = None

    def buffers(self, key: Hashable, make: Callable[[], Buffers]) -> Buffers:
        """Return the buffers of one shape of work, to be filled before :meth:`run`.

        Args:
            key: of work and shape.
            make: makes them, the first time.
        """
        if key not in self._kept:
            self._kept[key] = _Kept(make())
        return self._kept[key].buffers

    def run(self, key: Hashable, work: Callable[..., Tensor], times: int = 1) -> Tensor:
        """Do work with what is in its buffers.

        Args:
            key: for which :meth:`buffers` were asked.
            work: takes the buffers, waits for nothing, and returns a new tensor or one of the buffers. It may change
                buffers, and it may write elsewhere what it would write there again if it were done twice.
            times: how often, one after the other.

        Returns:
            What the last time returned. It is of use until the next work of this device.

        Raises:
            torch.OutOfMemoryError: there is no memory to do it.
        """
        kept = self._kept[key]
        if self._records and kept.graph is None and not kept.plainly:
            try:
                self._record(kept, work)
            except torch.OutOfMemoryError:
                log.warning("there is no memory to record a step, which takes longer so")
                kept.plainly = True
        if kept.graph is None:
            return [work(*kept.buffers) for _ in range(times)][-1]
        for _ in range(times):
            kept.graph.replay()
        assert kept.made is not None
        return kept.made

    def _record(self, kept: _Kept, work: Callable[..., Tensor]) -> None:
        """Record work, whose buffers are then as they were: it has not been done.

        Raises:
            torch.OutOfMemoryError: there is no memory to do it.
        """
        given = [buffer.clone() for buffer in kept.buffers]
        try:
            with torch.cuda.device(self._device), _cudnn_attends():
                self._do_beside(kept, work)
                kept.graph = self._recording(kept, work)
        finally:
            for buffer, before in zip(kept.buffers, given, strict=True):
                buffer.copy_(before)

    def _do_beside(self, kept: _Kept, work: Callable[..., Tensor]) -> None:
        """Do work once beside the usual stream: libraries choose their kernels and make their handles."""
        if self._beside is None:
            self._beside = torch.cuda.Stream()
        usual = torch.cuda.current_stream()
        self._beside.wait_stream(usual)
        try:
            with torch.cuda.stream(self._beside):
                work(*kept.buffers)
        finally:
            usual.wait_stream(self._beside)

    def _recording(self, kept: _Kept, work: Callable[..., Tensor]) -> torch.cuda.CUDAGraph | None:
        """Return a recording; None if there can be none."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may speak to the GPU meanwhile: only what this one says is recorded.
            with _garbage_stays(), torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                kept.made = work(*kept.buffers)
        except RuntimeError as error:  # of a kernel that cannot be recorded, or memory that is not there
            kept.plainly, kept.made = True, None
            self._pool = None  # it still takes itself for being recorded to
            log.warning("a step could not be recorded and takes longer: %s", str(error).splitlines()[0])
            return None
        return graph


@contextlib.contextmanager
def _cudnn_attends() -> Iterator[None]:
    """Let cuDNN's attention take part: what it prepares for a shape is of use as long as there is the recording."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@contextlib.contextmanager
def _garbage_stays() -> Iterator[None]:
    """Collect no garbage: an older recording that is thrown away while another is made breaks it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def at_least(count: int, sizes: Sequence[int], limit: int) -> int:
    """Return the first of some ascending sizes that is no smaller than ``count``; ``limit`` if that is less."""
    place = bisect_left(sizes, count)
    return min(sizes[place], limit) if place < len(sizes) else limit
