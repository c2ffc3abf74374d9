"""What a worker uses of the machine, read from ``/proc`` when somebody asks. Knows nothing about workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["UNKNOWN", "Usage", "process_usage", "thread_usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """None where the operating system has no ``/proc``, or the worker is not running."""

    cpu_s: float | None
    """Processor time, user and system, since the worker started."""
    rss_bytes: int | None
    """Resident memory of its process."""


UNKNOWN = Usage(None, None)


def process_usage(pid: int) -> Usage:
    """Return what a process uses; takes some tens of microseconds."""
    return _read(Path(f"/proc/{pid}/stat"))


def thread_usage(thread_id: int) -> Usage:
    """Return the processor time of a thread of this process, and the memory of the whole process."""
    return _read(Path(f"/proc/self/task/{thread_id}/stat"))


def _read(path: Path) -> Usage:
    try:
        stat = path.read_text()
    except OSError:
        return UNKNOWN
    # Source: proc_pid_stat(5). The name in parentheses may hold anything; behind it stand fields 3, 4, …
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[14 - 3]) + int(fields[15 - 3])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), int(fields[24 - 3]) * os.sysconf("SC_PAGE_SIZE"))
