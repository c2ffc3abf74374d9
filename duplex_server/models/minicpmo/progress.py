"""A bar on the terminal while weights are read. Knows nothing about weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm

__all__ = ["loading_bar"]


@contextlib.contextmanager
def loading_bar(total_bytes: int, what: str = "Loading") -> Iterator[Callable[[int], None]]:
    """Show how many bytes have been read, on standard error where that is a terminal; nothing elsewhere.

    Yields:
        A function to be called with the bytes of each piece.
    """
    with tqdm(total=total_bytes, desc=what, unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def count(n_bytes: int) -> None:
            bar.update(n_bytes)

        yield count
