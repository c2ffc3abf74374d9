from __future__ import annotations

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplex_server.media.opus import MAX_PACKET_BYTES, CorruptPacket, OpusDecoder, OpusEncoder
from duplex_server.types import Pcm

FRAME = OpusEncoder.frame_samples


def tone(seconds: float, rate_hz: int, hz: float = 440.0) -> Pcm:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def frames_of(pcm: Pcm, length: int = FRAME) -> list[Pcm]:
    return [pcm[at : at + length] for at in range(0, len(pcm) - length + 1, length)]


def packets_of(pcm: Pcm) -> list[bytes]:
    encoder = OpusEncoder()
    return [encoder.encode(frame) for frame in frames_of(pcm)]


def level_at(pcm: Pcm, hz: float, rate_hz: int) -> float:
    """Amplitude of one frequency."""
    turn = np.exp(-2j * np.pi * hz * np.arange(len(pcm)) / rate_hz)
    return float(2 * np.abs(np.mean(pcm * turn)))


def voice_packets(pcm: Pcm, loss_percent: int) -> list[bytes]:
    """Packets as a browser makes them: 48 kHz, voice mode, each with a copy of the one before it."""
    context = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format, context.bit_rate = 48_000, "mono", "s16", 32_000
    context.options = {"application": "voip", "fec": "1", "packet_loss": str(loss_percent)}
    packets = []
    for number, samples in enumerate(frames_of(pcm, 960)):
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 960 * number
        packets += [bytes(packet) for packet in context.encode(frame)]
    return packets


def test_a_tone_survives_the_way_to_a_listener_and_back() -> None:
    decoder = OpusDecoder()
    heard = np.concatenate([decoder.decode(packet) for packet in packets_of(tone(1.0, 24_000))])
    assert len(heard) == 16_000
    assert level_at(heard[3200:], 440, 16_000) == pytest.approx(0.3, rel=0.02)


def test_every_frame_becomes_one_packet_that_fits_a_datagram() -> None:
    noise = np.random.default_rng(1).uniform(-1, 1, 24_000).astype(np.float32)
    sizes = [len(packet) for packet in packets_of(noise)]
    assert len(sizes) == 50
    assert max(sizes) <= MAX_PACKET_BYTES
    assert 64_000 * 0.9 < sum(sizes) * 8 < 64_000 * 1.1


def test_stereo_at_48_khz_from_another_encoder_is_heard_as_mono_at_16_khz() -> None:
    context = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format = 48_000, "stereo", "s16"
    decoder, heard = OpusDecoder(), []
    for number, samples in enumerate(frames_of(tone(0.5, 48_000), 960)):
        both = np.repeat((samples * 32767).astype(np.int16), 2)[None]
        frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 48_000, 960 * number
        heard += [decoder.decode(bytes(packet)) for packet in context.encode(frame)]
    pcm = np.concatenate(heard)
    assert len(pcm) == 8000
    assert level_at(pcm[1600:], 440, 16_000) == pytest.approx(0.3, rel=0.05)


def test_a_lost_packet_is_recovered_from_the_copy_in_the_next() -> None:
    speechlike = tone(1.0, 48_000, 200) * (1 + 0.5 * np.sin(np.arange(48_000) / 3000)).astype(np.float32)
    packets = voice_packets(speechlike, loss_percent=30)
    whole, lossy = OpusDecoder(), OpusDecoder()
    expected = [whole.decode(packet) for packet in packets]
    got = [lossy.decode(packet) for packet in packets[:20]]
    got += [lossy.recover(320, packets[21]), lossy.decode(packets[21])]
    original, recovered = expected[20], got[20]
    assert np.corrcoef(original, recovered)[0, 1] > 0.9
    assert np.sum((original - recovered) ** 2) < 0.2 * np.sum(original**2)


def test_a_longer_gap_is_filled_to_the_sample() -> None:
    decoder = OpusDecoder()
    packets = packets_of(tone(0.4, 24_000))
    decoder.decode(packets[0])
    assert len(decoder.recover(960, packets[4])) == 960


@pytest.mark.parametrize("rubbish", [b"", b"\xff", b"\xff\xff\xff"])
def test_rubbish_is_refused_and_the_stream_goes_on(rubbish: bytes) -> None:
    decoder = OpusDecoder()
    packets = packets_of(tone(0.1, 24_000))
    decoder.decode(packets[0])
    with pytest.raises(CorruptPacket):
        decoder.decode(rubbish)
    assert len(decoder.decode(packets[1])) == 320


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_decode_to_finite_sound_or_are_refused(packets: list[bytes]) -> None:
    decoder = OpusDecoder()
    for packet in packets:
        try:
            pcm = decoder.decode(packet)
        except CorruptPacket:
            continue
        assert 0 < len(pcm) <= 1920
        assert np.isfinite(pcm).all()


def test_sound_beyond_full_scale_is_encoded() -> None:
    encoder = OpusEncoder()
    assert encoder.encode(np.full(FRAME, 4.0, np.float32))
