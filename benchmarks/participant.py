"""One person in a conversation with a server, over a real transport, at real-time pace: a scene, and ears.

All times are seconds on the participant's clock, which starts at its microphone's first sample. A sample that was
spoken at time t left for the server when the packet of 20 ms that holds it was full, as from a real microphone. A
sample that is found at time t on :attr:`Participant.track` is what a loudspeaker would play then: it has arrived and,
over WebRTC, has waited in a jitter buffer (40 ms after every silence). What converters, drivers and the air add in
front of a real listener is not in these times.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np

from benchmarks.analysis import first_audible_s, last_audible_s
from benchmarks.noise import EchoPath
from benchmarks.scene import Scene, Span
from benchmarks.speech import RATE_HZ
from duplex_server.client import (
    MEDIA_TRACK_DELAY_MS,
    Conversation,
    Loudspeaker,
    Playback,
    Player,
    ReceivedAudio,
    TransportName,
    connect,
)
from duplex_server.types import Pcm
from duplex_server.wire.events import ServerEvent

__all__ = ["Participant", "joined"]

TICK_S = 0.02
_TICK_SAMPLES = round(TICK_S * RATE_HZ)
_LEAST_AHEAD_TICKS = 2
"""What is said begins so many ticks ahead of the newest one sent: it cannot be too late for the microphone."""

Event = TypeVar("Event")


class Participant:
    """Somebody who speaks and listens. Made by :func:`joined`.

    Attributes:
        scene: what the microphone hears; :meth:`say` puts speech into it.
        log: every event with the time of its arrival; audio is left out.
        lags_s: how late each packet of the microphone was sent: the benchmark's own error.
    """

    def __init__(self, conversation: Conversation, scene: Scene, seed: int) -> None:
        self.scene = scene
        self.dice = np.random.default_rng(seed)
        self.log: list[tuple[float, ServerEvent]] = []
        self.lags_s: list[float] = []
        self._conversation = conversation
        delay_ms = MEDIA_TRACK_DELAY_MS if conversation.media_track else 0
        self.player = Player(start_delay_ms=delay_ms)
        self._playback = Playback(self.player, media_track=conversation.media_track)
        self._started_s = asyncio.get_running_loop().time()
        self._loudspeaker = Loudspeaker(self.player, self._started_s)
        self._n_ticks = 0
        self._tick = asyncio.Event()

    @property
    def now_s(self) -> float:
        """The participant's time: everything before it has been sent and played."""
        return self._n_ticks * TICK_S

    @property
    def track(self) -> Pcm:
        """Everything that was played, float32 ``[n]`` at 24 kHz from time 0 on."""
        return self._loudspeaker.track

    def say(self, clip: Pcm, *, after_s: float = 0.0) -> Span:
        """Begin to say something ``after_s`` from now, not on a packet's border but anywhere within."""
        offset = int(self.dice.integers(_TICK_SAMPLES)) + round(after_s * RATE_HZ)
        return self.scene.add(clip, (self._n_ticks + _LEAST_AHEAD_TICKS) * _TICK_SAMPLES + offset)

    def surround(self, bed: Pcm | None) -> None:
        """Let a sound be heard over and over from now on; None for quiet."""
        self.scene.set_bed(bed, (self._n_ticks + _LEAST_AHEAD_TICKS) * _TICK_SAMPLES)

    async def wait_until(self, time_s: float) -> None:
        """Wait until everything before ``time_s`` has been sent and played."""
        while self.now_s < time_s:
            await self._tick.wait()

    async def hear_voice(self, after_s: float, within_s: float) -> float | None:
        """Wait for a voice; return when its first sample was played, or None if there was none within the time."""
        while True:
            found_s = first_audible_s(self.track, RATE_HZ, after_s, after_s + within_s)
            if found_s is not None or self.now_s >= after_s + within_s:
                return found_s
            await self._tick.wait()

    async def hear_silence(self, for_s: float, within_s: float) -> bool:
        """Wait until the voice has been silent ``for_s``; return False if it was not so ``within_s`` from now."""
        give_up_s = self.now_s + within_s
        while self.now_s < give_up_s:
            last_s = last_audible_s(self.track, RATE_HZ, self.now_s - for_s)
            if last_s is None and not self.player.playing:
                return True
            await self._tick.wait()
        return False

    def first(self, kind: type[Event], after_s: float) -> tuple[float, Event] | None:
        """Return the first event of a kind that came after a time, with its time of arrival."""
        for time_s, event in self.log:
            if time_s > after_s and isinstance(event, kind):
                return time_s, event
        return None

    def all(self, kind: type[Event], after_s: float = 0.0) -> list[tuple[float, Event]]:
        """Return every event of a kind that came after a time, with its time of arrival."""
        return [(time_s, event) for time_s, event in self.log if time_s > after_s and isinstance(event, kind)]

    async def listen(self) -> None:
        """Play what comes, as a listener's program does, until the conversation ends."""
        loop = asyncio.get_running_loop()
        async for received in self._conversation.events():
            now_s = received.received_s if isinstance(received, ReceivedAudio) else loop.time()
            self._loudspeaker.advance(now_s)
            for answer in self._playback.receive(received):
                await self._conversation.send(answer)
            if not isinstance(received, ReceivedAudio):
                self.log.append((now_s - self._started_s, received))  # type: ignore[arg-type]
        raise EOFError("the server ended the conversation")

    async def live(self) -> None:
        """Send what the microphone hears, packet by packet, by absolute deadlines."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = self._started_s + (self._n_ticks + 1) * TICK_S
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            self.lags_s.append(loop.time() - due_s)
            self._loudspeaker.advance(due_s)
            packet = self.scene.heard(self._n_ticks * _TICK_SAMPLES, _TICK_SAMPLES, self.track)
            await self._conversation.send_audio(packet, RATE_HZ)
            self._n_ticks += 1
            self._tick.set()
            self._tick = asyncio.Event()


@asynccontextmanager
async def joined(
    server: str,
    transport: TransportName,
    *,
    api_key: str | None = None,
    session: Mapping[str, Any] | None = None,
    echo: EchoPath | None = None,
    seed: int = 0,
) -> AsyncIterator[Participant]:
    """Join a conversation, and leave it at the end of the block.

    Args:
        server: its address.
        transport: how to connect.
        api_key: the server's, if it asks for one.
        session: more settings for ``extra_body``.
        echo: how the loudspeaker is heard by the microphone.
        seed: of everything random about the participant.

    Raises:
        ExceptionGroup: of what went wrong in the block or in the connection.
    """
    extra = {"duplex_events": ["overlap"], **(session or {})}
    async with connect(server, transport=transport, api_key=api_key, session={"extra_body": extra}) as conversation:
        participant = Participant(conversation, Scene(echo), seed)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(participant.listen()), tasks.create_task(participant.live())]
            yield participant
            for task in running:
                task.cancel()
