"""A real server for end-to-end tests, started as a person starts it: by its command, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Server"]

ROOT = Path(__file__).resolve().parent.parent.parent
_READY = re.compile(r"Ready\. Open (http://localhost:(\d+)/)")
_STOP_S = 30.0


class Server:
    """``duplex-server serve`` with the embedded model. A context manager; ready once it is entered."""

    def __init__(self, *flags: str, port: int = 0) -> None:
        """
        Args:
            flags: of the command.
            port: to listen on; 0 for a free one.
        """
        serve = [sys.executable, "-m", "duplex_server", "serve", "--port", str(port), "--shutdown-grace-s", "0.5"]
        self._command = [*serve, *flags]
        self.url = ""
        self.port = port
        self.log: deque[str] = deque(maxlen=400)  # the newest lines; the oldest goes

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            ready = _READY.search(line)
            if ready:
                self.url, self.port = ready[1], int(ready[2])
                break
        else:
            raise AssertionError("the server did not start:\n" + "".join(self.log))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stderr is not None
        self.log.extend(self._process.stderr)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._end()
        if error is not None:
            print("".join(self.log), file=sys.stderr)

    def crash(self) -> None:
        """Kill the process without a chance to say goodbye."""
        self._process.kill()
        self._end()

    def _end(self) -> None:
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_STOP_S)
        assert self._process.stderr is not None
        self._process.stderr.close()
