"""Tests of the audio encoder: the official code's embeddings, and that rows are independent."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from duplex_server.models.minicpmo.audio_encoder import AudioCache, AudioEncoder
from duplex_server.models.minicpmo.config import AudioConfig, MiniCPMOConfig
from duplex_server.models.minicpmo.mel import MelChunk, StreamingMel
from duplex_server.models.minicpmo.replays import Replays

UNIT = 16_000
SCENARIOS = ("audio_greedy", "omni_script", "sampling", "long_listen", "basic_window")


def sound(n_units: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(n_units * UNIT).astype(np.float32) * 0.1


def chunks(pcm: npt.NDArray[np.float32], *, strict: bool = False) -> list[MelChunk]:
    stream = StreamingMel(strict_parity=strict)
    return [stream.feed(pcm[begin : begin + UNIT]) for begin in range(0, len(pcm), UNIT)]


@pytest.fixture(params=["each", "together", "recorded"])
def cache(audio_encoder: AudioEncoder, request: pytest.FixtureRequest) -> AudioCache:
    replays = Replays(torch.device("cpu")) if request.param == "recorded" else None
    return audio_encoder.new_cache(9, together=request.param == "together", replays=replays)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_stream_has_the_embeddings_of_the_official_code(
    shared_goldens: Path, audio_encoder: AudioEncoder, cache: AudioCache, scenario: str
) -> None:
    golden = np.load(shared_goldens / f"golden_{scenario}.npz")
    pcm = np.load(shared_goldens / f"inputs_{scenario}.npz")["audio"]
    for unit, chunk in enumerate(chunks(pcm, strict=True)):
        found = audio_encoder.stream([chunk, chunk], [3, 0], cache)
        assert np.abs(found.numpy() - golden[f"u{unit}_audio_embeds"]).max() < 1e-5


@pytest.mark.parametrize("name", ["offaudio_a", "offaudio_b", "offaudio_c"])
def test_recordings_have_the_embeddings_of_the_official_code(
    shared_goldens: Path, audio_encoder: AudioEncoder, name: str
) -> None:
    golden = np.load(shared_goldens / "golden_components.npz")[f"{name}_emb"]
    found = audio_encoder.encode(np.load(shared_goldens / "inputs_components.npz")[name])
    assert found.shape == golden.shape
    assert np.abs(found.numpy() - golden).max() < 1e-5


def test_rows_together_are_the_rows_alone(audio_encoder: AudioEncoder, cache: AudioCache) -> None:
    """Eight conversations that begin at different times, in any order, with some missing a round."""
    heard = {row: chunks(sound(4, seed=row)) for row in range(8)}
    alone: dict[int, list[Tensor]] = {}
    for row, chunks_of_row in heard.items():
        cache.reset(8)
        alone[row] = [audio_encoder.stream([chunk], [8], cache)[0] for chunk in chunks_of_row]
    order = random.Random(7)
    waiting = {row: list(units) for row, units in heard.items()}
    found: dict[int, list[Tensor]] = {row: [] for row in heard}
    while any(waiting.values()):
        rows = [row for row in waiting if waiting[row] and order.random() < 0.6]
        order.shuffle(rows)
        if rows:
            together = audio_encoder.stream([waiting[row].pop(0) for row in rows], rows, cache)
            for row, embeddings in zip(rows, together, strict=True):
                found[row].append(embeddings)
    for row, units in alone.items():
        for one, other in zip(found[row], units, strict=True):
            assert torch.allclose(one, other, atol=1e-5, rtol=0)


def test_the_past_is_forgotten_every_29_units(audio_encoder: AudioEncoder, cache: AudioCache) -> None:
    lengths = []
    for unit in chunks(sound(60, seed=3)):
        audio_encoder.stream([unit], [0], cache)
        lengths.append(cache.length(0))
    assert lengths == [50 * (unit % 29 + 1) for unit in range(60)]


def test_a_row_that_is_reset_has_no_past(audio_encoder: AudioEncoder, cache: AudioCache) -> None:
    """The official code keeps the encoder's memory from one conversation to the next."""
    first, second = chunks(sound(3, seed=1)), chunks(sound(3, seed=2))
    fresh = [audio_encoder.stream([unit], [0], cache) for unit in second]
    cache.reset(0)
    for unit in first:
        audio_encoder.stream([unit], [0], cache)
    cache.reset(0)
    again = [audio_encoder.stream([unit], [0], cache) for unit in second]
    assert all(torch.equal(one, other) for one, other in zip(fresh, again, strict=True))


def test_a_stream_is_the_whole_heard_second_by_second(audio_encoder: AudioEncoder, cache: AudioCache) -> None:
    """With two frames of context the convolutions see no border, and the cache holds what the mask lets through."""
    units = chunks(sound(5, seed=4))
    with torch.inference_mode():
        streamed = torch.cat([audio_encoder.apm.stream([unit], [0], cache)[0] for unit in units])
        frames = np.concatenate([unit.frames[:, unit.left :][:, :100] for unit in units], axis=1)
        whole = audio_encoder.apm(np.concatenate([frames, units[-1].frames[:, -2:]], axis=1), 50)
    assert torch.allclose(streamed, whole[: len(streamed)], atol=1e-5, rtol=0)


def test_units_of_half_duplex_have_ten_embeddings_too(audio_encoder: AudioEncoder, cache: AudioCache) -> None:
    stream = StreamingMel(context=0)
    unit = stream.feed(sound(1, seed=5))
    found = audio_encoder.stream([unit, *chunks(sound(1, seed=5))], [0, 1], cache)
    assert found.shape[:2] == (2, 10)
    cache.reset(0)
    assert torch.allclose(audio_encoder.stream([unit], [0], cache)[0], found[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("n_samples", "n_embeddings"), [(0, 0), (1, 0), (1440, 1), (16_000, 10), (480_000 + 8000, 305)]
)
def test_a_recording_has_ten_embeddings_a_second(
    audio_encoder: AudioEncoder, n_samples: int, n_embeddings: int
) -> None:
    assert audio_encoder.encode(np.zeros(n_samples, np.float32)).shape[0] == n_embeddings


def test_half_precision_stays_finite_where_activations_leave_its_range(
    audio_encoder: AudioEncoder, tiny_settings: MiniCPMOConfig
) -> None:
    half = AudioEncoder(tiny_settings)
    half.load_state_dict(audio_encoder.state_dict())
    for layer in half.apm.layers:
        layer.fc2.weight.data *= 1e5  # type: ignore[union-attr,operator]
    half = half.half()
    cache = AudioCache(tiny_settings.audio, 1, dtype=torch.float16, device="cpu")
    (unit,) = chunks(sound(1, seed=0))
    assert half.stream([unit], [0], cache).isfinite().all()


def test_a_row_has_141_mib_at_the_published_sizes() -> None:
    published = AudioConfig(d_model=1024, encoder_layers=24, encoder_attention_heads=16, encoder_ffn_dim=4096)
    cache = AudioCache(published, 2, dtype=torch.bfloat16, device="meta")
    buffers = [buffer for layer in cache.layers for buffer in (layer.keys, layer.values)]
    assert sum(buffer[0].nbytes for buffer in buffers) == 2 * 24 * 1500 * 1024 * 2
