"""Server events held against openai-python's own models, which its client does not do by itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, get_args

from openai.types.realtime import RealtimeServerEvent
from openai.types.realtime.realtime_session_create_response import RealtimeSessionCreateResponse
from pydantic import BaseModel

__all__ = ["known_types", "validate"]


@lru_cache(maxsize=1)
def _models() -> dict[str, type[BaseModel]]:
    union = get_args(RealtimeServerEvent)[0]
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(union)}


def known_types() -> frozenset[str]:
    """Return the types of all server events that openai-python knows."""
    return frozenset(_models())


def validate(event: Mapping[str, Any]) -> bool:
    """Validate one event; returns whether openai-python knows its type.

    Raises:
        pydantic.ValidationError: it is known and not in OpenAI's shape.
    """
    model = _models().get(event["type"])
    if model is None:
        return False
    model.model_validate(dict(event))
    if event["type"] in ("session.created", "session.updated"):
        RealtimeSessionCreateResponse.model_validate(event["session"])
    return True
