"""A store at an address in a forked child and after pickling: the numbers, never a hang."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.errors import StoreError
from frictionstore.share.pack import pack
from tests import making
from tests.servers.http import Behaviour, serve
from tests.support import slow

if not hasattr(os, "fork"):
    pytest.skip("the system does not fork", allow_module_level=True)


def in_child(work: Callable[[], None], seconds: float = 40.0) -> str:
    """Run `work` in a forked child: "done", "failed" or "hung"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is the test
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, raw = os.waitpid(pid, os.WNOHANG)
        if ended:
            return "done" if raw == 0 else "failed"
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"


@pytest.fixture(params=["http", *slow("zip", "hf")])
def address(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    root = tmp_path / "root"
    whole = tmp_path / "x.zarr"
    making.write(whole, making.plan())
    if request.param == "zip":
        pack(whole, root / "x.zarr.zip")
    else:
        at = "datasets/me/friction/resolve/main/" if request.param == "hf" else ""
        shutil.copytree(whole, root / f"{at}x.zarr")
    with serve(root) as (url, _):
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        ending = ".zip" if request.param == "zip" else ""
        hub = request.param == "hf"
        yield "hf://datasets/me/friction/x.zarr" if hub else f"{url}/x.zarr{ending}"


def test_in_a_forked_child(address: str, counts: Counter[str]) -> None:
    """The parent's own store, and one that the child opens; in threads, and in a grandchild."""
    store = fs.open(address)
    expected = making.rows(making.plan())
    assert np.array_equal(store.S[:], expected["S"])

    def check(of: fs.Store) -> None:
        assert np.array_equal(of.friction[:], expected["friction"])
        assert of.image_ids.tolist() == expected["image_id"].tolist()
        with ThreadPoolExecutor(4) as pool:
            parts = pool.map(lambda row: of.read("S", slice(row, row + 1)), range(of.n_images))
            assert np.array_equal(np.concatenate(list(parts)), expected["S"])

    def child() -> None:
        check(store)
        check(fs.open(address))
        assert in_child(lambda: check(store)) == "done"

    assert in_child(child, 80) == "done"
    check(store)
    counts["a store at an address read in a forked child"] += 1


def test_errors_reach_a_forked_child(tmp_path: Path) -> None:
    making.write(tmp_path / "x.zarr", making.plan())
    with serve(tmp_path) as (url, how):
        assert isinstance(how, Behaviour)
        store = fs.open(f"{url}/x.zarr")
        how.status = {"S/c/1/0/0/0": 403}

        def child() -> None:
            with pytest.raises(StoreError, match="no permission"):
                store.read("S", slice(16, 20))
            with pytest.raises(StoreError, match="is not a store"):
                fs.open(f"{url}/nothing.zarr")
            assert store.read("S", slice(0, 16)).shape == (16, 4, 4, 4)

        assert in_child(child) == "done"


def test_a_child_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    """What reads for it ends with it."""
    making.write(tmp_path / "x.zarr", making.plan())
    with serve(tmp_path) as (url, _):
        store = fs.open(f"{url}/x.zarr")
        store.read("S", slice(0, 1))

        def child() -> None:
            from frictionstore.io import relay

            store.read("S", slice(0, 1))
            assert relay._process is not None
            (tmp_path / "pid").write_text(str(relay._process.pid))
            os.kill(os.getpid(), signal.SIGKILL)

        assert in_child(child) == "failed"
        other = int((tmp_path / "pid").read_text())
        deadline = time.monotonic() + 20
        while _runs(other):
            assert time.monotonic() < deadline, "the reading process outlived the one it read for"
            time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_pickled(address: str) -> None:
    store = fs.open(address)
    assert store.S.shape  # zarr has looked at it
    for again in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
        assert again.digest == store.digest
        assert np.array_equal(again.S[:], store.S[:])


def test_a_pickle_of_a_store_that_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making.write(tmp_path / "x.zarr", making.plan())
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(fs.open("x.zarr"))
    monkeypatch.chdir("/")  # a path is not one of the place where it is unpickled
    assert np.array_equal(pickle.loads(data).S[:], fs.open(tmp_path / "x.zarr").S[:])
    making.write(tmp_path / "x.zarr", making.plan(3), overwrite=True)
    with pytest.raises(StoreError, match="another store by now"):
        pickle.loads(data)


@pytest.mark.slow
def test_a_data_loader_of_torch(address: str) -> None:
    """Its workers are forked, and may have no children by multiprocessing."""
    torch_data = pytest.importorskip("torch.utils.data")
    store = fs.open(address)
    expected = making.rows(making.plan())["S"]

    class Rows(torch_data.Dataset):  # type: ignore[misc, name-defined]
        def __len__(self) -> int:
            return store.n_images

        def __getitem__(self, row: int) -> np.ndarray:
            return store.read("S", slice(row, row + 1))[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loader = torch_data.DataLoader(
            Rows(), batch_size=8, num_workers=2, multiprocessing_context="fork", timeout=60
        )
        found = np.concatenate([batch.numpy() for batch in loader])
    assert np.array_equal(found, expected)
