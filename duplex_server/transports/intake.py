"""What a peer sent and its session has not taken yet: bounded, decoded when it is taken.

Knows nothing about where it came from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from duplex_server.errors import ClientError, InvalidEvent, LimitExceeded
from duplex_server.session.transport import MediaAudio, MediaFrame, Received
from duplex_server.transports.mailbox import Mailbox
from duplex_server.wire.dialect import Dialect
from duplex_server.wire.events import ClientEvent

__all__ = ["Intake"]

EARLY_PACKETS = 50
"""A second of sound may come before the session that hears it is ready; what was said in a line is not for it."""

MAX_ITEMS = 4096
"""Messages and media packets that may wait; 80 s of packets from a microphone."""


class Intake:
    """The event stream of one connection: an :class:`~duplex_server.session.transport.EventStream` with one reader.

    Args:
        max_message_bytes: longest message that is decoded; twice as much may wait.
        dialect: decodes them.
    """

    def __init__(self, max_message_bytes: int, dialect: Dialect) -> None:
        self._max_message_bytes = max_message_bytes
        self._dialect = dialect
        self._decoded: deque[ClientEvent | InvalidEvent] = deque()  # bounded by what a dialect makes of one message
        # When full, messages are dropped and the peer is told once; media is dropped silently, which leaves a hole.
        self._mailbox: Mailbox[str | Received] = Mailbox(limit_items=MAX_ITEMS, limit_bytes=2 * max_message_bytes)
        self._n_dropped = 0
        # Sound from before anybody listens, which is long where there is a line; the oldest goes. None from then on.
        self._early: deque[MediaAudio] | None = deque(maxlen=EARLY_PACKETS)

    @property
    def closed(self) -> bool:
        """Whether nothing more will be taken in."""
        return self._mailbox.closed

    def put_message(self, message: str | ClientEvent) -> None:
        """Add a message, to be decoded later, or what is one already."""
        if not self._mailbox.put(message, len(message) if isinstance(message, str) else 0) and not self._mailbox.closed:
            self._n_dropped += 1

    def listen(self) -> None:
        """Take media in from now on: somebody will read it."""
        early, self._early = self._early or (), None
        for media in early:
            self.put_media(media)

    def put_media(self, media: MediaAudio | MediaFrame) -> None:
        """Add decoded audio or a picture; before :meth:`listen` only the newest second of audio is kept."""
        if self._dialect.muted and isinstance(media, MediaAudio):
            return
        if self._early is not None:
            if isinstance(media, MediaAudio):
                self._early.append(media)
            return
        self._mailbox.put(media, media.pcm.nbytes if isinstance(media, MediaAudio) else media.rgb.nbytes)

    def drop_rest(self) -> None:
        """Forget the other events of the message whose event was taken last."""
        self._decoded.clear()

    def put_error(self, error: ClientError) -> None:
        """Add what is wrong with a message that cannot be decoded."""
        self._mailbox.put(error)

    def close(self, *, discard: bool = False) -> None:
        """End the stream, after what waits or, with ``discard``, at once."""
        self._mailbox.close(discard=discard)

    def __aiter__(self) -> Intake:
        return self

    async def __anext__(self) -> Received:
        """Take the next item, waiting for it. Cancelled, it leaves everything as it was.

        Raises:
            StopAsyncIteration: the stream has ended.
        """
        if self._n_dropped:
            return self._told_of_dropped()
        while not self._decoded:
            item = await anext(self._mailbox)
            if not isinstance(item, str):
                return item
            self._decoded.extend(self._meant(item))
        return self._decoded.popleft()

    async def for_each(self, take: Callable[[Received], None]) -> None:
        """Call a function with each item: with what waits, and with what comes as soon as it comes.

        Returns when the stream has ended. What ``take`` raises is raised here; like a cancellation, it leaves what was
        not taken.
        """

        def take_item(item: str | Received) -> None:
            if not isinstance(item, str):
                take(item)
                return
            events = self._meant(item)
            if len(events) == 1:
                take(events[0])
                return
            self._decoded.extend(events)
            while self._decoded:
                take(self._decoded.popleft())

        if self._n_dropped:
            take(self._told_of_dropped())
        while self._decoded:
            take(self._decoded.popleft())
        await self._mailbox.for_each(take_item)

    def _meant(self, message: str) -> Sequence[ClientEvent | InvalidEvent]:
        """Return what a message asks for, or what is wrong with it."""
        try:
            return self._dialect.receive(message, max_bytes=self._max_message_bytes)
        except InvalidEvent as error:
            return (error,)

    def _told_of_dropped(self) -> LimitExceeded:
        n_dropped, self._n_dropped = self._n_dropped, 0
        return LimitExceeded(
            f"{n_dropped} messages came faster than the server can take them, and were dropped.",
            limit="max_message_bytes",
            value=f"{self._max_message_bytes} bytes",
            code="input_backpressure",
        )
