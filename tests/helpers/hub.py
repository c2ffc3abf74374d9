"""The smallest hub that the official client can download a repository from, with connections that break on request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A folder as the repository ``o/m``.

    Attributes:
        url: where it is.
        cut: names of files whose connection breaks in their middle, once each.
        ranges: names of files that were asked for from a later byte on, with that byte.
    """

    folder: Path
    url: str = ""
    cut: set[str] = field(default_factory=set)
    ranges: list[tuple[str, int]] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        return sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file())


def digest(hub: Hub, name: str) -> str:
    return hashlib.sha1((hub.folder / name).read_bytes()).hexdigest()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            if re.fullmatch(r"/api/models/o/m/revision/\w+", self.path.split("?")[0]):
                siblings = [{"rfilename": name} for name in hub.names()]
                self.give(json.dumps({"id": "o/m", "sha": COMMIT, "siblings": siblings}).encode(), "", with_body)
            elif re.fullmatch(rf"/api/models/o/m/tree/{COMMIT}", self.path.split("?")[0]):
                files = [
                    {"type": "file", "path": name, "size": (hub.folder / name).stat().st_size, "oid": digest(hub, name)}
                    for name in hub.names()
                ]
                self.give(json.dumps(files).encode(), "", with_body)
            elif match := re.fullmatch(rf"/o/m/resolve/{COMMIT}/([^?]+)", self.path):
                self.give((hub.folder / match[1]).read_bytes(), match[1], with_body)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def give(self, content: bytes, name: str, with_body: bool) -> None:
            first = 0
            if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                first = int(asked[1])
                hub.ranges.append((name, first))
            self.send_response(206 if first else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Accept-Ranges", "bytes")
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            if not with_body:
                return
            hub.fetched.append(name)
            if name in hub.cut:
                hub.cut.remove(name)
                self.wfile.write(content[first : len(content) // 2])
                self.close_connection = True
                return
            self.wfile.write(content[first:])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
