"""A store as a PyTorch data set: values against zarr's own, whole units, workers, pickling."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import frictionstore as fs
from frictionstore.errors import RequestError, StoreError
from tests.support import MakeStore

torch = pytest.importorskip("torch")
from frictionstore.torch import MapDataset, UnitBatches  # noqa: E402

N, UNIT = 22, 4


@pytest.fixture
def store(make_store: MakeStore) -> fs.Store:
    return make_store(n=N, shard_images=UNIT, label=np.arange(N) % 4 - 1)


def plain(store: fs.Store, name: str) -> Any:
    """Values as zarr alone gives them."""
    return zarr.open_group(store.location, mode="r")[name][:]  # type: ignore[index]


def counted(data: MapDataset, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often each unit of each map is read."""
    reads: Counter[tuple[str, int]] = Counter()
    read = fs.Store.read

    def counting(self: fs.Store, name: str, rows: slice) -> Any:
        reads[name, rows.start // UNIT] += name in data.maps
        return read(self, name, rows)

    monkeypatch.setattr(fs.Store, "read", counting)
    return reads


def test_every_index_is_zarrs_own_value(store: fs.Store) -> None:
    data = MapDataset(store.location, "friction", kept_units=1)
    wanted, labels = plain(store, "friction"), plain(store, "label")
    assert len(data) == N
    for index in [*range(N), *range(-N, 0), *np.random.default_rng(0).integers(0, N, 40)]:
        value, label = data[index]
        np.testing.assert_array_equal(value.numpy(), wanted[index])
        assert (label, type(label)) == (labels[index], int)
    for index in (N, -N - 1):
        with pytest.raises(IndexError, match=f"image {index} of {N}"):
            data[index]


def test_several_maps_and_a_transform(store: fs.Store) -> None:
    several = MapDataset(store, ["settle", "S"])
    value, _ = several[7]
    assert list(value) == ["settle", "S"]
    assert value["settle"].dtype == torch.uint8
    np.testing.assert_array_equal(value["S"].numpy(), plain(store, "S")[7])
    largest = MapDataset(store, "S", transform=lambda x: x[..., 0])
    np.testing.assert_array_equal(largest[3][0].numpy(), plain(store, "S")[3][..., 0])


def test_what_an_item_is_changed_to_stays_with_it(store: fs.Store) -> None:
    data = MapDataset(store)
    data[5][0].zero_()
    np.testing.assert_array_equal(data[5][0].numpy(), plain(store, "friction")[5])


def test_kept_units_are_those_used_last(store: fs.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = MapDataset(store, kept_units=2)
    reads = counted(data, monkeypatch)
    for row in (0, UNIT, 1, 2 * UNIT, 2, UNIT):  # unit 1 gave way to 2, since 0 was used after it
        data[row]
    assert reads == {("friction", 0): 1, ("friction", 1): 2, ("friction", 2): 1, ("label", 0): 0}


@pytest.mark.parametrize("workers", [1, 2, 3, 50])
@pytest.mark.parametrize("batch", [1, 3, 4, 7, 100])
def test_batches_are_all_images_once_and_units_stay_with_a_worker(
    store: fs.Store, workers: int, batch: int
) -> None:
    data = MapDataset(store)
    batches = UnitBatches(data, batch, seed=1, workers=workers)
    lengths = {len(batches)}
    orders = []
    for _ in range(6):
        made = list(batches)
        lengths |= {len(made), len(batches)}
        rows = [row for some in made for row in some]
        assert sorted(rows) == list(range(N))
        orders.append(rows)
        streams = min(workers, -(-N // UNIT))
        # as long as every stream goes on, a worker's batches are one stream's
        whole = min(len(some) for some in batches._streams()) * streams
        units = [
            {row // UNIT for some in made[k:whole:streams] for row in some} for k in range(streams)
        ]
        assert sum(map(len, units)) == len(set().union(*units))
    assert len(lengths) == 1
    assert len({tuple(order) for order in orders}) == 6


def test_a_shuffled_epoch_reads_every_unit_once(
    store: fs.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = MapDataset(store)
    reads = counted(data, monkeypatch)
    wanted, labels = plain(store, "friction"), plain(store, "label")
    found = np.concatenate([value.numpy() for value, _ in data.loader(5, seed=3)])
    assert {n for (name, _), n in reads.items() if name == "friction"} == {1}
    assert len(reads) == -(-N // UNIT) + 1  # and the labels
    order = [row for some in UnitBatches(data, 5, seed=3) for row in some]
    np.testing.assert_array_equal(found, wanted[order])
    assert not np.array_equal(found, wanted)
    again = torch.cat([label for _, label in data.loader(5, seed=3)])
    np.testing.assert_array_equal(again, labels[order])


def test_the_order_is_that_of_seed_and_epoch(store: fs.Store) -> None:
    data = MapDataset(store)
    one, other = UnitBatches(data, 3, seed=1), UnitBatches(data, 3, seed=1)
    first = list(one)
    assert first == list(other)
    assert first != list(one)
    one.set_epoch(0)
    assert first == list(one)
    assert first != list(UnitBatches(data, 3, seed=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_without_shuffling_it_is_the_stores_order(store: fs.Store, workers: int) -> None:
    loader = MapDataset(store).loader(5, shuffle=False, num_workers=workers)
    found = torch.cat([value for value, _ in loader])
    np.testing.assert_array_equal(found.numpy(), plain(store, "friction"))


@pytest.mark.parametrize("how", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_what_one_process_gives(store: fs.Store, how: str) -> None:
    """With units held before the fork, which the workers must not take for their own store's."""
    data = MapDataset(store, "S")
    _ = data[9], store.labels
    order = [row for some in UnitBatches(data, 3, seed=5, workers=2) for row in some]
    loader = data.loader(3, seed=5, num_workers=2, multiprocessing_context=how)
    for epoch in range(2):
        found = list(loader)
        if not epoch:
            values = torch.cat([value for value, _ in found]).numpy()
            np.testing.assert_array_equal(values, plain(store, "S")[order])
        labels = torch.cat([label for _, label in found]).numpy()
        assert sorted(labels) == sorted(plain(store, "label"))


def test_a_pickled_data_set_is_an_address(store: fs.Store) -> None:
    data = MapDataset(store, ["S", "friction"])
    for row in range(0, N, UNIT):
        data[row]
    text = pickle.dumps(data)
    assert len(text) < 2000
    again = pickle.loads(text)
    np.testing.assert_array_equal(again[21][0]["S"].numpy(), plain(store, "S")[21])


def test_another_store_at_the_address_is_refused(store: fs.Store, make_store: MakeStore) -> None:
    text = pickle.dumps(MapDataset(store))
    make_store(n=N, seed=9, overwrite=True)
    with pytest.raises(StoreError, match="is another store by now"):
        pickle.loads(text)[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kept_units": 0}, "kept_units is 0"),
        ({"maps": []}, "no map was named"),
        ({"maps": "frictoin"}, "has no map 'frictoin'"),
    ],
)
def test_bad_input(store: fs.Store, options: dict[str, Any], said: str) -> None:
    with pytest.raises((RequestError, StoreError), match=said):
        MapDataset(store, **options)
    data = MapDataset(store)
    with pytest.raises(RequestError, match="batch_size is 0"):
        data.loader(0)
    with pytest.raises(RequestError, match="workers is 0"):
        UnitBatches(data, 2, workers=0)
    with pytest.raises(RequestError, match="seed is -1"):
        data.loader(seed=-1)
    with pytest.raises(TypeError):
        data[1.5]  # type: ignore[index]


def test_the_package_is_imported_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, frictionstore as fs, frictionstore.share.export, frictionstore.store.table;"
        "assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
