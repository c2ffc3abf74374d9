"""What the supervisor and its gateways tell each other, and anything plain that travels between gateways, as bytes.

Each travels as one frame (:mod:`duplex_server.frames`) of MessagePack. Knows nothing about sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from duplex_server.config import Settings
from duplex_server.frames import framed
from duplex_server.wire.session_object import SessionPatch

__all__ = [
    "BeginSession",
    "Boot",
    "Drained",
    "FromGateway",
    "FromSupervisor",
    "GatewayState",
    "GiveBack",
    "Given",
    "Leave",
    "Loaded",
    "MakeSecret",
    "Moved",
    "Pulse",
    "Refused",
    "Secret",
    "Secrets",
    "SecretsKnown",
    "Serving",
    "SessionLasted",
    "State",
    "Stop",
    "TakePlace",
    "Unloadable",
    "WrongKey",
    "decode_boot",
    "decode_from_gateway",
    "decode_from_supervisor",
    "pack",
    "unpack",
]


class Boot(msgspec.Struct, frozen=True):
    """All that a gateway is told at its start."""

    number: int
    settings: Settings
    port: int
    """That the supervisor holds; the settings' may be 0."""
    folder: str
    """Where the gateways' sockets are, which nobody else can enter."""
    model_workers: int
    rows_per_worker: int


class Secret(msgspec.Struct, array_like=True, frozen=True):
    """A client secret, by its digest."""

    digest: bytes
    owner: str
    expires_at: int
    session: SessionPatch | None
    max_session_s: float | None
    sessions_left: int | None


# -- gateway → supervisor ----------------------------------------------------------------------------------------------


class Loaded(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The model is loaded: sessions could be taken as soon as the gateway knows what the others know."""


class Unloadable(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """The gateway cannot start; the sentence is for the operator."""

    message: str
    setting: bool
    """Whether a setting is at fault, and not the model."""


class Serving(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """The gateway takes connections."""


class Pulse(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """The gateway's event loop turns."""

    ready: bool
    """Whether its model could take a session."""


class BeginSession(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Count a session against a key and a client secret; answered by :class:`Given` or :class:`Refused`."""

    ask: int
    """The gateway's number for what it is given, unique while it runs."""
    key_id: str
    digest: bytes
    """The client secret's; empty for none."""


class TakePlace(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """Take a place, or the end of the line; answered as :class:`BeginSession` is."""

    ask: int
    queue: bool


class GiveBack(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """Give back what was given, or what will be if the answer is still on its way."""

    ask: int


class MakeSecret(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """Let all gateways know a client secret; answered as :class:`BeginSession` is, once they do."""

    ask: int
    secret: Secret


class SecretsKnown(msgspec.Struct, array_like=True, frozen=True, tag=9):
    """So many messages :class:`Secrets` have been heard."""

    count: int


class WrongKey(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """An address has shown a wrong key. Passed on to the other gateways as it is."""

    address: str


class SessionLasted(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """A session is over, for the estimate of how long one waits for a place."""

    duration_s: float


class Drained(msgspec.Struct, array_like=True, frozen=True, tag=12):
    """The gateway was told to stop, and its sessions are over."""


FromGateway = (
    Loaded
    | Unloadable
    | Serving
    | Pulse
    | BeginSession
    | TakePlace
    | GiveBack
    | MakeSecret
    | SecretsKnown
    | WrongKey
    | SessionLasted
    | Drained
)

# -- supervisor → gateway ----------------------------------------------------------------------------------------------


class Given(msgspec.Struct, array_like=True, frozen=True, tag=21):
    """What was asked for is given: a place at once if ``position`` is 0, or so far behind in the line."""

    ask: int
    position: int = 0


class Refused(msgspec.Struct, array_like=True, frozen=True, tag=22):
    """What was asked for cannot be had."""

    ask: int
    code: str
    """The error's, which says of which class it is."""
    message: str
    retry_after_s: float = 0.0


class Moved(msgspec.Struct, array_like=True, frozen=True, tag=23):
    """Somebody in the line has come forward; 0 is a place."""

    ask: int
    position: int


class GatewayState(msgspec.Struct, array_like=True, frozen=True):
    """One gateway as the supervisor knows it."""

    number: int
    up: bool
    """Whether it can be asked."""
    ready: bool
    """Whether it could take a session."""
    sessions: int
    restarts: int


class State(msgspec.Struct, array_like=True, frozen=True, tag=24):
    """The whole server; sent whenever it changes, and before an answer that changed it."""

    places: int
    waiting: int
    usual_s: float
    """How long sessions last."""
    gateways: tuple[GatewayState, ...]


class Secrets(msgspec.Struct, array_like=True, frozen=True, tag=25):
    """Client secrets that are new to the gateway."""

    secrets: tuple[Secret, ...]


class Stop(msgspec.Struct, array_like=True, frozen=True, tag=26):
    """Take nobody in any more, and let sessions end."""

    at_once: bool
    """Whether they are cut off."""


class Leave(msgspec.Struct, array_like=True, frozen=True, tag=27):
    """No gateway has sessions any more: close what is open, and exit."""


FromSupervisor = Given | Refused | Moved | State | Secrets | WrongKey | Stop | Leave

_encoder = msgspec.msgpack.Encoder()
_plain_decoder = msgspec.msgpack.Decoder()

decode_boot: Callable[[bytes], Boot] = msgspec.msgpack.Decoder(Boot).decode
decode_from_gateway: Callable[[bytes], FromGateway] = msgspec.msgpack.Decoder(FromGateway).decode
decode_from_supervisor: Callable[[bytes], FromSupervisor] = msgspec.msgpack.Decoder(FromSupervisor).decode


def pack(value: Any) -> bytes:
    """Return the frame of a message, or of a value made of dicts, lists, texts, bytes and numbers."""
    return bytes(framed(_encoder.encode_into, value))


def unpack(payload: bytes) -> Any:
    """Return the plain value of a frame's payload.

    Raises:
        ValueError: it holds none.
    """
    return _plain_decoder.decode(payload)
