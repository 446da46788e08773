"""Addresses that no store has: one sentence, before anything is asked, and no password in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import frictionstore as fs
from frictionstore.errors import FrictionstoreError
from frictionstore.extract.encoder.checkpoints import find_checkpoint
from frictionstore.io.remote import check_address, locate_remote
from frictionstore.share.copy import store_name
from tests.support import MakeStore

pytest.importorskip("obstore")
pytest.importorskip("huggingface_hub")

HOSTS = [
    "a b", "exa mple.com", "\u2024", "xn--", "%zz", "a%20b", "a<b", "a^b", "a|b", "1.2.3.4.5",
    "256.256.256.256", "[fe80::1%25eth0]", "[v1.x]", "[::1", "[zz]", "\u0660", "*", "\udcff",
    "a\tb", "a\nb", "host:-1", "host:99999", "a\\b", "",
]  # fmt: skip
PATHS = ["a\x1b[31m", "\udcff", "a\x00b", "a\nb", "a\u202eb"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https", "s3", "hf"])
def test_odd_hosts_are_refused_before_they_are_asked(
    scheme: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if scheme in ("s3", "hf") and host in ("1.2.3.4.5", "256.256.256.256", "xn--"):
        return  # may be a bucket or a user
    with pytest.raises(FrictionstoreError) as raised:
        locate_remote(f"{scheme}://{host}/name/x.zarr")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scheme", ["http", "s3", "hf"])
def test_odd_paths_are_refused(scheme: str, path: str) -> None:
    with pytest.raises(FrictionstoreError, match="cannot be printed: write it as %XX"):
        check_address(f"{scheme}://host/name/{path}/x.zarr")


@pytest.mark.parametrize("address", ["s3://b/../x", "hf://datasets/a/b/../c"])
def test_parents_are_refused_where_there_are_no_folders(address: str) -> None:
    with pytest.raises(FrictionstoreError, match=r"has a part \. or \.\."):
        check_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://host/a b.zarr", "http://xn--bcher-kva.example/x", "http://b\u00fccher.example/x",
        "https://[::1]:8080/x", "http://a_b-c.d:80/x%20y", "s3://my-bucket.x/a b/c",
        "hf://datasets/owner/name@main/x.zarr", "hf://owner/name@v1.0/x.zarr",
    ],
)  # fmt: skip
def test_ordinary_addresses_are_taken(address: str) -> None:
    check_address(address)


SECRET = "pa55word"
WITH_SECRETS = [
    f"{scheme}://{who}{place}"
    for scheme in ("hf", "http", "https", "s3", "ftp", "HF")
    for who in (f"u:{SECRET}@", f"{SECRET}@", f"user:{SECRET}/x@", f"u:a@{SECRET}@", f":{SECRET}@")
    for place in ("owner/name/x.zarr", "owner", "datasets/owner/name")
] + [f"hf://datasets/user:{SECRET}@owner/name/x.zarr", f"x hf://u:{SECRET}@a"]  # fmt: skip


def test_no_message_repeats_a_password(make_store: MakeStore, tmp_path: Path) -> None:
    """From the library, where the address is that of a source, a target or an encoder."""
    here = make_store().location
    for address in WITH_SECRETS:
        for attempt in (
            fs.open,
            fs.verify,
            lambda address: fs.diff(address, here),
            lambda address: fs.pull(address, tmp_path / "there"),
            lambda address: fs.push(here, address),
            find_checkpoint,
        ):
            with pytest.raises(FrictionstoreError) as raised:
                attempt(address)
            assert SECRET not in str(raised.value)


@pytest.mark.parametrize("command", ["info", "verify", "pull", "view", "report", "pack", "nosuch"])
def test_no_command_repeats_a_password(command: str, tmp_path: Path) -> None:
    for address in (f"hf://user:{SECRET}@owner/name/x.zarr", f"hf://user:{SECRET}/x@owner/n"):
        run = subprocess.run(
            [sys.executable, "-m", "frictionstore", command, address],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert run.returncode == 2
        assert SECRET not in run.stdout + run.stderr


@pytest.mark.parametrize("name", ["a%20b", "100%", "a%2fb", "%2e%2e", "%ff"])
def test_a_percent_sign_in_a_local_name_is_one(
    name: str, make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store(name)
    assert fs.open(store.location).name == name
    (tmp_path / "there").mkdir()
    assert store_name(str(store.location)) == f"{name}.zarr"
    assert Path(fs.pull(store.location, tmp_path / "there").target).name == f"{name}.zarr"


def test_a_percent_sign_in_an_address_is_an_escape() -> None:
    assert store_name("http://host/a%20b.zarr") == "a b.zarr"
