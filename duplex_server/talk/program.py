"""``duplex-server talk``: a conversation at the terminal, with devices or with files in their place.

Knows nothing about the wire beyond what the client shows of it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from duplex_server.client import (
    MEDIA_TRACK_DELAY_MS,
    Conversation,
    InLine,
    Loudspeaker,
    Playback,
    Player,
    Received,
    TransportName,
    connect,
)
from duplex_server.errors import ConfigError, DuplexError
from duplex_server.media.pcm import level_db
from duplex_server.talk.captions import Captions
from duplex_server.talk.devices import open_devices
from duplex_server.talk.files import EventLog, SoundFile, camera_pictures, read_speech
from duplex_server.talk.terminal import Terminal
from duplex_server.types import OUTPUT_RATE_HZ, Pcm
from duplex_server.wire.events import ResponseCreated, ResponseDone

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "EXIT_OK", "TalkOptions", "converse", "run"]

EXIT_OK = 0
EXIT_FAILED = 1
"""The server could not be reached, refused, or the connection broke."""
EXIT_BAD_SETTING = 2
EXIT_INTERRUPTED = 130
"""Ctrl-C while files were being sent: they are incomplete. (128 + SIGINT, as shells have it.)"""

_TICK_S = 0.02
_TICK_SAMPLES = round(_TICK_S * OUTPUT_RATE_HZ)
_PICTURE_EVERY_S = 1.0
_QUIET_S = 2.5
"""After the input's end, the conversation is over when nothing was said for this long; an answer takes a second."""
_MAX_ANSWER_S = 120.0
"""The conversation is over this long after the input's end, whatever is being said."""
_SHOW_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class TalkOptions:
    """What was asked for on the command line."""

    server: str
    transport: TransportName = "websocket"
    input: Path | None = None
    frames: Path | None = None
    output: Path | None = None
    stereo: bool = False
    transcript: Path | None = None
    language: str | None = None
    api_key: str | None = None
    interruption: str | None = None

    def session(self) -> dict[str, Any]:
        """Return the settings to ask the server for."""
        extra = {"language": self.language, "interruption": self.interruption, "duplex_events": ["overlap", "limits"]}
        return {"extra_body": {key: setting for key, setting in extra.items() if setting is not None}}


def run(asked: argparse.Namespace) -> int:
    """Hold a conversation and return the exit status.

    Args:
        asked: the command line's words; the attributes of :class:`TalkOptions`, of which ``stereo`` and
            ``interruption`` may be missing.
    """
    options = TalkOptions(
        server=asked.server,
        transport=cast(TransportName, asked.transport),
        input=asked.input,
        frames=asked.frames,
        output=asked.output,
        stereo=getattr(asked, "stereo", False),
        transcript=asked.transcript,
        language=asked.language,
        api_key=asked.api_key,
        interruption=getattr(asked, "interruption", None),
    )
    terminal = Terminal(sys.stdout, live=sys.stdout.isatty())
    try:
        asyncio.run(converse(options, terminal))
    except KeyboardInterrupt:
        return EXIT_OK if options.input is None else EXIT_INTERRUPTED
    except ConfigError as error:
        terminal.close()
        sys.stderr.write(f"duplex-server: {error}\n")
        return EXIT_BAD_SETTING
    except DuplexError as error:
        terminal.close()
        sys.stderr.write(f"duplex-server: {error}\n")
        return EXIT_FAILED
    finally:
        terminal.close()
    return EXIT_OK


async def converse(options: TalkOptions, terminal: Terminal) -> None:
    """Hold a conversation until the files are through, or until it is cancelled.

    Cancelled, it leaves complete files of what was said so far.

    Raises:
        DuplexError: the conversation could not be begun or broke; ConfigError for a file or device of the caller's.
    """
    if options.stereo and options.input is None:
        raise ConfigError("--stereo needs --input: without it, only what is heard is saved.")
    speech = read_speech(options.input) if options.input is not None else None
    with ExitStack() as files:
        output = files.enter_context(SoundFile(options.output, stereo=options.stereo)) if options.output else None
        log = files.enter_context(EventLog(options.transcript)) if options.transcript else None
        async with connect(
            options.server,
            transport=options.transport,
            api_key=options.api_key,
            session=options.session(),
            on_queue=lambda line: terminal.notice(_in_line(line)),
        ) as conversation:
            terminal.notice(f"Connected to {conversation.session.model} at {options.server}.")
            talk = _Talk(conversation, terminal, output, log)
            try:
                async with asyncio.TaskGroup() as tasks:
                    others = [tasks.create_task(talk.follow())]
                    if options.frames is not None:
                        others.append(tasks.create_task(talk.look(camera_pictures(options.frames))))
                    if speech is not None:
                        await talk.speak(speech)
                    else:
                        await talk.listen()
                    for task in others:
                        task.cancel()
            except* DuplexError as group:
                raise group.exceptions[0] from None


def _in_line(line: InLine) -> str:
    wait = f"about {line.estimated_wait_s:.0f} s"
    return f"Every place is taken: number {line.position} of {line.queue_length} in line, {wait}. Ctrl-C leaves it."


class _Talk:
    """One conversation's state and its tasks."""

    def __init__(
        self, conversation: Conversation, terminal: Terminal, output: SoundFile | None, log: EventLog | None
    ) -> None:
        delay_ms = MEDIA_TRACK_DELAY_MS if conversation.media_track else 0
        self._conversation = conversation
        self._terminal = terminal
        self._output = output
        self._log = log
        self._player = Player(start_delay_ms=delay_ms)
        self._playback = Playback(self._player, media_track=conversation.media_track)
        self._captions = Captions()
        self._started_s = asyncio.get_running_loop().time()
        self._loudspeaker: Loudspeaker | None = None
        self._played: Pcm = np.zeros(0, np.float32)  # by the loudspeaker, and not accounted for yet: under a second
        self._ended = asyncio.Event()
        self._responding = False
        self._busy_s = 0.0  # when something was last said, on the microphone's clock
        self._shown_s = 0.0

    async def follow(self) -> None:
        """Act on what the server sends, until it ends the conversation."""
        loop = asyncio.get_running_loop()
        async for received in self._conversation.events():
            now_s = loop.time()
            self._advance(now_s)
            for answer in self._playback.receive(received):
                await self._conversation.send(answer)
            self._notice(received, now_s - self._started_s)
        self._ended.set()

    async def look(self, pictures: Iterator[bytes]) -> None:
        """Send a picture every second; the last one stays, as a camera goes on to see what is before it."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        newest: bytes | None = None
        while True:
            newest = await asyncio.to_thread(next, pictures, newest)
            if newest is not None:
                await self._conversation.send_frame(newest)
            due_s += _PICTURE_EVERY_S
            await asyncio.sleep(max(0.0, due_s - loop.time()))

    async def speak(self, speech: Pcm) -> None:
        """Send a recording at real-time pace, then silence until the answer was heard to its end."""
        loop = asyncio.get_running_loop()
        self._loudspeaker = Loudspeaker(self._player, self._started_s, keep=False)
        n_ticks = 0
        while self._goes_on and not self._over(n_ticks * _TICK_S, len(speech) / OUTPUT_RATE_HZ):
            due_s = self._started_s + (n_ticks + 1) * _TICK_S
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            tick = speech[n_ticks * _TICK_SAMPLES : (n_ticks + 1) * _TICK_SAMPLES]
            microphone = np.concatenate([tick, np.zeros(_TICK_SAMPLES - len(tick), np.float32)])
            await self._conversation.send_audio(microphone, OUTPUT_RATE_HZ)
            self._advance(due_s)
            played, self._played = np.split(self._played, [_TICK_SAMPLES])
            self._account(microphone, played)
            n_ticks += 1

    async def listen(self) -> None:
        """Use the microphone and the loudspeaker until the server ends the conversation."""
        # When full, the network is slower than speech: the oldest sound goes.
        heard: asyncio.Queue[tuple[Pcm, int, Pcm]] = asyncio.Queue(50)

        def put(microphone: Pcm, rate_hz: int, played: Pcm) -> None:
            if heard.full():
                heard.get_nowait()
            heard.put_nowait((microphone, rate_hz, played))

        with open_devices(self._player, put) as cancelling:
            hint = "" if cancelling else " Use headphones, or install duplex-server[aec] against echo."
            self._terminal.notice(f"Speak; Ctrl-C hangs up.{hint}")
            while self._goes_on:
                microphone, rate_hz, played = await heard.get()
                await self._conversation.send_audio(microphone, rate_hz)
                self._account(microphone, played)

    @property
    def _goes_on(self) -> bool:
        """Whether the conversation is on, or its last words are still to be heard."""
        return not self._ended.is_set() or self._player.playing

    def _advance(self, now_s: float) -> None:
        if self._loudspeaker is not None:
            self._played = np.concatenate([self._played, self._loudspeaker.advance(now_s)])

    def _over(self, now_s: float, input_s: float) -> bool:
        """Return whether a conversation from a file is over, ``now_s`` after its start."""
        if self._responding or self._player.playing:
            self._busy_s = now_s
        silent_s = now_s - max(self._busy_s, input_s)
        return silent_s >= _QUIET_S or now_s >= input_s + _MAX_ANSWER_S

    def _account(self, microphone: Pcm, played: Pcm) -> None:
        """Save and show what both sides said within a tick."""
        if self._output is not None:
            self._output.write(microphone, played)
        now_s = asyncio.get_running_loop().time()
        if now_s - self._shown_s < _SHOW_EVERY_S:
            return
        self._shown_s = now_s
        self._terminal.show(
            self._captions.state(playing=self._player.playing),
            microphone_db=level_db(microphone),
            model_db=level_db(played),
            partial=self._captions.partial,
        )

    def _notice(self, received: Received, time_s: float) -> None:
        if self._log is not None:
            self._log.write(time_s, received)
        if isinstance(received, ResponseCreated):
            self._responding = True
        elif isinstance(received, ResponseDone):
            self._responding = False
        for caption in self._captions.receive(received):
            self._terminal.caption(caption)
