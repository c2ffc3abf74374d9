"""The composition root: the only file that knows every room, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from duplex_server.config import Settings
from duplex_server.engine.processes import ProcessEngine
from duplex_server.errors import ConfigError, ModelLoadError
from duplex_server.gateways.channel import receive_frame
from duplex_server.gateways.console import ORDERS, log_to_terminal, say, told_to_stop
from duplex_server.gateways.division import USUAL_ROWS
from duplex_server.gateways.link import SupervisorLink, linked
from duplex_server.gateways.messages import Boot, Unloadable, decode_boot
from duplex_server.gateways.relay import Relay
from duplex_server.gateways.tunnel import Application, socket_of, tunnels_taken
from duplex_server.media.vad import SileroDetector
from duplex_server.metrics import Gauges, Metrics, merged, watch_loop
from duplex_server.models.minicpmo.hosting import FACTORY, host, is_checkpoint
from duplex_server.models.minicpmo.placement import Precision
from duplex_server.page import page_folder
from duplex_server.security import Gate
from duplex_server.session.admission import Doorkeeper
from duplex_server.session.camera import PictureLimits
from duplex_server.session.manager import SessionManager
from duplex_server.session.session import SessionLimits
from duplex_server.transports.http import create_app
from duplex_server.transports.listening import server_options
from duplex_server.transports.port import invitation, listening_socket
from duplex_server.types import SessionSetup

__all__ = ["serve", "serve_gateway"]

_log = logging.getLogger(__name__)

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
    log_to_terminal(settings)
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


def serve_gateway(descriptor: int) -> int:
    """Run one gateway of several until its supervisor tells it to leave, or is gone; returns the exit status.

    Args:
        descriptor: of this end of the channel.
    """
    end = socket.socket(fileno=descriptor)
    end.set_inheritable(False)
    for number in ORDERS:  # the supervisor decides when its gateways stop, even where all processes get the signal
        signal.signal(number, lambda *_: None)
    payload = receive_frame(end)
    if payload is None:
        return 1
    boot = decode_boot(payload)
    log_to_terminal(boot.settings, f"gateway {boot.number}")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run_gateway(boot, end))


async def _run(settings: Settings, gate: Gate, listening: socket.socket) -> None:
    metrics = Metrics()
    engine = _engine(settings)
    began_s = time.monotonic()
    async with engine:
        say(f"Loaded in {time.monotonic() - began_s:.1f} s: {engine.places} places.")
        manager = _manager(settings, engine, metrics)
        _watch(metrics, engine, gate)
        metrics.add_gauge("sessions", "Conversations now.", lambda: manager.sessions)
        _watch_whole(metrics, manager)
        app = create_app(manager, settings, gate, metrics, _page_of(settings), wall_clock_s=time.time)
        http = _HttpServer(uvicorn.Config(app, **server_options(settings)))
        async with manager, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch_loop(metrics.loop_stalled), name="watch_loop")
            serving = tasks.create_task(http.serve(sockets=[listening]), name="http")
            stopping = tasks.create_task(told_to_stop(), name="signals")
            say(invitation(settings, listening))
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not serving.done():
                say("Stopping; conversations may finish. Stop again to end them at once.")
                await _drain(manager, told_to_stop)
                http.should_exit = True
                await serving
            watching.cancel()


async def _run_gateway(boot: Boot, end: socket.socket) -> int:
    """Serve as one of several; returns the exit status."""
    async with linked(boot.number, end, time.time) as link:
        try:
            await _serve_behind(link, boot)
        except (ConfigError, ModelLoadError) as error:
            link.tell(Unloadable(str(error), setting=isinstance(error, ConfigError)))
            return 1
        return 0


async def _serve_behind(link: SupervisorLink, boot: Boot) -> None:
    settings, folder, metrics, whole = boot.settings, Path(boot.folder), Metrics(), Gauges()
    engine = ProcessEngine(_factory(settings), boot.rows_per_worker, boot.model_workers)
    gate = Gate.of(settings, time.time, link.tally)
    async with engine:
        manager = _manager(settings, engine, metrics, link.admission, link.number)
        _watch(metrics, engine, gate)
        metrics.add_gauge("sessions", "Conversations now.", lambda: link.admission.sessions_here)
        _watch_whole(whole, manager)
        _watch_gateways(whole, link)
        app: Application = create_app(
            manager, settings, gate, metrics, _page_of(settings), wall_clock_s=time.time, gateway=link.number
        )
        relay = Relay(app, link, folder, ready=lambda: engine.ready, merge=lambda pages: merged(pages) + whole.render())
        listening = listening_socket(settings.host, boot.port, shared=True)
        tunnels = tunnels_taken(app, socket_of(folder, link.number))
        async with manager, asyncio.TaskGroup() as tasks, tunnels:
            await link.join()
            http = _HttpServer(uvicorn.Config(relay, **server_options(settings)), on_start=link.serve)
            watching = tasks.create_task(watch_loop(metrics.loop_stalled), name="watch_loop")
            beating = tasks.create_task(link.beat(lambda: engine.ready), name="beat")
            serving = tasks.create_task(http.serve(sockets=[listening]), name="http")
            await link.stopping.wait()
            await _drain(manager, link.stopping_at_once.wait)
            await link.drained()
            http.should_exit = True
            await serving
            beating.cancel()
            watching.cancel()


def _manager(
    settings: Settings,
    engine: ProcessEngine,
    metrics: Metrics,
    doorkeeper: Doorkeeper | None = None,
    gateway: int = 0,
) -> SessionManager:
    SileroDetector()  # reads the network that all share: what is wrong with it stops the start, not a conversation
    return SessionManager(
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
        doorkeeper=doorkeeper,
        gateway=gateway,
    )


def _page_of(settings: Settings) -> Path | None:
    return page_folder() if settings.web_client else None


def _engine(settings: Settings) -> ProcessEngine:
    if is_checkpoint(settings.model):
        return _checkpoint_engine(settings)
    workers = settings.model_workers or os.cpu_count() or 1
    say(f"Loading the model {settings.model!r} in {workers} worker process{'es' if workers > 1 else ''} …")
    return ProcessEngine(_factory(settings), settings.rows_per_worker or USUAL_ROWS, workers)


def _factory(settings: Settings) -> str:
    return _FACTORIES.get(settings.model, settings.model)


def _checkpoint_engine(settings: Settings) -> ProcessEngine:
    """Return the engine for a MiniCPM-o: a worker for each model, whose options say where it lies."""
    options = {
        "dtype": settings.dtype.value,
        "window": settings.window.value,
        "window_tokens": settings.window_tokens,
        "flow_steps": settings.flow_steps,
        "frames_per_unit": settings.frames_per_unit,
        "picture_slices": settings.picture_slices,
        "recorded": settings.cuda_graphs,
        "voice_file": settings.voice_file,
    }
    precision = None if settings.precision.value == "auto" else Precision(settings.precision.value)
    hosting = host(Path(settings.model), settings.devices, settings.rows_per_worker, options, precision)
    places = " and ".join(_devices_of(told["placement"]) for told in hosting.options)
    say(f"Loading {settings.model} to {places}, {hosting.rows} conversations each …")
    return ProcessEngine(FACTORY, hosting.rows, len(hosting.options), hosting.options)


def _devices_of(placement: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys([placement["layers"][0], *placement["layers"], placement["speech"]]))


class _HttpServer(uvicorn.Server):
    """uvicorn's server without its signal handlers: this file stops it, after the conversations.

    Args:
        config: uvicorn's.
        on_start: called when it listens.
    """

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None] | None = None) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_start is not None:
            self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _drain(manager: SessionManager, at_once: Callable[[], Awaitable[object]]) -> None:
    """Let the conversations finish, unless ``at_once`` returns before they have."""

    async def hurried() -> None:
        await at_once()

    async with asyncio.TaskGroup() as tasks:
        drained = tasks.create_task(manager.drain())
        again = tasks.create_task(hurried())
        await asyncio.wait([drained, again], return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        again.cancel()


def _watch(metrics: Metrics, engine: ProcessEngine, gate: Gate) -> None:
    metrics.add_counter("auth_failures", "Wrong keys that were shown.", lambda: gate.failed_attempts)
    metrics.add_gauge(
        "workers_up", "Model workers that are loaded.", lambda: sum(worker.up for worker in engine.statistics())
    )
    metrics.add_counter(
        "worker_restarts",
        "Model workers started again after a crash.",
        lambda: sum(worker.restarts for worker in engine.statistics()),
    )


def _watch_whole(gauges: Gauges, manager: SessionManager) -> None:
    """Show what is one number for all gateways."""
    gauges.add_gauge("waiting", "Clients that wait for a place.", lambda: manager.waiting)
    gauges.add_gauge("places", "Conversations that fit.", lambda: manager.places)
    gauges.add_gauge("ready", "1 if a conversation would be admitted to a running engine.", lambda: manager.ready)


def _watch_gateways(gauges: Gauges, link: SupervisorLink) -> None:
    gauges.add_gauge(
        "gateways_up", "Gateways that are loaded.", lambda: sum(gateway.up for gateway in link.state.gateways)
    )
    gauges.add_counter(
        "gateway_restarts",
        "Gateways started again after a crash.",
        lambda: sum(gateway.restarts for gateway in link.state.gateways),
    )
