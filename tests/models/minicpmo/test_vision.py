"""Tests of the vision tower and the resampler: the official code's features, and that pictures are independent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from duplex_server.models.minicpmo.pictures import Patches, slice_picture
from duplex_server.models.minicpmo.resampler import Grid, grid_positions
from duplex_server.models.minicpmo.vision import VisionTower, position_buckets


def pictures(n: int, seed: int = 0) -> list[Patches]:
    """Make pictures of different proportions, two of them alike."""
    random = np.random.default_rng(seed)
    sizes = [(97, 61), (300, 500), (640, 360), (448, 448), (640, 360), (50, 900)]
    found = []
    for place in range(n):
        width, height = sizes[place % len(sizes)]
        found += slice_picture(random.integers(0, 256, (height, width, 3), np.uint8), 1)
    return found


def test_a_ragged_batch_has_the_features_of_the_official_code(shared_goldens: Path, vision_tower: VisionTower) -> None:
    inputs, golden = (np.load(shared_goldens / f"{of}_components.npz") for of in ("inputs", "golden"))
    seen = [patches for place in range(3) for patches in slice_picture(inputs[f"vis_image{place}"], 4)]
    grids = [Grid(patches.rows, patches.columns) for patches in seen]
    assert grids == [tuple(grid) for grid in golden["vis_tgt"].tolist()]
    with torch.inference_mode():
        pixels = torch.cat([torch.from_numpy(patches.pixels) for patches in seen])
        features = vision_tower.vpm((pixels.float() / 255 - 0.5) / 0.5, grids)
    for place, found in enumerate(features.split([grid.n_patches for grid in grids])):
        assert np.abs(found.numpy() - golden["vis_vpm_last"][place, : len(found)]).max() < 1e-5
    assert np.abs(vision_tower.encode(seen).numpy() - golden["vis_resampled"]).max() < 1e-5


@pytest.mark.parametrize(("unit", "max_slices"), [(0, (1,)), (2, (1,)), (3, (4,)), (5, (2, 1)), (7, (1,))])
def test_frames_have_the_embeddings_of_the_official_code(
    shared_goldens: Path, vision_tower: VisionTower, unit: int, max_slices: tuple[int, ...]
) -> None:
    inputs, golden = (np.load(shared_goldens / f"{of}_omni_script.npz") for of in ("inputs", "golden"))
    seen = [
        patches
        for place, most in enumerate(max_slices)
        for patches in slice_picture(inputs[f"frame_u{unit}_{place}"], most)
    ]
    assert np.abs(vision_tower.encode(seen).numpy() - golden[f"u{unit}_vision_embeds"]).max() < 1e-5


def test_positions_are_those_of_the_official_code(shared_goldens: Path) -> None:
    wanted = json.loads((shared_goldens / "golden_components.json").read_bytes())["navit_pos_buckets"]
    assert [position_buckets(n, 70).tolist() for n in range(1, 71)] == wanted
    table = np.load(shared_goldens / "golden_components.npz")["resampler_pos_5x7"]
    assert np.abs(grid_positions(Grid(5, 7), 256).numpy() - table.reshape(35, 256)).max() < 1e-6


def test_positions_spread_over_the_buckets_but_for_the_rounding_that_was_trained_with() -> None:
    exact = {n: [place * 70 // n for place in range(n)] for n in range(1, 200)}
    found = {n: position_buckets(n, 70).tolist() for n in exact}
    assert {n for n in range(1, 71) if found[n] != exact[n]} == {25, 49, 50, 55, 58}
    for n, buckets in found.items():
        assert len(buckets) == n
        assert all(0 <= wanted - bucket <= 1 for bucket, wanted in zip(buckets, exact[n], strict=True))


def test_a_picture_among_others_is_the_picture_alone(vision_tower: VisionTower) -> None:
    seen = pictures(6)
    alone = [vision_tower.encode([patches])[0] for patches in seen]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 2, 0], [2, 4]):
        together = vision_tower.encode([seen[place] for place in order])
        for found, place in zip(together, order, strict=True):
            assert torch.allclose(found, alone[place], atol=1e-5, rtol=0)


def test_more_pictures_than_go_in_at_once_keep_their_order(vision_tower: VisionTower) -> None:
    seen = pictures(3)
    few = vision_tower.encode(seen)
    many = vision_tower.encode(seen * 6)
    assert many.shape == (18, 64, few.shape[2])
    assert torch.allclose(many, few.repeat(6, 1, 1), atol=1e-5, rtol=0)


def test_no_picture_has_no_embeddings(vision_tower: VisionTower) -> None:
    assert vision_tower.encode([]).shape == (0, 64, vision_tower.resampler.query.shape[1])


def test_a_grid_beyond_the_published_table_has_positions_too(vision_tower: VisionTower) -> None:
    (patches,) = slice_picture(np.full((2000, 10, 3), 128, np.uint8), 1)
    assert patches.rows > 70
    assert vision_tower.encode([patches]).isfinite().all()
