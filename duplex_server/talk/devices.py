"""Microphone and loudspeaker, driven by one clock, with echo cancellation where its package is installed.

Knows nothing about conversations. Needs the extra ``audio``; the extra ``aec`` adds echo cancellation.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_server.client import Player
from duplex_server.errors import ConfigError
from duplex_server.media.pcm import to_float, to_int16
from duplex_server.media.resample import StreamResampler
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, Pcm

__all__ = ["EchoCanceller", "TakeSound", "open_devices"]

_RATES_HZ = (OUTPUT_RATE_HZ, 48_000)
"""Tried in this order: some sound cards take nothing but 48 kHz."""
_BLOCK_MS = 20
_CANCELLER_BLOCK_SAMPLES = INPUT_RATE_HZ // 100
"""WebRTC's audio processing takes exactly 10 ms at a time."""

TakeSound = Callable[[Pcm, int, Pcm], None]
"""Given what the microphone heard, its rate in Hz, and what was played meanwhile (24 kHz); called on the loop."""


class EchoCanceller:
    """Take the loudspeaker's sound out of the microphone's, with WebRTC's audio processing (package livekit).

    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self) -> None:
        self._rtc: Any = importlib.import_module("livekit.rtc")
        self._processing = self._rtc.AudioProcessingModule(
            echo_cancellation=True, noise_suppression=True, high_pass_filter=True, auto_gain_control=False
        )
        self._microphone: Pcm = np.zeros(0, np.float32)
        self._played: Pcm = np.zeros(0, np.float32)

    def clean(self, microphone: Pcm, played: Pcm) -> Pcm:
        """Return the microphone's sound without the loudspeaker's.

        Args:
            microphone: float32 ``[n]`` at 16 kHz.
            played: what was played at the same time, likewise. The delay between both is found by itself.

        Returns:
            As many whole blocks of 10 ms as are complete; the rest comes with the next call.
        """
        self._microphone = np.concatenate([self._microphone, microphone])
        self._played = np.concatenate([self._played, played])
        cleaned: list[Pcm] = []
        while min(len(self._microphone), len(self._played)) >= _CANCELLER_BLOCK_SAMPLES:
            reference, self._played = np.split(self._played, [_CANCELLER_BLOCK_SAMPLES])
            block, self._microphone = np.split(self._microphone, [_CANCELLER_BLOCK_SAMPLES])
            self._processing.process_reverse_stream(self._frame(reference))
            frame = self._frame(block)
            self._processing.process_stream(frame)
            cleaned.append(to_float(np.frombuffer(frame.data, np.int16)))
        return np.concatenate(cleaned) if cleaned else np.zeros(0, np.float32)

    def _frame(self, pcm: Pcm) -> Any:
        return self._rtc.AudioFrame(bytearray(to_int16(pcm).tobytes()), INPUT_RATE_HZ, 1, len(pcm))


class _Sound:
    """What happens in the audio thread: play, listen, cancel, hand over."""

    def __init__(self, player: Player, rate_hz: int, canceller: EchoCanceller | None, heard: TakeSound) -> None:
        self._player = player
        self._rate_hz = rate_hz
        self._canceller = canceller
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._to_device = StreamResampler(OUTPUT_RATE_HZ, rate_hz)
        self._microphone_down = StreamResampler(rate_hz, INPUT_RATE_HZ)
        self._played_down = StreamResampler(OUTPUT_RATE_HZ, INPUT_RATE_HZ)
        self._waiting: Pcm = np.zeros(0, np.float32)

    def callback(
        self, recorded: npt.NDArray[np.float32], playing: npt.NDArray[np.float32], n_frames: int, *_: object
    ) -> None:
        """Fill ``playing`` and take ``recorded``, float32 ``[n_frames, 1]`` each; called by PortAudio's thread."""
        played = self._player.take(n_frames * OUTPUT_RATE_HZ // self._rate_hz)
        self._waiting = np.concatenate([self._waiting, self._to_device.push(played)])
        ready, self._waiting = np.split(self._waiting, [min(n_frames, len(self._waiting))])
        playing[:, 0] = 0
        playing[n_frames - len(ready) :, 0] = ready  # the resampler's first call gives a little less
        microphone, rate_hz = recorded[:, 0].copy(), self._rate_hz
        if self._canceller is not None:
            reference = self._played_down.push(played)
            microphone = self._canceller.clean(self._microphone_down.push(microphone), reference)
            rate_hz = INPUT_RATE_HZ
        self._loop.call_soon_threadsafe(self._heard, microphone, rate_hz, played)


@contextmanager
def open_devices(player: Player, heard: TakeSound) -> Iterator[bool]:
    """Play and listen on the system's default devices until the end of the block; yields whether echo is cancelled.

    Args:
        player: what plays; taken from in an audio thread.
        heard: called on the running loop every 20 ms.

    Raises:
        ConfigError: the extra ``audio`` is not installed, or there is no usable device.
    """
    try:
        sounddevice: Any = importlib.import_module("sounddevice")
    except (ImportError, OSError) as error:  # OSError: the package is there, PortAudio is not
        raise ConfigError(
            f"Microphone and loudspeaker need the extra 'audio' ({error}). Run: pip install 'duplex-server[audio]', "
            "and on Linux install libportaudio2; or use --input with a sound file."
        ) from error
    cancelling = importlib.util.find_spec("livekit") is not None
    try:
        rate_hz = _usable_rate_hz(sounddevice)
        sound = _Sound(player, rate_hz, EchoCanceller() if cancelling else None, heard)
        with sounddevice.Stream(
            samplerate=rate_hz,
            blocksize=rate_hz * _BLOCK_MS // 1000,
            channels=1,
            dtype="float32",
            latency="low",
            callback=sound.callback,
        ):
            yield cancelling
    except sounddevice.PortAudioError as error:
        raise ConfigError(f"No microphone and loudspeaker can be used: {error}. Or use --input.") from error


def _usable_rate_hz(sounddevice: Any) -> int:
    for rate_hz in _RATES_HZ[:-1]:
        try:
            sounddevice.check_input_settings(samplerate=rate_hz, channels=1, dtype="float32")
            sounddevice.check_output_settings(samplerate=rate_hz, channels=1, dtype="float32")
        except sounddevice.PortAudioError:
            continue
        return rate_hz
    return _RATES_HZ[-1]
