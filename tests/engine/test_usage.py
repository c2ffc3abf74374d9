"""Tests of what is read from /proc."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from duplex_server.engine.usage import UNKNOWN, process_usage, thread_usage

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system has no /proc")


@needs_proc
def test_this_process_uses_time_and_memory() -> None:
    usage = process_usage(os.getpid())
    assert usage.cpu_s is not None
    assert 0 < usage.cpu_s <= sum(os.times()[:2]) + 0.1
    assert usage.rss_bytes is not None
    assert 1_000_000 < usage.rss_bytes < 100_000_000_000


@needs_proc
def test_a_thread_uses_no_more_than_its_process() -> None:
    thread, process = thread_usage(threading.get_native_id()), process_usage(os.getpid())
    assert thread.cpu_s is not None
    assert process.cpu_s is not None
    assert thread.cpu_s <= process.cpu_s


def test_of_a_process_that_is_not_there_nothing_is_known() -> None:
    assert process_usage(2**30) == UNKNOWN
    assert thread_usage(2**30) == UNKNOWN
