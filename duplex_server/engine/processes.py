"""An engine whose workers are processes, so that models written in Python use all processors and may crash alone.

Each worker has two sockets: one for commands and reports, and one for cancels, which a thread of the worker reads while
its model computes. Knows nothing about what the model is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from duplex_server.engine.messages import Boot, CancelTurn, Command, Report, decode_reports, encode
from duplex_server.engine.pool import WorkerPool
from duplex_server.engine.usage import UNKNOWN, Usage, process_usage
from duplex_server.engine.worker import Hear, Limits, Link, Worker
from duplex_server.errors import ModelLoadError
from duplex_server.frames import FrameBuffer

__all__ = ["ProcessEngine"]

log = logging.getLogger(__name__)

UNSENT_MAX_BYTES = 64 * 1024 * 1024
"""Commands that may wait in this process for a worker to read them. Slots stop at a few units each, so a worker with so
many unread is stuck; it is killed."""

EXIT_S = 1.0
"""How long a worker's sockets and its process may differ in their death before the rest is ended by force."""

_ENTRY = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from duplex_server.engine.child import main; sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))"
)
"""The child's program. It is told the search path first, so it finds what this process can import, however it was
started, and it imports neither this process's main module nor a test runner."""


class ProcessEngine(WorkerPool):
    """An :class:`~duplex_server.engine.base.Engine` that runs a model in several processes.

    A worker that dies loses its own conversations only, and is started again.

    Args:
        factory: ``"module:callable"``, imported in each worker and called as ``callable(rows, **options)``.
        rows: how many conversations fit into each worker.
        workers: how many processes.
        options: plain values (numbers, texts, lists, dicts), for all workers, or of each one.
        limits: how long to wait for what.
    """

    def __init__(
        self,
        factory: str,
        rows: int,
        workers: int,
        options: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        of_each = [options or {}] * workers if options is None or isinstance(options, Mapping) else options
        assert len(of_each) == workers, "options of each worker"

        def worker(index: int) -> Worker:
            name = f"model-{index}"
            boot = encode([Boot(name, factory, rows, dict(of_each[index]), logging.root.getEffectiveLevel())])
            return Worker(name, rows, lambda hear: _launched(name, boot, hear, limits.stop_s), limits)

        super().__init__([worker(index) for index in range(workers)])


class _Life(asyncio.SubprocessProtocol):
    """Hears of a process's death."""

    def __init__(self, died: asyncio.Event, exited: asyncio.Event) -> None:
        self._died = died
        self._exited = exited

    def process_exited(self) -> None:
        self._died.set()
        self._exited.set()


class _Reports(asyncio.BufferedProtocol):
    """Hears what a worker reports, and that it will report nothing more."""

    def __init__(self, hear: Hear, died: asyncio.Event, all_heard: asyncio.Event) -> None:
        self._hear = hear
        self._died = died
        self._all_heard = all_heard
        self._frames: FrameBuffer[Report] = FrameBuffer(decode_reports)

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._frames.space()

    def buffer_updated(self, nbytes: int) -> None:
        if reports := self._frames.filled(nbytes):
            self._hear(reports)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._died.set()
        self._all_heard.set()


class _ProcessLink:
    """One worker process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: asyncio.SubprocessTransport | None = None
        self._commands: asyncio.Transport | None = None
        self._cancels: socket.socket | None = None
        self._died = asyncio.Event()  # it exited, or closed its socket
        self._exited = asyncio.Event()
        self._all_heard = asyncio.Event()

    async def start(self, boot: bytearray, hear: Hear) -> None:
        """Start the process and tell it what to load.

        Raises:
            ModelLoadError: the operating system gives no process.

        After an error or a cancellation, :meth:`stop` ends whatever has been started.
        """
        loop = asyncio.get_running_loop()
        commands, their_commands = socket.socketpair()
        self._cancels, their_cancels = socket.socketpair()
        commands.setblocking(False)
        self._cancels.setblocking(False)
        with their_commands, their_cancels:
            # Connected first: from here on the transport closes the socket, whatever happens.
            self._commands, _ = await loop.create_unix_connection(
                lambda: _Reports(hear, self._died, self._all_heard), sock=commands
            )
            fds = their_commands.fileno(), their_cancels.fileno()
            search_path = json.dumps([entry or str(Path.cwd()) for entry in sys.path])
            try:
                self._process, _ = await loop.subprocess_exec(
                    lambda: _Life(self._died, self._exited),
                    *(sys.executable, "-c", _ENTRY, search_path, *map(str, fds)),
                    stdin=subprocess.DEVNULL,
                    stdout=None,
                    stderr=None,
                    pass_fds=fds,
                    # A process group of its own: a Ctrl-C in the terminal does not reach it, not even before it has
                    # learnt to ignore it, and what it starts is ended together with it.
                    start_new_session=True,
                )
            except OSError as error:
                raise ModelLoadError(f"{self._name} cannot be started: {error}") from error
        self._commands.write(boot)

    def send(self, commands: list[Command]) -> None:
        assert self._commands is not None, "started"
        if self._commands.is_closing():
            return
        self._commands.write(encode(commands))
        if self._commands.get_write_buffer_size() > UNSENT_MAX_BYTES:
            log.error("%s does not read what it is sent; it is ended", self._name)
            self.kill()

    def cancel(self, command: CancelTurn) -> None:
        assert self._cancels is not None, "started"
        frame = encode([command])
        try:
            n_bytes = self._cancels.send(frame)
        except BlockingIOError:
            n_bytes = 0
        except OSError:
            return  # it has died, which is told elsewhere
        if n_bytes < len(frame):
            # The thread that reads them does nothing else, and thousands fit into the socket.
            log.error("%s does not hear cancels; it is ended", self._name)
            self.kill()

    def kill(self) -> None:
        """Kill the process and all that it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.get_pid(), signal.SIGKILL)

    async def ended(self) -> str:
        await self._died.wait()
        try:
            async with asyncio.timeout(EXIT_S):
                await self._exited.wait()
                await self._all_heard.wait()
        except TimeoutError:
            self.kill()
        return self._describe_end()

    async def stop(self, limit_s: float) -> None:
        """End the process after the step it is in; if that takes longer than ``limit_s``, kill it.

        A cancelled call kills it at once.
        """
        try:
            if self._process is not None and not self._exited.is_set():
                await self._end_orderly(limit_s)
        finally:
            # Even if it exited: what the model started and left behind is still in its group.
            self.kill()
            if self._process is not None:
                self._process.close()
            if self._commands is not None:
                self._commands.abort()
            if self._cancels is not None:
                self._cancels.close()
        if self._commands is not None:
            await self._all_heard.wait()  # the transport, aborted above, says so in the loop's next turn

    def usage(self) -> Usage:
        return UNKNOWN if self._process is None else process_usage(self._process.get_pid())

    async def _end_orderly(self, limit_s: float) -> None:
        if self._commands is not None and not self._commands.is_closing():
            self._commands.write_eof()
        try:
            async with asyncio.timeout(limit_s):
                await self._exited.wait()
        except TimeoutError:
            log.error("%s has not ended within %.1f s; it is killed", self._name, limit_s)
            self.kill()
            # A process that the kernel itself holds, as a broken driver may, outlives even this; it is left behind.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_S):
                    await self._exited.wait()

    def _describe_end(self) -> str:
        status = None if self._process is None else self._process.get_returncode()
        if status is None:
            return "it closed its socket but did not exit"
        if status < 0:
            return f"it was ended by {signal.Signals(-status).name}"
        return f"it exited with status {status}"


@contextlib.asynccontextmanager
async def _launched(name: str, boot: bytearray, hear: Hear, stop_s: float) -> AsyncIterator[Link]:
    link = _ProcessLink(name)
    try:
        await link.start(boot, hear)
        yield link
    finally:
        await link.stop(stop_s)
