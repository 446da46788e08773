"""Rows read without zarr: zarr's own reader of the same files is the oracle.

Stores in S3 and on the Hub are compared with one on disk in `tests/io/test_remote.py`, forged ones
are in `tests/torture`, forked readers in `tests/torture/test_forks.py`.
"""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import frictionstore as fs
from frictionstore.errors import StoreError
from frictionstore.format.shards import index_size
from frictionstore.io.remote import RemoteLocation
from frictionstore.share.pack import pack
from frictionstore.store import rows as rows_module
from frictionstore.store.rows import BLOCK_BYTES
from tests.servers.http import serve
from tests.support import DATA, random_maps
from tests.torture.forging import plant, sealed_shard

N, SHARD, CHUNK = 75, 32, 8  # images: in all, in a shard, in a chunk of S


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four chunks in a shard of S, one in one of settle; the last shard has images for two."""
    rng = np.random.default_rng(5)
    shape = (N, 32, 32, 32)
    maps = {"S": rng.random(shape, np.float32).round(1), "settle": rng.integers(0, 6, shape)}
    maps["S"][..., ::-1].sort(axis=-1)
    store = fs.from_arrays(
        tmp_path_factory.mktemp("rows") / "wide.zarr",
        {"S": maps["S"], "settle": maps["settle"].astype(np.uint8)},
        label=np.arange(N) % 3, class_names=["a", "b", "c"],
        image_id=[f"é/{k}" + k * "x" for k in range(N)], shard_images=SHARD,
    )  # fmt: skip
    plans = store.header.arrays
    assert (plans["S"].chunk_images, plans["settle"].chunk_images) == (CHUNK, SHARD)
    return Path(store.location)


@pytest.fixture(scope="module")
def expected(wide: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(wide, mode="r")
    return {name: np.asarray(array[:]) for name, array in group.arrays()}


@pytest.fixture
def copy(wide: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(wide, tmp_path / "x.zarr"))


@pytest.fixture(params=["folder", "zip", "http", "zip over http"])
def address(request: pytest.FixtureRequest, wide: Path, tmp_path: Path) -> Iterator[str]:
    if "zip" in request.param:
        pack(wide, tmp_path / "wide.zarr.zip")
    if request.param == "folder":
        yield str(wide)
    elif request.param == "zip":
        yield str(tmp_path / "wide.zarr.zip")
    else:
        with serve(tmp_path if "zip" in request.param else wide.parent) as (url, _):
            yield f"{url}/wide.zarr{'.zip' if 'zip' in request.param else ''}"


def same(found: Any, right: np.ndarray) -> bool:
    return (
        type(found) is type(right) and found.dtype == right.dtype and np.array_equal(found, right)
    )


def test_every_place_gives_what_zarr_reads(address: str, expected: dict[str, np.ndarray]) -> None:
    store = fs.open(address)
    assert set(store) == set(expected)
    for name, right in expected.items():
        assert same(store.read(name, slice(0, N)), right)
        assert same(store[name][:], right)
        assert same(store[name][5:41], right[5:41])
    for batch in (None, 1, 29):
        chunks = [arrays for _, arrays in store.iter_chunks(tuple(store), batch, threads=3)]
        for name, right in expected.items():
            assert same(np.concatenate([arrays[name] for arrays in chunks]), right)


@pytest.mark.parametrize("name", ["stores/v1/reference.zarr", "stores/v1/reference.zarr.zip"])
def test_a_store_of_an_older_format(name: str, tmp_path: Path) -> None:
    folder = DATA / name.removesuffix(".zip")
    path = folder
    if name.endswith(".zip"):
        path = tmp_path / "x.zarr.zip"
        pack(folder, path)
    store, group = fs.open(path), zarr.open_group(folder, mode="r")
    for array in store:
        assert same(store.read(array, slice(0, store.n_images)), np.asarray(group[array][:]))


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(-90, 90), stop=st.integers(-90, 90) | st.none(), name=st.sampled_from("Sl")
)
def test_any_rows(
    wide: Path, expected: dict[str, np.ndarray], start: int, stop: int | None, name: str
) -> None:
    name = "S" if name == "S" else "label"
    array, right = fs.open(wide)[name], expected[name]
    assert same(array[start:stop], right[start:stop])


@pytest.mark.parametrize(
    "selection",
    [..., (), 3, -1, np.int64(2), slice(3, 60, 7), slice(9, 4), (slice(2, 30), ...),
     (slice(2, 30), slice(None)), (slice(2, 30), slice(None), slice(None), slice(None)),
     (slice(2, 30), 4), (slice(2, 30), slice(None), 3), (..., 1), (..., slice(1, 3)),
     (5, ..., 2), (slice(2, 30), slice(None), slice(None), slice(1, 2))],
    ids=str,
)  # fmt: skip
def test_any_selection_is_numpys(
    wide: Path, expected: dict[str, np.ndarray], selection: Any
) -> None:
    assert np.array_equal(fs.open(wide).S[selection], expected["S"][selection])


def test_it_is_still_zarrs_array(wide: Path, expected: dict[str, np.ndarray]) -> None:
    store = fs.open(wide)
    assert isinstance(store.S, zarr.Array)
    assert store.S.chunks == (CHUNK, 32, 32, 32)
    assert np.array_equal(np.asarray(store.S), expected["S"])
    assert same(pickle.loads(pickle.dumps(store.S))[:20], expected["S"][:20])
    with pytest.raises(IndexError):
        store.label[:, :]
    with pytest.raises(IndexError):
        store.S.oindex[[N]]
    assert np.array_equal(store.S.oindex[[70, 2]], expected["S"][[70, 2]])


def test_chunks_anywhere_in_their_shard(copy: Path, expected: dict[str, np.ndarray]) -> None:
    """One read serves chunks that lie together: here they do not, or not in order."""
    key = "S/c/0/0/0/0"
    data = (copy / key).read_bytes()
    index = np.frombuffer(data[-index_size(4) : -4], "<u8").reshape(4, 2).tolist()
    chunks = [data[start : start + count - 4] for start, count in index]
    filler = b"nothing that anybody asked for"
    for order, between in (([2, 0, 3, 1], []), ([0, 1, 2, 3], [filler]), ([3, 1, 0, 2], [filler])):
        stored: list[bytes] = []
        places, start = {}, 0
        for number in order:
            for piece in (*between, chunks[number]):
                stored.append(piece)
                places[number] = (start, len(piece) + 4)
                start += len(piece) + 4
        plant(copy, key, sealed_shard(stored, 4, [places[number] for number in range(4)]))
        store = fs.open(copy)
        assert same(store.S[:], expected["S"])
        assert same(store.S[9:23], expected["S"][9:23])


def test_chunks_that_lie_together_are_one_request(wide: Path) -> None:
    with serve(wide.parent) as (url, behaviour):
        store = fs.open(f"{url}/wide.zarr")
        behaviour.requests.clear()
        store.read("S", slice(0, SHARD))
        assert len(behaviour.requests) == 2, "the index, and its four chunks"
        store.read("S", slice(3, 5))
        assert len(behaviour.requests) == 3, "the index is known"


def test_a_server_is_asked_for_more_than_there_are_cores(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "cores", lambda most: 1)
    assert fs.open(wide)._rows.threads == 1
    plain, asked, at_once = RemoteLocation.read_range, 0, 0
    lock = threading.Lock()

    def slow(self: RemoteLocation, key: str, start: int, count: int) -> bytes | None:
        nonlocal asked, at_once
        with lock:
            asked += 1
            at_once = max(at_once, asked)
        time.sleep(0.05)
        try:
            return plain(self, key, start, count)
        finally:
            with lock:
                asked -= 1

    with serve(wide.parent) as (url, _):
        store = fs.open(f"{url}/wide.zarr")
        monkeypatch.setattr(RemoteLocation, "read_range", slow)
        list(store.iter_chunks("S"))
        assert 3 <= at_once <= 8
        at_once = 0
        store.read("S", slice(0, N))
        assert at_once == 3, "a piece for each shard"


def test_large_chunks_are_read_one_by_one(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fs.open(wide).header.arrays["S"]
    assert [len(piece) for piece in rows_module._pieces(plan, 0, N)] == [4, 4, 2]
    monkeypatch.setattr(rows_module, "PIECE_BYTES", 1000)
    assert [len(piece) for piece in rows_module._pieces(plan, 4, 30)] == [1, 1, 1, 1]


# ---- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [20, 5_000, -500])
def test_a_damaged_chunk_is_named_with_its_images(
    copy: Path, expected: dict[str, np.ndarray], where: int
) -> None:
    file = copy / "S/c/1/0/0/0"
    data = bytearray(file.read_bytes())
    index = np.frombuffer(data[-index_size(4) : -4], "<u8").reshape(4, 2).tolist()
    start, count = index[2]
    data[start + where % count] ^= 16
    file.write_bytes(data)
    store = fs.open(copy)
    sentence = (
        r"x\.zarr: S of images 48\.\.55 cannot be read from S/c/1/0/0/0 \(a chunk does not match "
        r"its checksum\); see what is damaged with frictionstore verify"
    )
    for read in (
        lambda: store.S[:], lambda: store.S[55:56], lambda: store.read("S", slice(32, 64)),
        lambda: list(store.iter_chunks(("settle", "S"))),
    ):  # fmt: skip
        with pytest.raises(StoreError, match=sentence):
            read()
    assert same(store.S[:48], expected["S"][:48])
    assert same(store.S[56:], expected["S"][56:])


@pytest.mark.parametrize("array", ["S", "label", "image_id"])
def test_damage_of_every_kind_of_array(copy: Path, array: str) -> None:
    file = next(path for path in sorted((copy / array / "c").rglob("0")) if path.is_file())
    data = bytearray(file.read_bytes())
    data[30] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        StoreError, match=rf"{array} of images 0\.\.\d+ cannot be read from {array}"
    ):
        fs.open(copy).read(array, slice(0, N))


def test_files_that_are_not_the_right_ones(copy: Path) -> None:
    shards = [copy / f"S/c/{k}/0/0/0" for k in range(3)]
    first, second, third = (shard.read_bytes() for shard in shards)
    cases: list[tuple[bytes | None, str]] = [
        (None, "S/c/1/0/0/0 is missing"),
        (first, "S/c/1/0/0/0 is not the file that was written"),
        (second[:-1], "S/c/1/0/0/0 is not the file that was written"),
        (b"", "S/c/1/0/0/0 is not the file that was written"),
        (second[:-2] + b"\0\0", "S/c/1/0/0/0 is not the file that was written"),
    ]
    for content, sentence in cases:
        shards[1].unlink()
        if content is not None:
            shards[1].write_bytes(content)
        store = fs.open(copy)
        with pytest.raises(StoreError, match=f"damaged: {sentence}"):
            store.read("S", slice(0, N))
        with pytest.raises(StoreError, match=f"damaged: {sentence}"):
            list(store.iter_chunks("S"))
        if content is None:
            shards[1].touch()
    shards[1].write_bytes(second)
    # the file is cut after its index was read
    store = fs.open(copy)
    store.read("S", slice(SHARD, SHARD + 1))
    shards[1].write_bytes(second[:1000])
    with pytest.raises(StoreError, match="was replaced while it was read"):
        store.read("S", slice(SHARD, SHARD + 1))
    assert len(third) == shards[2].stat().st_size


# ---- threads, memory, time -----------------------------------------------------------------------


def test_many_threads_read_one_store(wide: Path, expected: dict[str, np.ndarray]) -> None:
    store = fs.open(wide)

    def work(number: int) -> bool:
        start = 7 * number
        return same(store.S[start : start + 20], expected["S"][start : start + 20]) and all(
            np.array_equal(arrays["settle"], expected["settle"][rows])
            for rows, arrays in store.iter_chunks("settle", threads=2)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_memory_is_that_of_the_blocks_read_ahead(tmp_path: Path) -> None:
    n, threads = 512, 2  # 64 MB
    maps = {"S": np.zeros((n, 32, 32, 32), np.float32) + np.arange(32, 0, -1, dtype=np.float32)}
    store = fs.from_arrays(tmp_path / "x.zarr", maps, shard_images=256)
    del maps
    list(store.iter_chunks("S"))
    assert store.header.arrays["S"].chunk_images * 32**3 * 4 <= BLOCK_BYTES
    tracemalloc.start()
    for _ in store.iter_chunks("S", threads=threads):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert BLOCK_BYTES < peak < (threads + 3) * BLOCK_BYTES


@pytest.mark.parametrize("batch", [None, 5, 40])
def test_memory_is_used_again_and_never_that_of_a_view_somebody_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int | None
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 1)  # a block is a chunk
    maps = random_maps(n=256)
    store = fs.from_arrays(tmp_path / "x.zarr", maps, shard_images=4)
    held: list[tuple[slice, np.ndarray]] = []
    places = set()
    for step, (rows, arrays) in enumerate(store.iter_chunks(("S", "settle"), batch, 2)):
        places.add(arrays["S"].__array_interface__["data"][0])
        if step % 7 == 0:
            held.append((rows, arrays["S"][1:3, ::2, 1:]))
            held.append((rows, np.asarray(memoryview(arrays["S"]))[1:3, ::2, 1:]))
    assert batch is not None or len(places) - len(held) / 2 <= 2 + 4
    for rows, view in held:
        np.testing.assert_array_equal(view, maps["S"][rows][1:3, ::2, 1:])


def test_a_store_is_read_without_zarr(tmp_path: Path) -> None:
    """Importing it takes longer than many an analysis."""
    fs.from_arrays(tmp_path / "x.zarr", random_maps())
    code = (
        "import sys, frictionstore as fs\n"
        f"store = fs.open({str(tmp_path / 'x.zarr')!r})\n"
        "assert len(list(store.iter_chunks(store.maps))) and len(store.image_ids)\n"
        "print('zarr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_it_takes_less_of_the_processor_than_zarr(tmp_path: Path) -> None:
    """Processor time, as other work goes on; benchmarks/bench_reading.py has the wall clock."""
    rng = np.random.default_rng(0)
    friction = rng.lognormal(4, 1, (4000, 16, 16, 4)).astype(np.float32).round(1)
    store = fs.from_arrays(tmp_path / "x.zarr", {"friction": friction})

    def rows() -> None:
        for _ in store.iter_chunks("friction"):
            pass

    def whole() -> object:
        return zarr.open_array(tmp_path / "x.zarr/friction", mode="r")[:]

    def seconds(read: Callable[[], object]) -> float:
        before = time.process_time()
        read()
        return time.process_time() - before

    rows(), whole()  # what is imported or cached the first time
    ratios = sorted(seconds(whole) / seconds(rows) for _ in range(15))
    assert ratios[len(ratios) // 2] > 1.1, ratios
