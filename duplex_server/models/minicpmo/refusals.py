"""What a peer is told when its conversation cannot have something.

Knows nothing about what becomes of the conversation.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch

from duplex_server.errors import CapacityError, ClientError, DuplexError, ModelLoadError
from duplex_server.models.minicpmo.kv import ContextFull

__all__ = ["RETRY_AFTER_S", "exhausted_memory_told", "refusal_of"]

log = logging.getLogger(__name__)

RETRY_AFTER_S = 30.0
"""What a caller is told to wait when memory was exhausted; conversations last minutes."""


def refusal_of(error: Exception) -> DuplexError:
    """Return what the peer is told of an error that kept its conversation from beginning, or from changing."""
    if isinstance(error, ContextFull):
        return ClientError("Instructions and voice leave no room for a conversation.", param="session.instructions")
    if isinstance(error, ModelLoadError):
        log.error("a voice cannot be taken up: %s", error)
        return ClientError("This server cannot take up that voice.", param="session.audio.output.voice")
    if isinstance(error, DuplexError):
        return error
    log.error("no memory for another conversation", exc_info=error)
    return CapacityError(RETRY_AFTER_S)


@contextlib.contextmanager
def exhausted_memory_told() -> Iterator[None]:
    """Turn memory that runs out meanwhile into the server's own error.

    Raises:
        CapacityError: it has.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CapacityError(RETRY_AFTER_S) from error
