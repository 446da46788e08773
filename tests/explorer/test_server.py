"""`frictionstore view`: what it serves, refuses and exports; the page on static hosts."""

from __future__ import annotations

import functools
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.cli.main import cli
from frictionstore.cli.show import open_browser
from frictionstore.errors import RequestError, StoreError
from frictionstore.share.copy import copy_store
from frictionstore.show.view import ViewServer, explorer_page, export, parse_range
from tests.browser import READY, opened
from tests.explorer.conftest import plane, serving, smooth_maps
from tests.support import heed_interrupts

pytestmark = pytest.mark.usefixtures("built_page")


@pytest.fixture
def store(tmp_path: Path) -> fs.Store:
    return fs.from_arrays(tmp_path / "a b.zarr", smooth_maps(12))


def ask(
    url: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("bytes=0-3", 10, (0, 4)), ("bytes=4-", 10, (4, 10)), ("bytes=-3", 10, (7, 10)),
        ("bytes=-30", 10, (0, 10)), ("bytes=8-30", 10, (8, 10)), ("bytes=10-11", 10, None),
        ("bytes=5-4", 10, None), ("bytes=-", 10, None), ("bytes=-0", 10, None),
        ("bytes=0-1,3-4", 10, None), ("items=0-1", 10, None), ("bytes=0-", 0, None),
    ],
)  # fmt: skip
def test_ranges(text: str, size: int, expected: tuple[int, int] | None):
    assert parse_range(text, size) == expected


def test_serves_the_store_s_own_files_and_nothing_else(store: fs.Store):
    data = (Path(store.location) / "friction/c/0/0/0/0").read_bytes()
    (Path(store.location) / "secret.txt").write_text("not in the manifest")
    with serving(store) as url:
        path = "/store/a%20b.zarr/friction/c/0/0/0/0"
        assert ask(url, path)[::2] == (200, data)
        status, headers, body = ask(url, path, Range="bytes=7-20")
        assert (status, body) == (206, data[7:21])
        assert headers["Content-Range"] == f"bytes 7-20/{len(data)}"
        status, headers, body = ask(url, path, "HEAD")
        assert (status, body, headers["Content-Length"]) == (200, b"", str(len(data)))
        assert ask(url, path, Range=f"bytes={len(data)}-")[0] == 416
        for wrong in (
            "/store/a%20b.zarr/secret.txt", "/store/a%20b.zarr/../a%20b.zarr/zarr.json",
            "/store/a%20b.zarr/", "/store/", "/etc/passwd", "/store/a%20b.zarr/%2e%2e/x",
            "//etc/passwd", "/store/a%20b.zarr//zarr.json", "/store/a%20b.zarr/\\..\\zarr.json",
        ):  # fmt: skip
            assert ask(url, wrong)[0] == 404, wrong
        # A foreign name that was made to point here (DNS rebinding) gets nothing.
        assert ask(url, "/", Host="evil.example")[0] == 403
        assert ask(url, "/", "POST")[0] == 501


def test_answers_on_the_loopback_address_only(store: fs.Store):
    with ViewServer(store) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(RequestError, match=f"port {server.port} cannot be used"):
            ViewServer(store, server.port)


def test_a_file_that_shrinks_ends_the_connection(store: fs.Store):
    """A file that loses bytes between its size and its content must not hang the reader."""
    with serving(store) as url:
        real = store.header.location

        class Shrinking:
            size = staticmethod(real.size)

            @staticmethod
            def read_range(key: str, start: int, count: int) -> bytes | None:
                return real.read_range(key, start, 100) if start == 0 else b""

        object.__setattr__(store.header, "location", Shrinking)
        with pytest.raises(http.client.IncompleteRead):
            ask(url, "/store/a%20b.zarr/friction/c/0/0/0/0")


def test_the_command_serves_until_it_is_interrupted(store: fs.Store):
    command = [sys.executable, "-m", "frictionstore", "view", store.location, "--no-browser"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        assert ask(url, "/")[0] == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_page_names_its_store_as_data():
    page = explorer_page('"><script>alert(1)</script>')
    assert b"<script>alert" not in page
    assert b'content="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"' in page


def test_export_twice_and_over_other_things(store: fs.Store, tmp_path: Path):
    folder = tmp_path / "site"
    page = export(store, folder, copy_store)
    assert fs.open(folder / "a b.zarr").digest == store.digest
    assert export(store, folder, copy_store) == page
    other = fs.from_arrays(tmp_path / "other" / "a b.zarr", smooth_maps(5, seed=1))
    with pytest.raises(StoreError, match="is another store"):
        export(other, folder, copy_store)
    page.write_text("<h1>my home page</h1>")
    with pytest.raises(StoreError, match="is another page"):
        export(store, folder, copy_store)
    assert page.read_text() == "<h1>my home page</h1>"


def test_export_refuses_a_damaged_store(store: fs.Store, tmp_path: Path):
    path = Path(store.location) / "friction/c/0/0/0/0"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"friction/c/0/0/0/0 is not the file"):
        export(store, tmp_path / "site", copy_store)
    assert not (tmp_path / "site" / "a b.zarr").exists()
    assert not (tmp_path / "site" / "index.html").exists()


def test_export_of_a_link(store: fs.Store, tmp_path: Path):
    url = "https://data.example/x.zarr?key=a&b"
    result = CliRunner().invoke(
        cli, ["view", store.location, "--export", str(tmp_path / "site"), "--store-url", url]
    )
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(tmp_path / "site")) == ["index.html"]
    assert b"https://data.example/x.zarr?key=a&amp;b" in (tmp_path / "site/index.html").read_bytes()


def test_without_the_page_one_sentence(
    store: fs.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("frictionstore.show.view.ROOT", tmp_path)
    monkeypatch.setattr(
        "frictionstore.show.view.build_page", lambda root: "npm ci failed: no network"
    )
    result = CliRunner().invoke(cli, ["view", store.location, "--no-browser"])
    assert result.exit_code == 2
    assert "the explorer page is not built (npm ci failed: no network): " in result.output
    assert "Traceback" not in result.output


class RangeHandler(SimpleHTTPRequestHandler):
    """A static host with range requests, as object stores are; nothing of ours in it."""

    protocol_version = "HTTP/1.1"
    foreign = False

    def log_message(self, format: str, *args: object) -> None:
        pass

    def end_headers(self) -> None:
        if self.foreign:
            self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not asked or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        part = data[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {asked[1]}-{asked[2]}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)


class ForeignHandler(RangeHandler):
    foreign = True


class PlainHandler(SimpleHTTPRequestHandler):
    """A static host that ignores ranges."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def static_host(folder: Path, handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    made = functools.partial(handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_packed_store_is_served_as_a_folder_is(visit: Any, digits: fs.Store, tmp_path: Path):
    from frictionstore.share.pack import pack

    path = pack(digits.location, tmp_path / "digits.zip").target
    packed = fs.open(path)
    with serving(packed) as url, visit(url, "#image=1500&mode=2&patch=1,8") as (page, _):
        shown = float(page.locator("[data-test=readout]").get_attribute("data-value"))
        assert shown == plane(digits, "friction", 1500, 2)[1, 8]


@pytest.mark.parametrize("handler", [RangeHandler, PlainHandler], ids=["ranges", "no-ranges"])
def test_an_export_works_on_a_static_host(
    visit: Any, digits: fs.Store, tmp_path: Path, handler: type[BaseHTTPRequestHandler]
):
    export(digits, tmp_path / "site", copy_store)
    with (
        static_host(tmp_path, handler) as url,
        visit(url, "site/#image=900&mode=3&patch=5,6") as (page, _),
    ):
        shown = float(page.locator("[data-test=readout]").get_attribute("data-value"))
        assert shown == plane(digits, "friction", 900, 3)[5, 6]


def test_a_page_opens_a_store_of_another_host_that_allows_it(
    browser: Any, digits: fs.Store, tmp_path: Path
):
    export(digits, tmp_path / "site", copy_store, store_url="unused.zarr")
    folder = Path(digits.location).parent
    with static_host(tmp_path / "site", RangeHandler) as here, opened(browser) as (page, _):
        with static_host(folder, ForeignHandler) as there:
            page.goto(f"{here}?store={there}{Path(digits.location).name}#image=5&mode=1&patch=0,0")
            page.wait_for_selector(READY)
            shown = float(page.locator("[data-test=readout]").get_attribute("data-value"))
            assert shown == plane(digits, "friction", 5, 1)[0, 0]
        with static_host(folder, RangeHandler) as there:
            page.goto(f"{here}?store={there}{Path(digits.location).name}")
            page.wait_for_selector(READY)
            assert "cannot be reached" in page.inner_text("[role=alert]")
            assert "(CORS)" in page.inner_text("[role=alert]")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?store=nothing.zarr", "is not a store: it has no zarr.json"),
        ("?store=file:///etc", "does not let a page from a file read other files"),
        ("?store=javascript:alert(1)", "expected http or https"),
        ("?store=plain", "is not a store of frictionstore"),
        ("?store=broken", "its zarr.json is not JSON"),
    ],
)
def test_what_is_no_store_is_one_sentence(
    visit: Any, digits: fs.Store, tmp_path: Path, query: str, says: str
):
    export(digits, tmp_path, copy_store, store_url="unused.zarr")
    for name, text in ("plain", '{"zarr_format": 3, "attributes": {}}'), ("broken", "<html>"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text(text)
    # A file that is not there is logged by the browser itself.
    with static_host(tmp_path, RangeHandler) as url, visit(url, query, quiet=False) as (page, _):
        assert says in page.inner_text("[role=alert]")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have a screen")
def test_a_browser_is_opened_only_on_a_screen(monkeypatch: pytest.MonkeyPatch):
    opened_urls: list[str] = []
    done = threading.Event()

    def record(url: str) -> bool:
        opened_urls.append(url)
        done.set()
        return True

    monkeypatch.setattr("webbrowser.open", record)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    open_browser("http://127.0.0.1:1/")
    assert not done.wait(0.2)
    monkeypatch.setenv("DISPLAY", ":0")
    open_browser("http://127.0.0.1:2/")
    assert done.wait(5)
    assert opened_urls == ["http://127.0.0.1:2/"]
