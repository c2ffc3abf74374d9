"""The web page's files, as they are served: never stale, and unable to load anything that is not ours.

Knows nothing about what the page does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

__all__ = ["PAGE_HEADERS", "Page"]

PAGE_HEADERS: Mapping[str, str] = {
    # Files are revalidated by ETag at every load, so that a new version of the server is a new version of the page.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
        "media-src 'self' blob: mediastream:; connect-src 'self' ws: wss:; worker-src 'self'; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(self), speaker-selection=(self), geolocation=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_SERVED = frozenset({".html", ".js", ".css", ".svg", ".png", ".ico", ".webmanifest", ".woff2", ".wav"})
"""Kinds of file that belong to a page. A checkout's folder holds tests and tools too."""
_PRIVATE = frozenset({"tests", "node_modules"})


class Page(StaticFiles):
    """The files of one folder, ``index.html`` at its root."""

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, html=True)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the response for a path below the folder; 404 for what is not the page's."""
        parts = PurePath(path).parts
        private = any(part in _PRIVATE or part.startswith(".") for part in parts)
        if path != os.curdir and (private or PurePath(path).suffix not in _SERVED):
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        response.headers.update(PAGE_HEADERS)
        return response
