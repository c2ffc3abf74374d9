from __future__ import annotations

import numpy as np
import pytest

from duplex_server.media.opus import CorruptPacket
from duplex_server.transports.rtc_g711 import PCMA, PCMU, G711Decoder, G711Encoder, Law
from duplex_server.types import Pcm

LAWS = pytest.mark.parametrize("law", [PCMU, PCMA], ids=["PCMU", "PCMA"])


def tone(seconds: float, rate_hz: int, hz: float = 440.0) -> Pcm:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def payloads(law: Law, pcm: Pcm) -> list[bytes]:
    encoder = G711Encoder(law)
    return [encoder.encode(pcm[at : at + 480]) for at in range(0, len(pcm), 480)]


def level_at(pcm: Pcm, hz: float, rate_hz: int) -> float:
    """Amplitude of one frequency."""
    return float(2 * np.abs(np.mean(pcm * np.exp(-2j * np.pi * hz * np.arange(len(pcm)) / rate_hz))))


def error_db(heard: Pcm, wanted: Pcm) -> float:
    return float(10 * np.log10(np.mean((heard - wanted) ** 2) / np.mean(wanted**2)))


@LAWS
@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 48_000])
def test_a_tone_survives_the_way_to_a_listener_and_back(law: Law, rate_hz: int) -> None:
    coded = payloads(law, tone(1.0, 24_000))
    assert {len(payload) for payload in coded} == {160}
    decoder = G711Decoder(law, rate_hz)
    decoded = [decoder.decode(payload) for payload in coded]
    assert {len(pcm) for pcm in decoded} == {rate_hz // 50}, "each in its place from the first on"
    assert level_at(np.concatenate(decoded)[rate_hz // 5 :], 440, rate_hz) == pytest.approx(0.3, rel=0.02)


@LAWS
def test_what_8_khz_cannot_hold_does_not_come_back_as_something_else(law: Law) -> None:
    decoder = G711Decoder(law)
    heard = np.concatenate([decoder.decode(payload) for payload in payloads(law, tone(0.5, 24_000, 5_500))])
    assert float(np.sqrt(np.mean(heard**2))) < 0.3 / np.sqrt(2) / 200


@LAWS
@pytest.mark.parametrize("hz", [90, 200, 310])
def test_a_lost_packet_of_a_steady_voice_is_hardly_heard(law: Law, hz: float) -> None:
    voice = tone(0.4, 24_000, hz) + tone(0.4, 24_000, 3 * hz) * np.float32(0.5)
    coded = payloads(law, voice)
    whole, lossy = G711Decoder(law), G711Decoder(law)
    wanted = np.concatenate([whole.decode(payload) for payload in coded])
    heard = [lossy.decode(payload) for payload in coded[:10]]
    heard += [lossy.recover(320, coded[11])] + [lossy.decode(payload) for payload in coded[11:]]
    pcm = np.concatenate(heard)
    assert len(pcm) == len(wanted)
    gap = slice(3200, 3520)
    assert error_db(pcm[gap], wanted[gap]) < -8, "silence would have 0 dB"
    assert np.array_equal(pcm[:3100], wanted[:3100]) and np.allclose(pcm[3700:], wanted[3700:])


@LAWS
def test_a_guess_fades_to_silence_however_it_is_asked_for(law: Law) -> None:
    coded = payloads(law, tone(0.4, 24_000))
    decoders = [G711Decoder(law) for _ in range(2)]
    for decoder in decoders:
        for payload in coded:
            decoder.decode(payload)
    once = decoders[0].recover(1600, coded[0])
    pieces = np.concatenate([decoders[1].recover(320, coded[0]) for _ in range(5)])
    assert np.allclose(once, pieces)
    assert np.max(np.abs(once[: 16 * 10])) > 0.25
    assert np.max(np.abs(once[16 * 65 :])) < 1e-4


@LAWS
def test_sound_after_a_guess_begins_without_a_step(law: Law) -> None:
    decoder = G711Decoder(law, 8_000)
    for payload in payloads(law, tone(0.2, 24_000)):
        decoder.decode(payload)
    guess = decoder.recover(40, b"\xff")
    after = decoder.decode(law.encode(np.zeros(160, np.float32)))
    largest_step = 0.3 * 2 * np.pi * 440 / 8_000
    assert np.max(np.abs(np.diff(np.concatenate([guess[-1:], after])))) < 2 * largest_step
    assert np.max(np.abs(after[40:])) < 1e-3


def test_a_gap_before_anything_was_heard_is_silence() -> None:
    assert not G711Decoder(PCMU).recover(320, b"\xff").any()


def test_an_empty_payload_is_corrupt() -> None:
    with pytest.raises(CorruptPacket):
        G711Decoder(PCMU).decode(b"")
