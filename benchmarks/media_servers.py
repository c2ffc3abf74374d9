"""The servers that :mod:`benchmarks.media` compares: what they are, how they are called, and how they get installed.

Those of others get an environment each, outside the repository, with the versions named here; it is kept for the next
run. Knows nothing about what is measured.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.media_call import Door
from benchmarks.server import running

__all__ = ["ENVIRONMENTS", "SERVERS", "CannotInstall", "Server", "environment", "started", "version"]

ENVIRONMENTS = Path.home() / ".cache" / "duplex-server-bench"
_ADAPTERS = Path(__file__).parent / "media_adapters"
_OURS = Door("/v1/realtime/calls", json=False, channel="oai-events")
_MOST_ROWS = 250
_INSTALL_TIMEOUT_S = 900.0


class CannotInstall(Exception):
    """A server's environment could not be made; the message holds what the installer said last."""


@dataclass(frozen=True, slots=True)
class Server:
    """One of the servers.

    Attributes:
        title: what tables call it.
        program: words for the interpreter.
        flags: more of them.
        door: how it is called.
        pins: what is installed for it; empty for our own, which this interpreter runs.
        package: whose version tables name.
        takes_pictures: whether it decodes stills that come over the data channel.
        first: calls that a search begins with.
    """

    title: str
    program: tuple[str, ...]
    door: Door
    flags: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    package: str = ""
    takes_pictures: bool = False
    first: int = 6


_WEB = ("uvicorn==0.54.0",)
SERVERS: dict[str, Server] = {
    "ours": Server(
        "ours: transport",
        ("-m", "benchmarks.media_echo"),
        _OURS,
        takes_pictures=True,
        first=20,
        package="duplex-server",
    ),
    "whole": Server(
        "ours: whole server",
        ("-m", "duplex_server", "serve"),
        _OURS,
        flags=(
            *("--model", "benchmarks.media_mirror:build", "--interruption", "model", "--no-web-client"),
            *("--model-workers", "1", "--rows-per-worker", str(_MOST_ROWS), "--max-sessions", str(_MOST_ROWS)),
        ),
        takes_pictures=True,
        package="duplex-server",
        first=10,
    ),
    "aiortc": Server(
        "aiortc",
        (str(_ADAPTERS / "aiortc_echo.py"),),
        Door("/offer", json=True, channel="oai-events"),
        pins=("aiortc==1.16.0", "av==18.1.0", "fastapi==0.165.0", "pillow==13.0.0", *_WEB),
        package="aiortc",
        takes_pictures=True,
    ),
    "fastrtc": Server(
        "fastrtc",
        (str(_ADAPTERS / "fastrtc_echo.py"),),
        Door("/webrtc/offer", json=True, channel="text"),
        pins=("fastrtc==0.0.34", "gradio==5.50.0", "aiortc==1.16.0", "fastapi==0.163.2", *_WEB),
        package="fastrtc",
    ),
    "pipecat": Server(
        "pipecat small WebRTC",
        (str(_ADAPTERS / "pipecat_echo.py"),),
        Door("/offer", json=True, channel="oai-events"),
        pins=("pipecat-ai[webrtc]==1.14.0", "aiortc==1.16.0", "fastapi==0.165.0", *_WEB),
        package="pipecat-ai",
        first=4,
    ),
}


def environment(name: str, server: Server, folder: Path, say: Callable[[str], None]) -> Path:
    """Return the interpreter that runs a server; installs it the first time, which takes minutes.

    Args:
        name: of the server.
        server: it.
        folder: where environments are kept.
        say: told what happens.

    Raises:
        CannotInstall: the packages could not be had.
    """
    if not server.pins:
        return Path(sys.executable)
    mark = hashlib.sha256("\n".join((sys.version, *server.pins)).encode()).hexdigest()[:12]
    home = folder / f"{name}-{mark}"
    python = home / "bin" / "python"
    complete = home / "complete"
    if complete.exists():
        return python
    say(f"installing {', '.join(server.pins)} into {home}")
    shutil.rmtree(home, ignore_errors=True)
    try:
        venv.create(home, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotInstall(f"no environment could be made in {home}: {error}") from error
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *server.pins]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"pip took more than {_INSTALL_TIMEOUT_S / 60:.0f} minutes") from None
    if done.returncode:
        raise CannotInstall((done.stderr or done.stdout).strip()[-600:])
    complete.touch()
    return python


def version(server: Server, python: Path) -> str:
    """Return the version of a server's package, as its interpreter sees it."""
    program = f"import importlib.metadata; print(importlib.metadata.version({server.package!r}))"
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "working tree"


@contextmanager
def started(server: Server, python: Path, core: int | None) -> Iterator[tuple[str, psutil.Process]]:
    """Start a server and stop it at the end of the block; yields its address and its process.

    Raises:
        ServerDied: it did not get ready.
    """
    with running(server.program, server.flags, python=python, core=core) as server_at:
        yield server_at
