"""Opus, by the libopus that PyAV's wheel carries: one frame in, one packet out, and back.

PyAV's own codec contexts are passed by because they cannot decode at 16 kHz, recover a lost packet, or choose the
low-delay mode, and cost twice as much. Knows nothing about RTP.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from pathlib import Path

import av
import numpy as np

from duplex_server.errors import ConfigError
from duplex_server.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, Pcm

__all__ = ["BIT_RATE", "CLOCK_HZ", "COMPLEXITY", "CorruptPacket", "OpusDecoder", "OpusEncoder"]

CLOCK_HZ = 48_000
"""Of RTP timestamps, whatever the rate of the sound. Source: RFC 7587 §4.1."""

FRAME_MS = 20
"""Length of the packets that are made. Longer ones save nothing here; shorter ones cost headers."""

BIT_RATE = 64_000
"""Bits per second. A third closer to the original than 48 kbit/s at no more CPU (``benchmarks.opus_modes``)."""

COMPLEXITY = 0
"""0..10. What 5 finds for twice the CPU cannot be measured at this bit rate, and depends more on the packet before: a
lost one is heard for longer. VOIP mode costs five times as much at twice the distance (``benchmarks.opus_modes``)."""

MAX_PACKET_MS = 120
"""The longest packet that Opus allows. Source: RFC 6716 §2.1.4."""

MAX_PACKET_BYTES = 1275
"""The longest frame that Opus allows. Source: RFC 6716 §3.2.1."""

# Values of opus_defines.h.
_OK = 0
_APPLICATION_RESTRICTED_LOWDELAY = 2051
_SET_BITRATE = 4002
_SET_COMPLEXITY = 4010


class CorruptPacket(Exception):
    """A packet that libopus cannot decode; the decoder can go on with the next one."""


def _load() -> ctypes.PyDLL:
    """Load libopus and declare what is used of it.

    PyDLL keeps the interpreter's lock during a call: a call takes less than 0.1 ms, and getting the lock back from a
    busy thread could take 5.
    """
    bundled = sorted(
        path
        for folder in (Path(av.__file__).parent.parent / "av.libs", Path(av.__file__).parent / ".dylibs")
        for path in folder.glob("libopus*")
    )
    name = str(bundled[0]) if bundled else ctypes.util.find_library("opus")
    if name is None:
        raise ConfigError("libopus was found neither in PyAV's wheel nor on the system. Install av from its wheel.")
    library = ctypes.PyDLL(name)
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    integer_out = ctypes.POINTER(integer)
    for function, result, arguments in (
        ("opus_encoder_create", pointer, [ctypes.c_int32, integer, integer, integer_out]),
        ("opus_encode_float", ctypes.c_int32, [pointer, pointer, integer, pointer, ctypes.c_int32]),
        # Variadic: the fixed arguments are declared, so that ctypes follows the platform's rules for the others.
        ("opus_encoder_ctl", integer, [pointer, integer]),
        ("opus_encoder_destroy", None, [pointer]),
        ("opus_decoder_create", pointer, [ctypes.c_int32, integer, integer_out]),
        ("opus_decode_float", integer, [pointer, ctypes.c_char_p, ctypes.c_int32, pointer, integer, integer]),
        ("opus_decoder_destroy", None, [pointer]),
    ):
        declared = getattr(library, function)
        declared.restype, declared.argtypes = result, arguments
    return library


_opus = _load()


class OpusEncoder:
    """Encode speech for the ear: 24 kHz mono, CELT with low delay. One stream, in order."""

    clock_hz = CLOCK_HZ
    """Of RTP timestamps."""
    frame_samples = OUTPUT_RATE_HZ * FRAME_MS // 1000
    """Samples in every frame."""

    def __init__(self) -> None:
        error = ctypes.c_int()
        self._state = _opus.opus_encoder_create(
            OUTPUT_RATE_HZ, 1, _APPLICATION_RESTRICTED_LOWDELAY, ctypes.byref(error)
        )
        assert error.value == _OK, f"opus_encoder_create failed: {error.value}"
        for request, value in ((_SET_BITRATE, BIT_RATE), (_SET_COMPLEXITY, COMPLEXITY)):
            outcome = _opus.opus_encoder_ctl(self._state, request, ctypes.c_int32(value))
            assert outcome == _OK, f"opus_encoder_ctl({request}) failed: {outcome}"
        self._packet = ctypes.create_string_buffer(MAX_PACKET_BYTES)
        self._frame: Pcm = np.empty(self.frame_samples, np.float32)
        self._frame_at = self._frame.ctypes.data  # asked once: finding it out takes longer than to copy a frame

    def encode(self, pcm: Pcm) -> bytes:
        """Encode one frame.

        Args:
            pcm: float32 ``[480]``, −1..1; what lies outside is clipped by the listener's decoder.

        Returns:
            One packet of at most :data:`MAX_PACKET_BYTES`.
        """
        assert pcm.shape == (self.frame_samples,) and pcm.dtype == np.float32, "one frame of float32"
        self._frame[:] = pcm
        length = _opus.opus_encode_float(
            self._state, self._frame_at, self.frame_samples, self._packet, MAX_PACKET_BYTES
        )
        assert length > 0, f"opus_encode_float failed: {length}"
        return ctypes.string_at(self._packet, length)

    def __del__(self) -> None:
        if state := getattr(self, "_state", None):
            _opus.opus_encoder_destroy(state)


class OpusDecoder:
    """Decode one stream to mono, whatever rate and channels it was encoded at.

    Args:
        rate_hz: of what comes out: 16 kHz, which is what a model hears, or another that Opus knows.
    """

    clock_hz = CLOCK_HZ
    """Of RTP timestamps."""

    def __init__(self, rate_hz: int = INPUT_RATE_HZ) -> None:
        error = ctypes.c_int()
        self._state = _opus.opus_decoder_create(rate_hz, 1, ctypes.byref(error))
        assert error.value == _OK, f"opus_decoder_create failed: {error.value}"
        self._step_samples = rate_hz // 400  # 2.5 ms
        self._pcm = np.empty(rate_hz * MAX_PACKET_MS // 1000, np.float32)
        self._pcm_at = self._pcm.ctypes.data

    def decode(self, packet: bytes) -> Pcm:
        """Decode the next packet of the stream.

        Returns:
            float32; 2.5 to 120 ms of it.

        Raises:
            CorruptPacket: it is no Opus packet.
        """
        if not packet:
            raise CorruptPacket("an empty packet")
        return self._decode(packet, len(self._pcm), recover=False)

    def recover(self, n_samples: int, following: bytes) -> Pcm:
        """Fill a gap before :meth:`decode` is called with the packet after it.

        The last frame of the gap comes from the copy that ``following`` carries of it, if the sender put one in; the
        rest is the decoder's guess, which fades out.

        Args:
            n_samples: length of the gap at the output rate, a multiple of 2.5 ms and at most 120 ms.
            following: the packet after the gap.

        Raises:
            CorruptPacket: ``following`` is no Opus packet.
        """
        in_range = 0 < n_samples <= len(self._pcm) and n_samples % self._step_samples == 0
        assert in_range, f"no gap to fill: {n_samples} samples"
        if not following:
            raise CorruptPacket("an empty packet")
        return self._decode(following, n_samples, recover=True)

    def _decode(self, packet: bytes, room: int, *, recover: bool) -> Pcm:
        length = _opus.opus_decode_float(self._state, packet, len(packet), self._pcm_at, room, int(recover))
        if length <= 0:
            raise CorruptPacket(f"libopus error {length}")
        return self._pcm[:length].copy()

    def __del__(self) -> None:
        if state := getattr(self, "_state", None):
            _opus.opus_decoder_destroy(state)
