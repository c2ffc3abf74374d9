"""What runs in a worker process: the device loop on the main thread, and a second thread that listens for cancels.

The process lives only as long as the server that started it. Knows nothing about asyncio or sessions; the other end of
its two sockets is :mod:`duplex_server.engine.processes`.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence

from duplex_server.engine.messages import (
    Boot,
    CancelTurn,
    Command,
    Logged,
    Report,
    decode_boot,
    decode_cancels,
    decode_commands,
    encode,
)
from duplex_server.engine.runner import Runner
from duplex_server.errors import ModelLoadError
from duplex_server.frames import FrameBuffer
from duplex_server.models.base import Model

__all__ = ["main"]

EXIT_LOST_SERVER = 3
"""Exit status when the server is gone; nobody is left to read it but whoever debugs."""


def main(commands_fd: int, cancels_fd: int) -> int:
    """Serve the socket pair's other ends until they are closed; returns the exit status."""
    faulthandler.enable()
    # The server decides when its workers end, by closing their socket: a Ctrl-C in the terminal, or a service manager
    # that signals every process, must not cut conversations that the server still lets finish. Not SIG_IGN: programs
    # that the model starts would inherit it, and could not be ended in the usual way.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: None)
    commands, cancels = socket.socket(fileno=commands_fd), socket.socket(fileno=cancels_fd)
    for end in (commands, cancels):
        # A program that the model starts must not keep the sockets open after this process has died.
        end.set_inheritable(False)
    server = _Server(commands)
    boot = _receive_boot(commands)
    logging.root.addHandler(_ToServer(server))
    logging.root.setLevel(boot.log_level)
    runner = Runner(lambda: _build(boot), server.report)
    threading.Thread(target=_hear_cancels, args=(cancels, runner), name="cancels", daemon=True).start()
    return 0 if runner.run(_SocketInbox(commands)) else 1


class _Server:
    """The way to the server. Waits while the server does not read: then it is stalled, and so may its models be."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # any thread may log

    def report(self, reports: list[Report]) -> None:
        frame = encode(reports)
        try:
            with self._lock:
                self._stream.sendall(frame)
        except OSError:
            os._exit(EXIT_LOST_SERVER)


class _ToServer(logging.Handler):
    """Sends log records to the server, which has the settings and the streams to write them to."""

    def __init__(self, server: _Server) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        self._server.report([Logged(record.name, record.levelno, self.format(record))])


class _SocketInbox:
    """Commands from the server; ends when it closes its end."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._frames: FrameBuffer[Command] = FrameBuffer(decode_commands)
        self._readable = select.poll()
        self._readable.register(stream, select.POLLIN)

    def take(self, wait_s: float | None) -> Sequence[Command] | None:
        commands: list[Command] = []
        while not commands:
            if wait_s is not None and not self._readable.poll(wait_s * 1000):
                break
            n_bytes = self._stream.recv_into(self._frames.space())
            if n_bytes == 0:
                return None
            commands = self._frames.filled(n_bytes)
        return commands


def _receive_boot(stream: socket.socket) -> Boot:
    # Nothing follows the boot message before the model is loaded, so its buffer can be thrown away.
    frames: FrameBuffer[Boot] = FrameBuffer(decode_boot)
    while n_bytes := stream.recv_into(frames.space()):
        for boot in frames.filled(n_bytes):
            return boot
    sys.exit(EXIT_LOST_SERVER)


def _hear_cancels(stream: socket.socket, runner: Runner) -> None:
    """Pass cancels on while the main thread steps; end the process when the server is gone, even in a long step."""
    frames: FrameBuffer[CancelTurn] = FrameBuffer(decode_cancels)
    try:
        while n_bytes := stream.recv_into(frames.space()):
            for cancel in frames.filled(n_bytes):
                runner.cancel(cancel)
    finally:
        os._exit(EXIT_LOST_SERVER)


def _build(boot: Boot) -> Model:
    module, _, name = boot.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ModelLoadError(f"the model's factory {boot.factory!r} cannot be imported: {error}") from error
    model: Model = factory(boot.rows, **boot.options)
    return model
