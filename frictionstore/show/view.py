"""Look at a store in the browser, or at two side by side: serve the explorer page, or export it.

The page (`explorer/`) reads the stores' files itself over HTTP; nothing here decodes a map.
The server answers on the loopback address only, and only for files that the stores' manifests
name.
"""

from __future__ import annotations

import html
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.header import Header
from frictionstore.installed import ROOT, checkout
from frictionstore.io.base import Location
from frictionstore.io.durable import explain_os_errors, write_atomic
from frictionstore.io.locate import refuse_inside_store
from frictionstore.show.page import PAGE, build_page
from frictionstore.store.reader import Store
from frictionstore.text import printable, show, without_credentials

LOOPBACK = "127.0.0.1"
HTTP_PORT = 80
PIECE = 1 << 20  # bytes read and sent at a time
CONNECTIONS = 64  # at once; a browser opens six
PATIENCE = 30.0  # seconds for a request, and for a piece of an answer to be taken
_META = b'<meta name="frictionstore-%s" content="">'
BESIDE = "with"
"""Folder of the second store: two of one name are two."""
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_DIGITS = 18  # of a number of bytes; no file has more


def explorer_page(store_url: str, with_url: str | None = None) -> bytes:
    """The explorer as one HTML file that opens the store at `store_url`.

    Parameters
    ----------
    store_url : str
        Relative to the page, or absolute.
    with_url : str, optional
        The same, of the store to compare it with.

    Raises
    ------
    RequestError
        There is no page and it cannot be built here.
    """
    root = checkout()
    problem = build_page(root) if root is not None else None
    path = ROOT / PAGE
    if not path.is_file():
        raise RequestError(
            "this installation was built without the explorer page: view the store from a "
            "checkout of frictionstore with Node 20 or newer and npm, which builds it"
            if root is None
            else f"the explorer page is not built ({problem}): frictionstore view builds it when "
            "Node 20 or newer is there and npm can fetch packages"
        )
    if problem is not None:
        show(f"the explorer page is older than its sources ({problem})", err=True)
    page = path.read_bytes()
    for name, url in ((b"store", store_url), (b"with", with_url)):
        if url is None:
            continue
        meta = _META % name
        if page.count(meta) != 1:
            raise RequestError(
                f"the explorer page is of another version: remove {path} and view again"
            )
        content = html.escape(url, quote=True).encode()
        page = page.replace(meta, meta.replace(b'content=""', b'content="%s"' % content))
    return page


def store_folder(store: Store) -> str:
    """Name of the store's folder beside the page."""
    return f"{store.name}.zarr"


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of the page and of the stores' own files."""

    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    server: ViewServer

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """A request is no news."""

    def _answer(self, send_body: bool) -> None:
        with self.server.answering(self.connection):
            self._choose(send_body)

    def _choose(self, send_body: bool) -> None:
        # A page of another host whose name was made to point here must not read the store.
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers to its own address only")
            return
        path = unquote(self.path.partition("?")[0])
        if path in ("/", "/index.html"):
            page = self.server.page
            self._send(
                len(page), "text/html; charset=utf-8", lambda a, n: page[a : a + n], send_body
            )
            return
        found = self.server.find(path)
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "no such file")
            return
        location, key = found
        try:
            size = location.size(key)
        except StoreError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return
        if size is None:
            self._refuse(HTTPStatus.NOT_FOUND, "no such file")
            return
        kind = "application/json" if key.endswith(".json") else "application/octet-stream"
        self._send(size, kind, lambda a, n: location.read_range(key, a, n) or b"", send_body)

    def _send(
        self, size: int, kind: str, read: Callable[[int, int], bytes], send_body: bool
    ) -> None:
        start, stop = 0, size
        asked = self.headers.get("Range")
        if asked is not None:
            found = parse_range(asked, size)
            if found is None:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, stop = found
        self.send_response(HTTPStatus.OK if asked is None else HTTPStatus.PARTIAL_CONTENT)
        if asked is not None:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(stop - start)),
            ("Accept-Ranges", "bytes"),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if not send_body:
            return
        try:
            while start < stop:
                piece = read(start, min(PIECE, stop - start))
                if not piece:  # shorter than it said: end the connection, not the promise
                    self.close_connection = True
                    return
                self.wfile.write(piece)
                start += len(piece)
        except (ConnectionError, TimeoutError, StoreError):
            self.close_connection = True

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        body = (text + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """First and one past the last byte of an HTTP range, or None where it cannot be served.

    Only one range is served; several would need a body of several parts.
    """
    match = _RANGE.fullmatch(text.strip())
    if not match or match[0] == "bytes=-":
        return None
    first, last = (_whole(digits) for digits in match.groups())
    if match[1] == "":
        start, stop = max(0, size - last), size
    else:
        start = first
        stop = size if match[2] == "" else min(size, last + 1)
    return (start, stop) if start < stop else None


def _whole(digits: str) -> int:
    """A number of bytes; one that is longer than any file is as good as the longest."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS else 10**_DIGITS


def own_hosts(port: int) -> set[str]:
    """What a browser calls the server; the port of http is left out."""
    names = (LOOPBACK, "localhost")
    return {f"{name}:{port}" for name in names} | (set(names) if port == HTTP_PORT else set())


class ViewServer(ThreadingHTTPServer):
    """Serve the explorer and one store, or two, on the loopback address.

    Parameters
    ----------
    store : Store
    port : int
        0 for any free port.
    beside : Store, optional
        One to compare it with: see `beside.common_images`.

    Raises
    ------
    RequestError
        The port is taken, or there is no page.
    """

    daemon_threads = True
    address_family = socket.AF_INET
    request_queue_size = CONNECTIONS

    def __init__(self, store: Store, port: int = 0, beside: Store | None = None) -> None:
        self._served: dict[str, tuple[Header, set[str]]] = {}
        url = self._serve("store", store)
        self.page = explorer_page(url, None if beside is None else self._serve(BESIDE, beside))
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise RequestError(
                f"port {port} cannot be used ({error.strerror}): choose another, or leave it out"
            ) from error
        self.hosts = own_hosts(self.port)
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, None] = {}  # for a request, the longest first
        self._answering: set[socket.socket] = set()

    def _serve(self, place: str, store: Store) -> str:
        """Where the page finds a store, whose manifest says what it may read."""
        folder, header = store_folder(store), store.header
        keys = {*header.manifest, schema.MANIFEST, schema.PROVENANCE}
        self._served[f"/{place}/{folder}/"] = header, keys
        return f"{place}/{quote(folder)}"

    def find(self, path: str) -> tuple[Location, str] | None:
        """The store and the file of it that a path names; None for anything else."""
        for prefix, (header, keys) in self._served.items():
            if path.startswith(prefix) and path.removeprefix(prefix) in keys:
                return header.location, path.removeprefix(prefix)
        return None

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/"

    @contextmanager
    def answering(self, connection: socket.socket) -> Iterator[None]:
        """While this lasts, the connection is not closed for another."""
        with self._lock:
            self._waiting.pop(connection, None)
            self._answering.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._answering.discard(connection)
                self._waiting[connection] = None

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:  # no descriptor is left: others in this process have them
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread; of too many connections, the one goes that has asked for nothing longest.

        Where all are being answered, it is the new one.
        """
        with self._lock:
            full = len(self._waiting) + len(self._answering) >= CONNECTIONS
            leaving = next(iter(self._waiting), request) if full else None
            if leaving is not request:
                self._waiting[request] = None
            if leaving is not None:
                self._waiting.pop(leaving, None)
                with suppress(OSError):
                    leaving.shutdown(socket.SHUT_RDWR)  # its thread closes it
        if leaving is request:
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._waiting.pop(request, None)
            self._answering.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that closes its connection early is no error of ours."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            show(f"a request could not be answered ({printable(repr(error))})", err=True)


class Copy(Protocol):
    """What writes a copy of a store: `share.copy.copy_store`, which `show` does not know."""

    def __call__(self, place: Location, target: Path, /) -> object: ...


def export(
    store: Store,
    folder: Path,
    copy: Copy,
    *,
    store_url: str | None = None,
    beside: Store | None = None,
) -> Path:
    """Write the page, and the store beside it, for any static host with range requests.

    Parameters
    ----------
    store : Store
    folder : Path
        Made where it is missing. A page there is replaced; a store there must be the same one.
    copy : callable
        Writes the copy (`share.copy.copy_store`), or completes one that is there.
    store_url : str, optional
        Where the store is already, absolute or relative to the page: it is not copied then.
    beside : Store, optional
        One to compare it with, which is copied too: see `beside.common_images`.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    StoreError
        `folder` holds another page or store, or a file of the store is damaged.
    BusyError
        Another process exports the store to `folder`.
    """
    if store_url is not None and _credentials_in(store_url):
        raise RequestError("the address in store_url holds a user name or password: leave it out")
    target = folder / "index.html"
    name = store_folder(store)
    name_beside = None if beside is None else f"{BESIDE}/{store_folder(beside)}"
    page = explorer_page(
        store_url if store_url is not None else quote(name),
        None if name_beside is None else quote(name_beside),
    )
    with explain_os_errors(str(folder), "choose a folder that can be written"):
        refuse_inside_store(target)
        ours = target.is_file() and b'name="frictionstore-store"' in target.read_bytes()
        if target.is_symlink() or (target.exists() and not ours):
            raise StoreError(
                f"{printable(target)} is another page: choose another folder, or remove it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if store_url is None:
            _copy_store(store, folder / name, copy)
        if beside is not None and name_beside is not None:
            (folder / BESIDE).mkdir(exist_ok=True)
            _copy_store(beside, folder / name_beside, copy)
        write_atomic(target, page)
    return target


def _credentials_in(url: str) -> bool:
    """Whether a browser would find a user name in an address; it takes ``\\`` for ``/``, and any
    number of them, and leaves out tabs and line breaks."""
    plain = re.sub(r"[\t\r\n]", "", url).replace("\\", "/").strip()
    absolute = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/*|//+", plain)
    host = plain[absolute.end() :] if absolute else ""
    return "@" in re.split(r"[/?#]", host)[0] or without_credentials(url) != url


def _copy_store(store: Store, target: Path, copy: Copy) -> None:
    try:
        copy(store.header.location, target)
    except StoreError as error:
        if error.option is None:
            raise
        raise StoreError(
            f"{printable(target)} is another store: choose another folder, or remove it"
        ) from error
