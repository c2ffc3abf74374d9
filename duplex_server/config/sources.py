"""Where settings come from, and whether they make sense together.

Defaults are overruled by a TOML file, that by environment variables (``DUPLEX_PORT``), and those by flags
(``--port``). Knows nothing about what is done with the settings.
"""

from __future__ import annotations

import difflib
import enum
import ipaddress
import json
import re
import socket
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from duplex_server.config.keys import KEY_PATTERN, key_digest
from duplex_server.config.settings import FIELDS, PREFIX, Field, Settings
from duplex_server.errors import ConfigError

__all__ = ["TALK_KEY_VARIABLE", "Effective", "accepted_keys", "effective", "is_loopback", "load", "render"]

FILE_NAME = "duplex-server.toml"
"""Read from the working directory where no other file is named."""

FILE_VARIABLE = PREFIX + "CONFIG"
"""Names the file to read."""

TALK_KEY_VARIABLE = PREFIX + "TALK_API_KEY"
"""The key with which ``duplex-server talk`` enters a server; no setting of a server."""

BUILT_IN_MODELS = ("embedded", "echo")


@dataclass(frozen=True, slots=True)
class Effective:
    """Settings, and who set each of them."""

    settings: Settings
    sources: Mapping[str, str]
    """By name: ``"default"``, the file's path, the variable or the flag."""


def load(flags: Mapping[str, str], env: Mapping[str, str], toml_path: Path | None = None) -> Settings:
    """Load and check the settings; see :func:`effective`."""
    return effective(flags, env, toml_path).settings


def effective(flags: Mapping[str, str], env: Mapping[str, str], toml_path: Path | None = None) -> Effective:
    """Merge all sources, later over earlier, and check the result.

    Args:
        flags: text given on the command line, by name of the setting; lists separated by commas or spaces.
        env: the environment; only ``DUPLEX_*`` is read.
        toml_path: the file to read; None: the one that ``DUPLEX_CONFIG`` names, else ``duplex-server.toml`` in the
            working directory if it is there.

    Raises:
        ConfigError: a setting is unknown or wrong, or two do not go together; one sentence says which, why, and what
            to do.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(FIELDS, "default")
    path = _file_to_read(env, toml_path)
    if path is not None:
        for name, raw in _read_file(path).items():
            field = _known(name, list(FIELDS), f"{path} sets {name}")
            values[field.name] = _convert(field, raw, str(path), strict=True)
            sources[field.name] = str(path)
    by_variable = {field.variable: field for field in FIELDS.values()}
    for variable in sorted(env):
        if variable.startswith(PREFIX) and variable not in (FILE_VARIABLE, TALK_KEY_VARIABLE):
            _known(variable, list(by_variable), f"The environment sets {variable}")
            field = by_variable[variable]
            values[field.name] = _convert(field, env[variable], variable)
            sources[field.name] = variable
    for name, text in flags.items():
        field = FIELDS[name]
        values[name] = _convert(field, text, field.flag)
        sources[name] = field.flag
    result = Effective(Settings(**values), sources)
    _check_together(result)
    return result


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def accepted_keys(settings: Settings) -> tuple[bytes, ...]:
    """Return the digests of all API keys that open the server: those in the settings and those in the key file.

    Raises:
        ConfigError: the key file cannot be read, or a line of it is no key.
    """
    keys = list(settings.api_keys)
    if settings.api_key_file:
        lines = [line.strip() for line in _text_of(settings.api_key_file, "api_key_file").splitlines()]
        for number, line in enumerate(lines, 1):
            if line and not line.startswith("#"):
                if not re.match(KEY_PATTERN, line):
                    raise ConfigError(
                        f"Line {number} of {settings.api_key_file} (api_key_file) is no API key: a key has 8 or more "
                        "visible ASCII characters, or is sha256: and a digest. Mend the line or remove it."
                    )
                keys.append(line)
    return tuple(key_digest(key) for key in keys)


def render(result: Effective) -> str:
    """Write the settings as a TOML file with the meaning and the source of each; secrets are left out."""
    lines = ["# Effective settings of duplex-server. Also valid as a settings file.", ""]
    for name, field in FIELDS.items():
        value = getattr(result.settings, name)
        source = result.sources[name]
        lines.append(f"# {field.meaning} Must be {field.allowed}.")
        origin = "default" if source == "default" else f"set by {source}; default {_toml(field.default)}"
        if field.secret and value:
            lines.append(f"# {name} = (kept secret)  # {origin}")
        else:
            lines.append(f"{name} = {_toml(value)}  # {origin}")
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """Write a value as TOML, whose text, numbers and lists of text are JSON's."""
    if isinstance(value, enum.Enum):
        value = value.value
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _file_to_read(env: Mapping[str, str], toml_path: Path | None) -> Path | None:
    if toml_path is not None:
        named, by = toml_path, "--config"
    elif env.get(FILE_VARIABLE):
        named, by = Path(env[FILE_VARIABLE]), FILE_VARIABLE
    else:
        usual = Path(FILE_NAME)
        return usual if usual.is_file() else None
    if not named.is_file():
        raise ConfigError(f"{by} names {named}, which is not a file. Correct the path, or leave {by} out.")
    return named


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text_of(str(path), "the settings file"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. Mend that line.") from error


def _text_of(path: str, role: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        why = f"cannot be read: {error.strerror}. Correct the path or its permissions."
    except UnicodeDecodeError:
        why = "is not UTF-8 text. Save it as UTF-8."
    except ValueError:
        why = "cannot be the name of a file. Correct the path."
    raise ConfigError(f"{path} ({role}) {why}")


def _known(name: str, names: list[str], fact: str) -> Field:
    """Return the field called ``name`` or ``DUPLEX_NAME``, or say which one may have been meant."""
    if name in names:
        return FIELDS[name.removeprefix(PREFIX).lower()]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]}?" if near else "Remove it;"
    raise ConfigError(f"{fact}, but there is no such setting. {hint} `duplex-server config` lists all settings.")


def _convert(field: Field, raw: Any, source: str, *, strict: bool = False) -> Any:
    """Check one value. Text from variables and flags (``strict`` false) is read as what the field needs."""
    value = raw
    if field.kind == "list" and not strict:
        value = [part for part in re.split(r"[\s,]+", raw) if part]
    try:
        return msgspec.convert(value, field.type, strict=strict)
    except msgspec.ValidationError as error:
        shown = "a secret value" if field.secret else json.dumps(raw, ensure_ascii=False, default=str)
        raise ConfigError(
            f"{source} sets {field.name} to {shown}, but it must be {field.allowed}. "
            f"Correct it, or leave it out for the default, {_toml(field.default)}."
        ) from error


def _check_together(result: Effective) -> None:
    settings = result.settings

    def named(name: str) -> str:
        source = result.sources[name]
        return name if source == "default" else f"{name} (set by {source})"

    _check_model(settings.model, named("model"))
    if settings.workers > 1:
        _check_workers(settings, named("workers"))
    for one, other in (("tls_certificate", "tls_key"), ("turn_urls", "turn_secret")):
        for present, absent in ((one, other), (other, one)):
            if getattr(settings, present) and not getattr(settings, absent):
                raise ConfigError(f"{named(present)} needs {absent} too, which is not set. Set both, or neither.")
    if settings.tls_certificate:
        _check_certificate(settings)
    if not is_loopback(settings.host) and not settings.insecure and not accepted_keys(settings):
        raise ConfigError(
            f"{named('host')} is {settings.host}, which lets other machines in, but no API key is set. Set api_keys or "
            "api_key_file, or say --insecure if everybody may use this server."
        )
    accepted_keys(settings)


def _check_workers(settings: Settings, name: str) -> None:
    if Path(settings.model).is_dir():
        raise ConfigError(
            f"{name} is {settings.workers}, but each of them would load the weights of {settings.model} again, and "
            "share no batch with the others. Leave workers at 1 for a MiniCPM-o."
        )
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError(
            f"{name} is {settings.workers}, but this operating system gives a port to one process only. Leave it at 1."
        )


def _check_certificate(settings: Settings) -> None:
    for name in ("tls_certificate", "tls_key"):
        _text_of(getattr(settings, name), name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password="")
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or "not readable"
        raise ConfigError(
            f"{settings.tls_certificate} (tls_certificate) and {settings.tls_key} (tls_key) do not work "
            f"together: {why}. Both must be PEM files, the key without a password, and it must be the certificate's."
        ) from error


def _check_model(model: str, name: str) -> None:
    if model in BUILT_IN_MODELS or re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", model):
        return
    choices = "embedded, echo, the folder of a MiniCPM-o checkpoint, or package.module:callable"
    if Path(model).is_dir():
        if (Path(model) / "config.json").is_file():
            return
        raise ConfigError(f"{name} is the folder {model}, but there is no checkpoint in it: it has no config.json.")
    near = difflib.get_close_matches(model, BUILT_IN_MODELS, n=1)
    why = "there is no such folder" if "/" in model else "there is no model of that name"
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ConfigError(f"{name} is {model}, but {why}. {hint}Choose {choices}.")
