"""One gateway's process, seen from the supervisor: its birth, what it says, its death.

Knows nothing about what gateways share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from duplex_server.errors import ConfigError, DuplexError, ModelLoadError
from duplex_server.gateways.channel import Channel
from duplex_server.gateways.messages import (
    Boot,
    Drained,
    FromGateway,
    FromSupervisor,
    Loaded,
    Serving,
    Unloadable,
    decode_from_gateway,
)

__all__ = ["Child"]

EXIT_S = 1.0
"""How long a process that has closed its channel may take to exit before it is killed."""

_PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from duplex_server.server import serve_gateway; sys.exit(serve_gateway(int(sys.argv[1])))"
)
"""The child's program. It is told the search path first, so it finds what this process can import, however it was
started. What it imports, this process need not have."""


class Child:
    """One run of a gateway.

    Args:
        boot: what it is told.
        joined: called when its model is loaded.
        serving: called when it takes connections.
        hear: called with everything else that it says after it has joined.
    """

    def __init__(
        self,
        boot: Boot,
        *,
        joined: Callable[[Child], None],
        serving: Callable[[Child], None],
        hear: Callable[[FromGateway], None],
    ) -> None:
        self.number = boot.number
        self.serving = False
        """Whether it takes connections."""
        self.drained = asyncio.Event()
        """Set when it was told to stop, and no session is left, or it has died."""
        self.refusal: DuplexError | None = None
        """Why it cannot start, if it said so."""
        self.n_heard = 0
        """Messages so far."""
        self._boot = boot
        self._on_joined = joined
        self._on_serving = serving
        self._on_message = hear
        self._channel = Channel(self._hear, self._lose)
        self._lost = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> str:
        """Start it, and return how it ended, for the log. Cancelled, it kills it."""
        try:
            await self._start()
            await self._lost.wait()
            return await self._end()
        finally:
            self.drained.set()
            self.kill()
            self._channel.close()
            if self._process is not None:
                await self._process.wait()

    def tell(self, message: FromSupervisor) -> None:
        """Tell it something. Never waits."""
        self._channel.send(message)

    def kill(self) -> None:
        """Kill it, and what it started besides its model's processes, which end when they lose it."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _start(self) -> None:
        """Start the process.

        Raises:
            ModelLoadError: the operating system gives none.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            await asyncio.get_running_loop().create_unix_connection(lambda: self._channel, sock=ours)
            search_path = json.dumps([entry or str(Path.cwd()) for entry in sys.path])
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", _PROGRAM, search_path, str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # a Ctrl-C in the terminal is for the supervisor
                )
            except OSError as error:
                raise ModelLoadError(f"gateway {self.number} cannot be started: {error}") from error
        self._channel.send(self._boot)

    async def _end(self) -> str:
        assert self._process is not None, "started"
        try:
            async with asyncio.timeout(EXIT_S):
                await self._process.wait()
        except TimeoutError:
            return "it closed its channel but did not exit"
        status = self._process.returncode or 0
        return f"it was ended by {signal.Signals(-status).name}" if status < 0 else f"it exited with status {status}"

    def _hear(self, payload: bytes) -> None:
        self.n_heard += 1
        match decode_from_gateway(payload):
            case Loaded():
                self._on_joined(self)
            case Unloadable(message, setting):
                self.refusal = ConfigError(message) if setting else ModelLoadError(message)
            case Serving():
                self.serving = True
                self._on_serving(self)
            case Drained():
                self.drained.set()
            case message:
                self._on_message(message)

    def _lose(self) -> None:
        self._lost.set()
