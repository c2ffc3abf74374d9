"""All text and all sound come, in order, each piece with its share."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from duplex_server.models.minicpmo.spreading import spread


@given(st.lists(st.sampled_from(["", "a", " b", "好"]), max_size=30), st.integers(0, 200))
def test_nothing_is_lost_or_moved(texts: list[str], n_samples: int) -> None:
    sound = np.arange(n_samples, dtype=np.float32)
    pieces = spread(texts, sound)
    assert "".join(text for text, _ in pieces) == "".join(texts)
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in pieces]), sound)


def test_pieces_are_of_equal_length_and_silent_texts_cost_nothing() -> None:
    pieces = spread(["one", "", " two", " three"], np.zeros(400, np.float32))
    assert [(text, len(piece)) for text, piece in pieces] == [("one", 200), (" two", 100), (" three", 100)]


def test_without_sound_all_text_comes_at_once() -> None:
    assert [text for text, _ in spread(["one", " two"], np.zeros(0, np.float32))] == ["one two"]
