from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from duplex_server.errors import MediaError
from duplex_server.media.image import decode_image, fit_image, fitted_size

LIMITS = {"max_px": 1_000_000, "max_side_px": 448}


def picture(width: int, height: int) -> Image.Image:
    """A picture whose left half is red and whose right half is blue."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width // 2, 0] = 255
    rgb[:, width // 2 :, 2] = 255
    return Image.fromarray(rgb)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_keeps_its_colours_and_is_scaled_to_the_longer_side(kind: str) -> None:
    rgb = decode_image(encoded(picture(1000, 500), kind), **LIMITS)
    assert rgb.shape == (224, 448, 3)
    assert rgb.dtype == np.uint8
    assert rgb[100, 50, 0] > 240
    assert rgb[100, 50, 2] < 15
    assert rgb[100, 400, 2] > 240


def test_a_small_picture_keeps_its_size() -> None:
    assert decode_image(encoded(picture(64, 48), "PNG"), **LIMITS).shape == (48, 64, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_other_colour_models_become_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = Image.new("I;16", (60, 40)) if mode == "I;16" else picture(60, 40).convert(mode)
    assert decode_image(encoded(image, kind), **LIMITS).shape == (40, 60, 3)


def test_a_picture_taken_sideways_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    rgb = decode_image(encoded(picture(80, 40), "JPEG", exif=exif), **LIMITS)
    assert rgb.shape == (80, 40, 3)
    assert rgb[10, 20, 0] > 200  # what was left is now above


@pytest.mark.parametrize("size", [(5000, 5000), (11_000, 9_000), (60_000, 60_000)])
def test_a_picture_that_would_unpack_to_too_much_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match="pixels"):
        decode_image(png_that_claims(*size), **LIMITS)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"not a picture",
        encoded(picture(60, 40), "GIF"),
        encoded(picture(60, 40), "JPEG")[:200],
        encoded(picture(60, 40), "PNG")[:60],
        png_that_claims(600, 600),
    ],
    ids=["empty", "text", "other format", "cut JPEG", "cut PNG", "PNG with too few pixels"],
)
def test_what_is_not_a_whole_picture_is_refused(broken: bytes) -> None:
    with pytest.raises(MediaError):
        decode_image(broken, **LIMITS)


WHOLE = [encoded(picture(40, 30), kind) for kind in ("JPEG", "PNG", "WEBP")]


@settings(max_examples=150, deadline=None)
@given(whole=st.sampled_from(WHOLE), at=st.floats(0, 1), noise=st.binary(min_size=1, max_size=20))
def test_damaged_bytes_give_a_picture_or_a_media_error(whole: bytes, at: float, noise: bytes) -> None:
    position = int(at * len(whole))
    damaged = whole[:position] + noise + whole[position + len(noise) :]
    try:
        rgb = decode_image(damaged, **LIMITS)
    except MediaError:
        return
    assert rgb.ndim == 3
    assert max(rgb.shape[:2]) <= 448


def test_fitting_scales_down_and_never_up() -> None:
    rgb: npt.NDArray[np.uint8] = np.zeros((480, 640, 3), np.uint8)
    assert fit_image(rgb, 448).shape == (336, 448, 3)
    assert fit_image(rgb, 1000) is rgb


def test_no_side_of_a_fitted_picture_vanishes() -> None:
    assert fitted_size(10_000, 3, 448) == (448, 1)
