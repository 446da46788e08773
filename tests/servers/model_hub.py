"""A stand-in for the Hub on loopback: model files by revision, and what goes wrong with them.

Large files are answered as the Hub answers: a redirect to another host, with the SHA-256 and the
size in headers of the first answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

PORTAL = b"<!DOCTYPE html><html><body>Please log in to the network</body></html>"


@dataclass
class ModelHub:
    """What the server has and how it answers; tests change it between requests.

    Attributes
    ----------
    address : str
        For HF_ENDPOINT.
    files : dict of (repository, commit, path) to bytes
    branches : dict of name to commit
    large : bool
        Files are large ones: redirected, known by their SHA-256; otherwise by git's hash.
    status, code, headers
        Answer every question about a file with this status, X-Error-Code and headers.
    body_status : int or None
        The same for the host of large files.
    silent_head, silent_body : bool
        Take the question and never answer.
    trickle : bool
        Answer questions about a file one byte of a header a second.
    portal : bool
        Answer everything with a page and status 200.
    cut : int or None
        Close the connection after so many bytes of a body, `cuts` times.
    damage : int
        Change a byte of so many bodies.
    ranges : bool
    token : str or None
        Answer 401 without it.
    requests : list of str
        Method, path and range, in order.
    tokens : list of (host, Authorization)
    """

    address: str = ""
    files: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    large: bool = True
    status: int | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body_status: int | None = None
    silent_head: bool = False
    silent_body: bool = False
    trickle: bool = False
    portal: bool = False
    portal_body: bool = False
    cut: int | None = None
    cuts: int = 10**9
    damage: int = 0
    ranges: bool = True
    token: str | None = None
    requests: list[str] = field(default_factory=list)
    tokens: list[tuple[str, str | None]] = field(default_factory=list)

    def find(self, repository: str, revision: str, path: str) -> tuple[str, bytes] | None:
        commit = self.branches.get(revision, revision)
        data = self.files.get((repository, commit, path))
        return None if data is None else (commit, data)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ModelHub
    over: threading.Event

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/"):  # huggingface_hub asks about itself
            return self.reply(404, {})
        hub.requests.append(f"{self.command} {path} {self.headers.get('Range')}")
        hub.tokens.append((self.headers["Host"].split(":")[0], self.headers.get("Authorization")))
        if hub.portal:
            return self.reply(200, {"Content-Type": "text/html; charset=utf-8"}, PORTAL)
        if path.startswith("/large/"):
            return self.body(path)
        if hub.silent_head:
            self.over.wait(120)
            return None
        if hub.trickle:
            for letter in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 200:
                self.wfile.write(bytes([letter]))
                self.wfile.flush()
                if self.over.wait(1):
                    return None
            return None
        if hub.status is not None:
            code = {"X-Error-Code": hub.code} if hub.code else {}
            page = json.dumps({"error": "no"}).encode()
            return self.reply(hub.status, {**code, **hub.headers}, page)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.reply(401, {"X-Error-Code": "RepoNotFound"})
        repository, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if revision == "refs":
            kind, number, name = name.split("/", 2)
            revision = f"refs/{kind}/{number}"
        found = hub.find(repository, revision, name)
        if found is None:
            known = {key[0] for key in hub.files}
            commits = {key[1] for key in hub.files} | set(hub.branches)
            code = "RepoNotFound" if repository not in known else "EntryNotFound"
            if repository in known and revision not in commits:
                code = "RevisionNotFound"
            return self.reply(404, {"X-Error-Code": code})
        commit, data = found
        common = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not hub.large:
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if self.command == "HEAD":
                length = {"Content-Length": str(len(data))}
                return self.reply(200, {**common, "ETag": f'"{git}"', **length})
            return self.send_body(data)
        sha = hashlib.sha256(data).hexdigest()
        port = self.server.server_address[1]
        return self.reply(302, {
            **common, "X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(data)),
            "Location": f"http://localhost:{port}/large/{sha}", "ETag": '"of-the-redirect"',
        })  # fmt: skip

    def body(self, path: str) -> None:
        hub = self.hub
        if hub.silent_body:
            self.over.wait(120)
            return None
        if hub.body_status is not None:
            return self.reply(hub.body_status, {})
        if hub.portal_body:
            return self.reply(200, {"Content-Type": "text/html"}, PORTAL)
        wanted = path.removeprefix("/large/")
        for data in hub.files.values():
            if hashlib.sha256(data).hexdigest() == wanted:
                return self.send_body(data)
        return self.reply(404, {})

    def send_body(self, data: bytes) -> None:
        hub = self.hub
        if hub.damage > 0:
            hub.damage -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, total = 0, len(data)
        wanted = self.headers.get("Range")
        if wanted and hub.ranges:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        part = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        if hub.cut is not None and hub.cuts > 0 and len(part) > hub.cut:
            hub.cuts -= 1
            self.wfile.write(part[: hub.cut])
            self.wfile.flush()
            time.sleep(0.05)
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(part)


@contextmanager
def asked_here(address: str, cache: Path, **changed: Any) -> Iterator[None]:
    """This process asks the Hub at `address` and keeps files in `cache`.

    huggingface_hub makes constants of its variables when it is imported: they are set here.
    `changed` are environment variables, and the constant HF_HUB_OFFLINE.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    made = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "AGENT_HARNESSES_PATH": str(cache / "harnesses"),
        **{key: changed.pop(key) for key in list(changed) if key == "HF_HUB_OFFLINE"},
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    with (
        mock.patch.multiple(constants, **made),
        mock.patch.dict(os.environ, {**kept, "NO_PROXY": "*", **changed}, clear=True),
    ):
        try:
            yield
        finally:
            _http.close_session()


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    """A server with nothing on it yet."""
    hub, over = ModelHub(), threading.Event()
    handler = type("Handler", (_Handler,), {"hub": hub, "over": over})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
