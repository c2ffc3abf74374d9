"""Frames come out whole however the stream is cut."""

from __future__ import annotations

import pytest

from duplex_server.engine.messages import Died, Report, RowClosed, RowOpened, decode_reports, encode
from duplex_server.frames import FrameBuffer


def feed(buffer: FrameBuffer[Report], stream: bytes, piece_bytes: int) -> list[Report]:
    messages = []
    for start in range(0, len(stream), piece_bytes):
        piece = stream[start : start + piece_bytes]
        while piece:
            space = buffer.space()
            n_bytes = min(len(space), len(piece))
            space[:n_bytes] = piece[:n_bytes]
            del space
            messages += buffer.filled(n_bytes)
            piece = piece[n_bytes:]
    return messages


@pytest.mark.parametrize("piece_bytes", [1, 3, 4, 5, 1000, 1_000_000])
def test_frames_come_out_whole_however_the_stream_is_cut(piece_bytes: int) -> None:
    batches: list[list[Report]] = [[Died("x" * size), RowOpened(size)] for size in (0, 1, 200, 3000, 70_000, 5)]
    stream = b"".join(encode(list(batch)) for batch in batches)
    buffer: FrameBuffer[Report] = FrameBuffer(decode_reports)
    assert feed(buffer, stream, piece_bytes) == [report for batch in batches for report in batch]
    assert feed(buffer, bytes(encode([RowClosed(1)])), piece_bytes) == [RowClosed(1)]


def test_an_absurd_length_is_a_broken_stream() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        feed(FrameBuffer(decode_reports), b"\xff\xff\xff\xff", 4)
