"""Which of Opus's modes speech of 24 kHz should be sent in: cost and quality of each on a recorded voice.

Every mode encodes the clip in packets of 20 ms; a listener decodes it at 24 kHz, once with every packet and once with
one in twenty lost, which the decoder hides as a browser's does. Distances are between logarithmic spectra of the clip
and of what is heard, in bands as wide as the ear's, where somebody speaks. Run:

    python -m benchmarks.opus_modes --clip voice.wav

Without a clip it takes a recorded voice from beside the repository, and skips where that is absent.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from benchmarks.report import print_table, save
from duplex_server.media import opus
from duplex_server.media.resample import resample
from duplex_server.types import OUTPUT_RATE_HZ, Pcm

__all__ = ["Mode", "band_distance_db", "segmental_snr_db"]

CLIP = Path(__file__).parents[2] / "shared" / "data" / "speech" / "mixed_zh_en_1.wav"
APPLICATIONS = {"VOIP": 2048, "AUDIO": 2049, "LOWDELAY": 2051}
"""Source: opus_defines.h. LOWDELAY is CELT alone; AUDIO chooses by itself, VOIP prefers SILK below 12 kHz."""
FRAME = OUTPUT_RATE_HZ // 50
LOST_EVERY = 20
_WINDOW = 600  # 25 ms
_STEP = 240  # 10 ms
_BANDS = 32
_SPOKEN_DB = 40.0
"""Windows so far below the loudest are silence, and not compared."""
_FLOOR_DB = 60.0
"""What is so far below its window's loudest band is masked by it."""
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Mode:
    """How an encoder is set."""

    application: str
    bits_per_second: int
    complexity: int

    def __str__(self) -> str:
        return f"{self.application} {self.bits_per_second // 1000} kbit/s, complexity {self.complexity}"


MODES = [
    Mode(application, bit_rate, complexity)
    for application, bit_rate, complexity in itertools.product(
        APPLICATIONS, (24_000, 32_000, 48_000, 64_000), (0, 5, 9)
    )
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.opus_modes", description=__doc__.split("\n\n")[0])
    parser.add_argument("--clip", type=Path, default=CLIP, metavar="WAV", help="recorded speech")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="FOLDER", help="where to save results")
    asked = parser.parse_args(arguments)
    if not asked.clip.is_file():
        print(f"skipped: {asked.clip} is not there; name a recording with --clip")
        return 0
    samples, rate_hz = soundfile.read(asked.clip, dtype="float32", always_2d=True)
    pcm = resample(np.ascontiguousarray(samples.mean(axis=1)), rate_hz, OUTPUT_RATE_HZ)
    pcm = pcm[: len(pcm) // FRAME * FRAME]
    rows = [_measure(mode, pcm) for mode in MODES]
    head = ("mode", "CPU ms/s", "kbit/s", "SNR dB", "distance dB", "with 5 % lost")
    print(f"{asked.clip.name}, {len(pcm) / OUTPUT_RATE_HZ:.1f} s\n")
    print_table(head, [(row[0], *(f"{figure:.2f}" for figure in row[1:])) for row in rows])
    save(asked.out / "opus_modes.json", {"clip": asked.clip.name, "head": head, "rows": rows}, [])
    return 0


def _measure(mode: Mode, pcm: Pcm) -> tuple[str, float, float, float, float, float]:
    seconds = len(pcm) / OUTPUT_RATE_HZ
    cost_s = float("inf")
    packets: list[bytes] = []
    delay = 0
    for _ in range(_ROUNDS):  # the shortest is what the machine does when nothing disturbs it
        encoder = _Encoder(mode)
        began_s = time.process_time()
        packets = [encoder.encode(pcm[at : at + FRAME]) for at in range(0, len(pcm), FRAME)]
        cost_s = min(cost_s, time.process_time() - began_s)
        delay = encoder.delay_samples
    whole = _heard(packets, set())[delay:]
    chance = random.Random(1)
    lost = {start + chance.randrange(LOST_EVERY) for start in range(LOST_EVERY, len(packets) - LOST_EVERY, LOST_EVERY)}
    lossy = _heard(packets, lost)[delay:]
    return (
        str(mode),
        1000 * cost_s / seconds,
        sum(map(len, packets)) * 8 / seconds / 1000,
        segmental_snr_db(pcm, whole),
        band_distance_db(pcm, whole),
        band_distance_db(pcm, lossy),
    )


class _Encoder:
    """The server's encoder in any mode, by the same library and the same call."""

    def __init__(self, mode: Mode) -> None:
        error = ctypes.c_int()
        self._library = opus._opus
        application = APPLICATIONS[mode.application]
        self._state = self._library.opus_encoder_create(OUTPUT_RATE_HZ, 1, application, ctypes.byref(error))
        self._set(opus._SET_BITRATE, mode.bits_per_second)
        self._set(opus._SET_COMPLEXITY, mode.complexity)
        self._packet = ctypes.create_string_buffer(opus.MAX_PACKET_BYTES)

    @property
    def delay_samples(self) -> int:
        """What the encoder looks ahead, and so what is heard later. Source: OPUS_GET_LOOKAHEAD, 4027."""
        delay = ctypes.c_int32()
        self._library.opus_encoder_ctl(self._state, 4027, ctypes.byref(delay))
        return delay.value

    def encode(self, pcm: Pcm) -> bytes:
        length = self._library.opus_encode_float(
            self._state, pcm.ctypes.data, len(pcm), self._packet, opus.MAX_PACKET_BYTES
        )
        assert length > 0, f"opus_encode_float failed: {length}"
        return self._packet.raw[:length]

    def _set(self, request: int, setting: int) -> None:
        outcome = self._library.opus_encoder_ctl(self._state, request, ctypes.c_int32(setting))
        assert outcome == 0, f"opus_encoder_ctl({request}) failed: {outcome}"

    def __del__(self) -> None:
        self._library.opus_encoder_destroy(self._state)


def _heard(packets: Sequence[bytes], lost: set[int]) -> Pcm:
    decoder = opus.OpusDecoder(OUTPUT_RATE_HZ)
    pcm = []
    for number, packet in enumerate(packets):
        if number not in lost:
            if number - 1 in lost:
                pcm.append(decoder.recover(FRAME, packet))
            pcm.append(decoder.decode(packet))
    return np.concatenate(pcm)


def segmental_snr_db(clip: Pcm, heard: Pcm) -> float:
    """Return the mean ratio of the clip to its difference from what is heard, over windows in which somebody speaks."""
    wanted, errors = _windows(clip), _windows(_difference(clip, heard))
    loudness = np.sum(wanted**2, axis=1)
    spoken = loudness > loudness.max() * 10 ** (-_SPOKEN_DB / 10)
    ratios = 10 * np.log10(loudness[spoken] / (np.sum(errors[spoken] ** 2, axis=1) + 1e-12))
    return float(np.mean(np.clip(ratios, -10, 35)))


def band_distance_db(clip: Pcm, heard: Pcm) -> float:
    """Return the root mean square difference of the spectra in dB, over time and bands."""
    length = min(len(clip), len(heard))
    wanted, found = _bands_db(clip[:length]), _bands_db(heard[:length])
    loudest = wanted.max(axis=1)
    spoken = loudest > loudest.max() - _SPOKEN_DB
    floor = loudest[spoken, None] - _FLOOR_DB
    difference = np.maximum(wanted[spoken], floor) - np.maximum(found[spoken], floor)
    return float(np.mean(np.sqrt(np.mean(difference**2, axis=1))))


def _difference(clip: Pcm, heard: Pcm) -> Pcm:
    length = min(len(clip), len(heard))
    difference: Pcm = clip.copy()
    difference[:length] -= heard[:length]
    return difference


def _windows(pcm: Pcm) -> Pcm:
    return np.lib.stride_tricks.sliding_window_view(pcm, _WINDOW)[::_STEP]


def _bands_db(pcm: Pcm) -> npt.NDArray[np.float64]:
    """Return levels ``[windows, bands]``; the bands are even on the mel scale from 50 Hz to 11.5 kHz."""
    power = np.abs(np.fft.rfft(_windows(pcm) * np.hanning(_WINDOW))) ** 2
    mel = np.linspace(np.log1p(50 / 700), np.log1p(11_500 / 700), _BANDS + 1)
    edges = np.round(700 * np.expm1(mel) * _WINDOW / OUTPUT_RATE_HZ).astype(int)
    edges = np.maximum.accumulate(np.maximum(edges, np.arange(1, _BANDS + 2)))  # at least one bin each
    levels: npt.NDArray[np.float64] = 10 * np.log10(np.add.reduceat(power, edges[:-1], axis=1) + 1e-12)
    return levels


if __name__ == "__main__":
    sys.exit(main())
