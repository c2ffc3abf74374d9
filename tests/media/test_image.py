from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from duplex_server.errors import MediaError
from duplex_server.media.image import decode_image, fit_image, fitted_size

# Pillow's warnings about damaged metadata, which the module itself ignores; pytest makes them errors again.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

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


@pytest.mark.parametrize(("mode", "transparency"), [("P", 0), ("P", bytes(range(256))), ("L", 3), ("RGB", (9, 9, 9))])
def test_transparency_is_left_out(mode: str, transparency: object) -> None:
    rgb = decode_image(encoded(picture(60, 40).convert(mode), "PNG", transparency=transparency), **LIMITS)
    assert rgb.shape == (40, 60, 3)


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a maker of cameras"
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(kind: str, orientation: int) -> None:
    upright = np.zeros((60, 90, 3), np.uint8)  # one bright corner, so that no two of the eight look the same
    upright[:30, :45] = (250, 200, 0)
    upright[:10, :10] = (0, 0, 250)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    whole = encoded(Image.fromarray(stored), kind, exif=with_orientation(orientation), quality=95)
    decoded = decode_image(whole, **LIMITS)
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 4


def test_a_large_picture_is_scaled_and_turned() -> None:
    whole = encoded(picture(2000, 500), "JPEG", exif=with_orientation(6))  # its left is above when upright
    rgb = decode_image(whole, **LIMITS)
    assert rgb.shape == (448, 112, 3)
    assert rgb[50, 50, 0] > 200


@pytest.mark.parametrize("size", [(5000, 5000), (11_000, 9_000), (60_000, 60_000)])
def test_a_picture_that_would_unpack_to_too_much_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match="pixels"):
        decode_image(png_that_claims(*size), **LIMITS)


def test_a_progressive_picture_is_decoded() -> None:
    rgb = decode_image(encoded(picture(900, 600), "JPEG", progressive=True), **LIMITS)
    assert rgb.shape == (299, 448, 3)


def test_a_jpeg_with_thousands_of_scans_is_refused_before_they_are_decoded() -> None:
    whole = encoded(picture(900, 600), "JPEG", progressive=True)
    last_scan = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(MediaError, match="scans"):
        decode_image(whole[:-2] + 5000 * last_scan + whole[-2:], **LIMITS)


def test_pictures_are_decoded_in_several_threads_at_once() -> None:
    sizes = [(80 + 7 * number, 60) for number in range(32)]
    with ThreadPoolExecutor(8) as threads:
        decoded = threads.map(lambda size: decode_image(encoded(picture(*size), "JPEG"), **LIMITS), sizes)
        assert [rgb.shape[:2][::-1] for rgb in decoded] == sizes


@pytest.mark.parametrize("compressed", [b"zTXt", b"iCCP"])
def test_compressed_notes_that_unpack_to_too_much_are_refused_or_left_out(compressed: bytes) -> None:
    whole = encoded(picture(60, 40), "PNG")
    body = b"note\0\0" + zlib.compress(bytes(100_000_000))
    chunk = struct.pack(">I", len(body)) + compressed + body + struct.pack(">I", zlib.crc32(compressed + body))
    tracemalloc.start()
    try:
        decode_image(whole[:33] + chunk + whole[33:], **LIMITS)
    except MediaError:
        pass
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak_bytes < 20_000_000


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_cut_anywhere_is_refused(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (200, 300, 3), np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    for share in np.linspace(0, 0.95, 20):
        with pytest.raises(MediaError):
            decode_image(whole[: int(share * len(whole))], **LIMITS)


WHOLE = [encoded(picture(40, 30), kind, exif=with_orientation(6)) for kind in ("JPEG", "PNG", "WEBP")]
WHOLE += [encoded(picture(40, 30), kind, save_all=True, append_images=[picture(40, 30)]) for kind in ("MPO", "PNG")]


@settings(max_examples=300, deadline=None)
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
