"""Tests of log-mel spectra: the official code's frames, and that a stream's are those of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from duplex_server.models.minicpmo.mel import (
    HOP_SAMPLES,
    MelChunk,
    StreamingMel,
    log_mel,
    mel_filters,
    offline_mel,
)

UNIT = 16_000
SCENARIOS = ("audio_greedy", "omni_script", "sampling", "long_listen", "basic_window")
Floats = npt.NDArray[np.float32]


def sound(seconds: int, seed: int = 0) -> Floats:
    """Noise whose loudness changes by a factor of a million, with digital silence in between."""
    random = np.random.default_rng(seed)
    loudness = 10 ** random.uniform(-6, 0, seconds).repeat(UNIT)
    silent = random.random(seconds).repeat(UNIT) < 0.2
    return (random.standard_normal(seconds * UNIT) * loudness * ~silent * 0.3).astype(np.float32)


def streamed(pcm: Floats, stream: StreamingMel) -> list[MelChunk]:
    return [stream.feed(pcm[begin : begin + UNIT]) for begin in range(0, len(pcm), UNIT)]


def tolerance(golden: Floats) -> Floats:
    """Return what the golden's own rounding allows, for every bin.

    The official code transforms in float32. Its error is a share of the loudest bin of the frame, the same for every
    bin, so the logarithm of a bin that lies d decades below is wrong by 10 ** (d / 2) times that share. Up to three
    decades below that is less than the 1e-6 that count elsewhere.
    """
    decades_below = (golden.max(axis=0) - golden) * 4
    return 1e-6 + 4e-8 * 10 ** (decades_below / 2)


def computed_anew(pcm: Floats, lead: int, lag: int, context: int) -> list[Floats]:
    """Compute every unit's frames from all that is remembered, as specification §3.1 describes it."""
    buffer, base, found = np.zeros(0), 0, []
    padded = np.concatenate([np.zeros(lead), pcm.astype(np.float64)])
    fed = 0
    for unit in range(len(pcm) // UNIT):
        upto = lead + (unit + 1) * UNIT - lag
        buffer, fed = np.concatenate([buffer, padded[fed:upto]]), upto
        if len(buffer) >= 480_000:
            buffer, base = buffer[160_000:], base + 1000
        frames = log_mel(buffer, len(buffer) // HOP_SAMPLES)
        if len(buffer) >= 80_000:
            frames = np.maximum(frames, frames.max() - 8)
        begin = max(0, 100 * unit - context) - base
        found.append(((frames[begin : 100 * unit + 100 + context - base].T + 4) / 4).astype(np.float32))
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_strict_frames_are_those_of_the_official_code(shared_goldens: Path, scenario: str) -> None:
    golden = np.load(shared_goldens / f"golden_{scenario}.npz")
    pcm = np.load(shared_goldens / f"inputs_{scenario}.npz")["audio"]
    for unit, chunk in enumerate(streamed(pcm, StreamingMel(strict_parity=True))):
        (wanted,) = golden[f"u{unit}_mel"]
        assert chunk.frames.shape == wanted.shape
        assert (np.abs(chunk.frames - wanted) < tolerance(wanted)).all()


@pytest.mark.parametrize("name", ["offaudio_a", "offaudio_b", "offaudio_c"])
def test_recordings_have_the_frames_of_the_official_code(shared_goldens: Path, name: str) -> None:
    golden = np.load(shared_goldens / "golden_components.npz")[f"{name}_mel"]
    pieces = offline_mel(np.load(shared_goldens / "inputs_components.npz")[name])
    assert len(pieces) == len(golden)
    for piece, wanted in zip(pieces, golden, strict=True):
        wanted = wanted[:, : piece.shape[1]]
        assert (np.abs(piece - wanted) < tolerance(wanted)).all()


@pytest.mark.parametrize(("strict", "lead", "lag"), [(False, 360, 0), (True, 560, 80)])
@pytest.mark.parametrize("seconds", [12, 64])
def test_a_stream_has_exactly_the_frames_of_all_that_is_remembered(
    strict: bool, lead: int, lag: int, seconds: int
) -> None:
    pcm = sound(seconds, seed=seconds)
    chunks = streamed(pcm, StreamingMel(strict_parity=strict))
    for chunk, whole in zip(chunks, computed_anew(pcm, lead, lag, context=2), strict=True):
        assert np.array_equal(chunk.frames, whole)


def test_without_context_a_stream_has_a_hundred_frames_a_unit() -> None:
    pcm = sound(7)
    for chunk, whole in zip(
        streamed(pcm, StreamingMel(context=0)), computed_anew(pcm, lead=40, lag=0, context=0), strict=True
    ):
        assert chunk.frames.shape == (80, 100)
        assert np.array_equal(chunk.frames, whole)


def test_units_overlap_by_their_context() -> None:
    first, second, third = streamed(sound(3), StreamingMel())
    assert [(chunk.left, chunk.frames.shape[1], chunk.right) for chunk in (first, second, third)] == [
        (0, 102, 2),
        (2, 104, 2),
        (2, 104, 2),
    ]
    assert np.array_equal(first.frames[:, -4:], second.frames[:, :4])


def test_strictly_a_sound_is_seen_200_samples_later() -> None:
    """The official code pads the first unit by 560 samples and withholds 80; 360 and none are enough."""
    pcm = np.zeros(2 * UNIT, np.float32)
    pcm[5080] = 1
    seen = {strict: streamed(pcm, StreamingMel(strict_parity=strict))[0].frames for strict in (False, True)}
    loudest = {strict: int(frames.mean(axis=0).argmax()) for strict, frames in seen.items()}
    assert loudest == {False: (5080 + 360) // 160, True: (5080 + 560) // 160}


def test_strictly_the_newest_80_samples_wait_for_the_next_unit() -> None:
    """A click at the very end of six seconds raises the floor of a unit that hears it at once."""
    quiet = np.random.default_rng(1).standard_normal(6 * UNIT).astype(np.float32) * 1e-5
    clicks = quiet.copy()
    clicks[-60:] += 1
    for strict in (False, True):
        without, with_click = (streamed(pcm, StreamingMel(strict_parity=strict))[-1].frames for pcm in (quiet, clicks))
        assert np.array_equal(without, with_click) == strict


def test_the_loudest_bin_is_forgotten_with_its_sound() -> None:
    pcm = np.random.default_rng(2).standard_normal(40 * UNIT).astype(np.float32) * 1e-5
    pcm[3 * UNIT] = 1
    chunks = streamed(pcm, StreamingMel())
    floors = [float(chunk.frames.min()) for chunk in chunks]
    heard, forgotten = floors[28], floors[29]
    assert heard > forgotten, "the click of the fourth second is dropped when 30 s are full"


def test_a_stream_that_is_reset_has_no_past() -> None:
    stream = StreamingMel()
    streamed(sound(31, seed=1), stream)
    stream.reset()
    again, fresh = streamed(sound(8, seed=2), stream), streamed(sound(8, seed=2), StreamingMel())
    for one, other in zip(again, fresh, strict=True):
        assert np.array_equal(one.frames, other.frames)


@pytest.mark.parametrize("n_samples", [0, UNIT - 1, UNIT + 1])
def test_what_is_no_unit_is_refused_and_leaves_nothing_behind(n_samples: int) -> None:
    stream, untouched = StreamingMel(), StreamingMel()
    pcm = sound(2)
    with pytest.raises(ValueError, match="a unit has 16000 samples"):
        stream.feed(np.ones(n_samples, np.float32))
    for one, other in zip(streamed(pcm, stream), streamed(pcm, untouched), strict=True):
        assert np.array_equal(one.frames, other.frames)


@pytest.mark.parametrize(
    ("n_samples", "frames"), [(0, []), (1, [1]), (160, [1]), (161, [2]), (480_000, [3000]), (480_001, [3000, 1])]
)
def test_a_recording_has_a_frame_for_every_10_ms_begun(n_samples: int, frames: list[int]) -> None:
    pieces = offline_mel(np.ones(n_samples, np.float32))
    assert [piece.shape for piece in pieces] == [(80, n) for n in frames]


def test_a_recording_is_heard_as_if_it_stood_in_30_s_of_silence() -> None:
    pcm = sound(3, seed=5)
    whole = np.zeros(480_000)
    whole[: len(pcm)] = pcm
    frames = log_mel(whole, 3000)
    wanted = ((np.maximum(frames, frames.max() - 8).T + 4) / 4)[:, :300]
    (piece,) = offline_mel(pcm)
    assert np.array_equal(piece, wanted.astype(np.float32))


def test_mel_filters_cover_the_band_evenly() -> None:
    filters = mel_filters(80, 400, 16_000, 8000)
    assert filters.shape == (80, 201)
    assert (filters >= 0).all()
    assert filters[:, 0].sum() == 0, "a constant is no sound"
    # Triangles of one area: but for the raster of 40 Hz, each has the same sum over frequency.
    assert np.allclose(filters[20:].sum(axis=1) * 40, 1, atol=0.08)
    centres = filters.argmax(axis=1)
    assert (np.diff(centres[10:]) >= 0).all()
