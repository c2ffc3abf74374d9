"""Speech is found in recordings, and not in silence or noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from duplex_server.media.vad import WINDOW_SAMPLES, SileroDetector, VoiceWindow


def test_windows_are_cut_at_the_same_places_however_the_input_comes() -> None:
    noise = (np.random.default_rng(0).standard_normal(5000) * 0.05).astype(np.float32)
    whole = SileroDetector().push(noise)
    detector, parts = SileroDetector(), []
    for start in range(0, len(noise), 320):
        parts += detector.push(noise[start : start + 320])
    assert [window.end_samples for window in parts] == [window.end_samples for window in whole]
    assert np.allclose([window.probability for window in parts], [window.probability for window in whole], atol=1e-4)
    assert len(whole) == len(noise) // WINDOW_SAMPLES


def test_silence_and_noise_are_not_speech() -> None:
    for loudness in (0.0, 0.001, 0.1):
        noise = (np.random.default_rng(1).standard_normal(32_000) * loudness).astype(np.float32)
        assert all(window.probability < 0.5 for window in SileroDetector().push(noise))


def test_recorded_speech_is_speech(speech_folder: Path) -> None:
    recording, rate_hz = soundfile.read(speech_folder / "user_question_en_0.wav", dtype="float32")
    assert rate_hz == 16_000
    voiced = [window.probability > 0.5 for window in SileroDetector().push(recording)]
    assert 0.3 < np.mean(voiced) < 0.95


def test_a_hum_is_told_from_a_vowel() -> None:
    time_s = np.arange(WINDOW_SAMPLES) / 16_000
    murmur = np.sin(2 * np.pi * 120 * time_s) + 0.5 * np.sin(2 * np.pi * 240 * time_s)
    vowel = murmur + 0.5 * np.sin(2 * np.pi * 1200 * time_s) + 0.3 * np.sin(2 * np.pi * 2400 * time_s)
    hummed = [VoiceWindow(0, 1.0, -20.0, sound.astype(np.float32)).hummed for sound in (murmur, vowel)]
    assert hummed == [True, False]
