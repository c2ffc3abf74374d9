"""``duplex-server plan``: which GPUs hold a checkpoint, and how many conversations. Loads no weights."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from duplex_server.commands.sizes import size

if TYPE_CHECKING:
    from duplex_server.models.minicpmo.memory import Conversation, Measured, Part
    from duplex_server.models.minicpmo.plan import Arrangement, Device, Plan, Wish

__all__ = ["describe", "run"]

EXIT_DOES_NOT_FIT = 1

_BAR_CELLS = 60
_WEIGHTS, _CONVERSATIONS, _RESERVED, _UNUSED = "█", "▒", "░", "·"
_SPLIT_NAMES = {"one": "on one GPU", "stage": "by stage", "layers": "by layers"}


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.description = (
        "Show which part of a MiniCPM-o checkpoint goes on which GPU in which precision, and how many conversations "
        "fit. Only headers are read. Sizes are in powers of 1000."
    )
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="the checkpoint's folder")
    parser.add_argument("--gpu", metavar="SIZES", help="as 32GB, or 12GB,12GB,12GB; the GPUs found if left out")
    parser.add_argument(
        "--window", type=int, default=4000, metavar="N", help="tokens a conversation remembers, default %(default)s"
    )
    parser.add_argument(
        "--flow-steps", type=int, default=5, metavar="N", help="steps in which the voice is drawn, default %(default)s"
    )
    parser.add_argument(
        "--conversations", type=int, default=1, metavar="N", help="how many must fit, default %(default)s"
    )
    parser.add_argument(
        "--precision", choices=["16-bit", "int8", "int4"], help="of the language model; the best that fits if left out"
    )
    parser.add_argument(
        "--split", choices=list(_SPLIT_NAMES), help="how to spread the model; the plainest that fits if left out"
    )
    parser.add_argument(
        "--without", default="", metavar="PARTS", help="parts not to load, of vision,audio,speech, separated by commas"
    )
    parser.add_argument(
        "--embedding", choices=["gpu", "cpu"], help="where the table of input embeddings lies; as needed if left out"
    )


def run(asked: argparse.Namespace) -> int:
    """Print the plan and return the exit status, 1 where nothing fits."""
    from duplex_server.models.minicpmo.gpus import find_gpus, parse_gpus
    from duplex_server.models.minicpmo.memory import Conversation, measure
    from duplex_server.models.minicpmo.plan import make_plan

    wish = _wish(asked)
    conversation = Conversation(window=asked.window, flow_steps=asked.flow_steps)
    devices = parse_gpus(asked.gpu) if asked.gpu else find_gpus()
    measured = measure(asked.checkpoint, conversation)
    plan = make_plan(measured, devices, wish)
    lines = _report(plan.chosen, plan, devices, conversation) if plan.chosen else _refusal(plan, devices, wish)
    host = _host(measured, plan.chosen) if plan.chosen else ()
    for line in [*lines, *host, *measured.notes]:
        print(line)
    return 0 if plan.chosen else EXIT_DOES_NOT_FIT


def _wish(asked: argparse.Namespace) -> Wish:
    from duplex_server.errors import ConfigError
    from duplex_server.models.minicpmo.placement import Precision
    from duplex_server.models.minicpmo.plan import Wish

    without = frozenset(filter(None, asked.without.split(",")))
    if unknown := without - {"vision", "audio", "speech"}:
        raise ConfigError(f"--without {asked.without}: {', '.join(sorted(unknown))} cannot be left out")
    for name in ("window", "flow_steps", "conversations"):
        if getattr(asked, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(asked, name)}: must be at least 1")
    return Wish(
        conversations=asked.conversations,
        precision=Precision(asked.precision) if asked.precision else None,
        split=asked.split,
        without=without,
        embedding_on_cpu={"gpu": False, "cpu": True, None: None}[asked.embedding],
    )


def _report(chosen: Arrangement, plan: Plan, devices: list[Device], conversation: Conversation) -> Iterator[str]:
    used = chosen.used
    state = sum(part.state for part, _ in chosen.places)
    where = _SPLIT_NAMES[chosen.split] + (f" over {len(used)} GPUs" if len(used) > 1 else "")
    on_cpu = ", the embedding table in the host's memory" if chosen.embedding_on_cpu else ""
    yield f"It fits {where} in {chosen.precision.value}{on_cpu}: {_many(chosen.conversations)} at once."
    yield f"A conversation takes {size(state)}: {_state(chosen, conversation)}."
    for device in used:
        yield ""
        yield from _device(chosen, device)
    yield f"   {_WEIGHTS} weights  {_CONVERSATIONS} conversations  {_RESERVED} kept for computing  {_UNUSED} not used"
    yield ""
    if unneeded := [device.label for device in devices if device not in used]:
        yield f"Not used: {'; '.join(unneeded)}. `serve` puts a model on each GPU where every one of them holds it."
    for other in plan.others:
        yield (
            f"{_SPLIT_NAMES[other.split].capitalize()} over {len(other.used)} GPUs there is room for "
            f"{_many(other.conversations)}: --split {other.split}."
        )


def _device(chosen: Arrangement, device: Device) -> Iterator[str]:
    from duplex_server.models.minicpmo.plan import RESERVED_BYTES

    state = chosen.state_on(device) * chosen.conversations
    weights = chosen.weights_on(device)
    unused = device.n_bytes - RESERVED_BYTES - weights - state
    yield f"{device.label} ({size(device.n_bytes)})"
    for what, precision, n_bytes in _rows(chosen, device):
        yield f"  {what:<22}{precision:<18}{size(n_bytes):>9}"
    if state:
        per_conversation = f"{_many(chosen.conversations)} × {size(chosen.state_on(device))}"
        yield f"  {per_conversation:<40}{size(state):>9}"
    yield f"  {'kept for computing':<40}{size(RESERVED_BYTES):>9}"
    yield f"  {'not used':<40}{size(unused):>9}"
    yield f"  {_bar(device.n_bytes, weights, state, RESERVED_BYTES)}"


def _rows(chosen: Arrangement, device: Device) -> Iterator[tuple[str, str, int]]:
    """Yield what lies on a device, its precision and its bytes; layers that follow one another as one."""
    index = {id(part): place for place, part in enumerate(part for part, _ in chosen.places if part.name == "layer")}
    for name, group in itertools.groupby(chosen.on(device), key=lambda part: part.name):
        parts = list(group)
        n_bytes = sum(part.weights[chosen.precision] for part in parts)
        if name == "layer":
            first, last = index[id(parts[0])], index[id(parts[-1])]
            name = f"layer {first}" if first == last else f"layers {first}–{last}"
        yield name, _precision(parts[0], chosen), n_bytes


def _precision(part: Part, chosen: Arrangement) -> str:
    from duplex_server.models.minicpmo.placement import Precision

    match part.name:
        case "layer":
            return chosen.precision.value
        case "head" if chosen.precision is not Precision.FULL:
            return Precision.INT8.value
        case "speech":
            return "16-bit, float32"
        case _:
            return Precision.FULL.value


def _bar(total: int, *parts: int) -> str:
    cells = ""
    end = 0
    for n_bytes, sign in zip(parts, (_WEIGHTS, _CONVERSATIONS, _RESERVED), strict=True):
        end += n_bytes
        cells = cells.ljust(round(end / total * _BAR_CELLS), sign)
    return f"[{cells.ljust(_BAR_CELLS, _UNUSED)}]"


def _state(chosen: Arrangement, conversation: Conversation) -> str:
    of: dict[str, int] = {}
    for part, _ in chosen.places:
        of[part.name] = of.get(part.name, 0) + part.state
    named = {
        "layer": f"for {conversation.window} tokens and a unit",
        "audio": "for what it heard",
        "speech": f"to speak in {conversation.flow_steps} flow steps",
    }
    return ", ".join(f"{size(of[name])} {text}" for name, text in named.items() if of.get(name))


def _refusal(plan: Plan, devices: list[Device], wish: Wish) -> Iterator[str]:
    there = " and ".join(f"{device.label} ({size(device.n_bytes)})" for device in devices)
    needs = [f"{_size_up(plan.needed_bytes)} on one GPU"]
    if plan.needed_each_bytes:
        needs.append(f"{_size_up(plan.needed_each_bytes)} on each of {len(devices)}")
    limited = wish.precision or wish.split or wish.embedding_on_cpu is not None
    how = "as asked" if limited else "even in int4 with the embedding table in the host's memory"
    yield f"It does not fit on {there}. For {_many(wish.conversations)} it needs {' or '.join(needs)}, {how}."
    yield "A smaller --window needs less, and so does the model --without vision, audio or speech."


def _host(measured: Measured, chosen: Arrangement) -> Iterator[str]:
    embedding = measured.embedding.weights[chosen.precision] if chosen.embedding_on_cpu else 0
    yield (
        f"The host needs {size(measured.host + embedding)} of memory, and while loading up to "
        f"{size(measured.largest_shard)} more, mapped from one file at a time."
    )


def _many(conversations: int) -> str:
    return f"{conversations} conversation{'s' if conversations != 1 else ''}"


def _size_up(n_bytes: int) -> str:
    """Return gigabytes, never less than there are."""
    return f"{-(-n_bytes // 100_000_000) / 10:.1f} GB"
