"""One WebRTC call: SDP in, SDP out, events on the data channel, sound on the track, and a peer that may simply vanish.

Knows nothing about HTTP, admission or what events mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError

from duplex_server.errors import DuplexError, InvalidEvent, SlowPeer
from duplex_server.session.transport import EventStream, TransportTraits
from duplex_server.transports.intake import Intake
from duplex_server.transports.listeners import Listeners
from duplex_server.transports.observer import TransportObserver
from duplex_server.transports.rtc_camera import CameraView, Eye
from duplex_server.transports.rtc_internals import IceRestart, dtls_transport, offer_loopback
from duplex_server.transports.rtc_media import make_media
from duplex_server.transports.rtc_pacer import Pacer
from duplex_server.transports.rtc_sdp import InvalidOffer, Offer, check_readable, finish_answer, read_offer
from duplex_server.types import TICK_MS, Pcm
from duplex_server.wire.dialect import Dialect
from duplex_server.wire.events import ClientEvent, ServerEvent

__all__ = ["CHANNEL", "WebRtcTransport"]

_log = logging.getLogger(__name__)

CHANNEL = "oai-events"
"""Label of the data channel that carries events. Source: OpenAI Realtime API."""

TRAITS = TransportTraits(name="webrtc", media_track=True, chunk_ms=TICK_MS, lead_ms=0)

CONNECT_TIMEOUT_S = 15.0
"""How long a peer may take from our answer to an open data channel. ICE over a relay takes some seconds."""

PEER_SILENCE_S = 8.0
"""A peer from whom nothing has arrived for so long has vanished.

Peers send sound all the time, and ICE checks every 5 s or, in aiortc, 6 s at most (RFC 7675 §5.1)."""

WATCH_EVERY_S = 1.0
"""How often the connection is looked at: a vanished peer is noticed within 9 s."""

FLUSH_TIMEOUT_S = 1.0
CLOSE_TIMEOUT_S = 3.0

_UNANSWERABLE = (ValueError, InternalError, InvalidAccessError, InvalidStateError, OperationError)
"""What aiortc raises when it cannot agree to a description."""


class WebRtcTransport:
    """A call, as a :class:`~duplex_server.session.transport.Transport`. Made by :meth:`open`, which owns its tasks."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        *,
        ice_servers: Sequence[str],
        max_message_bytes: int,
        send_queue_bytes: int,
        observer: TransportObserver,
        dialect: Dialect,
        pacer: Pacer,
        view: CameraView | None,
    ) -> None:
        self._tasks = tasks
        self._jobs: set[asyncio.Task[None]] = set()
        self._send_queue_bytes = send_queue_bytes
        self._observer = observer
        self._dialect = dialect
        self._intake = Intake(max_message_bytes, dialect)
        self.listeners = Listeners(dialect)
        """Who else hears the call's events."""
        # Bundled: everything travels over one ICE transport. Servers are named even if there are none, because
        # aiortc's default is somebody's public STUN server.
        self._connection = RTCPeerConnection(
            RTCConfiguration(
                iceServers=[RTCIceServer(urls=list(ice_servers))] if ice_servers else [],
                bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
            )
        )
        eye = None if view is None else Eye(view, self._intake.put_media, self._intake.put_error)
        self._media = make_media(self._connection, self._intake.put_media, eye, self._spawn, pacer)
        self._connection.on("connectionstatechange", self._follow_state)
        self._connection.on("datachannel", self._take_channel)
        self._negotiating = asyncio.Lock()
        self._offer: Offer | None = None  # the newest that was answered
        self._refused: frozenset[str] = frozenset()
        self._channel: RTCDataChannel | None = None
        self._progress = asyncio.Event()  # set by everything that connected() waits for
        self._stats: Mapping[str, float] = {}  # these two as they were told last
        self._moved_bytes = (0, 0)
        self._opened = False
        self._closing: asyncio.Task[None] | None = None
        self._ended_by = "server"

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        ice_servers: Sequence[str],
        max_message_bytes: int,
        send_queue_bytes: int,
        observer: TransportObserver,
        dialect: Dialect,
        pacer: Pacer,
        view: CameraView | None,
    ) -> AsyncIterator[WebRtcTransport]:
        """Make a call's server end, and close it when the block is left.

        Args:
            ice_servers: STUN URLs that tell the server its public address.
            max_message_bytes: longest event taken from the peer.
            send_queue_bytes: what may wait for a peer that does not read.
            observer: told what happens.
            dialect: how this peer spells events.
            pacer: of this event loop; wakes media when it is due.
            view: how the model looks at cameras; None for a blind one.
        """
        offer_loopback()
        async with asyncio.TaskGroup() as tasks:
            transport = cls(
                tasks,
                ice_servers=ice_servers,
                max_message_bytes=max_message_bytes,
                send_queue_bytes=send_queue_bytes,
                observer=observer,
                dialect=dialect,
                pacer=pacer,
                view=view,
            )
            try:
                yield transport
            finally:
                await transport.close()

    # -- negotiation --------------------------------------------------------------------------------------------------

    async def answer(self, sdp: str) -> str:
        """Answer an offer: the call's first, or a later one that adds a track or changes the network path.

        Returns:
            The answer, with all of the server's candidates.

        Raises:
            InvalidOffer: it cannot be answered. A call that stands goes on as it was.

        Cancelled, it leaves a call that can only be closed.
        """
        async with self._negotiating:
            earlier = self._offer
            taken = {section.mid for section in earlier.sections} - self._refused if earlier else set[str]()
            offer = read_offer(sdp, taken=taken, refused=self._refused)
            if not offer.has_audio:
                raise InvalidOffer("The offer has no audio section with Opus or G.711.", param="sdp")
            check_readable(offer.sdp)
            restart = await self._prepare_restart(offer)
            try:
                await self._connection.setRemoteDescription(RTCSessionDescription(sdp=offer.sdp, type="offer"))
                self._media.attach()
                await self._connection.setLocalDescription(await self._connection.createAnswer())
            except _UNANSWERABLE as error:
                if restart is not None:
                    await restart.abandon()
                raise InvalidOffer("The offer cannot be answered.", param="sdp") from error
            self._offer = offer
            self._refused |= offer.refused
            self._media.settle()
            if restart is not None:
                self._spawn(self._move(restart, offer.ice))
            return finish_answer(self._connection.localDescription.sdp, offer)

    async def connected(self) -> bool:
        """Wait until the peer is connected and, if it asked for one, its data channel is open.

        Returns:
            Whether it came to that; False if the peer left before, or took too long.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                while not (self._intake.closed or self._is_complete()):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            self._end("failed", "did not connect in time")
        if self._intake.closed:
            return False
        self._opened = True
        self._observer.connection_opened(TRAITS.name)
        self._spawn(self._watch())
        return True

    def receive(self, message: str | ClientEvent) -> None:
        """Take what came on another way than the data channel: with the offer, or from a listener."""
        self._intake.put_message(message)

    def hang_up(self) -> None:
        """End the call as if the peer had left."""
        self._end("peer", "was hung up")

    # -- Transport ----------------------------------------------------------------------------------------------------

    @property
    def traits(self) -> TransportTraits:
        """How audio leaves a WebRTC call: on its track, tick by tick."""
        return TRAITS

    @property
    def ended(self) -> bool:
        """Whether the peer is gone, or the connection closed."""
        return self._intake.closed

    @property
    def lost(self) -> bool:
        """Whether the peer vanished, or did not read."""
        return self._ended_by in ("vanished", "failed", "slow")

    @property
    def heard_s(self) -> float:
        """When a packet last arrived from the peer, loop time."""
        return self._media.arrived_s

    def events(self) -> EventStream:
        """Iterate over what the peer sends; ends when it is gone or :meth:`close` was called."""
        self._intake.listen()
        return self._intake

    def send(self, event: ServerEvent) -> None:
        """Queue an event on the data channel; a call without one hears no events. Never waits."""
        messages = [message.decode() for message in self._dialect.tell(event)]
        self.listeners.send(event, messages)
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return
        for message in messages:
            self._put(channel, message)

    def _put(self, channel: RTCDataChannel, text: str) -> None:
        queued = channel.bufferedAmount
        if queued + len(text) > self._send_queue_bytes:
            self._end("slow", str(SlowPeer(queued)))
            return
        try:
            channel.send(text)
        except ValueError as error:  # longer than the peer said it can take
            _log.warning("an event was not sent: %s", error)

    def send_audio(self, pcm: Pcm) -> None:
        """Put one tick of speech on the track: float32 ``[480]``, 24 kHz. Never waits."""
        self._media.send(pcm)

    def clear_audio(self) -> None:
        """Drop speech that has not left yet, and send silence."""
        self._media.clear()

    def stats(self) -> Mapping[str, float]:
        """Return ``rtt_ms``, ``jitter_ms``, ``lost_packets``, ``received_packets`` and more, as far as it is known."""
        return self._media.stats()

    async def close(self, error: DuplexError | None = None) -> None:  # noqa: ARG002 - the protocol's signature
        """Send what is queued, and close. Safe to call twice; takes 4 s at most.

        WebRTC has no close codes: what ``error`` says, the session has sent as an event.
        """
        self._intake.close(discard=True)
        if self._closing is None:
            shutting = self._shut()
            try:
                self._closing = self._tasks.create_task(shutting)
            except RuntimeError:  # a job of this call failed, and its group takes no more
                await shutting
                return
        # The session that closes its call is cancelled by the end of the events; the call must be closed all the same.
        await asyncio.shield(self._closing)

    async def _shut(self) -> None:
        try:
            if self._connection.connectionState == "connected":
                await self._flush()
            self._media.close()
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._connection.close()
        except TimeoutError:
            _log.warning("a WebRTC call did not close in %.0f s", CLOSE_TIMEOUT_S)
        finally:
            self._media.close()
            for job in self._jobs:
                job.cancel()
            self.listeners.hang_up()
            if self._opened:
                self._measure()
                self._observer.connection_closed(TRAITS.name, self._ended_by)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task

    def _end(self, ended_by: str, why: str) -> None:
        """End the event stream; the session then closes the call."""
        if not self._intake.closed:
            _log.info("a WebRTC peer %s", why)
            self._ended_by = ended_by
            self._intake.close()
            self._progress.set()

    def _is_complete(self) -> bool:
        assert self._offer is not None, "answer() comes before connected()"
        return self._connection.connectionState == "connected" and (
            self._channel is not None or not self._offer.has_channel
        )

    def _follow_state(self) -> None:
        state = self._connection.connectionState
        if state == "failed":
            self._end("failed", "could not be reached")
        elif state == "closed":
            self._end("peer", "left")
        self._progress.set()

    def _take_channel(self, channel: RTCDataChannel) -> None:
        if channel.label != CHANNEL or self._channel is not None:
            _log.info("a data channel that carries no events was opened: %r", channel.label[:80])
            return
        self._channel = channel
        channel.on("message", self._take_message)
        channel.on("close", lambda: self._end("peer", "closed its data channel"))
        self._progress.set()

    def _take_message(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self._intake.put_message(message)
        else:
            self._intake.put_error(InvalidEvent("Events are JSON text, not binary messages.", code="invalid_json"))

    async def _prepare_restart(self, offer: Offer) -> IceRestart | None:
        if self._offer is None or self._offer.ice == offer.ice:
            return None
        dtls = dtls_transport(self._connection)
        assert dtls is not None, "an earlier offer was answered"
        if dtls.transport.state != "completed":
            raise InvalidOffer("The network path can only be changed after the call is connected.", param="sdp")
        restart = self._media.restart()
        await restart.prepare()
        return restart

    async def _move(self, restart: IceRestart, ice: tuple[str, str]) -> None:
        try:
            await restart.complete(*ice, self._spawn)
        except (ConnectionError, TimeoutError):
            _log.info("a WebRTC peer offered a new network path that did not come to stand")

    async def _watch(self) -> None:
        """Keep the statistics, and notice a peer that is gone without a word."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            if loop.time() - self._media.arrived_s >= PEER_SILENCE_S:
                self._end("vanished", f"has sent nothing for {PEER_SILENCE_S:.0f} s")
                return
            self._measure()

    def _measure(self) -> None:
        stats = self._media.stats()
        self._observer.media_measured(stats, {name: stats[name] - self._stats.get(name, 0.0) for name in stats})
        self._stats = stats
        received, sent = self._media.moved_bytes
        self._observer.bytes_moved(TRAITS.name, received - self._moved_bytes[0], sent - self._moved_bytes[1])
        self._moved_bytes = received, sent

    async def _flush(self) -> None:
        """Wait until the peer has confirmed every event, or for a second."""
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                while self._media.unconfirmed:  # noqa: ASYNC110 - aiortc has no event for it
                    await asyncio.sleep(TICK_MS / 1000)
        except TimeoutError:
            _log.info("a WebRTC peer did not confirm the last events")
