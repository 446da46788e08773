"""`frictionstore view` before clients that say little, say too much, or come in crowds."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import frictionstore as fs
from frictionstore.errors import RequestError
from frictionstore.show import view
from frictionstore.show.view import CONNECTIONS, ViewServer, own_hosts, parse_range
from tests.explorer.conftest import serving, smooth_maps
from tests.explorer.test_server import ask

pytestmark = pytest.mark.usefixtures("built_page")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with serving(fs.from_arrays(tmp_path / "s.zarr", smooth_maps(12))) as url:
        yield url


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").strip("/").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def said(url: str, data: bytes) -> bytes:
    """All that comes back."""
    with connected(url) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.slow
def test_a_crowd_of_silent_clients_does_not_stop_it(url: str) -> None:
    """The ones that have said nothing longest go; threads stay bounded, no core burns."""
    before = threading.active_count()
    crowd = [connected(url) for _ in range(5 * CONNECTIONS)]
    try:
        for connection in crowd[::2]:
            connection.sendall(b"GET / HT")  # half a request
        burnt, started = time.process_time(), time.monotonic()
        for _ in range(20):
            assert ask(url, "/")[0] == 200
            assert threading.active_count() - before <= 2 * CONNECTIONS
        while threading.active_count() - before > CONNECTIONS + 1:  # some are still ending
            assert time.monotonic() - started < 30
            time.sleep(0.05)
        time.sleep(0.5)
        assert time.process_time() - burnt < 0.5 * (time.monotonic() - started) + 0.5
    finally:
        for connection in crowd:
            connection.close()
    assert ask(url, "/")[0] == 200


def test_who_is_being_answered_is_not_put_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowd comes while an answer is on its way: the bound is on those that wait."""
    monkeypatch.setattr(view, "CONNECTIONS", 4)
    store = fs.from_arrays(tmp_path / "s.zarr", smooth_maps(12))
    with serving(store) as url:
        real, crowd = store.header.location, []
        expected = (Path(store.location) / "zarr.json").read_bytes()

        class Slow:
            size = staticmethod(real.size)

            @staticmethod
            def read_range(key: str, start: int, count: int) -> bytes | None:
                crowd.extend(connected(url) for _ in range(12))
                time.sleep(0.3)
                return real.read_range(key, start, count)

        object.__setattr__(store.header, "location", Slow)
        try:
            assert ask(url, "/store/s.zarr/zarr.json")[2] == expected
        finally:
            for connection in crowd:
                connection.close()


def test_half_a_request_is_not_waited_for_for_ever(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view._Handler, "timeout", 0.3)
    with connected(url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost:")
        assert connection.recv(100) == b""  # closed by the server, not by our ten seconds


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://[::1 HTTP/1.1", b"GET //[ HTTP/1.1", b"\x16\x03\x01\x02\x00", b"GET",
        b"GET / HTTP/" + b"9" * 5000 + b".1", b"GET / HTTP/1.1 HTTP/1.1", b"\x1b[31m / HTTP/1.1",
        b"GET \xff\xfe HTTP/1.1", b"GET /%ff%00 HTTP/1.1", b"A" * 70000, b"",
        b"GET / HTTP/1.1\r\nHost: {host}\r\nRange: bytes=" + b"9" * 5000 + b"-",
        b"GET / HTTP/1.1\r\nHost: {host}\r\nRange: bytes=0-" + b"9" * 5000,
        b"GET / HTTP/1.1\r\nHost: {host}\r\nRange: bytes=-" + b"9" * 5000,
        b"GET / HTTP/1.1\r\nHost: {host}\r\nRange: bytes=\xd9\xa1-",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200, b"GET / HTTP/1.1\r\nHost\r\n : x",
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_without_a_word(
    url: str, line: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    host = url.removeprefix("http://").strip("/").encode()
    said(url, line.replace(b"{host}", host) + b"\r\nConnection: close\r\n\r\n")
    assert capfd.readouterr() == ("", "")
    assert ask(url, "/")[0] == 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"bytes={'9' * 5000}-", None), (f"bytes=0-{'9' * 5000}", (0, 10)),
        (f"bytes=-{'9' * 5000}", (0, 10)), (f"bytes={'0' * 5000}3-4", (3, 5)),
        ("bytes=\u0663-", None),
    ],
)  # fmt: skip
def test_ranges_of_many_digits(text: str, expected: tuple[int, int] | None) -> None:
    assert parse_range(text, 10) == expected


def test_the_port_of_http_is_left_out_by_browsers(tmp_path: Path) -> None:
    assert {"127.0.0.1", "localhost", "127.0.0.1:80"} <= own_hosts(80)
    assert "127.0.0.1" not in own_hosts(8080)
    store = fs.from_arrays(tmp_path / "s.zarr", smooth_maps(4))
    try:
        server = ViewServer(store, 80)
    except RequestError:
        pytest.skip("port 80 cannot be used here")
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert ask(server.url, "/", Host="127.0.0.1")[0] == 200
        assert ask(server.url, "/", Host="LOCALHOST")[0] == 200
        assert ask(server.url, "/", Host="evil.example")[0] == 403
        server.shutdown()


def test_no_descriptor_left_burns_no_core(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others in the process may have them all: accepting is tried again, not in a circle."""
    tries = []

    def accept(self: object) -> None:
        tries.append(time.monotonic())
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr("socketserver.TCPServer.get_request", accept)
    waiting = connected(url)
    time.sleep(0.6)
    monkeypatch.undo()
    waiting.close()
    assert 1 <= len(tries) <= 10
    assert ask(url, "/")[0] == 200
