"""Commands that work on a checkpoint folder. Knows who does what, not how; importing it loads nothing heavy."""

from __future__ import annotations

from duplex_server.commands import bench, chat, download, inspect, parity, plan, run, verify
from duplex_server.commands.base import Command

__all__ = ["COMMANDS"]

COMMANDS: dict[str, Command] = {
    "chat": Command("ask a checkpoint about text, pictures, sound and video", chat.describe, chat.run),
    "inspect": Command("show what a checkpoint holds", inspect.describe, inspect.run),
    "plan": Command("show which GPUs hold a checkpoint, and how many conversations", plan.describe, plan.run),
    "verify": Command("say whether a checkpoint is complete", verify.describe, verify.run),
    "run": Command("hold a conversation with a recorded clip as if it were live", run.describe, run.run),
    "bench": Command("measure how fast a checkpoint runs here", bench.describe, bench.run),
    "parity": Command("compare the engine with recorded runs of the official code", parity.describe, parity.run),
    "download": Command("fetch a checkpoint from a hub", download.describe, download.run),
}
"""Each command by name, in the order of ``duplex-server --help``."""
