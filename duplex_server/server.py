"""The composition root: the only file that knows every room, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from duplex_server.config import Settings, is_loopback
from duplex_server.engine.processes import ProcessEngine
from duplex_server.media.vad import SileroDetector
from duplex_server.metrics import Metrics, watch_loop
from duplex_server.models.minicpmo.hosting import FACTORY, host, is_checkpoint
from duplex_server.models.minicpmo.placement import Precision
from duplex_server.page import page_folder
from duplex_server.security import Gate
from duplex_server.session.camera import PictureLimits
from duplex_server.session.manager import SessionManager
from duplex_server.session.session import SessionLimits
from duplex_server.transports.http import create_app
from duplex_server.transports.listening import listening_socket, server_options
from duplex_server.types import SessionSetup

__all__ = ["serve"]

_log = logging.getLogger(__name__)

_USUAL_ROWS = 16
_FACTORIES = {
    "embedded": "duplex_server.models.embedded.model:build",
    "echo": "duplex_server.models.echo:build",
}


def serve(settings: Settings) -> None:
    """Run the server until it is told to stop by SIGINT or SIGTERM; sessions then get a grace to finish.

    Raises:
        ConfigError: a setting cannot be used.
        ModelLoadError: the model cannot be loaded.
    """
    logging.basicConfig(
        level=settings.log_level.value.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    logging.getLogger("aioice").setLevel(logging.WARNING)  # logs every candidate pair at INFO
    gate = Gate.of(settings, time.time)
    listening = listening_socket(settings.host, settings.port)
    with contextlib.closing(listening), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(settings, gate, listening))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where it is installed: half the CPU of a socket wake-up."""
    if sys.platform == "win32":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _run(settings: Settings, gate: Gate, listening: socket.socket) -> None:
    metrics = Metrics()
    engine = _engine(settings)
    began_s = time.monotonic()
    async with engine:
        _say(f"Loaded in {time.monotonic() - began_s:.1f} s: {engine.places} places.")
        manager = SessionManager(
            engine,
            max_sessions=settings.max_sessions,
            limits=SessionLimits(
                session_max_s=settings.session_max_s,
                input_ahead_s=settings.input_ahead_s,
                confirm_ms=settings.confirm_ms,
                resume_grace_s=settings.resume_grace_s,
                pictures=PictureLimits(
                    max_bytes=settings.image_max_bytes,
                    max_px=settings.image_max_px,
                    max_side_px=engine.spec.frame_max_px,
                ),
            ),
            policy=settings.interruption,
            setup=SessionSetup(language=settings.language, voice=engine.spec.voices[0]),
            make_detector=SileroDetector,
            observer=metrics,
            shutdown_grace_s=settings.shutdown_grace_s,
            wall_clock_s=time.time,
            line_max=settings.queue_max,
        )
        _watch(metrics, engine, manager, gate)
        folder = page_folder() if settings.web_client else None
        app = create_app(manager, settings, gate, metrics, folder, wall_clock_s=time.time)
        http = _HttpServer(uvicorn.Config(app, **server_options(settings)))
        async with manager, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch_loop(metrics.loop_stalled), name="watch_loop")
            serving = tasks.create_task(http.serve(sockets=[listening]), name="http")
            stopping = tasks.create_task(_stop_signal(), name="signals")
            _say(_invitation(settings, listening))
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not serving.done():
                _say("Stopping; conversations may finish. Stop again to end them at once.")
                await _drain(manager)
                http.should_exit = True
                await serving
            watching.cancel()


def _engine(settings: Settings) -> ProcessEngine:
    if is_checkpoint(settings.model):
        return _checkpoint_engine(settings)
    workers = settings.model_workers or os.cpu_count() or 1
    factory = _FACTORIES.get(settings.model, settings.model)
    _say(f"Loading the model {settings.model!r} in {workers} worker process{'es' if workers > 1 else ''} …")
    return ProcessEngine(factory, settings.rows_per_worker or _USUAL_ROWS, workers)


def _checkpoint_engine(settings: Settings) -> ProcessEngine:
    """Return the engine for a MiniCPM-o: a worker for each model, whose options say where it lies."""
    options = {
        "dtype": settings.dtype.value,
        "window": settings.window.value,
        "window_tokens": settings.window_tokens,
        "flow_steps": settings.flow_steps,
        "frames_per_unit": settings.frames_per_unit,
        "picture_slices": settings.picture_slices,
        "compile": settings.compile,
        "voice_file": settings.voice_file,
    }
    precision = None if settings.precision.value == "auto" else Precision(settings.precision.value)
    hosting = host(Path(settings.model), settings.devices, settings.rows_per_worker, options, precision)
    places = " and ".join(_devices_of(told["placement"]) for told in hosting.options)
    _say(f"Loading {settings.model} to {places}, {hosting.rows} conversations each …")
    return ProcessEngine(FACTORY, hosting.rows, len(hosting.options), hosting.options)


def _devices_of(placement: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys([placement["layers"][0], *placement["layers"], placement["speech"]]))


class _HttpServer(uvicorn.Server):
    """uvicorn's server without its signal handlers: this file stops it, after the conversations."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _stop_signal() -> None:
    """Wait until the process is told to stop. Cancellation takes the handlers away."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, told.set)
    try:
        await told.wait()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _drain(manager: SessionManager) -> None:
    """Let the conversations finish; a second signal cuts the wait short."""
    async with asyncio.TaskGroup() as tasks:
        drained = tasks.create_task(manager.drain())
        again = tasks.create_task(_stop_signal())
        await asyncio.wait([drained, again], return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        again.cancel()


def _watch(metrics: Metrics, engine: ProcessEngine, manager: SessionManager, gate: Gate) -> None:
    metrics.add_counter("auth_failures", "Wrong keys that were shown.", lambda: gate.failed_attempts)
    metrics.add_gauge("sessions", "Conversations now.", lambda: manager.sessions)
    metrics.add_gauge("waiting", "Clients that wait for a place.", lambda: manager.waiting)
    metrics.add_gauge("places", "Conversations that fit.", lambda: manager.places)
    metrics.add_gauge("ready", "1 if a conversation would be admitted to a running engine.", lambda: manager.ready)
    metrics.add_gauge(
        "workers_up", "Model workers that are loaded.", lambda: sum(worker.up for worker in engine.statistics())
    )
    metrics.add_counter(
        "worker_restarts",
        "Model workers started again after a crash.",
        lambda: sum(worker.restarts for worker in engine.statistics()),
    )


def _invitation(settings: Settings, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    scheme = "https" if settings.tls_certificate else "http"
    name = "localhost" if is_loopback(settings.host) else host
    if ipaddress.ip_address(host).is_unspecified:
        name = socket.gethostname()
    shown = f"[{name}]" if ":" in name else name
    url = f"{scheme}://{shown}:{port}"
    if not settings.web_client:
        return f"Ready at {url}/v1/realtime. Stop with Ctrl-C."
    return f"Ready. Open {url}/ in a browser, press Start, and speak. Stop with Ctrl-C."


def _say(sentence: str) -> None:
    """Tell the person at the terminal."""
    print(sentence, file=sys.stderr, flush=True)
