"""Decides what goes where: the plainest placement in the best precision that holds the conversations asked for.

Knows nothing about files or tensors; it packs measured parts into devices of given sizes. Nothing is loaded for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from duplex_server.models.minicpmo.memory import Measured, Part
from duplex_server.models.minicpmo.placement import Placement, Precision

__all__ = ["RESERVED_BYTES", "SPLITS", "Arrangement", "Device", "Plan", "Wish", "make_plan"]

RESERVED_BYTES = 1_500_000_000
"""Kept free on every device that is used: about 0.5 GB for CUDA's context and libraries, the rest for activations and
for what the allocator cannot give back. Ours."""
SPLITS = ("one", "stage", "layers")
"""Ways to spread the model, from the plainest on: all on one device, the encoders and speech elsewhere, by layers."""


@dataclass(frozen=True, slots=True)
class Device:
    """A place for weights and state.

    Attributes:
        name: as torch spells it, ``cuda:0``.
        label: as a person knows it.
        n_bytes: how much it holds.
    """

    name: str
    label: str
    n_bytes: int


_HOST = Device("cpu", "host", 0)
_MOST_CONVERSATIONS = 10_000
"""Where nothing on the devices belongs to a conversation."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for.

    Attributes:
        conversations: how many must fit.
        precision: only this one; None: the best that fits.
        split: only this one of :data:`SPLITS`; None: the plainest that fits.
        without: parts that are not loaded: ``vision``, ``audio``, ``speech``.
        embedding_on_cpu: whether the embedding table must lie in the host's memory, must not, or may (None).
    """

    conversations: int = 1
    precision: Precision | None = None
    split: str | None = None
    without: frozenset[str] = frozenset()
    embedding_on_cpu: bool | None = None


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Every part on a device.

    Attributes:
        places: each part with its device; a device of no size is the host.
        conversations: how many fit; negative where not even the weights do.
    """

    split: str
    precision: Precision
    places: tuple[tuple[Part, Device], ...]
    conversations: int

    def on(self, device: Device) -> list[Part]:
        return [part for part, place in self.places if place is device]

    def weights_on(self, device: Device) -> int:
        return sum(part.weights[self.precision] for part in self.on(device))

    def state_on(self, device: Device) -> int:
        """Bytes of one conversation."""
        return sum(part.state for part in self.on(device))

    @property
    def embedding_on_cpu(self) -> bool:
        return any(part.name == "embedding" and place is _HOST for part, place in self.places)

    @property
    def used(self) -> list[Device]:
        return list(dict.fromkeys(place for _, place in self.places if place is not _HOST))

    @property
    def placement(self) -> Placement:
        """The arrangement as the engine takes it."""
        of = {part.name: place.name for part, place in self.places}
        return Placement(
            embedding=of["embedding"],
            layers=tuple(place.name for part, place in self.places if part.name == "layer"),
            head=of["head"],
            vision=of.get("vision"),
            audio=of.get("audio"),
            speech=of.get("speech"),
            precision=self.precision,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What fits.

    Attributes:
        chosen: the best arrangement; None where nothing fits.
        others: for other splits in the chosen precision, those that hold more conversations.
        needed_bytes: of one device that would hold the least demanding arrangement that was asked for.
        needed_each_bytes: of each of as many devices as there are, for the same; None where there is one.
    """

    chosen: Arrangement | None
    others: tuple[Arrangement, ...]
    needed_bytes: int
    needed_each_bytes: int | None


def make_plan(measured: Measured, devices: Sequence[Device], wish: Wish) -> Plan:
    """Choose among all precisions and splits.

    Better precision goes before the embedding in fast memory, that before a plain split, and that before more
    conversations than were asked for.

    Args:
        measured: the checkpoint's parts.
        devices: where they may go, at least one.
        wish: what is asked for.
    """
    for precision, on_cpu in _ways(wish):
        fitting = [
            arrangement
            for split in _splits(wish)
            if (arrangement := _best(measured, devices, wish, split, precision, on_cpu))
            and arrangement.conversations >= wish.conversations
        ]
        if fitting:
            more = [other for other in fitting[1:] if other.conversations > fitting[0].conversations]
            return Plan(fitting[0], tuple(more), 0, None)
    needed = _needed(measured, 1, wish)
    assert needed is not None, "everything fits on one device that is large enough"
    return Plan(None, (), needed, _needed(measured, len(devices), wish) if len(devices) > 1 else None)


def _ways(wish: Wish) -> list[tuple[Precision, bool]]:
    precisions = [wish.precision] if wish.precision else list(Precision)
    on_cpu = [False, True] if wish.embedding_on_cpu is None else [wish.embedding_on_cpu]
    return list(itertools.product(precisions, on_cpu))


def _splits(wish: Wish) -> tuple[str, ...]:
    return (wish.split,) if wish.split else SPLITS


def _needed(measured: Measured, n_devices: int, wish: Wish) -> int | None:
    """Return the size of each of some equal devices that would do, in the least demanding way; None: of no size."""
    precision, on_cpu = _ways(wish)[-1]
    parts = _wanted(measured, wish)
    low, high = 0, RESERVED_BYTES + sum(p.weights[precision] + wish.conversations * p.state for p in parts)
    if not any(_fits(measured, n_devices, high, wish, precision, on_cpu)):
        return None
    while high - low > 1_000_000:
        middle = (low + high) // 2
        if any(_fits(measured, n_devices, middle, wish, precision, on_cpu)):
            high = middle
        else:
            low = middle
    return high


def _fits(
    measured: Measured, n_devices: int, n_bytes: int, wish: Wish, precision: Precision, on_cpu: bool
) -> Iterator[bool]:
    devices = [Device(f"cuda:{index}", "", n_bytes) for index in range(n_devices)]
    for split in _splits(wish) if n_devices > 1 else ("one",):
        best = _best(measured, devices, wish, split, precision, on_cpu)
        yield best is not None and best.conversations >= wish.conversations


Places = list[tuple[Part, Device]]


def _best(
    measured: Measured, devices: Sequence[Device], wish: Wish, split: str, precision: Precision, on_cpu: bool
) -> Arrangement | None:
    """Return the arrangement of one kind that holds most conversations; None where the weights alone do not fit."""
    kinds = {"one": _on_one, "stage": _by_stage, "layers": _by_layers}
    parts = [part for part in _wanted(measured, wish) if not (on_cpu and part.name == "embedding")]
    on_host = [(measured.embedding, _HOST)] if on_cpu else []
    best: Arrangement | None = None
    for places in kinds[split](parts, devices, precision):
        conversations = _conversations(places, precision)
        if conversations >= 0 and (best is None or conversations > best.conversations):
            best = Arrangement(split, precision, (*on_host, *places), conversations)
    return best


def _wanted(measured: Measured, wish: Wish) -> list[Part]:
    return [part for part in measured.parts if part.name not in wish.without]


def _conversations(places: Places, precision: Precision) -> int:
    """Return how many conversations fit; -1 where the weights do not."""
    most = _MOST_CONVERSATIONS
    for device in dict.fromkeys(place for _, place in places):
        free = _free(device, [part for part, place in places if place is device], precision)
        state = sum(part.state for part, place in places if place is device)
        if free < 0:
            return -1
        if state:
            most = min(most, free // state)
    return most


def _free(device: Device, parts: Sequence[Part], precision: Precision) -> int:
    return device.n_bytes - RESERVED_BYTES - sum(part.weights[precision] for part in parts)


def _on_one(parts: list[Part], devices: Sequence[Device], _: Precision) -> Iterator[Places]:
    largest = max(devices, key=lambda device: device.n_bytes)
    yield [(part, largest) for part in parts]


def _by_stage(parts: list[Part], devices: Sequence[Device], _: Precision) -> Iterator[Places]:
    """The language model on the largest device, encoders and speech on one other or on two."""
    largest, *others = sorted(devices, key=lambda device: -device.n_bytes)
    for encoders, voice in itertools.product(others, others):
        of = {"vision": encoders, "audio": encoders, "speech": voice}
        yield [(part, of.get(part.name, largest)) for part in parts]


def _by_layers(parts: list[Part], devices: Sequence[Device], precision: Precision) -> Iterator[Places]:
    """Layers in order over all devices, evenly filled; encoders and speech wherever that holds most conversations."""
    layers = [part for part in parts if part.name == "layer"]
    for encoders, voice in itertools.product(devices, devices) if len(devices) > 1 else ():
        of = {"vision": encoders, "audio": encoders, "speech": voice, "embedding": devices[0], "head": devices[-1]}
        fixed = [(part, of[part.name]) for part in parts if part.name != "layer"]
        spread = _spread(layers, fixed, devices, precision)
        if spread is not None:
            yield _in_order(parts, [*fixed, *spread])


def _spread(layers: list[Part], fixed: Places, devices: Sequence[Device], precision: Precision) -> Places | None:
    """Put layers on devices for as many conversations as possible, and then as evenly as possible."""

    def fits(conversations: int, percent: int = 100) -> bool:
        return _fill(layers, fixed, devices, precision, conversations, percent) is not None

    most = _last(_MOST_CONVERSATIONS, fits)
    unused = _last(99, lambda unused: fits(most, 100 - unused))
    return _fill(layers, fixed, devices, precision, most, 100 - unused) if most >= 0 else None


def _fill(
    layers: list[Part], fixed: Places, devices: Sequence[Device], precision: Precision, conversations: int, percent: int
) -> Places | None:
    """Put layers in order on devices, as many on each as fit into ``percent`` of it; None where some are left over."""
    places: Places = []
    left = list(layers)
    for device in devices:
        here = [part for part, place in fixed if place is device]
        room = device.n_bytes * percent // 100 - RESERVED_BYTES
        room -= sum(part.weights[precision] + conversations * part.state for part in here)
        if room < 0:
            return None
        while left and (needed := left[0].weights[precision] + conversations * left[0].state) <= room:
            places.append((left.pop(0), device))
            room -= needed
    return None if left else places


def _last(most: int, holds: Callable[[int], bool]) -> int:
    """Return the last number up to ``most`` for which something holds that holds for all below it; -1 for none."""
    low, high = -1, most
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _in_order(parts: list[Part], places: Places) -> Places:
    order = {id(part): place for place, part in enumerate(parts)}
    return sorted(places, key=lambda pair: order[id(pair[0])])
