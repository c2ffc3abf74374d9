"""``duplex-server inspect``: the modules of a checkpoint, from the headers of its files. Loads no weights."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from duplex_server.commands.sizes import amount, size

if TYPE_CHECKING:
    from duplex_server.models.minicpmo.module_tree import Node

__all__ = ["describe", "run"]


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.description = (
        "Show the modules of a MiniCPM-o checkpoint with their types, shapes and sizes. "
        "Only headers are read, so it takes a moment whatever the size."
    )
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="the checkpoint's folder")
    parser.add_argument("--depth", type=int, default=3, metavar="N", help="levels to show, default %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the whole tree as JSON")


def run(asked: argparse.Namespace) -> int:
    """Print the tree and return the exit status."""
    from duplex_server.models.minicpmo.inspection import inspect_checkpoint
    from duplex_server.models.minicpmo.module_tree import as_json

    tree = inspect_checkpoint(asked.checkpoint)
    if asked.json:
        asked.json.write_text(json.dumps(as_json(tree), indent=1) + "\n", "utf-8")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(f"{asked.checkpoint}: {amount(tree.n_parameters)} parameters, {size(tree.n_bytes)}")
    for line in _lines(tree, asked.depth):
        print(line[:width].rstrip())
    return 0


def _lines(node: Node, depth: int, indent: str = "") -> list[str]:
    if not depth:
        return []
    lines = []
    groups = _repetitions(node)
    for place, group in enumerate(groups):
        last = place == len(groups) - 1
        first = group[0]
        name = first.name if len(group) == 1 else f"{first.name}…{group[-1].name}"
        lines.append(f"{indent}{'└─ ' if last else '├─ '}{name} {_facts(first, len(group))}")
        lines.extend(_lines(first, depth - 1, indent + ("   " if last else "│  ")))
    return lines


def _facts(node: Node, times: int) -> str:
    facts = [node.kind if times == 1 else f"{times} × {node.kind}"]
    if node.shape is not None:
        facts.append(f"[{', '.join(map(str, node.shape))}] {node.dtype}" + (" + bias" if node.has_bias else ""))
    facts.append(f"{amount(node.n_parameters)}, {size(node.n_bytes)}" + (" each" if times > 1 else ""))
    return "  ".join(facts)


def _repetitions(node: Node) -> list[list[Node]]:
    """Group parts that follow one another and look the same, as the layers of a transformer."""
    groups: list[list[Node]] = []
    for part in node.parts.values():
        if groups and part.name.isdecimal() and _looks(groups[-1][0]) == _looks(part):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _looks(node: Node) -> tuple[object, ...]:
    return (
        node.kind,
        node.shape,
        node.dtype,
        node.has_bias,
        node.name.isdecimal(),
        tuple((name, _looks(part)) for name, part in node.parts.items()),
    )
