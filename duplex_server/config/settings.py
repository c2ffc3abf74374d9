"""What whoever runs the server can decide: the only list of settings, with their meaning and their limits.

Knows nothing about where values come from.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from duplex_server.config.keys import KEY_PATTERN
from duplex_server.types import InterruptionPolicy

__all__ = ["FIELDS", "PREFIX", "Dtype", "Field", "LogLevel", "Settings", "WeightPrecision", "WindowKind"]

PREFIX = "DUPLEX_"
"""Begins the environment variable of every setting."""

ApiKey = Annotated[str, Meta(pattern=KEY_PATTERN)]
IceUrl = Annotated[str, Meta(pattern=r"^stuns?:\S+\Z")]
TurnUrl = Annotated[str, Meta(pattern=r"^turns?:\S+\Z")]
TorchDevice = Annotated[str, Meta(pattern=r"^(cpu|cuda(:\d+)?)\Z")]
Origin = Annotated[str, Meta(pattern=r"^(\*|https?://[^/\s]+)\Z")]


class LogLevel(enum.Enum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Dtype(enum.Enum):
    """What a neural network computes in."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class WeightPrecision(enum.Enum):
    """How weights of a language model are kept."""

    AUTO = "auto"
    FULL = "16-bit"
    INT8 = "int8"
    INT4 = "int4"


class WindowKind(enum.Enum):
    """What is forgotten of a long conversation."""

    OFF = "off"
    BASIC = "basic"
    CONTEXT = "context"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that whoever runs the server can decide. Immutable; :func:`load` makes one that is checked."""

    host: Annotated[
        str,
        Meta(
            description="Address to listen on; 0.0.0.0 for all.",
            min_length=1,
            extra={"words": "an address or a host name"},
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(description="TCP port to listen on; 0 lets the system choose.", ge=0, le=65535)] = 8000
    model: Annotated[
        str,
        Meta(
            description="The model that talks.",
            extra={
                "words": "embedded, echo, the folder of a MiniCPM-o checkpoint, or package.module:callable for one of "
                "your own"
            },
        ),
    ] = "embedded"
    workers: Annotated[
        int,
        Meta(
            description="Processes that take connections behind the one port, for more of them than one processor core "
            "carries. Not for a MiniCPM-o.",
            ge=1,
            le=64,
        ),
    ] = 1
    max_sessions: Annotated[
        int, Meta(description="Conversations at a time; 0 for as many as the model has places.", ge=0, le=100_000)
    ] = 0
    queue_max: Annotated[
        int, Meta(description="Clients that may wait for a place when there is none.", ge=0, le=100_000)
    ] = 100
    model_workers: Annotated[
        int,
        Meta(
            description="Processes that run the model, at least one for each of the workers; 0 for one per processor "
            "core. A MiniCPM-o has one per GPU.",
            ge=0,
            le=1024,
        ),
    ] = 0
    rows_per_worker: Annotated[
        int,
        Meta(
            description="Conversations that one worker holds; 0 for 16, or as many as a MiniCPM-o's GPU has room for.",
            ge=0,
            le=4096,
        ),
    ] = 0
    devices: Annotated[
        tuple[TorchDevice, ...],
        Meta(
            description="Where a MiniCPM-o runs: a model on each GPU, or one spread over all where none holds it. "
            "Empty for all GPUs that are found, or else the processor.",
            extra={"words": "a list as cuda:0,cuda:1, or cpu"},
        ),
    ] = ()
    dtype: Annotated[
        Dtype, Meta(description="What a MiniCPM-o computes in; auto for the best that the device has.")
    ] = Dtype.AUTO
    precision: Annotated[
        WeightPrecision,
        Meta(
            description="How the weights of a MiniCPM-o's language model are kept; auto for the best that fits. Fewer "
            "bits need less memory and say slightly other things."
        ),
    ] = WeightPrecision.AUTO
    window: Annotated[
        WindowKind,
        Meta(
            description="What a MiniCPM-o forgets of a long conversation: nothing, so that it ends; the oldest "
            "seconds; or the oldest seconds but for what was said in them."
        ),
    ] = WindowKind.BASIC
    window_tokens: Annotated[
        int,
        Meta(description="How much of a conversation a MiniCPM-o remembers, tokens.", ge=500, le=40_960),
    ] = 4000
    flow_steps: Annotated[
        int,
        Meta(description="Steps in which a MiniCPM-o's voice is drawn: more sound better and cost more.", ge=1, le=50),
    ] = 5
    frames_per_unit: Annotated[
        int, Meta(description="Pictures that a MiniCPM-o looks at in a second; 0 for a blind one.", ge=0, le=16)
    ] = 1
    picture_slices: Annotated[
        int,
        Meta(description="Parts in which a MiniCPM-o looks at each picture more closely; 1 for none.", ge=1, le=9),
    ] = 1
    cuda_graphs: Annotated[
        bool,
        Meta(
            description="Record what a GPU does in a step of a MiniCPM-o, and replay it: units take a fraction of the "
            "time, loading some seconds longer. No effect on a processor."
        ),
    ] = True
    voice_file: Annotated[
        str,
        Meta(
            description="Recording of a MiniCPM-o's usual voice, 3 to 16 s; empty for the checkpoint's own.",
            extra={"words": "the path of a sound file"},
        ),
    ] = ""
    api_keys: Annotated[
        tuple[ApiKey, ...],
        Meta(
            description="Keys that clients may enter with. Other users of this machine can read flags: prefer "
            "api_key_file.",
            extra={
                "secret": True,
                "words": "a list of keys, each of 8 or more visible ASCII characters or sha256: and a digest",
            },
        ),
    ] = ()
    api_key_file: Annotated[
        str,
        Meta(
            description="File with one API key per line, or better its digest as `duplex-server key` makes it; empty "
            "lines and lines that start with # do not count.",
            extra={"words": "the path of a file"},
        ),
    ] = ""
    key_max_sessions: Annotated[
        int, Meta(description="Conversations at a time under one key; 0 for no limit.", ge=0, le=100_000)
    ] = 0
    key_sessions_per_minute: Annotated[
        int, Meta(description="Conversations that one key may begin in a minute; 0 for no limit.", ge=0, le=100_000)
    ] = 0
    insecure: Annotated[bool, Meta(description="Let other machines in without a key.")] = False
    tls_certificate: Annotated[
        str,
        Meta(
            description="Certificate chain for TLS, without which browsers give no microphone except on localhost.",
            extra={"words": "the path of a PEM file"},
        ),
    ] = ""
    tls_key: Annotated[
        str, Meta(description="Private key of the certificate.", extra={"words": "the path of a PEM file"})
    ] = ""
    allowed_origins: Annotated[
        tuple[Origin, ...],
        Meta(
            description="Web origins besides our own whose pages may connect.",
            extra={"words": "a list of origins as https://example.org, or * for all"},
        ),
    ] = ()
    session_max_s: Annotated[
        float, Meta(description="Longest conversation, seconds; it is announced before it ends.", gt=0, le=86_400)
    ] = 3600
    shutdown_grace_s: Annotated[
        float,
        Meta(
            description="How long conversations may go on after the server is told to stop, seconds.", ge=0, le=86_400
        ),
    ] = 30
    resume_grace_s: Annotated[
        float,
        Meta(description="How long a conversation waits for a client whose connection broke, seconds.", ge=0, le=3600),
    ] = 30
    interruption: Annotated[
        InterruptionPolicy,
        Meta(description="What lets a user who speaks over the model take the floor; a client may choose another."),
    ] = InterruptionPolicy.GUARDED
    confirm_ms: Annotated[
        int,
        Meta(description="Speech that confirms an interruption under policy guarded, milliseconds.", ge=40, le=2000),
    ] = 480
    language: Annotated[
        str,
        Meta(
            description="Language the model begins in.",
            pattern="^[A-Za-z]{2,3}(-[A-Za-z0-9]+)*\\Z",
            extra={"words": "a BCP 47 tag as en or zh"},
        ),
    ] = "en"
    ice_servers: Annotated[
        tuple[IceUrl, ...],
        Meta(description="STUN servers told to clients.", extra={"words": "a list of URLs as stun:host:port"}),
    ] = ()
    turn_urls: Annotated[
        tuple[TurnUrl, ...],
        Meta(
            description="TURN relays told to clients, with credentials that expire.",
            extra={"words": "a list of URLs as turn:host:port"},
        ),
    ] = ()
    turn_secret: Annotated[
        str,
        Meta(description="Secret shared with the relays (coturn calls it static-auth-secret).", extra={"secret": True}),
    ] = ""
    turn_ttl_s: Annotated[
        int, Meta(description="How long credentials for a relay are valid, seconds.", ge=60, le=604_800)
    ] = 3600
    max_message_bytes: Annotated[
        int, Meta(description="Largest message taken from a client, bytes.", ge=65_536, le=2**30)
    ] = 16 * 2**20
    image_max_bytes: Annotated[
        int, Meta(description="Largest encoded picture taken from a client, bytes.", ge=1024, le=2**30)
    ] = 8 * 2**20
    image_max_px: Annotated[int, Meta(description="Most pixels in a picture that is decoded.", ge=4096, le=2**30)] = (
        25_000_000
    )
    input_ahead_s: Annotated[
        float, Meta(description="How far a client may send audio ahead of real time, seconds.", gt=0, le=3600)
    ] = 330
    send_queue_bytes: Annotated[
        int,
        Meta(
            description="What may wait for a client that does not read before it is dropped, bytes.",
            ge=65_536,
            le=2**30,
        ),
    ] = 8 * 2**20
    log_level: Annotated[LogLevel, Meta(description="Least serious message that is logged.")] = LogLevel.INFO
    web_client: Annotated[bool, Meta(description="Serve the page at /.")] = True


@dataclass(frozen=True, slots=True)
class Field:
    """One setting, as a person meets it."""

    name: str
    meaning: str
    allowed: str
    """What it may be, to be read after "must be"."""
    default: Any
    kind: Literal["switch", "list", "value"]
    secret: bool
    """Whether its value is kept out of what is printed."""
    type: Any
    """Its annotation, for msgspec."""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def _fields() -> dict[str, Field]:
    """Read the list of settings off :class:`Settings`."""
    hints = get_type_hints(Settings, include_extras=True)
    struct = msgspec.inspect.type_info(Settings)
    assert isinstance(struct, msgspec.inspect.StructType)
    fields = {}
    for entry in struct.fields:
        described = entry.type
        assert isinstance(described, msgspec.inspect.Metadata), f"{entry.name} has no description"
        meaning = (described.extra_json_schema or {})["description"]
        extra = described.extra or {}
        kind, allowed = _allowed(described.type, extra.get("words", "text"))
        fields[entry.name] = Field(
            entry.name, meaning, allowed, entry.default, kind, extra.get("secret", False), hints[entry.name]
        )
    return fields


def _allowed(type_: msgspec.inspect.Type, words: str) -> tuple[Literal["switch", "list", "value"], str]:
    """Say what values a type takes; of texts, ``words`` does."""
    match type_:
        case msgspec.inspect.BoolType():
            return "switch", "true or false"
        case msgspec.inspect.VarTupleType():
            return "list", words
        case msgspec.inspect.EnumType(cls=cls):
            return "value", "one of " + ", ".join(str(member.value) for member in cls)
        case msgspec.inspect.IntType():
            return "value", f"a whole number {_range(type_)}"
        case msgspec.inspect.FloatType():
            return "value", f"a number {_range(type_)}"
        case msgspec.inspect.StrType():
            return "value", words
    raise AssertionError(f"no words for {type_}")


def _range(type_: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    assert type_.le is not None, "every number has an upper limit, which also refuses infinity"
    return f"above {type_.gt} and at most {type_.le}" if type_.ge is None else f"from {type_.ge} to {type_.le}"


FIELDS: Mapping[str, Field] = _fields()
"""All settings by name, in the order in which they are printed."""
