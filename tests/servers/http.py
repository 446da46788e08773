"""An HTTP server on loopback with byte ranges, and switches for what goes wrong on real ones."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Behaviour:
    """How the server answers; tests change it between requests.

    Attributes
    ----------
    ranges : bool
        Obey the Range header; a server without them answers with the whole file.
    status : dict of path ending to int
        Answer with this status.
    status_times : int
        For so many requests only.
    truncate : int or None
        Close the connection after so many bytes of the body, as if the cable was pulled.
    truncate_times : int
        For so many requests only.
    delay : float
        Seconds before an answer.
    token : str or None
        Answer 401 without this bearer token.
    redirect : str or None
        Answer 302 to this address, the path added.
    requests : list of str
        What was asked, in order: method, path and range.
    authorizations : list of str or None
        The Authorization header of each request.
    """

    ranges: bool = True
    status: dict[str, int] = field(default_factory=dict)
    status_times: int = 10**9
    truncate: int | None = None
    truncate_times: int = 10**9
    delay: float = 0.0
    token: str | None = None
    redirect: str | None = None
    requests: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    behaviour: Behaviour

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def fail(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, body: bool) -> None:
        how = self.behaviour
        wanted = self.headers.get("Range")
        path = unquote(urlsplit(self.path).path)
        how.requests.append(f"{self.command} {path} {wanted}")
        how.authorizations.append(self.headers.get("Authorization"))
        if how.delay:
            time.sleep(how.delay)
        if how.token is not None and self.headers.get("Authorization") != f"Bearer {how.token}":
            return self.fail(401)
        for ending, status in how.status.items():
            if path.endswith(ending) and how.status_times > 0:
                how.status_times -= 1
                return self.fail(status)
        if how.redirect is not None:
            self.send_response(302)
            self.send_header("Location", how.redirect + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        file = self.root / path.lstrip("/")
        if not file.is_file():
            return self.fail(404)
        data = file.read_bytes()
        start, stop, status = 0, len(data), 200
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
        if match and how.ranges:
            status = 206
            if match[1]:
                start = int(match[1])
                stop = min(int(match[2]) + 1, stop) if match[2] else stop
            else:
                start = max(len(data) - int(match[2]), 0)
            if start >= len(data):
                return self.fail(416)
        self.send_response(status)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes" if how.ranges else "none")
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return None
        part = data[start:stop]
        if how.truncate is not None and how.truncate < len(part) and how.truncate_times > 0:
            how.truncate_times -= 1
            self.wfile.write(part[: how.truncate])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return None
        self.wfile.write(part)
        return None

    def handle(self) -> None:
        with suppress(OSError):  # the client went away, or we closed on it
            super().handle()


@contextmanager
def serve(root: Path) -> Iterator[tuple[str, Behaviour]]:
    """Serve a folder; yields the address and the switches."""
    behaviour = Behaviour()
    handler = type("Handler", (_Handler,), {"root": root, "behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", behaviour
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
