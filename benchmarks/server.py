"""A server to be measured: one that runs already, or one started here as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psutil

__all__ = ["ServerDied", "Usage", "cpu_time_s", "family", "free_port", "running", "usage"]

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0


class ServerDied(Exception):
    """The server did not start, or ended by itself; the message holds what it printed last."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and all its children have used."""

    cpu_s: dict[str, float]
    """CPU seconds by process: the server's own as ``server``, its children by what they run."""
    memory_bytes: int
    """Proportional set size: memory that several of the processes share is counted once."""
    private_bytes: int
    """Memory that no other process has: what grows with sessions, whatever else runs on the machine."""


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    program: Sequence[str], flags: Sequence[str], *, python: Path | None = None, core: int | None = None
) -> Iterator[tuple[str, psutil.Process]]:
    """Start a server on a free port and stop it at the end of the block; yields its address and its process.

    Args:
        program: what starts a server: ``["-m", "duplex_server", "serve"]``, words for an interpreter.
        flags: more words for its command line.
        python: the interpreter; None: this one.
        core: the only one that it and its children may run on; None: all.

    Raises:
        ServerDied: it did not get ready.
    """
    port = free_port()
    command = [str(python or sys.executable), *program, "--port", str(port), "--log-level", "warning", *flags]
    url = f"http://127.0.0.1:{port}"
    pinned = None if core is None else lambda: os.sched_setaffinity(0, {core})  # before it has any thread
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stderr=said, preexec_fn=pinned) as process:
        try:
            _await_ready(process, url, said)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _await_ready(process: subprocess.Popen[bytes], url: str, said: TextIO) -> None:
    give_up_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < give_up_s:
        if process.poll() is not None:
            said.seek(0)
            raise ServerDied(f"the server ended with status {process.returncode}:\n{said.read()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ServerDied(f"the server was not ready within {_START_TIMEOUT_S:.0f} s")


def usage(server: psutil.Process) -> Usage:
    """Return what a server and its children have used until now. Takes tens of milliseconds."""
    cpu_s: dict[str, float] = {}
    memory_bytes = private_bytes = 0
    for process in family(server):
        name = "server" if process.pid == server.pid else _role(process)
        cpu_s[name] = cpu_s.get(name, 0.0) + cpu_time_s(process)
        memory = process.memory_full_info()
        memory_bytes += memory.pss
        private_bytes += memory.uss
    return Usage(cpu_s, memory_bytes, private_bytes)


def family(server: psutil.Process) -> list[psutil.Process]:
    """Return a server's process and all its children."""
    return [server, *server.children(recursive=True)]


def cpu_time_s(process: psutil.Process) -> float:
    """Return the CPU time that a process has used until now, seconds; quickly."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _role(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    if "espeak" in words:
        return "voice"
    return "tracker" if "resource_tracker" in words else "model"
