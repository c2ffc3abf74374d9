"""H.264 as it travels in RTP (RFC 6184), read as far as it takes to put pictures together and to know their size.

The packetization modes of WebRTC: single NAL units, STAP-A and FU-A. Knows nothing about order or loss, and decodes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from duplex_server.media.video_picture import CodedPicture, CorruptVideo, Fragment, VideoCodec

__all__ = ["h264_picture", "read_h264_payload"]

# NAL unit types. Source: ITU-T H.264 table 7-1, RFC 6184 table 1.
_NON_IDR_SLICE, _IDR_SLICE, _SPS, _DELIMITER = 1, 5, 7, 9
_LAST_SINGLE = 23
_STAP_A, _FU_A = 24, 28
_TYPE = 0x1F
_REF_IDC = 0x60
_FU_START = 0x80

_START_CODE = b"\x00\x00\x00\x01"
_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
"""Profiles whose parameter set tells the chroma format and may hold scaling lists. Source: H.264 §7.3.2.1.1."""

_MAX_PARAMETER_SETS = 32
"""In one picture. Source: H.264 §7.4.2.1.1, which knows ids 0..31."""

_MAX_PARAMETER_SET_BYTES = 1024
"""What is read of one. With all its scaling lists it has some 300; reading bit by bit must have an end."""

_MAX_UNITS = 1024
"""In one picture. One slice for each row of blocks makes 135 of UHD."""

_MAX_UE_BITS = 31
"""Longest run of zeros before an Exp-Golomb value of 32 bits. Source: H.264 §9.1."""


def read_h264_payload(payload: bytes) -> Fragment:
    """Turn one packet's payload into NAL units behind start codes, or into the next part of one.

    Raises:
        CorruptVideo: it is none of the three kinds, or not whole.
    """
    if not payload:
        raise CorruptVideo("an empty H.264 payload")
    kind = payload[0] & _TYPE
    if 1 <= kind <= _LAST_SINGLE:
        return Fragment(_START_CODE + payload, _opens_key([kind]))
    if kind == _FU_A:
        if len(payload) < 3:
            raise CorruptVideo("an H.264 fragment without content")
        header = payload[1]
        if not header & _FU_START:
            return Fragment(payload[2:], opens_key=False)
        nal_header = payload[0] & ~_TYPE & 0xFF | header & _TYPE
        return Fragment(_START_CODE + bytes([nal_header]) + payload[2:], _opens_key([header & _TYPE]))
    if kind == _STAP_A:
        units = list(_aggregated(payload))
        if not units:
            raise CorruptVideo("an H.264 aggregate without NAL units")
        kinds = [unit[0] & _TYPE for unit in units]
        return Fragment(b"".join(_START_CODE + unit for unit in units), _opens_key(kinds))
    raise CorruptVideo(f"an H.264 payload of kind {kind}, which was not agreed upon")


def _opens_key(kinds: list[int]) -> bool:
    """Whether a key picture begins with NAL units of these kinds.

    With its parameter set: WebRTC's senders repeat it before every one (RFC 7742 §6.2). A delimiter may come before.
    """
    return kinds[0] == _SPS or kinds[:2] == [_DELIMITER, _SPS]


def _aggregated(payload: bytes) -> Iterator[bytes]:
    start = 1
    while start < len(payload):
        end = start + 2 + int.from_bytes(payload[start : start + 2], "big")
        if end <= start + 2 or end > len(payload):
            raise CorruptVideo("an H.264 aggregate whose lengths are wrong")
        yield payload[start + 2 : end]
        start = end


def h264_picture(coded: bytes) -> CodedPicture:
    """Describe a whole picture: NAL units behind start codes.

    A picture counts as a key picture if it brings its parameter set along: without one its size is not known.

    Raises:
        CorruptVideo: it shows nothing, or its parameter set makes no sense.
    """
    size_px: tuple[int, int] | None = None
    is_idr, n_slices, n_sets, is_reference = False, 0, 0, False
    for n_units, unit in enumerate(_units(coded)):
        kind = unit[0] & _TYPE
        if kind == _SPS:
            n_sets += 1
            if n_sets > _MAX_PARAMETER_SETS:
                raise CorruptVideo("an H.264 access unit with more parameter sets than there can be")
            size_px = _largest(size_px, _read_size(unit))
        elif _NON_IDR_SLICE <= kind <= _IDR_SLICE:
            n_slices += 1
            is_idr |= kind == _IDR_SLICE
            is_reference |= bool(unit[0] & _REF_IDC)
        if n_units > _MAX_UNITS:
            raise CorruptVideo("an H.264 access unit in too many pieces")
    if not n_slices:
        raise CorruptVideo("an H.264 access unit without a picture")
    is_key = is_idr and size_px is not None
    return CodedPicture(VideoCodec.H264, coded, is_key=is_key, disposable=not is_reference, size_px=size_px)


def _units(coded: bytes) -> Iterator[bytes]:
    """Find the NAL units as a decoder does: by the start codes, wherever they are."""
    start = coded.find(_START_CODE[1:])
    while start >= 0:
        start += 3
        end = coded.find(_START_CODE[1:], start)
        unit = coded[start : end if end >= 0 else len(coded)]
        if unit:
            yield unit
        start = end


def _largest(one: tuple[int, int] | None, other: tuple[int, int]) -> tuple[int, int]:
    return other if one is None or other[0] * other[1] > one[0] * one[1] else one


class _Bits:
    """Read a parameter set bit by bit."""

    def __init__(self, unit: bytes) -> None:
        # Without emulation prevention: H.264 §7.4.1.
        content = unit[1:_MAX_PARAMETER_SET_BYTES].replace(b"\x00\x00\x03", b"\x00\x00")
        self._bits = int.from_bytes(content, "big")
        self._left = 8 * len(content)

    def u(self, n_bits: int) -> int:
        """Read an unsigned number of fixed length."""
        if n_bits > self._left:
            raise CorruptVideo("an H.264 parameter set that is cut off")
        self._left -= n_bits
        return self._bits >> self._left & (1 << n_bits) - 1

    def ue(self) -> int:
        """Read an unsigned Exp-Golomb number (H.264 §9.1)."""
        n_zeros = 0
        while not self.u(1):
            n_zeros += 1
            if n_zeros > _MAX_UE_BITS:
                raise CorruptVideo("an H.264 parameter set with a number that is too large")
        return (1 << n_zeros) - 1 + self.u(n_zeros)

    def se(self) -> int:
        """Read a signed Exp-Golomb number (H.264 §9.1.1)."""
        value = self.ue()
        return (value + 1) // 2 if value % 2 else -(value // 2)


def _read_size(unit: bytes) -> tuple[int, int]:
    """Return the coded width and height of a sequence parameter set. Source: H.264 §7.3.2.1.1."""
    bits = _Bits(unit)
    profile = bits.u(8)
    bits.u(16)  # constraint flags, level
    bits.ue()  # its id
    if profile in _HIGH_PROFILES:
        _skip_chroma(bits)
    bits.ue()  # log2_max_frame_num_minus4
    order_type = bits.ue()
    if order_type == 0:
        bits.ue()
    elif order_type == 1:
        bits.u(1)
        bits.se()
        bits.se()
        for _ in range(_at_most(bits.ue(), 255)):
            bits.se()
    bits.ue()  # max_num_ref_frames
    bits.u(1)  # gaps_in_frame_num_value_allowed_flag
    width_in_blocks = bits.ue() + 1
    height_in_units = bits.ue() + 1
    frames_only = bits.u(1)
    return 16 * width_in_blocks, 16 * height_in_units * (2 - frames_only)


def _skip_chroma(bits: _Bits) -> None:
    chroma_format = _at_most(bits.ue(), 3)
    if chroma_format == 3:
        bits.u(1)
    bits.ue()  # bit depths
    bits.ue()
    bits.u(1)
    if bits.u(1):
        for index in range(8 if chroma_format != 3 else 12):
            if bits.u(1):
                _skip_scaling_list(bits, 16 if index < 6 else 64)


def _skip_scaling_list(bits: _Bits, length: int) -> None:
    last = following = 8
    for _ in range(length):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _at_most(value: int, most: int) -> int:
    if value > most:
        raise CorruptVideo("an H.264 parameter set with a number out of range")
    return value
