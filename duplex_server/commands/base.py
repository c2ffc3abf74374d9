"""What a command is to the command line. Knows none of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Command"]


@dataclass(frozen=True, slots=True)
class Command:
    """One word of the command line.

    Attributes:
        help: what it does, for the list of commands.
        describe: adds its flags. The module that defines it imports nothing heavy before it runs.
        run: does it, and returns the exit status.
    """

    help: str
    describe: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
