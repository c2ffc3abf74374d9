"""Asks the server in this container whether it is alive: exit status 0 if so. Reads the same settings as the server."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping

from duplex_server.config import load

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on


def address(env: Mapping[str, str]) -> str:
    """Say where a server with this environment answers, seen from its own machine."""
    settings = load({}, env)
    host = EVERYWHERE.get(settings.host, settings.host)
    scheme = "https" if settings.tls_certificate else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}/healthz"


def main() -> int:
    """Ask once and return the exit status."""
    url = address(os.environ)
    # The certificate names the public host, not this one. Nothing secret is sent, and only the status is believed.
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=4, context=unverified) as answer:  # noqa: S310 - our own address
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)  # noqa: T201 - docker shows it as the check's log
        return 1


if __name__ == "__main__":
    sys.exit(main())
