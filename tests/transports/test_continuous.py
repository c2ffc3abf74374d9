from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from duplex_server.transports.continuous import CUSHION_MS, FRAME_MS, ContinuousVoice
from duplex_server.types import Pcm
from duplex_server.wire.audio_format import PCM_FORMAT, AudioFormat, AudioIntake
from tests.helpers.virtual_time import run

TICK = 480
FRAME = 24 * FRAME_MS
CUSHION = 24 * CUSHION_MS


def ticks(n: int, value: float = 0.5) -> list[Pcm]:
    return [np.full(TICK, value, np.float32)] * n


class Speller:
    """Keeps the pieces, for a peer that decodes them at once."""

    def __init__(self, audio_format: AudioFormat = PCM_FORMAT) -> None:
        self.audio_format = audio_format
        self.pieces: list[tuple[float, bytes]] = []

    def sound(self, encoded: bytes) -> Sequence[bytes]:
        self.pieces.append((asyncio.get_running_loop().time(), encoded))
        return (b"message",)

    def heard(self) -> Pcm:
        intake = AudioIntake(self.audio_format)
        return np.concatenate([intake.decode(encoded) for _, encoded in self.pieces])


def test_speech_comes_whole_behind_a_cushion_and_the_rest_is_exact_silence() -> None:
    voice = ContinuousVoice()
    pieces = [voice.take()]
    assert voice.next_ms == FRAME_MS + CUSHION_MS
    for pcm in ticks(7):
        voice.push(pcm)
    pieces += [voice.take() for _ in range(8)]
    heard = np.concatenate(pieces)
    first = FRAME + CUSHION
    assert np.all(heard[:first] == 0)
    assert np.all(heard[first : first + 7 * TICK] == 0.5)
    assert np.all(heard[first + 7 * TICK :] == 0)
    assert all(len(piece) == FRAME for piece in pieces)


def test_a_tick_that_is_late_by_less_than_the_cushion_leaves_no_hole() -> None:
    voice = ContinuousVoice()
    voice.take()
    heard = []
    for n in range(10):  # two ticks a frame, each frame's second one coming after the frame was due
        voice.push(ticks(1)[0])
        heard.append(voice.take())
        voice.push(ticks(1)[0])
        assert n or np.all(heard[0] == 0)
    spoken = np.concatenate(heard)[CUSHION:]
    assert np.all(spoken == 0.5)


def test_what_was_cut_is_gone_and_what_fades_it_out_follows_at_once() -> None:
    voice = ContinuousVoice()
    voice.take()
    for pcm in ticks(6):
        voice.push(pcm)
    voice.take()
    voice.take()
    voice.clear()
    voice.push(ticks(1, 0.25)[0])
    assert voice.take()[0] == 0.25
    assert np.all(voice.take() == 0)


@pytest.mark.parametrize(
    ("audio_format", "rate_hz"),
    [
        (PCM_FORMAT, 24_000),
        (AudioFormat(type="audio/pcm", rate=16_000), 16_000),
        (AudioFormat(type="audio/pcmu"), 8_000),
        (AudioFormat(type="audio/pcma"), 8_000),
    ],
)
def test_the_stream_is_as_long_as_time_in_every_format(audio_format: AudioFormat, rate_hz: int) -> None:
    speller = Speller(audio_format)

    async def main() -> None:
        voice = ContinuousVoice()
        voice.spelt_by(speller)
        messages: list[str] = []
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(voice.run(messages.append))
            await asyncio.sleep(1)
            assert not messages, "it has not begun"
            voice.begin()
            await asyncio.sleep(1)
            for pcm in ticks(50):
                voice.push(pcm)
                await asyncio.sleep(0.02)
            await asyncio.sleep(1 - 0.001)
            running.cancel()
        assert len(messages) == 3000 // FRAME_MS

    run(main())
    times = np.array([at_s for at_s, _ in speller.pieces])
    assert np.allclose(np.diff(times), FRAME_MS / 1000)
    heard = speller.heard()
    assert len(heard) == pytest.approx(3 * rate_hz, abs=0.002 * rate_hz)
    silence = AudioIntake(audio_format).decode(b"\xff" if audio_format.type == "audio/pcmu" else b"\xd5\xd5")
    quiet = 0.0 if audio_format.type == "audio/pcm" else abs(float(silence[0]))
    middle = heard[int(1.2 * rate_hz) : int(1.8 * rate_hz)]
    assert np.allclose(middle, 0.5, atol=0.02)
    assert np.abs(heard[: rate_hz // 2]).max() <= quiet
    assert np.abs(heard[int(2.2 * rate_hz) :]).max() <= quiet
