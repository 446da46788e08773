"""Merge and subset hold the parents' values, say where they come from, and refuse what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import frictionstore as fs
from frictionstore.check.verify import verify
from frictionstore.cli.main import cli
from frictionstore.errors import RequestError, StoreError
from frictionstore.store.combine import merge, subset
from frictionstore.store.writer import StoreWriter
from tests import making
from tests.torture.forging import reseal

ALL = ("S", "friction", "settle")


def made(folder: Path, name: str, seed: int, n: int = 40, **changes: Any) -> Path:
    making.write(folder / f"{name}.zarr", making.plan(seed, n, **changes))
    return folder / f"{name}.zarr"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return (
        made(tmp_path, "a", 1, dataset={"split": "train"}),
        made(tmp_path, "b", 2, 25, dataset={"split": "test"}),
    )


def test_a_merged_store_holds_both(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = (fs.open(path) for path in pair)
    store = merge(pair, tmp_path / "c.zarr")
    assert verify(tmp_path / "c.zarr").ok
    assert store.n_images == 65
    for name in ALL:
        assert np.array_equal(store[name][:], np.concatenate([a[name][:], b[name][:]]))
    assert np.array_equal(store.labels, np.concatenate([a.labels, b.labels]))
    assert store.image_ids.tolist() == [*a.image_ids, *b.image_ids], "distinct ids are kept"
    assert store.class_names == a.class_names
    assert store.splits == {"train": slice(0, 40), "test": slice(40, 65)}


def test_its_request_names_the_parents(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = (fs.open(path) for path in pair)
    request = merge(pair, tmp_path / "c.zarr").request
    assert request["kind"] == "merge"
    assert request["encoder"] == a.request["encoder"]
    assert [p["digest"] for p in request["parents"]] == [a.digest, b.digest]
    assert [p["fingerprint"] for p in request["parents"]] == [a.fingerprint, b.fingerprint]
    assert [p["splits"] for p in request["parents"]] == [["train"], ["test"]]
    assert "dataset" not in request


def test_the_same_merge_is_the_same_bytes_and_another_is_not(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    merge(pair, tmp_path / "c.zarr")
    again = merge(pair, tmp_path / "d.zarr")
    assert making.content(tmp_path / "c.zarr") == making.content(tmp_path / "d.zarr")
    swapped = merge(pair[::-1], tmp_path / "e.zarr")
    renamed = merge(pair, tmp_path / "f.zarr", names=["x", "y"])
    assert len({again.fingerprint, swapped.fingerprint, renamed.fingerprint}) == 3
    with pytest.raises(StoreError, match="another store"):
        merge(pair[::-1], tmp_path / "c.zarr")
    merge(pair[::-1], tmp_path / "c.zarr", overwrite=True)


def test_shared_ids_are_prefixed_with_the_split(tmp_path: Path) -> None:
    a = made(tmp_path, "a", 1, dataset={"split": "train"})
    b = made(tmp_path, "b", 1, 30, dataset={"split": "test"})
    store = merge([a, b], tmp_path / "c.zarr")
    first, second = fs.open(a).image_ids, fs.open(b).image_ids
    assert store.image_ids.tolist() == [
        *(f"train/{text}" for text in first), *(f"test/{text}" for text in second),
    ]  # fmt: skip
    assert len(set(store.image_ids)) == 70
    assert store.request["ids"] == "prefixed with the split"


def test_names_come_from_the_split_the_store_or_the_user(tmp_path: Path) -> None:
    plain = [made(tmp_path, "left", 1), made(tmp_path, "right", 2)]
    assert list(merge(plain, tmp_path / "c.zarr").splits) == ["left", "right"]
    same = [
        made(tmp_path, "x", 3, dataset={"split": "train"}),
        made(tmp_path, "y", 4, dataset={"split": "train"}),
    ]
    with pytest.raises(RequestError, match="two of the stores are named train"):
        merge(same, tmp_path / "d.zarr")
    assert list(merge(same, tmp_path / "d.zarr", names=["p", "q"]).splits) == ["p", "q"]
    with pytest.raises(RequestError, match="1 names were given for 2"):
        merge(same, tmp_path / "e.zarr", names=["p"])
    with pytest.raises(RequestError, match="cannot name a split"):
        merge(same, tmp_path / "e.zarr", names=["p", "q/r"])


def test_a_merged_store_merges_on_and_keeps_its_splits(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    merge(pair, tmp_path / "c.zarr")
    third = made(tmp_path, "extra", 3, 10)
    store = merge([tmp_path / "c.zarr", third], tmp_path / "d.zarr")
    assert store.splits == {"train": slice(0, 40), "test": slice(40, 65), "extra": slice(65, 75)}
    back = subset(tmp_path / "d.zarr", tmp_path / "e.zarr", splits=["test"])
    b = fs.open(pair[1])
    assert np.array_equal(back.friction[:], b.friction[:])
    assert back.splits == {"test": slice(0, 25)}
    assert back.image_ids.tolist() == b.image_ids.tolist()


def test_classes_are_joined_by_name(tmp_path: Path) -> None:
    a = made(tmp_path, "a", 1, classes=["cat", "dog"])
    b = made(tmp_path, "b", 2, classes=["owl", "cat", "eel"])
    store = merge([a, b], tmp_path / "c.zarr")
    assert store.class_names == ["cat", "dog", "owl", "eel"]

    def named(s: fs.Store) -> list[str]:
        return ["-" if k < 0 else s.class_names[k] for k in s.labels]

    assert named(store) == named(fs.open(a)) + named(fs.open(b))
    twice = made(tmp_path, "t", 3, classes=["cat", "cat"])
    with pytest.raises(RequestError, match="two classes of one name"):
        merge([a, twice], tmp_path / "d.zarr")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder": {"sha256": "1" * 64}}, "encoder.sha256 is"),
        ({"transform": {"image_size": 64}}, "transform.image_size is absent in one and 64"),
        ({"conduit": {"delta": 1e-8}}, "conduit.delta is absent"),
    ],
)
def test_what_was_measured_otherwise_is_not_merged(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    a, b = made(tmp_path, "a", 1), made(tmp_path, "b", 2, **changes)
    with pytest.raises(RequestError, match=said):
        merge([a, b], tmp_path / "c.zarr")
    assert not list(tmp_path.glob("c.zarr*"))


def test_other_maps_or_grids_are_not_merged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def imported(name: str, grid: int, **maps: Any) -> Path:
        values = {"friction": rng.random((5, grid, grid, 4)), **maps}
        fs.from_arrays(tmp_path / f"{name}.zarr", values)
        return tmp_path / f"{name}.zarr"

    four, three = imported("four", 4), imported("three", 3)
    more = imported("more", 4, recon_error=rng.random((5, 4, 4)))
    with pytest.raises(RequestError, match=r"friction of one image has shape \(4, 4, 4\)"):
        merge([four, three], tmp_path / "c.zarr")
    with pytest.raises(RequestError, match="one has maps friction, the other friction, recon"):
        merge([four, more], tmp_path / "c.zarr")
    with pytest.raises(RequestError, match="two or more"):
        merge([four], tmp_path / "c.zarr")
    extracted = made(tmp_path, "x", 1)
    with pytest.raises(RequestError, match="encoder"):
        merge([four, extracted], tmp_path / "c.zarr")


# ---- subset ----------------------------------------------------------------------------------


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    classes=st.one_of(st.none(), st.lists(st.sampled_from(making.CLASSES), min_size=1)),
    limit=st.one_of(st.none(), st.integers(1, 60)),
    maps=st.one_of(st.none(), st.lists(st.sampled_from(ALL), min_size=1)),
)
def test_a_subset_holds_what_numpy_selects(
    whole: Path,
    tmp_path: Path,
    classes: list[str] | None,
    limit: int | None,
    maps: list[str] | None,
) -> None:
    parent = fs.open(whole)
    names = np.array([*parent.class_names, "-"])[parent.labels]
    wanted = np.ones(40, bool) if classes is None else np.isin(names, classes)
    rows = np.flatnonzero(wanted)[:limit]
    store = subset(
        whole, tmp_path / "s.zarr", classes=classes, limit=limit, maps=maps, overwrite=True
    )
    assert store.maps == tuple(name for name in ALL if maps is None or name in maps)
    for name in store.maps:
        assert np.array_equal(store[name][:], parent[name][:][rows])
    assert store.image_ids.tolist() == parent.image_ids[rows].tolist()
    assert np.array([*store.class_names, "-"])[store.labels].tolist() == names[rows].tolist()
    if classes is not None:
        assert store.class_names == [name for name in parent.class_names if name in classes]
    assert verify(tmp_path / "s.zarr").ok
    assert store.request["parents"][0]["digest"] == parent.digest


def test_bad_selections_are_explained(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    with pytest.raises(RequestError, match="no class 'cow': it has cat, dog, owl"):
        subset(whole, out, classes=["cow"])
    with pytest.raises(RequestError, match="no split 'val': it has none"):
        subset(whole, out, splits=["val"])
    with pytest.raises(RequestError, match="limit is 0"):
        subset(whole, out, limit=0)
    with pytest.raises(RequestError, match="unknown map"):
        subset(whole, out, maps=["colour"])
    with pytest.raises(StoreError, match="no map 'slot'"):
        subset(whole, out, maps=["slot"])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_merge_goes_on(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frictionstore.format.schema.default_shard_images", lambda *rest: 16)
    whole = merge(pair, tmp_path / "c.zarr")
    write = StoreWriter.write_unit
    written = []

    def stops(self: StoreWriter, number: int, *rest: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(number)
        write(self, number, *rest)

    monkeypatch.setattr(StoreWriter, "write_unit", stops)
    with pytest.raises(KeyboardInterrupt):
        merge(pair, tmp_path / "d.zarr")
    assert not (tmp_path / "d.zarr").exists()

    def counts(self: StoreWriter, number: int, *rest: Any) -> None:
        written.append(number)
        write(self, number, *rest)

    monkeypatch.setattr(StoreWriter, "write_unit", counts)
    assert merge(pair, tmp_path / "d.zarr").digest == whole.digest
    assert sorted(written) == [0, 1, 2, 3, 4], "nothing twice"


def test_a_damaged_parent_is_not_copied(copy: Path, tmp_path: Path) -> None:
    path = copy / "friction/c/1/0/0/0"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="friction"):
        subset(copy, tmp_path / "s.zarr", limit=30)
    assert not (tmp_path / "s.zarr").exists()


def test_commands(pair: tuple[Path, Path], tmp_path: Path) -> None:
    run = CliRunner().invoke
    merged = run(cli, ["merge", *map(str, pair), "--out", str(tmp_path / "c.zarr"), "--json"])
    assert merged.exit_code == 0, merged.output
    assert json.loads(merged.stdout)["images"] == 65
    part = run(
        cli,
        ["subset", str(tmp_path / "c.zarr"), "--classes", "cat,dog", "--split", "train",
         "--limit", "5", "--maps", "friction", "--out", str(tmp_path / "s.zarr")],
    )  # fmt: skip
    assert part.exit_code == 0, part.output
    store = fs.open(tmp_path / "s.zarr")
    assert (store.n_images, store.maps, store.class_names) == (5, ("friction",), ["cat", "dog"])
    bad = run(cli, ["subset", str(pair[0]), "--classes", "cow", "--out", str(tmp_path / "t.zarr")])
    assert bad.exit_code == 2
    assert len(bad.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "splits",
    [
        [{"name": "a", "first": 0, "count": 39}],
        [{"name": "a", "first": 1, "count": 40}],
        [{"name": "a", "first": 0, "count": 20}, {"name": "a", "first": 20, "count": 20}],
        [{"name": 3, "first": 0, "count": 40}],
        [{"name": "a", "first": 0, "count": True}],
        [{"first": 0, "count": 40}],
        ["a"],
        7,
    ],
)
def test_wrong_splits_of_a_store_are_refused(copy: Path, splits: object) -> None:
    def change(document: dict[str, Any]) -> None:
        document["attributes"]["frictionstore"]["splits"] = splits

    reseal(copy, change)
    with pytest.raises(StoreError, match="splits does not divide"):
        fs.open(copy)
