"""Who may enter, how often, and with which leash: keys, client secrets, origins, limits, relay credentials."""

from __future__ import annotations

from duplex_server.security.ephemeral import SECRET_PREFIX, ClientSecrets, Grant
from duplex_server.security.gate import KEY_PROTOCOL, Entry, Gate, Visitor
from duplex_server.security.limits import Attempts, Quota
from duplex_server.security.refusals import ForeignOrigin, NotPermitted, Throttled
from duplex_server.security.relay import RelayCredentials, relay_credentials
from duplex_server.security.tally import OwnTally, Tally

__all__ = [
    "KEY_PROTOCOL",
    "SECRET_PREFIX",
    "Attempts",
    "ClientSecrets",
    "Entry",
    "ForeignOrigin",
    "Gate",
    "Grant",
    "NotPermitted",
    "OwnTally",
    "Quota",
    "RelayCredentials",
    "Tally",
    "Throttled",
    "Visitor",
    "relay_credentials",
]
