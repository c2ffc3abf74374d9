"""Tests of slicing: the official geometry, what holds for every size, and pixels."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from duplex_server.models.minicpmo.pictures import PATCH_PX, SCALE_PX, Patches, lay_out, slice_picture

SIDES = st.integers(1, 5000)


def picture(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def unpatched(patches: Patches) -> npt.NDArray[np.uint8]:
    """Put the patches together again: ``[height, width, 3]``."""
    pixels = patches.pixels.reshape(patches.rows, patches.columns, 3, PATCH_PX, PATCH_PX)
    return pixels.transpose(0, 3, 1, 4, 2).reshape(patches.rows * PATCH_PX, patches.columns * PATCH_PX, 3)


@pytest.mark.parametrize(
    ("size", "max_slices", "overview", "grid", "slice_size"),
    [
        ((448, 448), 9, (448, 448), (0, 0), (0, 0)),
        ((640, 360), 1, (602, 336), (0, 0), (0, 0)),
        ((640, 360), 9, (602, 336), (2, 1), (420, 476)),
        ((97, 61), 9, (560, 350), (0, 0), (0, 0)),
        ((61, 2000), 9, (84, 2562), (0, 0), (0, 0)),
        ((4000, 300), 9, (1624, 126), (7, 1), (616, 322)),
        ((1920, 1080), 9, (602, 336), (4, 2), (420, 476)),
        # Wider than high by one: both grids of two are equally near, and the first wins only for a square.
        ((450, 449), 2, (448, 448), (2, 1), (322, 630)),
        ((800, 800), 2, (448, 448), (1, 2), (630, 322)),
    ],
)
def test_pictures_are_laid_out_as_by_the_official_code(
    size: tuple[int, int],
    max_slices: int,
    overview: tuple[int, int],
    grid: tuple[int, int],
    slice_size: tuple[int, int],
) -> None:
    found = lay_out(*size, max_slices)
    assert (found.overview, found.grid, found.slice_size) == (overview, grid, slice_size)


def test_every_golden_size_is_laid_out_as_by_the_official_code(shared_goldens: Path) -> None:
    for width, height, max_slices, grid, sizes in json.loads((shared_goldens / "golden_components.json").read_bytes())[
        "slicing"
    ]:
        found = lay_out(width, height, max_slices)
        columns, rows = found.grid
        assert list(found.grid) == (grid or [0, 0])
        assert [list(found.overview), *[list(found.slice_size)] * (columns * rows)] == sizes


@given(SIDES, SIDES, st.integers(1, 9))
def test_whatever_the_size_the_layout_can_be_seen(width: int, height: int, max_slices: int) -> None:
    found = lay_out(width, height, max_slices)
    columns, rows = found.grid
    shown = [found.overview, *([found.slice_size] if columns else [])]
    for shown_width, shown_height in shown:
        assert shown_width % PATCH_PX == shown_height % PATCH_PX == 0
        assert min(shown_width, shown_height) >= PATCH_PX
    assert columns * rows <= max_slices
    assert columns * rows != 1, "one slice would be the overview again"
    assert (columns == 0) == (rows == 0) == (found.slice_size == (0, 0))
    if width * height <= SCALE_PX**2 or max_slices == 1:
        assert columns == 0, "what fits in one is not cut"


@given(st.integers(100, 5000), st.floats(0.2, 5), st.integers(1, 9))
def test_pictures_keep_their_area_and_proportion(width: int, proportion: float, max_slices: int) -> None:
    height = max(1, round(width / proportion))
    found = lay_out(width, height, max_slices)
    # Rounding to patches moves each side by at most half a patch and, as the shorter is 200 pixels, its share little.
    seen_width, seen_height = found.overview
    assert seen_width * seen_height == pytest.approx(SCALE_PX**2, rel=0.09)
    assert seen_width / seen_height == pytest.approx(width / height, rel=0.09)
    columns, rows = found.grid
    if columns:
        refined = columns * found.slice_size[0] / (rows * found.slice_size[1])
        assert refined == pytest.approx(width / height, rel=0.09)


@given(SIDES, SIDES, st.integers(2, 9))
def test_a_picture_on_its_side_is_laid_out_on_its_side(width: int, height: int, max_slices: int) -> None:
    upright, lying = lay_out(width, height, max_slices), lay_out(height, width, max_slices)
    columns, rows = upright.grid
    log_proportion = math.log(width / height)
    # Two grids that are equally near are not told apart by the picture's side but by the order they are tried in.
    ties = [
        abs(log_proportion - math.log(c / (n // c)))
        for n in range(2, max_slices + 1)
        for c in range(1, n + 1)
        if n % c == 0
    ]
    if len(ties) == len({round(distance, 9) for distance in ties}):
        assert lying.grid == (rows, columns)


def test_slices_put_together_are_the_scaled_picture() -> None:
    rgb = picture(1280, 720)
    overview, *slices = slice_picture(rgb, 4)
    assert [(patches.rows, patches.columns) for patches in [overview, *slices]] == [(24, 43)] + [(42, 25)] * 3
    whole = np.asarray(Image.fromarray(rgb).resize((3 * 350, 588), Image.Resampling.BICUBIC))
    assert np.array_equal(np.hstack([unpatched(patches) for patches in slices]), whole)
    small = np.asarray(Image.fromarray(rgb).resize((602, 336), Image.Resampling.BICUBIC))
    assert np.array_equal(unpatched(overview), small)


def test_slices_come_row_by_row() -> None:
    rgb = np.zeros((900, 900, 3), np.uint8)
    for row in range(2):
        for column in range(2):
            rgb[row * 450 : row * 450 + 450, column * 450 : column * 450 + 450] = 40 + 80 * row + 20 * column
    _, *slices = slice_picture(rgb, 4)
    assert [int(np.median(patches.pixels)) for patches in slices] == [40, 60, 120, 140]


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    rgb = picture(448, 448)
    (patches,) = slice_picture(rgb, 9)
    assert np.array_equal(unpatched(patches), rgb)


def test_a_patch_is_its_red_its_green_and_its_blue_pixels() -> None:
    rgb = picture(448, 448)
    (patches,) = slice_picture(rgb, 1)
    second = rgb[:14, 14:28]
    assert np.array_equal(patches.pixels[1], np.concatenate([second[..., colour].ravel() for colour in range(3)]))


@pytest.mark.parametrize(("unit", "max_slices"), [(0, (1,)), (2, (1,)), (3, (4,)), (5, (2, 1)), (7, (1,))])
def test_pixels_are_those_of_the_official_code(shared_goldens: Path, unit: int, max_slices: tuple[int, ...]) -> None:
    inputs, golden = (np.load(shared_goldens / f"{of}_omni_script.npz") for of in ("inputs", "golden"))
    seen = [
        patches
        for place, most in enumerate(max_slices)
        for patches in slice_picture(inputs[f"frame_u{unit}_{place}"], most)
    ]
    assert [[patches.rows, patches.columns] for patches in seen] == golden[f"u{unit}_tgt_sizes"].tolist()
    for place, patches in enumerate(seen):
        strip = golden[f"u{unit}_pix{place}"].reshape(3, 14, -1, 14).transpose(2, 0, 1, 3).reshape(-1, 588)
        assert np.array_equal((patches.pixels.astype(np.float32) / 255 - 0.5) / 0.5, strip)
