"""``duplex-server talk``: a conversation at the terminal or from files. Built on :mod:`duplex_server.client`."""

from duplex_server.talk.program import run

__all__ = ["run"]
