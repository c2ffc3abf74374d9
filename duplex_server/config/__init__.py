"""Settings: what they mean, where they come from, and whether they make sense together. Loaded once, at the start.

:class:`Settings` is the only list of them: flags, help texts, what ``duplex-server config`` prints and every complaint
are made from its fields. Knows nothing about what is done with them.
"""

from __future__ import annotations

from duplex_server.config.keys import hashed_key, new_key, shown_digest
from duplex_server.config.settings import FIELDS, Field, LogLevel, Settings
from duplex_server.config.sources import (
    TALK_KEY_VARIABLE,
    Effective,
    accepted_keys,
    effective,
    is_loopback,
    load,
    render,
)

__all__ = [
    "FIELDS",
    "TALK_KEY_VARIABLE",
    "Effective",
    "Field",
    "LogLevel",
    "Settings",
    "accepted_keys",
    "effective",
    "hashed_key",
    "is_loopback",
    "load",
    "new_key",
    "render",
    "shown_digest",
]
