"""A gateway that is none: it speaks with its supervisor, and does what its model's name says."""

from __future__ import annotations

import os
import socket
import threading

from duplex_server.gateways.channel import receive_frame
from duplex_server.gateways.messages import (
    Drained,
    FromGateway,
    Leave,
    Loaded,
    Pulse,
    Serving,
    Stop,
    TakePlace,
    Unloadable,
    decode_boot,
    decode_from_supervisor,
    pack,
)

__all__ = ["PROGRAM"]

PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from tests.gateways.puppet import main; main(int(sys.argv[1]))"
)


def main(descriptor: int) -> None:
    """Live."""
    stream = socket.socket(fileno=descriptor)

    turn = threading.Lock()

    def say(message: FromGateway) -> None:
        with turn:
            stream.sendall(pack(message))

    pause = threading.Event()

    def beat() -> None:
        while True:
            say(Pulse(ready=True))
            pause.wait(0.05)

    payload = receive_frame(stream)
    assert payload is not None
    boot = decode_boot(payload)
    nature = boot.settings.model if boot.number == 1 else "good"
    match nature:
        case "unloadable":
            say(Unloadable("there is no such model.", setting=False))
            return
        case "misconfigured":
            say(Unloadable("there is no such port.", setting=True))
            return
        case "crashing":
            os.abort()
    say(Loaded())
    say(Serving())
    say(TakePlace(1, queue=False))
    if nature == "stuck":
        threading.Event().wait()
    threading.Thread(target=beat, daemon=True).start()
    while (payload := receive_frame(stream)) is not None:
        match decode_from_supervisor(payload):
            case Stop(at_once) if nature != "deaf" and (at_once or nature != "slow"):
                say(Drained())
            case Leave() if nature != "deaf":
                return
