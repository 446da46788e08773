"""Push and pull: whole or not visible, resumed where they stopped, nothing outside the target."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.check.verify import verify
from frictionstore.cli.main import cli
from frictionstore.errors import BusyError, RequestError, StoreError
from frictionstore.format.header import read_header
from frictionstore.io import owned
from frictionstore.io.base import Location
from frictionstore.io.locate import locate
from frictionstore.io.remote import RemoteLocation, split_hub
from frictionstore.share import hub
from frictionstore.share.card import card, code
from frictionstore.share.copy import copy_store, store_name
from frictionstore.share.pack import pack
from frictionstore.share.push_pull import pull, push
from frictionstore.store.writer import StoreWriter, partial_path
from tests import making
from tests.servers.http import Behaviour, serve
from tests.servers.hub import FakeHub

Server = tuple[str, Behaviour]


def flip(path: Path, place: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# ---- pull ------------------------------------------------------------------------------------


def test_pull_gives_the_same_bytes(server: Server, whole: Path, tmp_path: Path) -> None:
    url, _ = server
    outcome = pull(f"{url}/x.zarr", tmp_path / "data")
    target = tmp_path / "data/x.zarr"
    assert outcome.target == str(target)
    assert making.content(target) == making.content(whole)
    assert (target / "provenance.json").read_bytes() == (whole / "provenance.json").read_bytes()
    assert [p.name for p in target.parent.iterdir()] == ["x.zarr"]


def test_pull_under_another_name(server: Server, whole: Path, tmp_path: Path) -> None:
    url, _ = server
    pull(f"{url}/x.zarr", tmp_path / "mine.zarr")
    assert fs.open(tmp_path / "mine.zarr").digest == fs.open(whole).digest


def test_a_second_pull_moves_nothing(server: Server, tmp_path: Path) -> None:
    url, how = server
    pull(f"{url}/x.zarr", tmp_path)
    before = len(how.requests)
    assert pull(f"{url}/x.zarr", tmp_path).files == 0
    assert len(how.requests) == before + 2, "the metadata and the manifest, to compare"


def test_an_interrupted_pull_goes_on_where_it_stopped(
    server: Server, whole: Path, tmp_path: Path
) -> None:
    url, how = server
    how.status = {"friction/c/1/0/0/0": 500}
    with pytest.raises(StoreError, match="500"):
        pull(f"{url}/x.zarr", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.zarr.partial"], "nothing looks complete"
    with pytest.raises(StoreError, match="is not complete yet"):
        fs.open(tmp_path / "x.zarr")
    arrived = {
        p.relative_to(tmp_path / "x.zarr.partial").as_posix()
        for p in (tmp_path / "x.zarr.partial").rglob("0")
        if p.is_file()
    }
    how.status = {}
    how.requests.clear()
    pull(f"{url}/x.zarr", tmp_path)
    asked = {line.split()[1].removeprefix("/x.zarr/") for line in how.requests}
    assert arrived
    assert not arrived & asked
    assert making.content(tmp_path / "x.zarr") == making.content(whole)


def test_half_a_file_is_continued_not_fetched_again(
    server: Server, whole: Path, tmp_path: Path
) -> None:
    url, how = server
    data = (whole / "S/c/0/0/0/0").read_bytes()
    part = tmp_path / "x.zarr.partial/S/c/0/0/0/0.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:700])
    owned.mark(tmp_path / "x.zarr.partial", tmp_path / "x.zarr", "transfer")
    pull(f"{url}/x.zarr", tmp_path)
    (line,) = [line for line in how.requests if "/S/c/0/" in line]
    assert line.endswith(f"bytes=700-{len(data) - 1}")
    assert making.content(tmp_path / "x.zarr") == making.content(whole)


def test_a_wrong_half_is_thrown_away(server: Server, whole: Path, tmp_path: Path) -> None:
    url, _ = server
    part = tmp_path / "x.zarr.partial/S/c/0/0/0/0.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"other bytes")
    owned.mark(tmp_path / "x.zarr.partial", tmp_path / "x.zarr", "transfer")
    pull(f"{url}/x.zarr", tmp_path)
    assert making.content(tmp_path / "x.zarr") == making.content(whole)


def test_a_damaged_source_never_becomes_a_store(copy: Path, tmp_path: Path) -> None:
    flip(copy / "friction/c/2/0/0/0")
    with serve(copy.parent) as (url, _):
        with pytest.raises(StoreError, match="friction/c/2/0/0/0 is not the file"):
            pull(f"{url}/x.zarr", tmp_path / "data")
    assert not (tmp_path / "data/x.zarr").exists()


def test_a_damaged_copy_is_mended_from_the_source(
    server: Server, whole: Path, tmp_path: Path
) -> None:
    url, how = server
    pull(f"{url}/x.zarr", tmp_path)
    flip(tmp_path / "x.zarr/S/c/1/0/0/0")
    (tmp_path / "x.zarr/label/c/2").unlink()
    how.requests.clear()
    assert pull(f"{url}/x.zarr", tmp_path).files == 2
    fetched = [line for line in how.requests if "/c/" in line]
    assert len(fetched) == 2, "only what broke"
    assert making.content(tmp_path / "x.zarr") == making.content(whole)


def test_what_is_at_the_target_is_kept(server: Server, tmp_path: Path) -> None:
    url, _ = server
    making.write(tmp_path / "x.zarr", making.plan(seed=3))
    before = making.content(tmp_path / "x.zarr")
    with pytest.raises(StoreError, match="another store"):
        pull(f"{url}/x.zarr", tmp_path)
    assert making.content(tmp_path / "x.zarr") == before
    pull(f"{url}/x.zarr", tmp_path, overwrite=True)
    assert fs.open(tmp_path / "x.zarr").request["dataset"]["seed"] == 0
    photos = tmp_path / "photos.zarr"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"mine")
    with pytest.raises(StoreError, match="is not a store"):
        pull(f"{url}/x.zarr", photos, overwrite=True)
    assert (photos / "a.png").read_bytes() == b"mine"


def test_an_unfinished_extraction_is_not_touched(server: Server, tmp_path: Path) -> None:
    url, _ = server
    plan = making.plan()
    with StoreWriter(tmp_path / "x.zarr", plan) as writer:
        writer.write_unit(0, making.unit_arrays(plan, 0), {})
        with pytest.raises(BusyError):
            pull(f"{url}/x.zarr", tmp_path)
    with pytest.raises(StoreError, match="rest of something else"):
        pull(f"{url}/x.zarr", tmp_path)
    assert making.write(tmp_path / "x.zarr", plan) == [1, 2]


@pytest.mark.parametrize("names", [[], [".frictionstore"], ["transfer.json"]])
def test_remains_of_the_first_step_do_not_stop_a_pull(
    server: Server, whole: Path, tmp_path: Path, names: list[str]
) -> None:
    url, _ = server
    (tmp_path / "x.zarr.partial").mkdir()
    for name in names:
        text = json.dumps({"digest": "0" * 64}) if name == "transfer.json" else ""
        (tmp_path / "x.zarr.partial" / name).write_text(text)
    pull(f"{url}/x.zarr", tmp_path)
    assert making.content(tmp_path / "x.zarr") == making.content(whole)


def test_an_extraction_does_not_take_the_rest_of_a_pull_for_its_own(
    server: Server, tmp_path: Path
) -> None:
    url, how = server
    how.status = {"friction/c/1/0/0/0": 500}
    with pytest.raises(StoreError):
        pull(f"{url}/x.zarr", tmp_path)
    with pytest.raises(StoreError, match="is an unfinished transfer: finish that"):
        making.write(tmp_path / "x.zarr", making.plan())


def test_no_space_is_said_before_anything_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, how = server
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(StoreError, match="100 B free"):
        pull(f"{url}/x.zarr", tmp_path)
    assert not [line for line in how.requests if "/c/" in line]


@pytest.mark.parametrize("line", ["../evil", "/etc/evil", "a/../../evil", "..", "S//c", "~/x"])
def test_a_manifest_cannot_name_what_is_outside(copy: Path, tmp_path: Path, line: str) -> None:
    with open(copy / "MANIFEST.sha256", "a") as file:
        file.write(f"{'0' * 64}  {line}\n")
    with serve(copy.parent) as (url, _):
        with pytest.raises(StoreError, match=r"MANIFEST\.sha256"):
            pull(f"{url}/x.zarr", tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://h/a/x.zarr", "x.zarr"),
        ("https://h/a/x.zarr/", "x.zarr"),
        ("https://h/a/x.zarr.zip", "x.zarr"),
        ("https://h/a/x.zip", "x.zarr"),
        ("https://h/a%20b.zarr", "a b.zarr"),
        ("data", "data.zarr"),
    ],
)
def test_the_name_of_a_store(text: str, name: str) -> None:
    assert store_name(text) == name


@pytest.mark.parametrize("text", ["https://h/..%2f..%2fx.zarr", "/", "https://h/%2e%2e", ".zarr"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(RequestError, match="name the target"):
        store_name(text)


# ---- push ------------------------------------------------------------------------------------


def test_push_to_a_folder(whole: Path, tmp_path: Path) -> None:
    outcome = push(whole, str(tmp_path / "shared"))
    target = tmp_path / "shared/x.zarr"
    assert outcome.target == str(target)
    content = making.content(target)
    assert b"frictionstore" in content.pop("README.md")
    assert content == making.content(whole)
    assert verify(target).ok
    assert push(whole, str(tmp_path / "shared")).files == 0
    push(whole, f"file://{tmp_path}/other.zarr")
    assert verify(tmp_path / "other.zarr").ok


def test_push_to_s3_and_pull_back(s3_endpoint: str, whole: Path, tmp_path: Path) -> None:
    assert push(whole, "s3://bucket/a/b").target == "s3://bucket/a/b/x.zarr"
    pull("s3://bucket/a/b/x.zarr", tmp_path)
    content = making.content(tmp_path / "x.zarr")
    assert b"fs.open('s3://bucket/a/b/x.zarr')" in content.pop("README.md")
    assert content == making.content(whole)
    assert push(whole, "s3://bucket/a/b").files == 0


class Interrupted(Exception):
    """What ends a push in these tests."""


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was put to a remote place or removed from it, in order."""
    log: list[str] = []
    write, remove = RemoteLocation.write, RemoteLocation.remove

    def logged_write(self: RemoteLocation, key: str, *rest: object) -> None:
        write(self, key, *rest)  # type: ignore[arg-type]
        log.append(key)

    def logged_remove(self: RemoteLocation, key: str) -> None:
        remove(self, key)
        log.append(f"-{key}")

    monkeypatch.setattr(RemoteLocation, "write", logged_write)
    monkeypatch.setattr(RemoteLocation, "remove", logged_remove)
    return log


def test_the_manifest_is_put_last_and_removed_first(
    s3_endpoint: str, whole: Path, tmp_path: Path, writes: list[str]
) -> None:
    push(whole, "s3://bucket/order")
    assert writes[0] == "-MANIFEST.sha256"
    assert writes[-2:] == ["zarr.json", "MANIFEST.sha256"]
    making.write(tmp_path / "x.zarr", making.plan(seed=2, n_images=20))
    with pytest.raises(StoreError, match="another store"):
        push(tmp_path / "x.zarr", "s3://bucket/order")
    writes.clear()
    push(tmp_path / "x.zarr", "s3://bucket/order", overwrite=True)
    assert writes[0] == "-MANIFEST.sha256"
    assert "MANIFEST.sha256" in writes
    assert "-S/c/2/0/0/0" in writes, "what only the old store had"
    assert verify("s3://bucket/order/x.zarr").damage == []


@pytest.mark.slow
def test_a_push_stopped_anywhere_shows_no_store_and_goes_on(
    s3_endpoint: str, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RemoteLocation.write
    total = len(making.content(whole)) + 2  # card and provenance
    for allowed in (0, 7, total - 2, total - 1):
        left = iter(range(allowed))

        def limited(self: RemoteLocation, *rest: object, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Interrupted
            write(self, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(RemoteLocation, "write", limited)
        address = f"s3://bucket/stopped-{allowed}/x.zarr"
        with pytest.raises(Interrupted):
            push(whole, address)
        with pytest.raises(StoreError, match="not a store|not complete"):
            fs.open(address)
        monkeypatch.setattr(RemoteLocation, "write", write)
        push(whole, address)
        assert verify(address).ok


def test_a_resumed_push_sends_only_what_is_missing(
    s3_endpoint: str, whole: Path, monkeypatch: pytest.MonkeyPatch, writes: list[str]
) -> None:
    push(whole, "s3://bucket/resumed")
    locate("s3://bucket/resumed/x.zarr").remove("MANIFEST.sha256")  # type: ignore[attr-defined]
    locate("s3://bucket/resumed/x.zarr").remove("S/c/1/0/0/0")  # type: ignore[attr-defined]
    writes.clear()
    push(whole, "s3://bucket/resumed")
    assert [key for key in writes if "/c/" in key] == ["S/c/1/0/0/0"]


def test_a_damaged_store_is_not_pushed(
    s3_endpoint: str, at_hub: FakeHub, copy: Path, tmp_path: Path
) -> None:
    flip(copy / "S/c/1/0/0/0")
    with pytest.raises(StoreError, match="S/c/1/0/0/0 is not the file"):
        push(copy, "s3://bucket/damaged")
    with pytest.raises(StoreError):
        fs.open("s3://bucket/damaged/x.zarr")
    with pytest.raises(StoreError, match="S/c/1/0/0/0 is not the file"):
        push(copy, str(tmp_path / "shared"))
    assert not (tmp_path / "shared/x.zarr").exists()
    with pytest.raises(StoreError, match="S/c/1/0/0/0 is not the file"):
        push(copy, "hf://datasets/me/friction", hub_api=at_hub)


def test_the_file_that_failed_is_named_and_not_one_it_stopped(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged file fails while one before it in the manifest is under way."""
    from frictionstore.share import copy as transfer

    receive = transfer._receive

    def slow(header: Any, key: str, part: Path, count: Any, stop: threading.Event) -> bool:
        if key == "S/c/0/0/0/0":
            assert stop.wait(30)
        return receive(header, key, part, count, stop)

    monkeypatch.setattr(transfer, "_receive", slow)
    flip(copy / "S/c/1/0/0/0")
    with pytest.raises(StoreError, match="S/c/1/0/0/0 is not the file"):
        push(copy, str(tmp_path / "shared"))


def test_a_zip_and_a_remote_store_are_pushed_too(
    s3_endpoint: str, copy: Path, server: Server, at_hub: FakeHub
) -> None:
    url, _ = server
    push(pack(copy).target, "s3://bucket/from-zip")
    push(f"{url}/x.zarr", "s3://bucket/from-http")
    assert verify("s3://bucket/from-zip/x.zarr").ok
    assert verify("s3://bucket/from-http/x.zarr").ok
    with pytest.raises(RequestError, match="pull or unpack"):
        push(f"{url}/x.zarr", "hf://datasets/me/friction", hub_api=at_hub)


@pytest.mark.parametrize("bad", ["https://h/x", "gs://b/x", "http://h/"])
def test_places_that_cannot_be_written(whole: Path, bad: str) -> None:
    with pytest.raises(RequestError, match="cannot be sent"):
        push(whole, bad)


# ---- the Hub ---------------------------------------------------------------------------------


@pytest.fixture
def at_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A stand-in for the Hub whose files can be read through its addresses."""
    root = tmp_path / "hub"
    root.mkdir()
    with serve(root) as (url, _):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        yield FakeHub(root)


def test_push_to_the_hub_and_pull_back(at_hub: FakeHub, whole: Path, tmp_path: Path) -> None:
    outcome = push(whole, "hf://datasets/me/friction", hub_api=at_hub)
    assert outcome.target == "hf://datasets/me/friction/x.zarr"
    assert at_hub.created == [("me/friction", "dataset", True)], "made, and private"
    message, added, _ = at_hub.commits[-1]
    assert added[-1] == "x.zarr/MANIFEST.sha256"
    assert "README.md" in added
    assert fs.open(whole).digest[:12] in message
    assert not any("MANIFEST" in path for _, paths, _ in at_hub.commits[:-1] for path in paths)
    pull("hf://datasets/me/friction/x.zarr", tmp_path / "back")
    content = making.content(tmp_path / "back/x.zarr")
    content.pop("README.md")
    assert content == making.content(whole)
    before = len(at_hub.commits)
    assert push(whole, "hf://datasets/me/friction", hub_api=at_hub).files == 0
    assert len(at_hub.commits) == before


def test_commits_stay_within_the_limits(
    at_hub: FakeHub, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = read_header(whole)
    monkeypatch.setattr(hub, "COMMIT_FILES", 4)
    batches = list(hub.commits(header, list(header.manifest)))
    assert max(len(batch) for batch in batches) == 4
    flat = [key for batch in batches for key in batch]
    assert sorted(flat) == sorted(header.manifest)
    assert all("/c/" in key for key in flat[: len(header.shard_bytes)])
    monkeypatch.setattr(hub, "COMMIT_BYTES", 1)
    assert all(
        len([key for key in batch if key in header.shard_bytes]) <= 1
        for batch in hub.commits(header, list(header.manifest))
    )
    push(whole, "hf://datasets/me/friction", hub_api=at_hub)
    assert max(len(added) for _, added, _ in at_hub.commits) <= 4


def test_an_interrupted_push_to_the_hub_goes_on(
    at_hub: FakeHub, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "COMMIT_FILES", 4)
    monkeypatch.setattr("tests.servers.hub.LARGE", 1)
    at_hub.stop_after = 2
    with pytest.raises(StoreError) as caught:
        push(whole, "hf://datasets/me/friction", hub_api=at_hub)
    assert "sesame" not in str(caught.value)
    with pytest.raises(StoreError, match="not a store|not complete"):
        fs.open("hf://datasets/me/friction/x.zarr")
    sent = {path for _, added, _ in at_hub.commits for path in added}
    at_hub.stop_after = None
    push(whole, "hf://datasets/me/friction", hub_api=at_hub)
    again = {path for _, added, _ in at_hub.commits[2:] for path in added}
    assert not sent & again
    assert verify("hf://datasets/me/friction/x.zarr").ok


def test_replacing_at_the_hub_removes_the_manifest_first(
    at_hub: FakeHub, whole: Path, tmp_path: Path
) -> None:
    making.write(tmp_path / "x.zarr", making.plan(seed=2, n_images=60))
    push(tmp_path / "x.zarr", "hf://datasets/me/friction", hub_api=at_hub)
    with pytest.raises(StoreError, match="another store"):
        push(whole, "hf://datasets/me/friction", hub_api=at_hub)
    at_hub.commits.clear()
    card_before = at_hub.folder("me/friction", "dataset") / "README.md"
    card_before.write_text("my own words")
    push(whole, "hf://datasets/me/friction", hub_api=at_hub, overwrite=True)
    assert at_hub.commits[0][2] == ["x.zarr/MANIFEST.sha256"]
    assert "x.zarr/S/c/3/0/0/0" in at_hub.commits[-1][2]
    assert card_before.read_text() == "my own words"
    assert fs.open("hf://datasets/me/friction/x.zarr").digest == fs.open(whole).digest


def test_the_hub_refuses(at_hub: FakeHub, whole: Path) -> None:
    at_hub.refuse = 401
    with pytest.raises(StoreError, match="HF_TOKEN") as caught:
        push(whole, "hf://datasets/me/friction", hub_api=at_hub)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("rest", "parts"),
    [
        ("datasets/me/x/a/b.zarr", ("datasets", "me/x", "main", "a/b.zarr")),
        ("datasets/me/x@v1/b.zarr", ("datasets", "me/x", "v1", "b.zarr")),
        ("datasets/me/x@refs%2Fpr%2F1/b.zarr", ("datasets", "me/x", "refs/pr/1", "b.zarr")),
        ("me/x/b.zarr", ("models", "me/x", "main", "b.zarr")),
        ("datasets/me/x", ("datasets", "me/x", "main", "")),
    ],
)
def test_addresses_at_the_hub(rest: str, parts: tuple[str, ...]) -> None:
    assert split_hub(rest) == parts


# ---- the card --------------------------------------------------------------------------------


def test_the_card_says_what_how_and_which(whole: Path) -> None:
    header = read_header(whole)
    text = card(header, "x.zarr", "s3://bucket/x.zarr").decode()
    assert text.startswith("---\ntags:\n")
    for word in ("friction", "settle", "40 images", header.digest, header.fingerprint, "`cat`"):
        assert word in text
    assert "`encoder.sha256`" in text
    assert "fs.open('s3://bucket/x.zarr')" in text


@pytest.mark.parametrize(
    "hostile",
    ["`</td><script>alert(1)</script>", "a|b", "\x1b[31mred", "x\n# heading", "\u202eevil", "   "],
)
def test_texts_of_the_store_cannot_leave_their_code_span(hostile: str) -> None:
    shown = code(hostile)
    inner = shown[1:-1] if shown != "(empty)" else ""
    assert "`" not in inner
    assert "|" not in inner
    assert "\n" not in inner
    assert "\x1b" not in inner
    assert "\u202e" not in inner


# ---- commands --------------------------------------------------------------------------------


def test_commands_say_what_they_did(copy: Path, tmp_path: Path) -> None:
    steps = [
        ["pack", str(copy), "--out", str(tmp_path / "a.zip")],
        ["unpack", str(tmp_path / "a.zip"), "--out", str(tmp_path / "b.zarr")],
        ["push", str(copy), str(tmp_path / "shared")],
        ["pull", str(tmp_path / "a.zip"), str(tmp_path / "pulled")],
    ]
    digest = fs.open(copy).digest
    for step in steps:
        result = CliRunner().invoke(cli, [*step, "--json"])
        assert result.exit_code == 0, result.output
        outcome = json.loads(result.stdout)
        assert outcome["digest"] == digest
        assert outcome["files"] > 0
        again = CliRunner().invoke(cli, step)
        assert again.exit_code == 0
        assert "up to date" in again.stderr
        assert again.stdout == ""
        quiet = CliRunner().invoke(cli, [*step, "--quiet"])
        assert quiet.output == ""
    bad = CliRunner().invoke(cli, ["pull", str(tmp_path / "nothing.zarr"), str(tmp_path)])
    assert bad.exit_code == 2
    assert len(bad.stderr.splitlines()) == 1


def test_copying_onto_itself_changes_nothing(copy: Path) -> None:
    before = making.content(copy)
    place: Location = locate(copy)
    assert copy_store(place, copy).files == 0
    assert making.content(copy) == before
    assert not partial_path(copy).exists()
