"""The made-up microphone has everything at its sample."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.noise import EchoPath
from benchmarks.scene import Scene, Span
from duplex_server.types import Pcm

NOTHING = np.zeros(0, np.float32)


def listen(scene: Scene, n_samples: int, step: int = 480, played: Pcm = NOTHING) -> Pcm:
    return np.concatenate([scene.heard(start, step, played[: start + step]) for start in range(0, n_samples, step)])


def test_a_clip_is_heard_at_its_sample_and_reported_so() -> None:
    scene = Scene()
    assert scene.add(np.full(1200, 0.5, np.float32), 2400) == Span(0.1, 0.15)
    heard = listen(scene, 4800)
    assert np.flatnonzero(heard).tolist() == list(range(2400, 3600))


def test_clips_that_overlap_are_added() -> None:
    scene = Scene()
    scene.add(np.full(1000, 0.25, np.float32), 500)
    scene.add(np.full(1000, 0.5, np.float32), 1000)
    heard = listen(scene, 2400)
    assert set(heard[500:1000]) == {0.25}
    assert set(heard[1000:1500]) == {0.75}
    assert set(heard[1500:2000]) == {0.5}


def test_a_bed_goes_round_from_its_start() -> None:
    scene = Scene()
    ramp = np.arange(1, 701, dtype=np.float32)
    scene.set_bed(ramp, 1000)
    heard = listen(scene, 4800)
    assert not heard[:1000].any()
    assert heard[1000:].tolist() == np.resize(ramp, 3800).tolist()
    scene.set_bed(None, 4800)
    assert not scene.heard(4800, 480, NOTHING).any()


def test_the_loudspeaker_is_heard_through_the_room() -> None:
    played = np.zeros(9600, np.float32)
    played[960] = 1.0
    heard = listen(Scene(EchoPath(delay_ms=50, gain_db=-6)), 9600, played=played)
    assert np.flatnonzero(np.abs(heard) > 1e-6)[0] == 960 + 1200


@pytest.mark.parametrize("step", [160, 960])
def test_what_is_heard_does_not_depend_on_the_step(step: int) -> None:
    tracks = []
    for size in (480, step):
        scene = Scene()
        scene.add(np.linspace(0, 1, 777, dtype=np.float32), 333)
        scene.set_bed(np.linspace(1, 0, 123, dtype=np.float32), 100)
        tracks.append(listen(scene, 1920, size))
    assert tracks[0].tolist() == tracks[1].tolist()
