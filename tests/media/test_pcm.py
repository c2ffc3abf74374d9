"""Sample formats convert without loss where they can, and clip where they cannot."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_server.media.pcm import SILENCE_DB, level_db, to_float, to_int16


def test_every_int16_survives_the_way_to_float_and_back() -> None:
    everything = np.arange(-32768, 32768, dtype=np.int16)
    assert np.array_equal(to_int16(to_float(everything)), everything)


def test_what_is_too_loud_is_clipped() -> None:
    assert to_int16(np.array([-2.0, 2.0], np.float32)).tolist() == [-32768, 32767]


def test_levels() -> None:
    sine = np.sin(2 * np.pi * np.arange(1600) / 16).astype(np.float32)
    assert level_db(sine) == pytest.approx(-3.01, abs=0.01)
    assert level_db(np.zeros(10, np.float32)) == level_db(np.zeros(0, np.float32)) == SILENCE_DB
