"""The model's voice that comes back through the room is known for what it is, and a user above it is not."""

from __future__ import annotations

import numpy as np
import pytest

from duplex_server.media.echo import EchoGuard
from duplex_server.media.resample import resample
from duplex_server.types import Pcm

TICK_S = 0.02
N_TICKS = 400  # 8 s


def babble(seed: int, n_ticks: int = N_TICKS) -> Pcm:
    """Sound with the rhythm of speech: syllables of 120 to 300 ms, each with its own colour and loudness, 24 kHz."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(n_ticks * 480)
    position = 0
    while position < len(sound):
        n_samples = int(rng.uniform(0.12, 0.3) * 24_000)
        noise = np.fft.rfft(rng.standard_normal(n_samples))
        pitch_hz = np.fft.rfftfreq(n_samples, 1 / 24_000)
        centre_hz = rng.uniform(300, 2500)
        noise *= np.exp(-((np.log2(np.maximum(pitch_hz, 50) / centre_hz)) ** 2))
        syllable = np.fft.irfft(noise, n_samples) * np.hanning(n_samples)
        syllable *= rng.uniform(0.02, 0.2) / (np.abs(syllable).max() + 1e-9)
        end = min(len(sound), position + n_samples)
        sound[position:end] += syllable[: end - position]
        position += int(n_samples * rng.uniform(0.9, 1.3))
    return sound.astype(np.float32)


def room(sound: Pcm, *, delay_ms: float, gain_db: float, reverberation_s: float = 0.15) -> Pcm:
    """What a microphone at 16 kHz hears of sound sent at 24 kHz."""
    rng = np.random.default_rng(9)
    n_tail = int(0.2 * 16_000)
    response = rng.standard_normal(n_tail) * np.exp(-6.9 * np.arange(n_tail) / (reverberation_s * 16_000))
    response /= np.sqrt((response**2).sum())
    response[0] += 1
    response *= 10 ** (gain_db / 20) / np.sqrt((response**2).sum())
    heard = np.convolve(resample(sound, 24_000, 16_000), response)
    delay = np.zeros(int(delay_ms * 16))
    return np.concatenate([delay, heard])[: len(sound) * 2 // 3].astype(np.float32)


def judge(sent: Pcm | None, heard: Pcm) -> np.ndarray:
    """Return for each window of what was heard, bool ``[n_windows]``, whether it was called echo."""
    guard, verdicts, carry = EchoGuard(), [], np.zeros(0, np.float32)
    for tick in range(len(heard) // 320):
        carry = np.concatenate([carry, heard[tick * 320 : (tick + 1) * 320]])
        while len(carry) >= 512:
            verdicts.append(guard.is_echo(carry[:512]))
            carry = carry[512:]
        guard.sent(None if sent is None else sent[tick * 480 : (tick + 1) * 480], 480)
    return np.array(verdicts)


def noise(n_samples: int) -> Pcm:
    return (np.random.default_rng(5).standard_normal(n_samples) * 1e-4).astype(np.float32)


SECOND = 31  # windows


@pytest.mark.parametrize("delay_ms", [20, 140, 400])
@pytest.mark.parametrize("gain_db", [-6, -20])
def test_echo_is_recognised_within_a_second_whatever_its_delay_and_strength(delay_ms: float, gain_db: float) -> None:
    sent = babble(1)
    heard = room(sent, delay_ms=delay_ms, gain_db=gain_db)
    verdicts = judge(sent, heard + noise(len(heard)))
    assert verdicts[2 * SECOND :].mean() > 0.9


def test_a_user_who_speaks_over_the_echo_is_no_echo() -> None:
    sent = babble(1)
    user = resample(babble(2), 24_000, 16_000) * 1.5
    user[: 4 * 16_000] = 0
    heard = room(sent, delay_ms=60, gain_db=-12)
    verdicts = judge(sent, heard + user[: len(heard)] + noise(len(heard)))
    assert verdicts[2 * SECOND : 4 * SECOND].mean() > 0.9
    assert verdicts[4 * SECOND + 5 :].mean() < 0.35


def test_a_user_with_headphones_is_never_taken_for_echo() -> None:
    user = resample(babble(3), 24_000, 16_000)
    assert judge(babble(1), user + noise(len(user))).mean() < 0.05


def test_nothing_sent_means_no_echo() -> None:
    user = resample(babble(3), 24_000, 16_000)
    assert not judge(None, user).any()


def test_a_loudspeaker_that_is_turned_up_is_learnt_again() -> None:
    sent = babble(1, 1000)
    quiet = room(sent, delay_ms=60, gain_db=-24)
    loud = room(sent, delay_ms=60, gain_db=-12)
    heard = np.where(np.arange(len(quiet)) < 6 * 16_000, quiet, loud)
    assert judge(sent, heard + noise(len(heard)))[14 * SECOND :].mean() > 0.8


@pytest.mark.parametrize("moved_ms", [-50, 40, 90])
def test_an_echo_that_comes_earlier_or_later_than_before_is_known_at_once(moved_ms: float) -> None:
    """A jitter buffer that grows or shrinks, or a player that ran dry, moves all that follows."""
    sent = babble(1)
    before, after = room(sent, delay_ms=60, gain_db=-12), room(sent, delay_ms=60 + moved_ms, gain_db=-12)
    heard = np.where(np.arange(len(before)) < 4 * 16_000, before, after)
    verdicts = judge(sent, heard + noise(len(heard)))
    assert verdicts[4 * SECOND + 5 : 5 * SECOND + 5].mean() > 0.8
