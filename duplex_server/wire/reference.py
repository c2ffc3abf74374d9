"""The protocol as data and as a page: JSON Schema of every event, and tables for people, made from the classes.

What a class or a key means is its docstring. Knows nothing about order, which no schema can say.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from functools import cache
from typing import Any, get_args

import msgspec

from duplex_server.wire.client_secrets import ClientSecret, SecretRequest
from duplex_server.wire.events import ClientEvent, ServerEvent
from duplex_server.wire.live_events import LiveClientEvent, LiveServerEvent
from duplex_server.wire.live_sessions import LiveAnswer, LiveRequest

__all__ = ["as_text", "page", "schema"]

_EVENTS: dict[str, dict[str, tuple[type[msgspec.Struct], ...]]] = {
    "realtime": {"client": get_args(ClientEvent), "server": get_args(ServerEvent)},
    "live": {"client": get_args(LiveClientEvent), "server": get_args(LiveServerEvent)},
}
_BODIES: dict[str, type[msgspec.Struct]] = {
    "POST /v1/realtime/client_secrets": SecretRequest,
    "POST /v1/realtime/client_secrets, the answer": ClientSecret,
    "POST /v1/live/sessions": LiveRequest,
    "POST /v1/live/sessions, the answer": LiveAnswer,
}
_TITLES = {
    ("realtime", "client"): "Realtime: what clients send",
    ("realtime", "server"): "Realtime: what the server sends",
    ("live", "client"): "Live: what clients send",
    ("live", "server"): "Live: what the server sends",
}
_HEAD = """# Every event, key by key

Made from the classes in [`duplex_server/wire`](../duplex_server/wire) by `duplex-server schema --page`; a test holds
this page to them. `duplex-server schema` prints the same as JSON Schema. What leads to what is in
[protocol.md](protocol.md).

Keys in bold must be given; the others may be left out, or are left out when there is nothing to say. Bytes are base64.
"""


def schema() -> dict[str, Any]:
    """Return a JSON Schema (2020-12) of all events and bodies, one definition a class.

    ``surfaces`` says which definitions each side of each surface may send.
    """
    kinds = [kind for sides in _EVENTS.values() for side in sides.values() for kind in side] + list(_BODIES.values())
    _, definitions = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for kind in _structs(kinds):
        described = definitions.get(kind.__name__)
        for name, meaning in _meanings(kind).items():
            if described is not None and name in described.get("properties", {}):
                described["properties"][name].setdefault("description", meaning)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "duplex-server",
        "surfaces": {
            surface: {
                side: {"oneOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in kinds]}
                for side, kinds in sides.items()
            }
            for surface, sides in _EVENTS.items()
        },
        "bodies": {name: {"$ref": f"#/$defs/{kind.__name__}"} for name, kind in _BODIES.items()},
        "$defs": dict(sorted(definitions.items())),
    }


def page() -> str:
    """Return the page that describes every event, as Markdown."""
    definitions: dict[str, Any] = schema()["$defs"]
    parts = [_HEAD]
    for (surface, side), title in _TITLES.items():
        parts.append(f"## {title}\n")
        kinds = sorted(_EVENTS[surface][side], key=_tag)
        parts += [_section(f"`{_tag(kind)}`", definitions[kind.__name__]) for kind in kinds]
    parts.append("## Bodies of requests\n")
    parts += [_section(name, definitions[kind.__name__]) for name, kind in _BODIES.items()]
    parts.append("## What they hold\n")
    named = {kind.__name__ for sides in _EVENTS.values() for side in sides.values() for kind in side}
    named |= {kind.__name__ for kind in _BODIES.values()}
    parts += [_section(f"`{name}`", definitions[name]) for name in sorted(set(definitions) - named)]
    return "\n".join(parts)


def _section(title: str, definition: dict[str, Any]) -> str:
    lines = [f"### {title}\n", f"{_line(definition.get('description', ''))}\n"]
    required = set(definition.get("required", ()))
    rows = []
    for name, key in definition.get("properties", {}).items():
        if name == "type" and "enum" in key:
            continue
        shown = f"**`{name}`**" if name in required else f"`{name}`"
        rows.append(f"| {shown} | {_kind(key)} | {_line(key.get('description', ''))} |")
    if rows:
        lines += ["| key | value | |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _kind(key: dict[str, Any]) -> str:
    """Say what values a key takes."""
    if "$ref" in key:
        name = key["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in key:
        return ", ".join(dict.fromkeys(_kind(choice) for choice in key["anyOf"]))
    if "enum" in key:
        return ", ".join("null" if value is None else f"`{value}`" for value in key["enum"])
    if "const" in key:
        return f"`{key['const']}`"
    if key.get("contentEncoding") == "base64":
        return "bytes"
    kind = key.get("type", "any")
    if kind == "array":
        return f"list of {_kind(key.get('items', {}))}"
    limits = [f"{word} {key[name]}" for name, word in _LIMITS.items() if name in key]
    return f"{kind} ({', '.join(limits)})" if limits else str(kind)


_LIMITS = {"minimum": "from", "maximum": "to", "minLength": "at least", "maxLength": "at most", "pattern": "like"}


def _line(text: str) -> str:
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


def _tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


def _structs(kinds: list[type[msgspec.Struct]]) -> set[type[msgspec.Struct]]:
    """Return these classes and all that they are made of."""
    found: set[type[msgspec.Struct]] = set()

    def visit(node: Any) -> None:
        if isinstance(node, msgspec.inspect.StructType):
            if node.cls in found:
                return
            found.add(node.cls)
            for field in node.fields:
                visit(field.type)
        elif isinstance(node, msgspec.inspect.Metadata):
            visit(node.type)
        elif isinstance(node, msgspec.inspect.UnionType):
            for choice in node.types:
                visit(choice)
        elif isinstance(node, (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)):
            visit(node.item_type)
        elif isinstance(node, msgspec.inspect.DictType):
            visit(node.value_type)

    for described in msgspec.inspect.multi_type_info(kinds):
        visit(described)
    return found


@cache
def _meanings(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return the docstring below each key of a class, inherited ones too."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base in (object, msgspec.Struct) or not issubclass(base, msgspec.Struct):
            continue
        (defined,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(defined, ast.ClassDef), "the source of a class"
        for before, after in zip(defined.body, defined.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                meanings[before.target.id] = inspect.cleandoc(str(after.value.value))
    return meanings


def as_text(*, for_people: bool) -> str:
    """Return the schema as JSON, or the page."""
    return page() if for_people else json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
