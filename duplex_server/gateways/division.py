"""How the model's processes and their rows are divided among gateways. Knows nothing about what a model is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["USUAL_ROWS", "Division", "divide"]

USUAL_ROWS = 16
"""Conversations that a model's process holds unless a setting says otherwise."""


@dataclass(frozen=True, slots=True)
class Division:
    """What each gateway gets."""

    places: int
    """Sessions that may run at once, at all gateways together."""
    model_workers: tuple[int, ...]
    """By gateway: processes that run its model."""
    rows: tuple[int, ...]
    """By gateway: conversations that each of these holds."""


def divide(gateways: int, model_workers: int, rows: int, max_sessions: int) -> Division:
    """Divide.

    Connections are dealt out by the system, evenly but blindly, and a session stays with the gateway it came to. So
    each gateway has rows for all sessions there may be, and none turns a peer away while another has room; places are
    counted over all of them, and are as many as one gateway alone would have.

    Args:
        gateways: how many.
        model_workers: of all gateways together; each has one at least.
        rows: conversations that such a process would hold, were there one gateway only.
        max_sessions: places; 0 for as many as there are rows then.
    """
    all_workers = max(model_workers, gateways)
    places = model_workers * rows
    if max_sessions:
        places = min(places, max_sessions)
    least, more = divmod(all_workers, gateways)
    of_each = tuple(least + (number < more) for number in range(gateways))
    return Division(places, of_each, tuple(-(-places // n_workers) for n_workers in of_each))
