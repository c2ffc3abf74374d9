"""Media of a call carried by aiortc itself, by its public interface alone: for versions nobody here has looked into.

It costs several times the CPU of :mod:`rtc_path`, adds 80 ms to the microphone and 280 ms after a loss, and cannot
move a call to another network path. Knows nothing about events or sessions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from aiortc import MediaStreamTrack, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from duplex_server.media.image import fitted_size
from duplex_server.media.resample import StreamResampler
from duplex_server.session.transport import MediaAudio, MediaFrame
from duplex_server.transports.rtc_camera import Eye
from duplex_server.transports.rtc_codecs import ENCODERS
from duplex_server.transports.rtc_internals import IceRestart
from duplex_server.transports.rtc_sdp import InvalidOffer
from duplex_server.transports.rtc_speaker import MAX_QUEUED_PACKETS, SILENCE_PACKETS, SILENCE_SLACK_S, TICK_SAMPLES
from duplex_server.transports.rtc_streams import read_streams
from duplex_server.types import INPUT_RATE_HZ, TICK_MS, Pcm

__all__ = ["AiortcMedia", "Speaker", "watch_camera"]

RTP_RATE_HZ = 48_000
"""Of Opus, whatever the rate of what it carries. Source: RFC 7587 §4.1."""
_RTP_TICK = RTP_RATE_HZ * TICK_MS // 1000

STATS_EVERY_S = 1.0
"""How often aiortc is asked for its figures."""


class AiortcMedia:
    """Carries the media of one call; a :class:`~duplex_server.transports.rtc_media.Media`.

    Args:
        connection: the call's, before any description was applied.
        hear: given decoded sound, on the event loop.
        eye: who looks at the peer's camera; None if nobody does.
        spawn: starts a task that lives at most as long as the call.
    """

    def __init__(
        self,
        connection: RTCPeerConnection,
        hear: Callable[[MediaAudio], None],
        eye: Eye | None,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        rate_hz: int = INPUT_RATE_HZ,
    ) -> None:
        self._connection = connection
        self._hear = hear
        self._eye = eye
        self._spawn = spawn
        self._rate_hz = rate_hz
        self._speaker: Speaker | None = None
        self._tracks: set[MediaStreamTrack] = set()
        self._channels: list[RTCDataChannel] = []  # one, as a rule
        self._stats: dict[str, float] = {}
        self._watching = False
        self.arrived_s = asyncio.get_running_loop().time()
        self.moved_bytes = (0, 0)
        connection.on("datachannel", self._channels.append)

    @property
    def unconfirmed(self) -> int:
        """Bytes that wait on data channels; what is under way is not known."""
        return sum(channel.bufferedAmount for channel in self._channels)

    def attach(self) -> None:
        """See :class:`Media`."""
        for transceiver in self._connection.getTransceivers():
            if transceiver.kind == "audio" and self._speaker is None:
                self._speaker = Speaker(self._codec())
                self._connection.addTrack(self._speaker)
            track: MediaStreamTrack | None = transceiver.receiver.track
            if track is None or track in self._tracks:
                continue
            self._tracks.add(track)
            self._spawn(self._listen(track) if track.kind == "audio" else watch_camera(track, self._eye))

    def settle(self) -> None:
        """See :class:`Media`."""
        if not self._watching:
            self._watching = True
            self._spawn(self._read_stats())

    def restart(self) -> IceRestart:
        """See :class:`Media`."""
        raise InvalidOffer("The installed aiortc cannot move a call to another network path.", param="sdp")

    def send(self, pcm: Pcm) -> None:
        """See :class:`Media`."""
        if self._speaker is not None:
            for tick in pcm.reshape(-1, TICK_SAMPLES):
                self._speaker.push(tick)

    def clear(self) -> None:
        """See :class:`Media`."""
        if self._speaker is not None:
            self._speaker.clear()

    def stats(self) -> Mapping[str, float]:
        """Return ``rtt_ms``, ``jitter_ms``, ``lost_packets`` and ``received_packets``, as far as they are known."""
        return self._stats

    def close(self) -> None:
        """Nothing: the tasks end with the call, and aiortc says goodbye."""

    def _codec(self) -> str:
        """Return what sound is to be sent as: the peer's choice, or Opus where this end chooses."""
        described: RTCSessionDescription | None = self._connection.remoteDescription
        streams = [] if described is None else read_streams(described.sdp)
        codecs = next((list(stream.codecs.values()) for stream in streams if stream.kind == "audio"), [])
        return codecs[0] if codecs else "opus"

    async def _listen(self, track: MediaStreamTrack) -> None:
        """Hear a microphone for as long as it sends."""
        resampler: StreamResampler | None = None
        position = due = 0
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:  # aiortc's word for the end of a track
                return
            if not isinstance(frame, av.AudioFrame) or frame.pts is None:
                continue
            if resampler is None:  # of Opus come 48 kHz, of G.711 8; timestamps count the same
                resampler = StreamResampler(frame.sample_rate, self._rate_hz)
            position += max(0, frame.pts - due) * self._rate_hz // frame.sample_rate
            due = frame.pts + frame.samples
            stereo = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
            pcm = resampler.push(stereo.mean(axis=1, dtype=np.float32) / 32768)
            self._hear(MediaAudio(pcm, position))
            position += len(pcm)

    async def _read_stats(self) -> None:
        while True:
            await asyncio.sleep(STATS_EVERY_S)
            for report in (await self._connection.getStats()).values():
                if report.type == "inbound-rtp" and report.kind == "audio":
                    self._stats["jitter_ms"] = report.jitter * 1000 / RTP_RATE_HZ
                    self._stats["received_packets"] = float(report.packetsReceived)
                    self._stats["lost_packets"] = float(max(0, report.packetsLost))
                elif report.type == "remote-inbound-rtp" and report.roundTripTime is not None:
                    self._stats["rtt_ms"] = report.roundTripTime * 1000
                elif report.type == "transport":
                    if report.bytesReceived != self.moved_bytes[0]:
                        self.arrived_s = asyncio.get_running_loop().time()
                    self.moved_bytes = report.bytesReceived, report.bytesSent


class Speaker(MediaStreamTrack):
    """The track that carries the model's voice: packets as they are made, and nothing while it is silent.

    Timestamps follow the clock through silence, so that the listener's buffer neither grows nor runs dry when speech
    begins again. Whoever calls :meth:`push` sets the pace.

    Args:
        codec: what it is sent as, by its name in SDP.
    """

    kind = "audio"

    def __init__(self, codec: str = "opus") -> None:
        super().__init__()
        self._encoder = ENCODERS[codec]()
        self._queue: deque[tuple[int, bytes]] = deque(maxlen=MAX_QUEUED_PACKETS)  # the oldest goes
        self._epoch_s = asyncio.get_running_loop().time()
        self._next_stamp: int | None = None  # where the spurt goes on; None between spurts
        self._quiet_from_s = 0.0  # when silence is due if nothing more comes
        self._silence_left = 0
        self._arrival = asyncio.Event()

    def push(self, pcm: Pcm) -> None:
        """Send one tick: float32 ``[480]``, 24 kHz."""
        if self._next_stamp is None:
            elapsed = round((asyncio.get_running_loop().time() - self._epoch_s) * RTP_RATE_HZ)
            self._next_stamp = elapsed // _RTP_TICK * _RTP_TICK
        self._append(pcm)
        self._silence_left = SILENCE_PACKETS
        self._quiet_from_s = self._epoch_s + self._next_stamp / RTP_RATE_HZ + SILENCE_SLACK_S
        self._arrival.set()

    def clear(self) -> None:
        """Drop what has not left, and end the spurt with silence now."""
        if self._next_stamp is None:
            return
        if self._queue:
            self._next_stamp = self._queue[0][0]
            self._queue.clear()
        self._quiet_from_s = asyncio.get_running_loop().time()
        self._arrival.set()

    async def recv(self) -> av.Packet[Any]:
        """Wait for the next packet; aiortc's sender calls this in a loop.

        Cancelled, it leaves what waits in the queue.
        """
        while not self._queue:
            self._arrival.clear()
            try:
                async with asyncio.timeout_at(None if self._next_stamp is None else self._quiet_from_s):
                    await self._arrival.wait()
            except TimeoutError:
                self._append_silence()
        stamp, payload = self._queue.popleft()
        packet = av.Packet(payload)
        packet.pts = stamp
        packet.time_base = Fraction(1, RTP_RATE_HZ)
        return packet

    def _append(self, pcm: Pcm) -> None:
        assert self._next_stamp is not None
        self._queue.append((self._next_stamp, self._encoder.encode(pcm)))
        self._next_stamp += _RTP_TICK

    def _append_silence(self) -> None:
        self._append(np.zeros(TICK_SAMPLES, np.float32))
        self._quiet_from_s += TICK_MS / 1000
        self._silence_left -= 1
        if self._silence_left <= 0:
            self._next_stamp = None


async def watch_camera(camera: MediaStreamTrack, eye: Eye | None) -> None:
    """Read a camera for as long as it sends, and hand on a picture as often as somebody looks.

    Every frame is read, because aiortc keeps what nobody reads for ever.
    """
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    while True:
        try:
            frame = await camera.recv()
        except MediaStreamError:  # aiortc's word for the end of a track
            return
        if eye is None or loop.time() < due_s or not isinstance(frame, av.VideoFrame):
            continue
        due_s = loop.time() + eye.view.every_s
        eye.see(MediaFrame(await loop.run_in_executor(None, _to_rgb, frame, eye.view.max_side_px)))


def _to_rgb(frame: av.VideoFrame, max_side_px: int) -> npt.NDArray[np.uint8]:
    width, height = fitted_size(frame.width, frame.height, max_side_px)
    return np.asarray(frame.reformat(width=width, height=height, format="rgb24").to_ndarray(), np.uint8)
