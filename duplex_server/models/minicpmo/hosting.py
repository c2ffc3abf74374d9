"""How a server holds a checkpoint: workers, their devices, and conversations for each. Loads no weights, nor torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from duplex_server.errors import ConfigError, ModelLoadError
from duplex_server.models.minicpmo.config import read_config
from duplex_server.models.minicpmo.gpus import find_gpus
from duplex_server.models.minicpmo.memory import Conversation, measure
from duplex_server.models.minicpmo.placement import Placement, Precision
from duplex_server.models.minicpmo.plan import Device, Wish, make_plan

__all__ = ["FACTORY", "Hosting", "host", "is_checkpoint"]

FACTORY = "duplex_server.models.minicpmo.serving:build"
"""What each worker calls."""
ROWS_ON_CPU = 4
"""Ours: a processor holds the tiny models of tests in real time, and memory is no limit there."""
MOST_ROWS = 64
"""Ours: more conversations than one GPU decodes within their unit."""


@dataclass(frozen=True, slots=True)
class Hosting:
    """What is started."""

    rows: int
    """Conversations of each worker."""
    options: tuple[Mapping[str, Any], ...]
    """Of each worker, plain values for :func:`duplex_server.models.minicpmo.serving.build`."""


def is_checkpoint(model: str) -> bool:
    """Whether a model is asked for by the folder of its checkpoint."""
    return (Path(model) / "config.json").is_file()


def host(folder: Path, devices: Sequence[str], rows: int, options: Mapping[str, Any]) -> Hosting:
    """Decide what is started for a checkpoint folder.

    Each GPU that holds the whole model gets a worker with a model of its own; where it fits on none of them, one worker
    spreads it over all.

    Args:
        folder: the checkpoint.
        devices: as torch spells them; none: all GPUs that are found, or else the processor.
        rows: conversations of each worker; 0: as many as its memory holds.
        options: what all workers are told; ``window_tokens``, ``flow_steps`` and ``frames_per_unit`` count here, too.

    Raises:
        ModelLoadError: the checkpoint is broken, or fits nowhere; says what would help.
    """
    n_layers = read_config(folder).llm.num_hidden_layers
    sees = options["frames_per_unit"] > 0
    gpus = _gpus(devices)
    if not gpus:
        device = devices[0] if devices else "cpu"
        return Hosting(
            rows or ROWS_ON_CPU, (_told(folder, Placement.single(device, n_layers).only(vision=sees), options),)
        )
    conversation = Conversation(window=options["window_tokens"], flow_steps=options["flow_steps"])
    measured = measure(folder, conversation)
    without = frozenset[str]() if sees else frozenset({"vision"})
    wish = Wish(conversations=rows or 1, precision=Precision.FULL, embedding_on_cpu=False, without=without)
    alone = [make_plan(measured, [gpu], wish).chosen for gpu in gpus]
    if all(alone):
        places = [found.placement for found in alone if found]
        fit = min(found.conversations for found in alone if found)
    else:
        spread = make_plan(measured, gpus, wish)
        if spread.chosen is None:
            raise ModelLoadError(
                f"{folder} does not fit for {rows or 1} conversations. `duplex-server plan {folder}` says what does."
            )
        places, fit = [spread.chosen.placement], spread.chosen.conversations
    return Hosting(rows or min(fit, MOST_ROWS), tuple(_told(folder, place, options) for place in places))


def _gpus(devices: Sequence[str]) -> list[Device]:
    """Return the GPUs that are to be used; none where there is none, or another device was asked for."""
    if devices and not all(device.startswith("cuda") for device in devices):
        return []
    try:
        found = find_gpus()
    except ConfigError as error:
        if devices:
            raise ModelLoadError(f"{', '.join(devices)} cannot be used: {error}") from error
        return []
    by_name = {gpu.name: gpu for gpu in found}
    wanted = [f"{device}:0" if device == "cuda" else device for device in devices] or list(by_name)
    if unknown := [device for device in wanted if device not in by_name]:
        raise ModelLoadError(f"{', '.join(unknown)} is not there; there are {', '.join(by_name)}")
    return [by_name[device] for device in wanted]


def _told(folder: Path, placement: Placement, options: Mapping[str, Any]) -> dict[str, Any]:
    plain = {**asdict(placement), "precision": placement.precision.value}
    return {**options, "folder": str(folder.resolve()), "placement": plain}
