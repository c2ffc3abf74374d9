from __future__ import annotations

import asyncio
import socket

import pytest

from duplex_server.gateways import channel as channel_module
from duplex_server.gateways.channel import Channel, read_frame, receive_frame
from duplex_server.gateways.messages import Pulse, TakePlace, decode_from_gateway, pack


@pytest.mark.parametrize("n_bytes", [1, 3, 7, 1000])
def test_frames_are_whole_however_they_come(n_bytes: int) -> None:
    messages = [Pulse(ready=True), TakePlace(7, queue=False), Pulse(ready=False)] * 5
    stream = b"".join(map(pack, messages))
    heard: list[object] = []
    channel = Channel(lambda payload: heard.append(decode_from_gateway(payload)), lambda: None)
    for start in range(0, len(stream), n_bytes):
        piece = stream[start : start + n_bytes]
        channel.get_buffer(-1)[: len(piece)] = piece
        channel.buffer_updated(len(piece))
    assert heard == messages


def test_what_is_sent_before_and_after_the_connection_is_dropped() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        lost = asyncio.Event()
        channel = Channel(lambda payload: None, lost.set)
        channel.send(Pulse(ready=True))
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        channel.send(TakePlace(1, queue=True))
        payload = receive_frame(theirs)
        assert payload is not None and decode_from_gateway(payload) == TakePlace(1, queue=True)
        theirs.close()
        await asyncio.wait_for(lost.wait(), 5)
        channel.send(Pulse(ready=True))

    asyncio.run(main())


@pytest.mark.parametrize("cut", [0, 2, 5])
def test_a_stream_that_ends_within_a_frame_gives_none(cut: int) -> None:
    frame = pack(Pulse(ready=True))
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(frame[:cut])
        ours.close()
        assert receive_frame(theirs) is None

    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(frame + frame[:cut])
        reader.feed_eof()
        assert await read_frame(reader) == frame[4:]
        assert await read_frame(reader) is None

    asyncio.run(main())


def test_a_frame_longer_than_any_of_ours_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_FRAME_BYTES", 100)

    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(pack("x" * 200))
        assert await read_frame(reader) is None

    asyncio.run(main())
