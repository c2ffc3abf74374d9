"""Camera pictures: from JPEG, PNG or WebP bytes that nobody vouches for to small RGB arrays.

Knows nothing about events or sessions. Both functions take milliseconds of one core: call them off the event loop.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from duplex_server.errors import MediaError

__all__ = ["decode_image", "fit_image", "fitted_size"]

_FORMATS = ("JPEG", "PNG", "WEBP")
"""Decoders that untrusted bytes may reach: what cameras and browsers make, and nothing else that Pillow knows."""

_BROKEN_PICTURE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, OverflowError)
"""What Pillow's decoders raise on bytes that are not what they claim to be."""


def decode_image(encoded: bytes, *, max_px: int, max_side_px: int) -> npt.NDArray[np.uint8]:
    """Decode a still picture, upright, scaled down so that its longer side is at most ``max_side_px``.

    The size is read from the header, before any pixel is decoded; large JPEGs are decoded at a fraction of their size.

    Args:
        encoded: JPEG, PNG or WebP; of an animation the first picture is taken.
        max_px: most pixels (width times height) that are decoded.
        max_side_px: longest side of what is returned.

    Returns:
        uint8 ``[height, width, 3]``.

    Raises:
        MediaError: not a picture, damaged, or of more than ``max_px`` pixels.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > max_px:
                raise MediaError(
                    f"The picture has {width} x {height} pixels; at most {max_px} are decoded. Send a smaller one."
                )
            picture.draft("RGB", fitted_size(width, height, max_side_px))
            upright = ImageOps.exif_transpose(picture)
            upright.thumbnail((max_side_px, max_side_px), Image.Resampling.BILINEAR, reducing_gap=2.0)
            return np.array(upright.convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"The picture has far more than the {max_px} pixels that are decoded.") from error
    except _BROKEN_PICTURE as error:
        raise MediaError("The picture is not a JPEG, PNG or WebP, or it is damaged.") from error


def fit_image(rgb: npt.NDArray[np.uint8], max_side_px: int) -> npt.NDArray[np.uint8]:
    """Scale a picture down so that its longer side is at most ``max_side_px``; a smaller one is returned as it is.

    Args:
        rgb: uint8 ``[height, width, 3]``.
        max_side_px: longest side of what is returned.
    """
    height, width = rgb.shape[:2]
    if max(height, width) <= max_side_px:
        return rgb
    size = fitted_size(width, height, max_side_px)
    return np.array(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def fitted_size(width: int, height: int, max_side_px: int) -> tuple[int, int]:
    """Return ``(width, height)`` in the same proportion with no side above ``max_side_px`` and none below 1."""
    scale = min(1.0, max_side_px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
