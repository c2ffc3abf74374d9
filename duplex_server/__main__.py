"""Runs the command line as ``python -m duplex_server``. Knows nothing but where it is."""

from __future__ import annotations

import sys

from duplex_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
