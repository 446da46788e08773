"""Which images belong together, in a store: written, read, merged, compared, checked."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.check.diff import describe_difference, diff
from frictionstore.cli.main import cli
from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.groups import read_groups
from frictionstore.format.plan import StorePlan
from frictionstore.store.combine import merge, subset
from frictionstore.store.writer import StoreWriter
from tests.torture.forging import reseal

N = 12
MAPS = {"settle": np.arange(N * 8).reshape(N, 2, 2, 2) % 7}
PHOTOS = ["p", "q", "p", "p", "q", "r", "r", "r", "p", "q", "s", "s"]


def made(path: Path, ids: str = "a", **options: Any) -> fs.Store:
    names = [f"{ids}{k}" for k in range(N)]
    return fs.from_arrays(path, MAPS, image_id=names, shard_images=4, **options)


def test_groups_come_back_by_name_and_number(tmp_path: Path) -> None:
    store = made(tmp_path / "a.zarr", group=PHOTOS)
    assert store.group_names == ["p", "q", "r", "s"]
    assert [store.group_names[k] for k in store.groups] == PHOTOS
    assert store["group"].dtype == np.int32
    assert store.keys() == ("settle", "label", "image_id", "group")
    assert fs.verify(tmp_path / "a.zarr").ok
    numbers = made(tmp_path / "b.zarr", group=np.arange(N) // 5)
    assert numbers.group_names == ["0", "1", "2"]
    data = store.to_xarray()
    assert "group" in data.coords
    np.testing.assert_array_equal(data["group"].values, store.groups)
    shown = CliRunner().invoke(cli, ["info", str(tmp_path / "a.zarr")]).output
    assert "groups       4 of images that belong together" in shown


def test_a_store_without_groups_is_what_it_was(tmp_path: Path) -> None:
    """Fingerprint and metadata as before groups were known of."""
    store = made(tmp_path / "a.zarr")
    assert store.groups is None
    assert store.group_names == []
    assert "group" not in store
    assert schema.GROUP_NAMES not in store.attributes
    assert "groups" not in store.summary()
    # made by the version before
    assert store.fingerprint == ("fa560437c8e386f59f7900a4ed42ad0383571f37c113b257f585daa02a84be29")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (["p"] * 3, "group has shape"),
        (np.linspace(0, 1, N), "dtype float64: expected 12 texts or whole numbers"),
        ([*PHOTOS[:-1], ""], "group of image 11 is '': every image has a group"),
        ([*PHOTOS[:-1], None], "neither text nor a whole number"),
        ([*PHOTOS[:-1], "a\0b"], "holds a NUL"),
        ([*PHOTOS[:-1], "x" * 5000], "has more than 4,096 bytes"),
    ],
)
def test_groups_that_cannot_be(tmp_path: Path, group: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        made(tmp_path / "a.zarr", group=group)
    assert list(tmp_path.iterdir()) == []


def test_merged_groups_are_joined_by_name_and_kept_by_subset(tmp_path: Path) -> None:
    made(tmp_path / "a.zarr", group=PHOTOS, label=np.arange(N) % 2)
    made(tmp_path / "b.zarr", "b", group=["s"] * 6 + ["t"] * 6, label=np.arange(N) % 2)
    both = merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "ab.zarr")
    assert [both.group_names[k] for k in both.groups] == PHOTOS + ["s"] * 6 + ["t"] * 6
    assert both.group_names == ["p", "q", "r", "s", "t"]
    assert fs.verify(tmp_path / "ab.zarr").ok
    part = subset(tmp_path / "ab.zarr", tmp_path / "part.zarr", classes=["1"])
    kept = (PHOTOS + ["s"] * 6 + ["t"] * 6)[1::2]
    assert [part.group_names[k] for k in part.groups] == kept
    few = subset(tmp_path / "ab.zarr", tmp_path / "few.zarr", splits=["b"], limit=2)
    assert (few.group_names, few.groups.tolist()) == (["s"], [0, 0])


def test_only_stores_that_both_say_are_merged(tmp_path: Path) -> None:
    made(tmp_path / "a.zarr", group=PHOTOS)
    made(tmp_path / "b.zarr", "b")
    with pytest.raises(RequestError, match="only the first says which images belong together"):
        merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "ab.zarr")


def test_diff_compares_groups_by_name(tmp_path: Path) -> None:
    made(tmp_path / "a.zarr", group=PHOTOS)
    made(tmp_path / "renamed.zarr", group=[*PHOTOS[:-2], "other", "other"])
    made(tmp_path / "without.zarr")
    found = diff(tmp_path / "a.zarr", tmp_path / "renamed.zarr")
    assert (found.groups, found.verdict) == (2, "different")
    assert "groups of 2 images differ" in describe_difference(found)
    assert diff(tmp_path / "a.zarr", tmp_path / "without.zarr").groups == N
    assert diff(tmp_path / "a.zarr", tmp_path / "a.zarr").groups == 0


def test_groups_out_of_range_are_seen(tmp_path: Path) -> None:
    target = tmp_path / "a.zarr"
    rows = {"settle": (2, 2, 2)}
    plan = StorePlan({"kind": "test"}, N, rows, 4, [], {schema.GROUP_NAMES: ["p", "q"]})
    with StoreWriter(target, plan) as writer:
        for number, unit in enumerate(plan.units):
            part = slice(unit.start, unit.stop)
            arrays = {
                "settle": MAPS["settle"][part].astype(np.uint8),
                "label": np.full(4, -1, np.int32),
                "image_id": np.array([str(k) for k in unit], dtype=object),
                "group": np.array([0, 1, 2 if number == 1 else 1, 0], np.int32),
            }
            writer.write_unit(number, arrays, {})
        writer.finalise({})
    damage = fs.verify(target).damage
    assert [str(one.what) for one in damage] == ["holds the group 2, expected 0 to 1"]
    with pytest.raises(StoreError, match="group of image 6 is 2, expected 0 to 1"):
        _ = fs.open(target).groups


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "has the array group and lacks the attribute group_names"),
        ([], "attribute group_names is"),
        (["p", "p"], "a list of names that differ"),
        ("pq", "a list of names that differ"),
        ([1, 2], "a list of names that differ"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, names: Any, message: str) -> None:
    made(tmp_path / "a.zarr", group=PHOTOS)

    def change(document: dict[str, Any]) -> None:
        own = document["attributes"]["frictionstore"]
        own.pop("group_names")
        if names is not None:
            own["group_names"] = names

    reseal(tmp_path / "a.zarr", change)
    with pytest.raises(StoreError, match=message):
        fs.open(tmp_path / "a.zarr")


def test_a_csv_file_gives_groups(tmp_path: Path) -> None:
    file = tmp_path / "g.csv"
    file.write_bytes('\ufeffgroup,note,id\r\np,x,a\r\n"q, 2",,b\r\n'.encode())
    found = read_groups(file)
    assert found.of(["b", "a", "a"], "there") == ["q, 2", "p", "p"]
    with pytest.raises(RequestError, match=r"gives no group for 1 of 2 images of there \(c\)"):
        found.of(["a", "c"], "there")


def test_only_a_lines_end_ends_a_line(tmp_path: Path) -> None:
    ids = ["a\nb", "a\r\nb", "a\x0bb", "a\x0cb", "a\x1cb", "a\x85b", "a\u2028b", "007", 'a,"b']
    for end in ("\n", "\r\n", "\r"):
        file = io.StringIO(newline="")
        lines = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator=end)
        lines.writerows([("id", "group"), *((one, f"g {one}") for one in ids)])
        (tmp_path / "g.csv").write_bytes(file.getvalue().encode())
        assert read_groups(tmp_path / "g.csv").groups == {one: f"g {one}" for one in ids}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its first line must name id and group"),
        (b"id,photo\na,p\n", "has the columns id, photo: its first line must name id and group"),
        (b"id,group\na,p\na,q\n", "line 3 names the id 'a' again"),
        (b"id,group\na,\n", "line 2 has no group: give both"),
        (b"id,group\na\n", "line 2 has no group: give both"),
        (b"id,group\n,p\n", "line 2 has no id: give both"),
        (b"id,group\na,\xff\n", "is not a CSV file of UTF-8 text"),
        (b"id,group\na,b,p\n", "line 2 has more values than there are columns"),
        (b"id,group,group\na,p,q\n", "has 2 columns group: keep one"),
        (b"id,id,group\na,b,p\n", "has 2 columns id: keep one"),
        (b'id,group\na,"p\n', "is not a CSV file of UTF-8 text"),
    ],
)
def test_csv_files_that_say_nothing(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "g.csv").write_bytes(data)
    with pytest.raises(RequestError, match=message):
        read_groups(tmp_path / "g.csv")


def test_no_file_and_no_pipe(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file"):
        read_groups(tmp_path / "none.csv")
    with pytest.raises(RequestError, match="it is no file"):
        read_groups(tmp_path)
