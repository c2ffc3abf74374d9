"""Numbers as people read them. Knows nothing about what is counted."""

from __future__ import annotations

__all__ = ["amount", "size"]


def size(n_bytes: float) -> str:
    """Return bytes in powers of 1000, with three or four digits: ``1.24 GB``."""
    return _scaled(n_bytes, (" B", " kB", " MB", " GB", " TB"))


def amount(n: float) -> str:
    """Return a number in powers of 1000, with three or four digits: ``8.19 B``."""
    return _scaled(n, ("", " k", " M", " B"))


def _scaled(number: float, units: tuple[str, ...]) -> str:
    place = 0
    while abs(number) >= 999.5 and place < len(units) - 1:
        number /= 1000
        place += 1
    digits = 0 if place == 0 or abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{digits}f}{units[place]}"
