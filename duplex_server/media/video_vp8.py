"""VP8 as it travels in RTP (RFC 7741), read as far as it takes to put pictures together and to know their size.

Knows nothing about order or loss, and decodes nothing.
"""

from __future__ import annotations

from duplex_server.media.video_picture import CodedPicture, CorruptVideo, Fragment, VideoCodec

__all__ = ["read_vp8_payload", "vp8_picture"]

# The payload descriptor. Source: RFC 7741 §4.2.
_EXTENDED = 0x80
_NON_REFERENCE = 0x20
_START = 0x10
_PARTITION = 0x07
_HAS_PICTURE_ID, _HAS_TL0PICIDX, _HAS_TID, _HAS_KEYIDX = 0x80, 0x40, 0x20, 0x10
_LONG_PICTURE_ID = 0x80

# The frame's own header. Source: RFC 6386 §9.1.
_INTER = 0x01
_KEY_HEADER_BYTES = 10
_KEY_START_CODE = b"\x9d\x01\x2a"
_SIZE_BITS = 0x3FFF


def read_vp8_payload(payload: bytes) -> Fragment:
    """Take the descriptor off one packet's payload.

    Raises:
        CorruptVideo: nothing is left when it is off, or it is not whole.
    """
    try:
        first = payload[0]
        start = 1
        if first & _EXTENDED:
            present = payload[1]
            start = 2
            if present & _HAS_PICTURE_ID:
                start += 2 if payload[2] & _LONG_PICTURE_ID else 1
            start += bool(present & _HAS_TL0PICIDX) + bool(present & (_HAS_TID | _HAS_KEYIDX))
        begins = first & _START and not first & _PARTITION
        opens_key = bool(begins and not payload[start] & _INTER)
    except IndexError:
        raise CorruptVideo("a VP8 payload that ends within its descriptor") from None
    if start >= len(payload):
        raise CorruptVideo("a VP8 payload without a picture")
    return Fragment(payload[start:], opens_key, bool(first & _NON_REFERENCE))


def vp8_picture(coded: bytes, *, disposable: bool) -> CodedPicture:
    """Describe a whole picture.

    Raises:
        CorruptVideo: it begins as a key picture and is none.
    """
    assert coded, "fragments are not empty"
    if coded[0] & _INTER:
        return CodedPicture(VideoCodec.VP8, coded, is_key=False, disposable=disposable, size_px=None)
    if len(coded) < _KEY_HEADER_BYTES or coded[3:6] != _KEY_START_CODE:
        raise CorruptVideo("a VP8 key picture without its start code")
    width = int.from_bytes(coded[6:8], "little") & _SIZE_BITS
    height = int.from_bytes(coded[8:10], "little") & _SIZE_BITS
    if not width or not height:
        raise CorruptVideo("a VP8 key picture without pixels")
    return CodedPicture(VideoCodec.VP8, coded, is_key=True, disposable=False, size_px=(width, height))
