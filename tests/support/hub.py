"""A model hub on the loopback: what huggingface_hub asks for of one repository, with breaks on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """The server's answers, and what it was asked."""

    repository: str
    files: dict[str, bytes]
    licence: str = "apache-2.0"
    broken: dict[str, int] = field(default_factory=dict)
    """File → bytes after which every connection that serves it breaks."""
    lies: dict[str, str] = field(default_factory=dict)
    """File → sha256 that the hub claims it has."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and Range of every request."""
    url: str = ""

    def description(self) -> dict[str, object]:
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest(),
                "lfs": {"sha256": self.sha256(name), "size": len(data), "pointerSize": 130},
            }
            for name, data in self.files.items()
        ]
        return {
            "_id": "1",
            "id": self.repository,
            "modelId": self.repository,
            "sha": REVISION,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "cardData": {"license": self.licence},
            "siblings": siblings,
        }

    def sha256(self, name: str) -> str:
        return self.lies.get(name) or hashlib.sha256(self.files[name]).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path, self.headers.get("Range", "")))
            if path in (f"/api/models/{hub.repository}", f"/api/models/{hub.repository}/revision/{REVISION}"):
                self.whole(json.dumps(hub.description()).encode(), {"Content-Type": "application/json"}, body=body)
                return
            match = re.fullmatch(rf"/{re.escape(hub.repository)}/resolve/{REVISION}/(.+)", path)
            name = match[1] if match else path.removeprefix("/other/")
            if name not in hub.files:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.file(name, body=body)

        def file(self, name: str, *, body: bool) -> None:
            data = hub.files[name]
            start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", f'"{hub.sha256(name)}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("X-Linked-Etag", f'"{hub.sha256(name)}"')
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if body:
                end = hub.broken.get(name, len(data))
                self.wfile.write(data[start : max(start, end)])
                if end < len(data):
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()

        def whole(self, data: bytes, headers: Mapping[str, str], *, body: bool) -> None:
            self.send_response(200)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    return Handler


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at ``hub.url``; files that are in no repository lie under ``/other/``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
