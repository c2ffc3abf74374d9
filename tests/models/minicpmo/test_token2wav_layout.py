"""The layout of token2wav's files is the official one, in the tiny files and in the published sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest

from duplex_server.models.minicpmo.state_dict_header import read_state_dict_header
from duplex_server.models.minicpmo.token2wav_layout import FlowSizes, HiftSizes, flow_shapes, hift_shapes
from tests.helpers.minicpmo_checkpoint import SHARED

Shapes = dict[str, tuple[int, ...]]


def flow_again(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return flow_shapes(FlowSizes.of(shapes))


def hift_again(shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return hift_shapes(HiftSizes.of(shapes))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there: official files are kept beside the repository")
@pytest.mark.parametrize(
    ("file", "again"), [("flow", flow_again), ("hift_causal", hift_again), ("hift_classic", hift_again)]
)
def test_the_tiny_files_have_these_names_and_shapes(file: str, again: Callable[[Shapes], Shapes]) -> None:
    header = read_state_dict_header(SHARED / "token2wav" / f"{file}.pt")
    shapes = {name: info.shape for name, info in header.items()}
    assert again(shapes) == shapes


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    def millions(shapes: Shapes) -> float:
        return round(sum(map(math.prod, shapes.values())) / 1e6, 1)

    assert millions(flow_shapes(FlowSizes())) == 155.8
    assert millions(hift_shapes(HiftSizes(causal=True))) == 20.8
    assert millions(hift_shapes(HiftSizes())) == 20.8


@pytest.mark.parametrize(
    ("again", "shapes"),
    [
        (flow_again, flow_shapes(FlowSizes())),
        (hift_again, hift_shapes(HiftSizes())),
        (hift_again, hift_shapes(HiftSizes(causal=True))),
    ],
)
def test_sizes_are_read_off_the_tensors(again: Callable[[Shapes], Shapes], shapes: Shapes) -> None:
    assert again(shapes) == shapes
    with pytest.raises(KeyError):
        again({})
