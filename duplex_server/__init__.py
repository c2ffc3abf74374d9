"""A server for full-duplex conversations: the model listens, looks and speaks at the same time.

Here are the names that users of the package may rely on; everything else may change in any release. Importing the
package loads neither a model nor a media library.
"""

from __future__ import annotations

from duplex_server.errors import (
    CapacityError,
    ClientError,
    ConfigError,
    DuplexError,
    EngineLost,
    ModelError,
    TransportError,
)
from duplex_server.types import (
    Floor,
    Heard,
    InterruptionPolicy,
    ModelOutput,
    ModelSpec,
    Pcm,
    SessionSetup,
    Unit,
    VideoFrame,
)

__all__ = [
    "CapacityError",
    "ClientError",
    "ConfigError",
    "DuplexError",
    "EngineLost",
    "Floor",
    "Heard",
    "InterruptionPolicy",
    "ModelError",
    "ModelOutput",
    "ModelSpec",
    "Pcm",
    "SessionSetup",
    "TransportError",
    "Unit",
    "VideoFrame",
    "__version__",
]

__version__ = "0.1.0"
