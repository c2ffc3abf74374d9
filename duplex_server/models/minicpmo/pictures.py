"""Pictures cut into slices and patches, as the vision tower reads them (specification §2.1).

Knows nothing about tensors, models or conversations: numbers and Pillow only. Everything here is a pure function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Layout", "Patches", "lay_out", "slice_picture"]

PATCH_PX = 14
"""Side of a patch. Source: ``slice_config.patch_size`` and ``vision_config.patch_size`` of MiniCPM-o 4.5."""

SCALE_PX = 448
"""A picture, or a slice, is scaled to about this squared. Source: ``slice_config.scale_resolution``."""

Size = tuple[int, int]
"""Width and height, in pixels."""


@dataclass(frozen=True, slots=True)
class Patches:
    """One picture, or one slice of it, as a grid of patches in reading order."""

    pixels: npt.NDArray[np.uint8]
    """``[rows * columns, 3 * 14 * 14]``: of every patch first its red pixels row by row, then green, then blue."""
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How a picture of some size is seen."""

    overview: Size
    """What the whole picture is scaled to."""
    grid: Size
    """Columns and rows of slices; (0, 0) where the overview is all."""
    slice_size: Size
    """Size of every slice; (0, 0) without slices."""


def lay_out(width: int, height: int, max_slices: int, scale_px: int = SCALE_PX, patch_px: int = PATCH_PX) -> Layout:
    """Decide how a picture is scaled and cut.

    Args:
        width: of the picture, pixels, at least 1.
        height: likewise.
        max_slices: most slices beside the overview; 1 or less: no slices.
        scale_px: see :data:`SCALE_PX`.
        patch_px: see :data:`PATCH_PX`.
    """
    wanted = min(math.ceil(width * height / scale_px**2), max_slices)
    if wanted <= 1:
        return Layout(_scaled(width, height, scale_px, patch_px), (0, 0), (0, 0))
    columns, rows = _best_grid(width, height, wanted, max_slices)
    # A sliced picture is larger than the area it is scaled to, so its overview only ever shrinks.
    overview = _scaled(width, height, scale_px, patch_px)
    cell_width, cell_height = _multiple(width, columns) / columns, _multiple(height, rows) / rows
    return Layout(overview, (columns, rows), _scaled(cell_width, cell_height, scale_px, patch_px))


def slice_picture(
    rgb: npt.NDArray[np.uint8], max_slices: int, scale_px: int = SCALE_PX, patch_px: int = PATCH_PX
) -> list[Patches]:
    """Scale a picture, cut it, and arrange its pixels by patches.

    Takes a few milliseconds of one core, most of them Pillow's bicubic filter.

    Args:
        rgb: uint8 ``[height, width, 3]``, of any size above 0.
        max_slices: most slices beside the overview; 1 in a duplex conversation, up to 9 in a chat.
        scale_px: see :data:`SCALE_PX`.
        patch_px: see :data:`PATCH_PX`.

    Returns:
        The overview, then the slices in reading order.
    """
    height, width = rgb.shape[:2]
    layout = lay_out(width, height, max_slices, scale_px, patch_px)
    picture = Image.fromarray(rgb)
    seen = [_patches(_resized(picture, layout.overview), patch_px)]
    columns, rows = layout.grid
    if not columns:
        return seen
    slice_width, slice_height = layout.slice_size
    refined = _resized(picture, (slice_width * columns, slice_height * rows))
    for top in range(0, slice_height * rows, slice_height):
        for left in range(0, slice_width * columns, slice_width):
            seen.append(_patches(refined[top : top + slice_height, left : left + slice_width], patch_px))
    return seen


def _scaled(width: float, height: float, scale_px: int, patch_px: int) -> Size:
    """Return the size of about ``scale_px`` squared in the same proportion, its sides whole numbers of patches."""
    proportion = width / height
    new_height = int(scale_px / math.sqrt(proportion))
    new_width = int(new_height * proportion)
    return _multiple(new_width, patch_px), _multiple(new_height, patch_px)


def _multiple(length: float, of: int) -> int:
    """Round to a multiple of ``of``, halves to the even one, at least ``of``."""
    return max(round(length / of) * of, of)


def _best_grid(width: int, height: int, wanted: int, max_slices: int) -> Size:
    """Return the columns and rows, about ``wanted`` in all, whose proportion is nearest the picture's."""
    proportion = math.log(width / height)
    counts = [n for n in (wanted - 1, wanted, wanted + 1) if 1 < n <= max_slices]
    grids = [(columns, n // columns) for n in counts for columns in range(1, n + 1) if n % columns == 0]
    return min(grids, key=lambda grid: abs(proportion - math.log(grid[0] / grid[1])))


def _resized(picture: Image.Image, size: Size) -> npt.NDArray[np.uint8]:
    same = picture.size == size
    return np.asarray(picture if same else picture.resize(size, Image.Resampling.BICUBIC))


def _patches(rgb: npt.NDArray[np.uint8], patch_px: int) -> Patches:
    height, width = rgb.shape[:2]
    rows, columns = height // patch_px, width // patch_px
    by_patch = rgb.reshape(rows, patch_px, columns, patch_px, 3).transpose(0, 2, 4, 1, 3)
    return Patches(np.ascontiguousarray(by_patch).reshape(rows * columns, -1), rows, columns)
