"""Where stores may be, and what is said of places that hold none."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.cli.main import cli
from frictionstore.errors import StoreError
from frictionstore.format.fingerprint import parse_json
from frictionstore.io import local
from frictionstore.io.local import LocalLocation
from frictionstore.io.locate import locate
from frictionstore.share.pack import pack


def test_paths_of_every_kind(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = fs.open(whole).digest
    odd = tmp_path / "a b%20ü.zarr"
    odd.symlink_to(whole)
    monkeypatch.chdir(tmp_path)
    for place in (whole, str(whole), f"{whole}/", f"file://{whole}", odd, odd.name, odd.as_uri()):
        assert fs.open(place).digest == digest
    pack(whole, tmp_path / "x.zip")
    for zipped in ("x.zip", tmp_path / "x.zip", (tmp_path / "x.zip").as_uri()):
        assert fs.open(zipped).digest == digest


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing.zarr", "does not exist"),
        ("", "not a store|does not exist"),
        ("a\0b", "does not exist|NUL"),
        ("x" * 5000, "cannot be read|does not exist"),
        ("file.txt", "is a file, not a store"),
        ("empty", "not a store: it has no zarr.json"),
        ("other.zarr", "did not write"),
    ],
)
def test_places_that_hold_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr/zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(StoreError, match=said) as caught:
        fs.open(name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_pipe_in_place_of_a_file_does_not_wait(copy: Path) -> None:
    (copy / "zarr.json").unlink()
    os.mkfifo(copy / "zarr.json")
    done = threading.Event()

    def read() -> None:
        with pytest.raises(StoreError):
            fs.open(copy)
        done.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert done.is_set()


def test_metadata_too_large_to_be_is_not_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SMALL_FILE_BYTES", 1000)
    with pytest.raises(StoreError, match="which no file of metadata has"):
        fs.open(copy)


def test_ranges(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    place = LocalLocation(tmp_path)
    assert place.read_range("a", 2, 3) == b"234"
    assert place.read_range("a", 8, 5) == b"89"
    assert place.read_range("a", 20, 5) == b""
    assert place.read_range("a", 0, 0) == b""
    assert place.read_range("b", 0, 1) is None
    assert place.read("a") == b"0123456789"
    assert place.size("a") == 10
    assert place.size("b") is None


def test_what_cannot_be_read_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StoreError, match=r"zarr\.json cannot be read: Permission denied"):
        locate(copy).read("zarr.json")


@pytest.mark.parametrize(
    "data", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"[1, NaN]", b"\xff", b"", b"[" * 10**5]
)
def test_json_as_the_standard_has_it(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(data)


def test_verify_as_a_command(copy: Path) -> None:
    run = CliRunner().invoke
    sound = run(cli, ["verify", str(copy)])
    assert sound.exit_code == 0
    assert "is sound: every file and every chunk is as written" in sound.output
    assert run(cli, ["verify", str(copy), "--quiet"]).output == ""
    assert run(cli, ["verify", str(copy), "--quick"]).exit_code == 0
    (copy / "friction/c/1/0/0/0").unlink()
    (copy / "zz\x1b[31m").write_text("stray")
    damaged = run(cli, ["verify", str(copy)])
    assert damaged.exit_code == 2
    (row,) = [line for line in damaged.stdout.splitlines() if line.startswith("friction/")]
    assert row.split() == ["friction/c/1/0/0/0", "16..31", "is", "missing"]
    assert damaged.stderr.startswith("Error: ")
    assert len(damaged.stderr.splitlines()) == 1
    assert "\x1b" not in damaged.output
    entry = json.loads(run(cli, ["verify", str(copy), "--json"]).stdout)
    assert entry["ok"] is False
    assert entry["units"] == [1]
    assert entry["damage"][0] == {
        "file": "friction/c/1/0/0/0", "first": 16, "last": 31, "what": "is missing",
    }  # fmt: skip
    assert run(cli, ["verify", str(copy.parent / "no.zarr")]).exit_code == 2


def test_threads_and_order_change_nothing(copy: Path) -> None:
    from frictionstore.check.verify import verify

    for key in ("S/c/0/0/0/0", "S/c/2/0/0/0", "label/c/1"):
        data = bytearray((copy / key).read_bytes())
        data[20] ^= 1
        (copy / key).write_bytes(data)
    reports = [verify(copy, threads=count).as_json() for count in (1, 2, 7)]
    for report in reports:
        report.pop("seconds")
    assert reports[0] == reports[1] == reports[2]
    assert reports[0]["units"] == [0, 1, 2]
