"""The few answers of a model hub that a download needs, served from memory on the local host."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef" * 2 + "01234567"


@dataclass
class Hub:
    """What is served, and what was asked for. One commit, under `main`, `v1` and its hash."""

    repositories: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    """Bytes after which the connection breaks, once, by file name."""
    broken: set[str] = field(default_factory=set)
    """Files that cannot be sent."""
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range of every request."""
    url: str = ""

    def fetched(self) -> list[str]:
        """Names of the files whose bytes were sent, in order."""
        return [path.rsplit("/", 1)[1] for method, path, _ in self.log if method == "GET" and "/resolve/" in path]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.url` within this context."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.log.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        parts = parts[2:] if listing else parts
        files = self.hub.repositories.get("/".join(parts[:2]))
        if files is None:
            self._refuse(401, "RepoNotFound")
        elif len(parts) > 2 and parts[3] not in ("main", "v1", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif listing:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            self._send(json.dumps({"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": siblings}).encode())
        elif "/".join(parts[:2]) in self.hub.gated:
            self._refuse(403, "GatedRepo")
        elif "/".join(parts[4:]) not in files:
            self._refuse(404, "EntryNotFound")
        elif self.command == "GET" and parts[-1] in self.hub.broken:
            self._refuse(500, "ServerError")
        else:
            self._send(files["/".join(parts[4:])], self.hub.cut)

    do_GET = do_HEAD

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data: bytes, cut: dict[str, int] | None = None) -> None:
        etag = hashlib.sha256(data).hexdigest()
        start = 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = (cut or {}).pop(self.path.rsplit("/", 1)[1], None)
        self.wfile.write(data[start:stop])
        self.close_connection = stop is not None

    def log_message(self, *_: object) -> None:
        pass
