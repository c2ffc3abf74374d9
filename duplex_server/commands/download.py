"""``duplex-server download``: fetches a checkpoint from a hub, goes on where it stopped, and verifies it."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from duplex_server.commands.sizes import size
from duplex_server.commands.verify import show_findings
from duplex_server.errors import ConfigError, ModelLoadError

__all__ = ["describe", "run"]

REPOSITORY = "openbmb/MiniCPM-o-4_5"
_NOT_NEEDED = ["*.py", "*.md", "*.png", "*.jpg", "*.gif", "assets/CosyVoice2-0.5B/*"]
"""Remote code, pictures, and an older vocoder."""
_CONNECT_TIMEOUT_S = 20.0


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.description = (
        "Fetch a MiniCPM-o checkpoint from a hub into a folder and verify it. What is there already is kept, and a "
        "file that was cut off goes on where it stopped. HF_TOKEN is used where it is set."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to put it")
    parser.add_argument("--repository", default=REPOSITORY, metavar="OWNER/NAME", help="default %(default)s")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit; the newest if left out")
    parser.add_argument(
        "--endpoint", metavar="URL", help="a hub or a mirror of one; HF_ENDPOINT or https://huggingface.co if left out"
    )


def run(asked: argparse.Namespace) -> int:
    """Fetch what is missing, print what is there then, and return the exit status of ``verify``."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.file_download import DryRunFileInfo
    except ImportError as error:
        raise ConfigError("download needs `pip install duplex-server[minicpmo]`") from error
    where = {
        "repo_id": asked.repository,
        "revision": asked.revision,
        "local_dir": asked.folder,
        "endpoint": asked.endpoint,
        "ignore_patterns": _NOT_NEEDED,
        "etag_timeout": _CONNECT_TIMEOUT_S,
    }
    try:
        files = snapshot_download(**where, dry_run=True)
        missing = [file for file in files if isinstance(file, DryRunFileInfo) and file.will_download]
        n_bytes = sum(file.file_size or 0 for file in missing)
        _refuse_a_full_disk(asked.folder, n_bytes)
        print(f"{len(missing)} of {len(files)} files are to be fetched, {size(n_bytes)}.")
        snapshot_download(**where)
    except HFValidationError as error:
        raise ConfigError(f"--repository {asked.repository}: {error}") from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelLoadError(f"{asked.repository} could not be fetched: {_first_line(error)}") from error
    return show_findings(asked.folder)


def _refuse_a_full_disk(folder: Path, n_bytes: int) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < n_bytes:
        raise ModelLoadError(f"{size(n_bytes)} are to be fetched, and {there} has room for {size(free)}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
