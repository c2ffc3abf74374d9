"""The media path of a WebRTC call, behind one small class: sound both ways, the camera's pictures in.

The only file that knows which parts of aiortc carry media; a faster path replaces it and ``rtc_audio``. Knows nothing
about events or sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpReceiver
from aiortc.mediastreams import MediaStreamError

from duplex_server.media.image import fitted_size
from duplex_server.session.transport import MediaAudio, MediaFrame
from duplex_server.transports.rtc_audio import Microphone, Speaker
from duplex_server.transports.rtc_internals import take_over
from duplex_server.types import Pcm

__all__ = ["MediaPath"]

CAMERA_EVERY_S = 0.5
"""Least time between two pictures that are converted. A model looks once per unit at most, MiniCPM-o once a second."""

CAMERA_MAX_PX = 896
"""Longer side of a picture that is handed on: twice what the models look at, so that they may crop."""


class MediaPath:
    """Carries the media of one call.

    Args:
        deliver: given decoded sound and pictures, on the event loop.
        spawn: starts a task that lives at most as long as the call.
    """

    def __init__(
        self, deliver: Callable[[MediaAudio | MediaFrame], None], spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        self._deliver = deliver
        self._spawn = spawn
        self._speaker: Speaker | None = None
        self._microphones: dict[RTCRtpReceiver, Microphone] = {}
        self._cameras: set[MediaStreamTrack] = set()

    @property
    def n_lost(self) -> int:
        """Packets of the microphone that never came or came too late."""
        return sum(microphone.n_lost for microphone in self._microphones.values())

    def attach(self, connection: RTCPeerConnection) -> None:
        """Take charge of every track that the peer's description has brought; call after each description."""
        for transceiver in connection.getTransceivers():
            receiver = transceiver.receiver
            camera: MediaStreamTrack | None = receiver.track
            if transceiver.kind == "audio" and receiver not in self._microphones:
                self._microphones[receiver] = Microphone(self._deliver)
                take_over(receiver, self._microphones[receiver])
                if self._speaker is None:
                    self._speaker = Speaker()
                    connection.addTrack(self._speaker)
            elif transceiver.kind == "video" and camera is not None and camera not in self._cameras:
                self._cameras.add(camera)
                self._spawn(self._watch(camera))

    def send(self, pcm: Pcm) -> None:
        """Send one tick of speech: float32 ``[480]``, 24 kHz."""
        if self._speaker is not None:
            self._speaker.push(pcm)

    def clear(self) -> None:
        """Drop speech that has not left, and send silence."""
        if self._speaker is not None:
            self._speaker.clear()

    def close(self) -> None:
        """Stop all timers."""
        for microphone in self._microphones.values():
            microphone.close()

    async def _watch(self, camera: MediaStreamTrack) -> None:
        """Read a camera for as long as it sends, and hand on a picture now and then.

        Every frame is read, because aiortc keeps what nobody reads for ever.
        """
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            try:
                frame = await camera.recv()
            except MediaStreamError:  # aiortc's word for the end of a track
                return
            if loop.time() < due_s or not isinstance(frame, av.VideoFrame):
                continue
            due_s = loop.time() + CAMERA_EVERY_S
            self._deliver(MediaFrame(await loop.run_in_executor(None, _to_rgb, frame)))


def _to_rgb(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    width, height = fitted_size(frame.width, frame.height, CAMERA_MAX_PX)
    return np.asarray(frame.reformat(width=width, height=height, format="rgb24").to_ndarray(), np.uint8)
