"""How a server holds a checkpoint: workers, their devices, and conversations for each. Loads no weights, nor torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from duplex_server.errors import ConfigError, ModelLoadError
from duplex_server.models.minicpmo.config import read_config
from duplex_server.models.minicpmo.gpus import find_gpus
from duplex_server.models.minicpmo.memory import Conversation, Measured, measure
from duplex_server.models.minicpmo.placement import Placement, Precision
from duplex_server.models.minicpmo.plan import Arrangement, Device, Wish, make_plan

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


def host(
    folder: Path,
    devices: Sequence[str],
    rows: int,
    options: Mapping[str, Any],
    precision: Precision | None = None,
) -> Hosting:
    """Decide what is started for a checkpoint folder.

    Each GPU gets a worker with a model of its own where all hold the whole model; otherwise one worker spreads it over
    all. What fits in neither way is tried in the next lower precision.

    Args:
        folder: the checkpoint.
        devices: as torch spells them; none: all GPUs that are found, or else the processor.
        rows: conversations of each worker; 0: as many as its memory holds.
        options: what all workers are told; ``window_tokens``, ``flow_steps``, ``frames_per_unit`` and
            ``picture_slices`` count here, too.
        precision: of the language model's weights; None: the best that fits, on a processor the best.

    Raises:
        ModelLoadError: the checkpoint is broken, or fits nowhere; says what would help.
    """
    n_layers = read_config(folder).llm.num_hidden_layers
    sees = options["frames_per_unit"] > 0
    gpus = _gpus(devices)
    if not gpus:
        on_one = Placement.single(devices[0] if devices else "cpu", n_layers, precision or Precision.FULL)
        return Hosting(rows or ROWS_ON_CPU, (_told(folder, on_one.only(vision=sees), options),))
    conversation = Conversation(
        window=options["window_tokens"],
        flow_steps=options["flow_steps"],
        frames_per_unit=options["frames_per_unit"],
        picture_slices=options["picture_slices"],
    )
    measured = measure(folder, conversation)
    for tried in [precision] if precision else Precision:
        wish = Wish(rows or 1, tried, without=frozenset[str]() if sees else frozenset({"vision"}))
        if found := _arranged(measured, gpus, wish):
            fit = min(arrangement.conversations for arrangement in found)
            told = tuple(_told(folder, arrangement.placement, options) for arrangement in found)
            return Hosting(rows or min(fit, MOST_ROWS), told)
    raise ModelLoadError(
        f"{folder} does not fit for {rows or 1} conversations. `duplex-server plan {folder}` says what does."
    )


def _arranged(measured: Measured, gpus: Sequence[Device], wish: Wish) -> list[Arrangement]:
    """Return one arrangement for each GPU, or one over all of them; none where neither fits."""
    alone = [chosen for gpu in gpus if (chosen := make_plan(measured, [gpu], wish).chosen)]
    if len(alone) == len(gpus):
        return alone
    spread = make_plan(measured, gpus, wish).chosen
    return [spread] if spread else []


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
