"""Which GPUs to plan for: those named on the command line, or those that are found. Knows nothing about models."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from duplex_server.errors import ConfigError
from duplex_server.models.minicpmo.plan import Device

__all__ = ["find_gpus", "parse_gpus"]

_UNITS = {"MB": 10**6, "MIB": 2**20, "GB": 10**9, "GIB": 2**30}
_QUERY_TIMEOUT_S = 20.0
"""A driver that has to wake its GPUs first takes some seconds."""


def parse_gpus(text: str) -> list[Device]:
    """Read sizes as ``32GB`` or ``12GB,12GB,24GiB``.

    Raises:
        ConfigError: a size is not understood.
    """
    devices = []
    for index, written in enumerate(text.split(",")):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MG]i?B)\s*", written, re.IGNORECASE)
        if not match:
            raise ConfigError(f"--gpu {text}: {written.strip()!r} is no size; write 32GB, or 12GB,12GB for two")
        size, unit = match.groups()
        n_bytes = round(float(size) * _UNITS[unit.upper()])
        devices.append(Device(f"cuda:{index}", f"GPU {index}", n_bytes))
    return devices


def find_gpus(program: Sequence[str] = ("nvidia-smi",)) -> list[Device]:
    """Ask NVIDIA's driver for the GPUs and their free memory.

    Args:
        program: how it is asked.

    Raises:
        ConfigError: none is found.
    """
    query = ("--query-gpu=index,name,memory.free", "--format=csv,noheader,nounits")
    try:
        asked = subprocess.run([*program, *query], capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError("no GPU was found (nvidia-smi does not answer); name one: --gpu 32GB") from error
    devices = []
    for line in asked.stdout.splitlines():
        match = re.fullmatch(r"(\d+), (.+), (\d+)", line.strip())
        if match:
            index, name, mebibytes = match.groups()
            devices.append(Device(f"cuda:{index}", f"GPU {index}, {name}", int(mebibytes) * 2**20))
    if not devices:
        raise ConfigError(f"nvidia-smi names no GPU that can be used ({asked.stdout.strip()!r}); name one: --gpu 32GB")
    return devices
