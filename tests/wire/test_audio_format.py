from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_server.wire import g711
from duplex_server.wire.audio_format import PCM_FORMAT, AudioFormat, AudioIntake, AudioOutlet
from duplex_server.wire.g711 import Decimator
from tests.helpers.wire_driver import ramp

# G.711 Table 2a and 1a, some decision values of the coders in 16 bits: (code sent, sample).
MULAW = {0x80: 32124, 0x00: -32124, 0x8F: 16764, 0x0F: -16764, 0xFE: 8, 0x7E: -8, 0xFF: 0, 0xEF: 132, 0xF0: 120}
ALAW = {0xAA: 32256, 0x2A: -32256, 0xD5: 8, 0x55: -8, 0xD4: 24, 0xC5: 264, 0xC0: 344, 0x80: 5504}


@pytest.mark.parametrize(("decode", "known"), [(g711.mulaw_decode, MULAW), (g711.alaw_decode, ALAW)])
def test_codes_mean_what_the_standard_says(decode: object, known: dict[int, int]) -> None:
    assert callable(decode)
    decoded = decode(bytes(known)) * 32768
    assert decoded.tolist() == list(known.values())


def test_every_code_comes_back() -> None:
    codes = bytes(range(256))
    assert g711.alaw_encode(g711.alaw_decode(codes)) == codes
    returned = g711.mulaw_encode(g711.mulaw_decode(codes))
    assert returned == codes.replace(b"\x7f", b"\xff")  # two codes for zero


@pytest.mark.parametrize(
    ("encode", "decode"), [(g711.mulaw_encode, g711.mulaw_decode), (g711.alaw_encode, g711.alaw_decode)]
)
def test_companding_loses_little(encode: object, decode: object) -> None:
    assert callable(encode)
    assert callable(decode)
    tone = 0.5 * np.sin(np.arange(8000) * 0.3, dtype=np.float32)
    error = decode(encode(tone)) - tone
    assert 10 * np.log10(np.mean(tone**2) / np.mean(error**2)) > 35


def test_full_scale_does_not_wrap() -> None:
    loud = np.array([2.0, 1.0, -1.0, -2.0], np.float32)
    for encode, decode in ((g711.mulaw_encode, g711.mulaw_decode), (g711.alaw_encode, g711.alaw_decode)):
        assert np.sign(decode(encode(loud))).tolist() == [1, 1, -1, -1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=8))
def test_decimation_does_not_depend_on_the_cuts(lengths: list[int]) -> None:
    pcm = np.sin(np.arange(sum(lengths)) * 0.05).astype(np.float32)
    whole = Decimator().push(pcm)
    stream, start, pieces = Decimator(), 0, []
    for length in lengths:
        pieces.append(stream.push(pcm[start : start + length]))
        start += length
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)
    assert len(whole) == (len(pcm) + 2) // 3


def test_decimation_keeps_speech_and_drops_what_would_alias() -> None:
    t_s = np.arange(24_000) / 24_000

    def level_db(tone_hz: float) -> float:
        out = Decimator().push(np.sin(2 * np.pi * tone_hz * t_s).astype(np.float32))[100:]
        return float(20 * np.log10(np.sqrt(2 * np.mean(out**2)) + 1e-9))

    assert all(abs(level_db(tone_hz)) < 1 for tone_hz in (100, 1000, 3000))
    assert all(level_db(tone_hz) < -50 for tone_hz in (4700, 6000, 7900, 11_000))


def test_decimation_delays_by_what_it_says() -> None:
    pulse = np.zeros(600, np.float32)
    pulse[300 - Decimator.DELAY_SAMPLES] = 1
    assert int(np.argmax(Decimator().push(pulse))) == 100


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_an_outlet_of_g711_speaks_at_8_khz(kind: str) -> None:
    outlet = AudioOutlet(AudioFormat(type=kind))  # type: ignore[arg-type]
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4800) / 24_000).astype(np.float32)
    encoded = b"".join(outlet.encode(tone[n : n + 480]) for n in range(0, 4800, 480))
    decoded = AudioIntake(AudioFormat(type=kind)).decode(encoded)  # type: ignore[arg-type]
    assert len(decoded) == 1600
    expected = 0.5 * np.sin(2 * np.pi * 440 * (np.arange(1600) * 3 - Decimator.DELAY_SAMPLES) / 24_000)
    assert float(np.max(np.abs(decoded[50:] - expected[50:]))) < 0.02


def test_pcm_survives_out_and_in() -> None:
    encoded = AudioOutlet(PCM_FORMAT).encode(ramp(500) - np.float32(0.5))
    np.testing.assert_allclose(AudioIntake(PCM_FORMAT).decode(encoded), ramp(500) - 0.5, atol=1 / 65536)


def test_formats_know_their_rate_and_size() -> None:
    assert (PCM_FORMAT.rate_hz, PCM_FORMAT.sample_bytes) == (24_000, 2)
    mulaw = AudioFormat(type="audio/pcmu")
    assert (mulaw.rate_hz, mulaw.sample_bytes) == (8_000, 1)
