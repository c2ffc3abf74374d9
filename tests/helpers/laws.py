"""The house rules that a machine can check, each as a function from parsed sources to sentences about what breaks it.

Knows nothing about which exceptions are granted; ``tests/test_laws.py`` does.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Source",
    "Violation",
    "borders_crossed",
    "broad_excepts",
    "forbidden_packages",
    "long_functions",
    "names_without_all",
    "read_sources",
    "stray_tasks",
    "unbounded_queues",
    "undocumented_names",
    "wall_clock_uses",
]

PACKAGE = "duplex_server"


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file."""

    path: str
    """Relative to the package, as ``session/playout.py``."""
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def module(self) -> tuple[str, ...]:
        """Dotted name within the package; ``()`` for the package itself."""
        parts = Path(self.path).with_suffix("").parts
        return parts[:-1] if parts[-1] == "__init__" else parts

    @property
    def room(self) -> str:
        return self.module[0] if self.module else "__init__"


@dataclass(frozen=True, slots=True)
class Violation:
    """One place where a law is broken."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def read_sources(folder: Path) -> list[Source]:
    """Read every Python file below ``folder``."""
    return [Source(str(path.relative_to(folder)), path.read_text("utf-8")) for path in sorted(folder.rglob("*.py"))]


def imported_modules(source: Source) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of every import in the file, wherever it stands, relative ones resolved."""
    is_package = source.path.endswith("__init__.py")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = (PACKAGE, *source.module)[: len(source.module) + 1 + is_package - node.level]
                base = ".".join((*above, base) if base else above)
            # `from package import room` imports the room, so each name counts as a module.
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}" if base == PACKAGE else base
        elif isinstance(node, ast.Call) and _dotted(node.func) in ("importlib.import_module", "__import__"):
            named = node.args[0] if node.args else None
            if isinstance(named, ast.Constant):
                yield node.lineno, str(named.value)


def borders_crossed(sources: Iterable[Source], may_import: Mapping[str, set[str]]) -> Iterator[Violation]:
    """Find imports of a room by one that must not know it. ``may_import`` has every room as a key."""
    for source in sources:
        for line, name in imported_modules(source):
            parts = name.split(".")
            if parts[0] != PACKAGE:
                continue
            target = parts[1] if len(parts) > 1 and parts[1] in may_import else "__init__"
            if source.room not in may_import:
                yield Violation(source.path, line, f"{source.room} is no room of the house")
            elif target not in {*may_import[source.room], source.room}:
                yield Violation(source.path, line, f"{source.room} must not import {target}")


def forbidden_packages(
    sources: Iterable[Source], doors: Mapping[str, tuple[str, ...]], standard: frozenset[str]
) -> Iterator[Violation]:
    """Find third-party packages imported elsewhere than through their doors, which are paths or folders."""
    for source in sources:
        for line, name in imported_modules(source):
            top = name.split(".")[0]
            if top in standard or top in (PACKAGE, "__future__"):
                continue
            if top not in doors:
                yield Violation(source.path, line, f"{top} has no door in this house")
            elif not source.path.startswith(doors[top]):
                yield Violation(source.path, line, f"{top} is used behind {' and '.join(doors[top])} only")


def stray_tasks(sources: Iterable[Source]) -> Iterator[Violation]:
    """Find tasks that are born elsewhere than in a TaskGroup."""
    for source in sources:
        tree = source.tree
        groups = _task_groups(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = _dotted(node.func)
            receiver, _, method = called.rpartition(".")
            if method in ("ensure_future", "gather", "run_coroutine_threadsafe") or called == "asyncio.Task":
                yield Violation(source.path, node.lineno, f"{method} makes tasks that nobody owns")
            elif method == "create_task" and receiver not in groups:
                yield Violation(source.path, node.lineno, f"{called} is not known to be a TaskGroup's")


def _task_groups(tree: ast.Module) -> set[str]:
    """Collect the names that the file itself shows to be TaskGroups: opened, annotated, or assigned from one."""
    groups: set[str] = set()
    for _ in range(2):  # the second time, names assigned from names that come later in the file
        for node in ast.walk(tree):
            match node:
                case ast.AsyncWith(items=items):
                    for item in items:
                        if item.optional_vars and _makes_group(item.context_expr, groups):
                            groups.add(_dotted(item.optional_vars))
                case ast.arg(arg=name, annotation=ast.expr() as annotation) if "TaskGroup" in ast.unparse(annotation):
                    groups.add(name)
                case ast.AnnAssign(target=target, annotation=annotation) if "TaskGroup" in ast.unparse(annotation):
                    groups.update({_dotted(target), f"self.{_dotted(target)}"})
                case ast.Assign(targets=[target], value=value) if _makes_group(value, groups):
                    groups.add(_dotted(target))
    return groups


def _makes_group(value: ast.expr, groups: set[str]) -> bool:
    if isinstance(value, ast.Await):
        value = value.value
    if isinstance(value, ast.Call):
        if _dotted(value.func).endswith("enter_async_context") and value.args:
            return _makes_group(value.args[0], groups)
        return _dotted(value.func).endswith("TaskGroup")
    return _dotted(value) in groups


def wall_clock_uses(sources: Iterable[Source]) -> Iterator[Violation]:
    """Find reading of the wall clock, and sleeping that holds a thread."""
    forbidden = {"time.time", "time.time_ns", "time.sleep", "datetime.now", "datetime.utcnow", "date.today"}
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute):
                dotted = ".".join(_dotted(node).split(".")[-2:])
                if dotted in forbidden:
                    yield Violation(source.path, node.lineno, f"{dotted}: time is the event loop's")
            elif isinstance(node, ast.ImportFrom) and node.module == "time":
                for alias in node.names:
                    if f"time.{alias.name}" in forbidden:
                        yield Violation(source.path, node.lineno, f"time.{alias.name}: time is the event loop's")


def broad_excepts(sources: Iterable[Source]) -> Iterator[Violation]:
    """Find handlers that catch bugs, or a cancellation, without raising it again."""
    broad = {"Exception", "BaseException", "ExceptionGroup", "BaseExceptionGroup", "CancelledError"}
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler):
                caught = {name.rpartition(".")[2] for name in _names(node.type)} if node.type else {"everything"}
                raises = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                if caught & {*broad, "everything"} and not raises:
                    yield Violation(source.path, node.lineno, f"catches {', '.join(sorted(caught))}")
            elif isinstance(node, ast.Call) and _dotted(node.func).endswith("suppress"):
                caught = {name.rpartition(".")[2] for argument in node.args for name in _names(argument)}
                if caught & broad:
                    yield Violation(source.path, node.lineno, f"suppresses {', '.join(sorted(caught))}")


def unbounded_queues(sources: Iterable[Source]) -> Iterator[Violation]:
    """Find queues that neither have a limit nor a comment, there or on the line before, on what bounds them.

    A deque that is made with contents is a list of things that go round, not a queue.
    """
    sized = {"Queue": "maxsize", "LifoQueue": "maxsize", "PriorityQueue": "maxsize", "deque": "maxlen"}
    for source in sources:
        lines = source.text.splitlines()
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            function = node.func.value if isinstance(node.func, ast.Subscript) else node.func
            kind = _dotted(function).rpartition(".")[2]
            limited = node.args or sized.get(kind) in {keyword.arg for keyword in node.keywords}
            comments = " ".join(line.partition("#")[2] for line in lines[max(0, node.lineno - 2) : node.lineno])
            explained = re.search(r"\b(bound|bounded|full)\b", comments)
            if kind in (*sized, "SimpleQueue") and not limited and not explained:
                yield Violation(source.path, node.lineno, f"{kind} without a limit")


def long_functions(sources: Iterable[Source], most_lines: int) -> Iterator[Violation]:
    """Find functions with more than ``most_lines`` lines, docstrings left out."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    first = node.body[0]
                    assert first.end_lineno is not None
                    lines -= first.end_lineno - first.lineno + 1
                if lines > most_lines:
                    yield Violation(source.path, node.lineno, f"{node.name} has {lines} lines")


def names_without_all(sources: Iterable[Source]) -> Iterator[Violation]:
    """Find names that one file takes from another which does not offer them in its ``__all__``."""
    sources = list(sources)
    offered = {(PACKAGE, *source.module): _offered(source.tree) for source in sources}
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                module = tuple(node.module.split("."))
                for alias in node.names:
                    is_module = (*module, alias.name) in offered
                    if module in offered and not is_module and alias.name not in offered[module]:
                        yield Violation(source.path, node.lineno, f"{node.module} does not offer {alias.name}")


def undocumented_names(sources: Iterable[Source]) -> Iterator[Violation]:
    """Find files, and classes and functions in an ``__all__``, without a docstring; and names that do not exist."""
    for source in sources:
        tree = source.tree
        if not ast.get_docstring(tree):
            yield Violation(source.path, 1, "the file does not say what it is")
        defined = dict(_defined(tree))
        for name in _offered(tree):
            node = defined.get(name)
            if name not in defined:
                yield Violation(source.path, 1, f"{name} is offered but not there")
            elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not ast.get_docstring(
                node
            ):
                yield Violation(source.path, node.lineno, f"{name} is offered but not explained")


def _offered(tree: ast.Module) -> set[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and _dotted(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return set(names)
    return set()


def _defined(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                for alias in aliases:
                    yield alias.asname or alias.name, node
            case ast.Assign(targets=targets):
                for target in targets:
                    yield from ((name, node) for name in _names(target))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node
            case ast.If(body=body):
                yield from _defined(ast.Module(body, []))


def _names(node: ast.expr) -> list[str]:
    return [_dotted(element) for element in node.elts] if isinstance(node, ast.Tuple) else [_dotted(node)]


def _dotted(node: ast.expr) -> str:
    """Spell a name or an attribute as written; of a call, what is called; ``""`` for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            return f"{_dotted(value)}.{attribute}"
        case ast.Call(func=function):
            return f"{_dotted(function)}()"
    return ""
