"""The command line: what can be asked for, and who does it. Knows nothing about how it is done."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from duplex_server import __version__
from duplex_server.commands import COMMANDS
from duplex_server.config import FIELDS, TALK_KEY_VARIABLE, Effective, effective, hashed_key, new_key, render
from duplex_server.errors import ConfigError, ModelLoadError
from duplex_server.types import InterruptionPolicy

__all__ = ["command_line", "main"]

EXIT_NO_MODEL = 1
EXIT_BAD_SETTING = 2
"""As argparse exits for a flag that it does not know."""
EXIT_UNREAD = 141
"""As a shell counts a program that SIGPIPE ended: 128 + 13."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command and return the exit status: 2 for a setting that cannot be used, 1 for a model.

    Args:
        arguments: the words after the program's name; None: those it was started with.
    """
    asked = command_line().parse_args(arguments)
    try:
        status = _carry_out(asked)
        sys.stdout.flush()
    except ConfigError as error:
        print(f"duplex-server: {error}", file=sys.stderr)
        return EXIT_BAD_SETTING
    except ModelLoadError as error:
        print(f"duplex-server: The model was not loaded: {error}", file=sys.stderr)
        return EXIT_NO_MODEL
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return EXIT_UNREAD
    return status


def _carry_out(asked: argparse.Namespace) -> int:
    match asked.command:
        case "serve":
            settings = _effective(asked).settings
            if settings.workers > 1:
                from duplex_server.gateways.supervisor import supervise

                supervise(settings)
            else:
                from duplex_server.server import serve  # after the settings: it loads everything

                serve(settings)
        case "config":
            print(render(_effective(asked)), end="")
        case "key":
            key = new_key()
            print(f"{key}\n{hashed_key(key)}")
        case "schema":
            from duplex_server.wire.reference import as_text

            print(as_text(for_people=asked.page), end="")
        case "talk":
            from duplex_server.talk import run

            return run(asked)
        case "version":
            print(f"duplex-server {__version__}")
        case command:
            return COMMANDS[command].run(asked)
    return 0


def command_line() -> argparse.ArgumentParser:
    """Describe every command and its flags."""
    parser = argparse.ArgumentParser(
        prog="duplex-server", description="Full-duplex conversations: it listens, looks and speaks at the same time."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="start the server", description="Start the server.")
    _add_settings(serve)
    config = commands.add_parser(
        "config",
        help="print the effective settings",
        description="Print the settings that serve would use, each with its meaning and where it was set, as TOML.",
    )
    _add_settings(config)
    commands.add_parser(
        "key",
        help="make an API key",
        description="Print a new API key and, on a second line, its digest: the key is for the client, the digest for "
        "the server's api_key_file.",
    )
    schema = commands.add_parser(
        "schema",
        help="print the protocol",
        description="Print a JSON Schema of every event that clients and the server exchange.",
    )
    schema.add_argument("--page", action="store_true", help="print it as Markdown for people: docs/events.md")
    _add_talk(commands.add_parser("talk", help="talk to a server from the terminal or from files"))
    for name, command in COMMANDS.items():
        command.describe(commands.add_parser(name, help=command.help))
    commands.add_parser("version", help="print the version")
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting. Their values stay text: the settings check them, whoever sets them."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings file, TOML; DUPLEX_CONFIG or ./duplex-server.toml if left out",
    )
    for field in FIELDS.values():
        text = f"{field.meaning} Must be {field.allowed}. Environment: {field.variable}.".replace("%", "%%")
        if field.kind == "switch":
            parser.add_argument(field.flag, dest=field.name, action=argparse.BooleanOptionalAction, help=text)
        else:
            shown = "LIST" if field.kind == "list" else field.name.rsplit("_", 1)[-1].upper()
            parser.add_argument(field.flag, dest=field.name, metavar=shown, help=text)


def _add_talk(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Talk to a server. Without --input the microphone and the loudspeaker are used, "
        "which need `pip install duplex-server[audio]`."
    )
    parser.add_argument("server", nargs="?", default="http://127.0.0.1:8000", help="address, default %(default)s")
    parser.add_argument("--transport", choices=["webrtc", "websocket"], default="websocket", help="default %(default)s")
    parser.add_argument(
        "--input", type=Path, metavar="WAV", help="speech to send at real-time pace, instead of a microphone"
    )
    parser.add_argument(
        "--frames", type=Path, metavar="VIDEO", help="video or picture whose frames are sent as the camera's"
    )
    parser.add_argument("--output", type=Path, metavar="WAV", help="where to save what is heard")
    parser.add_argument(
        "--stereo", action="store_true", help="with --input and --output: save what was said on the left, too"
    )
    parser.add_argument(
        "--transcript", type=Path, metavar="JSONL", help="where to save every event, one JSON object a line"
    )
    parser.add_argument("--language", default=None, metavar="TAG", help="language to ask for, as en or zh")
    parser.add_argument(
        "--interruption", choices=[policy.value for policy in InterruptionPolicy], help="policy to ask for"
    )
    parser.add_argument(
        "--api-key",
        default=os.environ.get(TALK_KEY_VARIABLE),
        metavar="KEY",
        help=f"key of the server; or set {TALK_KEY_VARIABLE}",
    )


def _effective(asked: argparse.Namespace) -> Effective:
    given = {name: getattr(asked, name) for name in FIELDS if getattr(asked, name) is not None}
    flags = {name: str(value).lower() if isinstance(value, bool) else value for name, value in given.items()}
    return effective(flags, os.environ, asked.config)
