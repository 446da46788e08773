"""Stores are read from real servers on loopback, and what goes wrong there is one sentence."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.check.verify import verify
from frictionstore.cli.main import cli
from frictionstore.errors import FrictionstoreError, RequestError, StoreError
from frictionstore.installed import install_command
from frictionstore.io.locate import locate
from frictionstore.share.pack import pack
from frictionstore.share.push_pull import push
from tests import making
from tests.servers.http import Behaviour, serve

Server = tuple[str, Behaviour]


@pytest.fixture(params=["http", "zip", "s3", "hf"])
def address(
    request: pytest.FixtureRequest,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """The same store behind each kind of address."""
    if request.param == "s3":
        request.getfixturevalue("s3_endpoint")
        push(whole, "s3://bucket/some/prefix")
        yield "s3://bucket/some/prefix/x.zarr"
        return
    root = tmp_path / "root"
    if request.param == "zip":
        pack(whole, root / "x.zarr.zip")
    elif request.param == "hf":
        shutil.copytree(whole, root / "datasets/me/friction/resolve/main/x.zarr")
    else:
        shutil.copytree(whole, root / "x.zarr")
    with serve(root) as (url, _):
        if request.param == "hf":
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
            monkeypatch.setenv("HF_TOKEN", "hf_notsecret")
            yield "hf://datasets/me/friction/x.zarr"
        else:
            yield f"{url}/x.zarr{'.zip' if request.param == 'zip' else ''}"


def test_every_address_reads_as_the_disk_does(address: str, whole: Path) -> None:
    here, there = fs.open(whole), fs.open(address)
    assert there.name == here.name
    assert there.digest == here.digest
    assert there.provenance == here.provenance
    assert np.array_equal(there.labels, here.labels)
    assert np.array_equal(there.image_ids, here.image_ids)
    for name in here.maps:
        assert np.array_equal(there[name][:], here[name][:])
    pairs = zip(
        here.iter_chunks(here.maps, batch=7), there.iter_chunks(here.maps, batch=7), strict=True
    )
    for (rows, mine), (other_rows, other) in pairs:
        assert rows == other_rows
        for name in here.maps:
            assert np.array_equal(mine[name], other[name])
    assert here.to_xarray().load().identical(there.to_xarray().load())
    assert verify(address).ok


def test_commands_give_the_same_from_everywhere(address: str, whole: Path) -> None:
    runner = CliRunner()
    here = runner.invoke(cli, ["info", str(whole)])
    there = runner.invoke(cli, ["info", address])
    assert there.exit_code == 0, there.output
    assert there.output == here.output


@pytest.mark.parametrize("analysis", ["f-statistic", "class-distance"])
def test_analyses_give_the_same_from_everywhere(address: str, whole: Path, analysis: str) -> None:
    runner = CliRunner()
    here = runner.invoke(cli, ["analyze", analysis, str(whole), "--json"])
    there = runner.invoke(cli, ["analyze", analysis, address, "--json"])
    assert there.exit_code == here.exit_code == 0, there.output
    assert without_place(there.stdout) == without_place(here.stdout)


def without_place(text: str) -> object:
    """A result without the lines that say where the store was and how long it took."""
    import json

    def strip(value: object) -> object:
        if isinstance(value, dict):
            return {
                key: strip(item)
                for key, item in value.items()
                if key not in ("location", "path", "seconds", "date")
            }
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(json.loads(text))


# ---- few requests, little memory -------------------------------------------------------------


def test_info_takes_at_most_five_requests(server: Server, whole: Path) -> None:
    url, how = server
    result = CliRunner().invoke(cli, ["info", f"{url}/x.zarr"])
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in how.requests] == [
        "/x.zarr/zarr.json", "/x.zarr/MANIFEST.sha256", "/x.zarr/provenance.json",
    ]  # fmt: skip


def test_info_of_a_zip_takes_two_requests(tmp_path: Path, whole: Path) -> None:
    pack(whole, tmp_path / "x.zarr.zip")
    with serve(tmp_path) as (url, how):
        result = CliRunner().invoke(cli, ["info", f"{url}/x.zarr.zip"])
        assert result.exit_code == 0, result.output
        assert len(how.requests) == 2, how.requests


def test_a_pass_asks_once_for_each_chunk_and_index(server: Server, whole: Path) -> None:
    url, how = server
    store = fs.open(f"{url}/x.zarr")
    before = len(how.requests)
    for _ in store.iter_chunks(("friction", "S"), threads=2):
        pass
    asked = [line.split() for line in how.requests[before:]]
    assert all(wanted.startswith("bytes=") for _, _, wanted in asked), asked
    shards = 2 * len(making.plan().units)
    assert len(asked) <= 2 * shards, asked


def test_reading_is_bounded_by_chunks_not_by_the_store(tmp_path: Path) -> None:
    n = 8192
    rng = np.random.default_rng(0)
    maps = {"friction": rng.random((n, 16, 16, 4), np.float32)}
    fs.from_arrays(tmp_path / "big.zarr", maps, shard_images=256)
    raw = maps["friction"].nbytes
    del maps
    with serve(tmp_path) as (url, _):
        store = fs.open(f"{url}/big.zarr")
        tracemalloc.start()
        try:
            for _ in store.iter_chunks("friction", threads=1):
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert raw > 33e6
    # the server's copy of a whole 1 MB shard is in the same process
    assert peak < raw / 3


# ---- what goes wrong -------------------------------------------------------------------------


def message(address: str) -> str:
    """The one sentence that opening and reading everything gives."""

    def read_all() -> None:
        store = fs.open(address)
        for _ in store.iter_chunks(store.maps):
            pass

    with pytest.raises(FrictionstoreError) as caught:
        read_all()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_no_such_store(server: Server, s3_endpoint: str) -> None:
    url, _ = server
    assert "not a store" in message(f"{url}/y.zarr")
    assert "not a store" in message("s3://bucket/nothing.zarr")
    assert "not a store" in message("s3://no-such-bucket/nothing.zarr")


@pytest.mark.parametrize("status", [401, 403])
def test_no_permission(server: Server, status: int) -> None:
    url, how = server
    how.status = {"zarr.json": status}
    assert "no permission" in message(f"{url}/x.zarr")


def test_a_server_without_ranges(server: Server) -> None:
    url, how = server
    how.ranges = False
    assert "parts of a file" in message(f"{url}/x.zarr")


def test_a_transfer_that_breaks_off(server: Server) -> None:
    url, how = server
    store = fs.open(f"{url}/x.zarr")
    how.truncate = 20
    with pytest.raises(StoreError, match="broke off 3 times"):
        store.read("friction", slice(0, 40))
    how.truncate_times = 2
    assert store.read("friction", slice(0, 40)).shape[0] == 40, "two tries may break off"


def test_a_server_error_is_tried_again_and_named(server: Server) -> None:
    url, how = server
    how.status = {"MANIFEST.sha256": 503}
    assert "503" in message(f"{url}/x.zarr")
    assert len([line for line in how.requests if "MANIFEST" in line]) == 4


def test_a_server_that_does_not_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url, how = server
    monkeypatch.setenv("FRICTIONSTORE_TIMEOUT", "0.3")
    how.delay = 3.0
    started = time.monotonic()
    assert "no answer within 0.3 s" in message(f"{url}/x.zarr")
    assert time.monotonic() - started < 10


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "no connection" in message(f"http://127.0.0.1:{port}/x.zarr")


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "inf", "1e9"])
def test_the_timeout_must_be_a_number(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FRICTIONSTORE_TIMEOUT", value)
    with pytest.raises(RequestError, match="number of seconds"):
        fs.open("http://127.0.0.1:9/x.zarr")


def test_a_store_replaced_while_it_is_read(copy: Path) -> None:
    """The old numbers or an error; never the new numbers under the old labels."""
    with serve(copy.parent) as (url, _):
        remote, local = fs.open(f"{url}/x.zarr"), fs.open(copy)
        old = fs.open(copy).friction[:]
        assert np.array_equal(remote.friction[:16], old[:16])
        making.write(copy, making.plan(seed=5), overwrite=True)
        for store in (remote, local):
            for first in range(0, 40, 8):
                try:
                    found = store.read("friction", slice(first, first + 8))
                except StoreError:
                    continue
                assert np.array_equal(found, old[first : first + 8])


def test_an_interrupted_network_on_a_pass_names_file_and_images(server: Server) -> None:
    url, how = server
    store = fs.open(f"{url}/x.zarr")
    how.status = {"friction/c/1/0/0/0": 404}
    with pytest.raises(StoreError, match="friction/c/1/0/0/0 is missing"):
        for _ in store.iter_chunks("friction"):
            pass


# ---- credentials -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        "https://me:sesame@host/x.zarr",
        "https://sesame@host/x.zarr",
        "https://host/x.zarr?X-Amz-Signature=sesame",
        "https://host/x.zarr#sesame",
        "https://host:99999/x.zarr?sesame",
        "s3://KEY:sesame@bucket/x.zarr",
        "s3://bucket/x.zarr?secret=sesame",
        "ftp://me:sesame@host/x.zarr",
        "http:///x.zarr?sesame",
        "https://[sesame/x.zarr",
    ],
)
def test_addresses_with_secrets_are_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(RequestError) as caught:
        fs.open(bad)
    assert "sesame" not in str(caught.value)
    result = CliRunner().invoke(cli, ["info", bad])
    assert result.exit_code == 2
    assert "sesame" not in result.output


def test_the_token_goes_to_the_hub_only(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub sends large files from another host: the token must not follow."""
    root = tmp_path / "root"
    shutil.copytree(whole, root / "datasets/me/friction/resolve/main/x.zarr")
    monkeypatch.setenv("HF_TOKEN", "hf_notsecret")
    with serve(root) as (other, there), serve(root) as (url, here):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        here.token = "hf_notsecret"
        here.redirect = other
        fs.open("hf://datasets/me/friction/x.zarr").read("friction", slice(0, 4))
        assert set(here.authorizations) == {"Bearer hf_notsecret"}
        assert set(there.authorizations) == {None}


def test_secrets_are_in_no_error_and_no_pushed_file(
    s3_endpoint: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(whole, "s3://bucket/secrets")
    location = locate("s3://bucket/secrets/x.zarr")
    secrets = (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    names = location.files()
    assert names is not None
    for name in names:
        data = location.read(name)
        assert data is not None
        assert not any(secret.encode() in data for secret in secrets)
    with serve(tmp_path) as (url, how):
        how.status = {"": 403}
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        text = message("s3://bucket/secrets/x.zarr")
    assert "no permission" in text
    assert not any(secret in text for secret in secrets)


def test_without_credentials_the_request_is_anonymous(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with serve(tmp_path) as (url, how):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        how.status = {"": 403}
        assert "no AWS credentials were found" in message("s3://bucket/x.zarr")
        assert set(how.authorizations) == {None}


def test_a_profile_is_used(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, region and endpoint from the files that AWS's own tools use."""
    with serve(tmp_path) as (url, how):
        (tmp_path / "credentials").write_text(
            "[lab]\naws_access_key_id = AKIALABPROFILE\naws_secret_access_key = s\n"
        )
        (tmp_path / "config").write_text(
            f"[profile lab]\nregion = eu-north-1\nendpoint_url = {url}\n"
        )
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "lab")
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT_URL", "DEFAULT_REGION"):
            monkeypatch.delenv(f"AWS_{name}")
        message("s3://bucket/x.zarr")
        assert how.authorizations
        assert all("AKIALABPROFILE/" in str(value) for value in how.authorizations)
        assert all("eu-north-1" in str(value) for value in how.authorizations)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("gs://bucket/x.zarr", "gs:// are not read"),
        ("hf://friction", "does not name a repository"),
        ("hf://datasets/me", "does not name a repository"),
        ("s3://", "not followed by"),
        ("s3:///x.zarr", "not followed by"),
    ],
)
def test_addresses_that_cannot_be(bad: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        fs.open(bad)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(RequestError, match=re.escape(f"obstore: {install_command('remote')}")):
        fs.open("https://host.invalid/x.zarr")
