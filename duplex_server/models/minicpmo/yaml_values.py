"""Reads a YAML file as nested values, whatever Python objects its tags ask for. Executes nothing.

The settings of token2wav are published as files for HyperPyYAML, whose tags name classes and functions to call. Knows
nothing about what the settings mean.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from duplex_server.errors import ModelLoadError

__all__ = ["find", "read_yaml"]

_LONGEST_BYTES = 1_000_000
"""The published files have a few thousand bytes."""


def read_yaml(file: Path) -> Any:
    """Return the file's mappings, lists and scalars; tags are left out, but for ``!ref <name>`` of a name at the root.

    Raises:
        ModelLoadError: the file cannot be read, or is not YAML.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_LONGEST_BYTES + 1)
        if len(content) > _LONGEST_BYTES:
            raise ModelLoadError(f"{file} is too long for a file of settings")
        root = yaml.compose(content.decode("utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ModelLoadError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ModelLoadError(f"{file} is not YAML: {error}") from error
    return _Reading(file, root).value(root) if root is not None else None


def find(values: Any, key: str) -> Any:
    """Return the first value of ``key`` at any depth, or None.

    Published files of the same model differ in how deep they nest.
    """
    if isinstance(values, dict):
        if key in values:
            return values[key]
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            found = find(value, key)
            if found is not None:
                return found
    return None


class _Reading:
    """One file's nodes on their way to values. A node that several aliases share is one value, as in YAML."""

    def __init__(self, file: Path, root: yaml.Node) -> None:
        self._file = file
        self._root = root
        self._values: dict[int, Any] = {}
        self._open: set[int] = set()
        self._scalars = yaml.SafeLoader("")

    def value(self, node: yaml.Node) -> Any:
        if id(node) in self._values:
            return self._values[id(node)]
        if id(node) in self._open:
            raise ModelLoadError(f"{self._file} refers to itself in line {node.start_mark.line + 1}")
        self._open.add(id(node))
        match node:
            case yaml.MappingNode():
                found: Any = {str(self.value(key)): self.value(below) for key, below in node.value}
            case yaml.SequenceNode():
                found = [self.value(below) for below in node.value]
            case _:
                found = self._scalar(node)
        self._open.remove(id(node))
        self._values[id(node)] = found
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag == "!ref" and isinstance(self._root, yaml.MappingNode):
            named = re.fullmatch(r"<(\w+)>", node.value)
            for key, below in self._root.value:
                if named and key.value == named[1]:
                    return self.value(below)
        if node.tag in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:binary") or not node.tag.startswith("tag:"):
            return node.value
        return self._scalars.construct_object(node)  # int, float, bool, null or str
