"""Where the web page's files are. Knows nothing about how they are served."""

from __future__ import annotations

from pathlib import Path

from duplex_server.errors import ConfigError

__all__ = ["page_folder"]


def page_folder() -> Path:
    """Find the folder with the page: ``web_client/`` of a checkout, or its copy in an installed package.

    Raises:
        ConfigError: neither is there, so the installation is broken.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_web_client", package.parent / "web_client"):
        if (folder / "index.html").is_file():
            return folder
    raise ConfigError(
        f"The page's files are missing beside {package}. Install duplex-server again, or say --no-web-client."
    )
