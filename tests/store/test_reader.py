"""Reading: refusal of what is incomplete or damaged, arrays, chunk iteration, xarray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import frictionstore as fs
from frictionstore.errors import RequestError, StoreError
from frictionstore.format.header import parse_manifest
from frictionstore.store.rows import BLOCK_BYTES, RowReader, _spans
from tests.support import DATA, MakeStore, random_maps


def rewrite_group(path: Path, change: object) -> None:
    """Change the group's metadata and make the manifest agree, as only an attacker would."""
    import hashlib

    document = json.loads((path / "zarr.json").read_text())
    change(document)  # type: ignore[operator]
    data = json.dumps(document).encode()
    (path / "zarr.json").write_bytes(data)
    lines = (path / "MANIFEST.sha256").read_text().splitlines()
    new = [
        f"{hashlib.sha256(data).hexdigest()}  zarr.json" if line.endswith("  zarr.json") else line
        for line in lines
    ]
    (path / "MANIFEST.sha256").write_text("\n".join(new) + "\n")


def test_what_a_store_says_about_itself(make_store: MakeStore) -> None:
    store = make_store(n=12, grid=4, modes=4)
    assert (store.n_images, store.grid, store.n_modes, len(store)) == (12, (4, 4), 4, 12)
    assert store.maps == ("S", "friction", "settle")
    assert store.class_names == ["class0", "class1", "class2"]
    assert store.name == "small"
    assert "friction" in store
    assert "S_orig" not in store
    assert repr(store).startswith("<frictionstore.Store small: 12 images, grid 4 x 4, 4 modes")
    assert len(store.digest) == len(store.fingerprint) == 64


def test_arrays_are_zarr_arrays_with_names(make_store: MakeStore) -> None:
    store = make_store()
    assert store.friction[:2].shape == (2, 4, 4, 4)
    assert store.friction.metadata.dimension_names == ("image", "row", "col", "mode")
    assert store["settle"].dtype == np.uint8
    with pytest.raises(StoreError, match="has no map 'frictoin': it has S, friction, settle"):
        store["frictoin"]
    with pytest.raises(AttributeError, match="no attribute 'frictoin'"):
        _ = store.frictoin


def test_any_zarr_reader_opens_it(make_store: MakeStore) -> None:
    import xarray as xr
    import zarr

    store = make_store(n=5, shard_images=2)
    with xr.open_zarr(store.location, chunks=None) as dataset:
        assert dict(dataset.sizes) == {"image": 5, "row": 4, "col": 4, "mode": 4}
        assert dataset.friction.attrs["units"] == "1"
        np.testing.assert_array_equal(dataset.friction.values, store.friction[:])
    np.testing.assert_array_equal(store.to_xarray().S.values, store.S[:])
    group = zarr.open_group(store.location, mode="r")
    np.testing.assert_array_equal(group["settle"][:], store.settle[:])


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batch=st.none() | st.integers(1, 40),
    threads=st.integers(1, 3),
    shard=st.sampled_from([1, 4, 16, 32]),
)
def test_chunks_add_up_to_the_whole(
    tmp_path: Path, batch: int | None, threads: int, shard: int
) -> None:
    path = tmp_path / f"s{shard}.zarr"
    maps = random_maps(n=29)
    if not path.exists():
        fs.from_arrays(path, maps, shard_images=shard)
    parts: list[dict[str, np.ndarray]] = []
    expected = 0
    for rows, arrays in fs.open(path).iter_chunks(("settle", "friction"), batch, threads):
        assert rows.start == expected
        assert {len(a) for a in arrays.values()} == {rows.stop - rows.start}
        assert batch is None or rows.stop - rows.start == min(batch, 29 - rows.start)
        expected = rows.stop
        parts.append(arrays)
    assert expected == 29
    for name in ("settle", "friction"):
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), maps[name])


@pytest.mark.parametrize("shard", [4, 8, 32])
@pytest.mark.parametrize("batch", [None, 1, 5, 100])
def test_a_part_need_not_begin_where_chunks_do(
    tmp_path: Path, batch: int | None, shard: int
) -> None:
    maps = random_maps(n=29)
    store = fs.from_arrays(tmp_path / "s.zarr", maps, shard_images=shard)
    for start, stop in ((0, 29), (0, 1), (3, 4), (6, 15), (8, 28), (28, 29)):
        expected, parts = start, []
        part = slice(start, stop)
        for rows, arrays in store.iter_chunks(("settle", "friction"), batch, part=part):
            assert rows.start == expected
            assert batch is None or rows.stop - rows.start == min(batch, stop - rows.start)
            expected = rows.stop
            parts.append(arrays)
        assert expected == stop
        for name in ("settle", "friction"):
            found = np.concatenate([one[name] for one in parts])
            np.testing.assert_array_equal(found, maps[name][part])


def test_blocks_end_where_chunks_do_and_grow_up_to_what_one_may_hold() -> None:
    for start, stop, chunk, most, each in ((0, 100, 4, 40, 2), (3, 99, 8, 16, 1), (5, 6, 4, 1, 3)):
        spans = list(_spans(start, stop, chunk, most, each))
        assert [first for first, _ in spans] == [start, *(last for _, last in spans[:-1])]
        assert spans[-1][1] == stop
        assert all(last % chunk == 0 for _, last in spans[:-1])
        lengths = [-(-last // chunk) - first // chunk for first, last in spans]  # in chunks
        assert set(lengths[:each]) == {1}
        assert max(lengths) <= max(most // chunk, 1)
        assert len(spans) < 2 or lengths[0] < lengths[-2] or most < 2 * chunk


def test_who_looks_at_the_first_images_waits_for_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = {"friction": np.zeros((512, 64, 64, 4), np.float32)}  # 64 kB an image, 32 MB
    store = fs.from_arrays(tmp_path / "s.zarr", maps)
    read: list[int] = []
    plain = RowReader.read

    def counted(self: RowReader, name: str, start: int, stop: int, *how: Any) -> np.ndarray:
        read.append(stop - start)
        return plain(self, name, start, stop, *how)

    monkeypatch.setattr(RowReader, "read", counted)
    chunks = store.iter_chunks("friction", threads=1)
    next(chunks)
    chunk = store.header.arrays["friction"].chunk_images
    assert sum(read) <= 4 * chunk
    for _ in chunks:
        pass
    assert max(read) * 65_536 == max(BLOCK_BYTES, chunk * 65_536)
    assert sum(read) == 512


def test_iter_chunks_takes_one_name_and_refuses_nonsense(make_store: MakeStore) -> None:
    store = make_store()
    assert next(iter(store.iter_chunks("S")))[1]["S"].shape == (12, 4, 4, 4)
    with pytest.raises(RequestError, match="batch is 0"):
        next(iter(store.iter_chunks("S", batch=0)))
    with pytest.raises(RequestError, match="threads is 0"):
        next(iter(store.iter_chunks("S", threads=0)))
    with pytest.raises(StoreError, match="has no map 'recon_error'"):
        next(iter(store.iter_chunks(["S", "recon_error"])))


def test_stopping_early_is_fine(make_store: MakeStore) -> None:
    store = make_store(n=12, shard_images=1)
    for rows, _ in store.iter_chunks("S", threads=2):
        if rows.start >= 2:
            break
    assert next(iter(store.iter_chunks("S")))[0].start == 0


# ---- refusal ------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        fs.open(tmp_path / "absent.zarr")


def test_other_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no zarr.json"):
        fs.open(tmp_path)
    (tmp_path / "file").write_bytes(b"\0\1\2")
    with pytest.raises(StoreError):
        fs.open(tmp_path / "file")


def test_somebody_elses_zarr(tmp_path: Path) -> None:
    import zarr

    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="a Zarr group that frictionstore did not write"):
        fs.open(tmp_path / "other.zarr")


def test_without_its_manifest_it_is_not_complete(make_store: MakeStore) -> None:
    store = make_store()
    Path(store.location, "MANIFEST.sha256").unlink()
    with pytest.raises(StoreError, match=r"is not complete: it has no MANIFEST\.sha256"):
        fs.open(store.location)


def test_changed_metadata_is_noticed(make_store: MakeStore) -> None:
    path = Path(make_store().location)
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"class0"', '"class9"'))
    with pytest.raises(StoreError, match="damaged: zarr.json is not the file that MANIFEST"):
        fs.open(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 3, "has format 3, this version reads formats 1 and 2"),
        ("format", True, "no format number"),
        ("format", None, "no format number"),
        ("complete", False, "is not complete"),
        ("complete", "yes", "is not complete"),
        ("request", [1], "attribute request is .* expected an object"),
        ("fingerprint", "0" * 64, "attribute fingerprint is .* expected the request's hash"),
        ("class_names", [1, 2], "attribute class_names .* expected a list of names"),
        ("mode_order", "ascending", 'expected "descending"'),
        ("shard_bytes", {}, "attribute shard_bytes names 0 files, expected 5"),
        ("shard_bytes", {"S/c/0/0/0/0": "big"}, "expected an object of file sizes"),
    ],
)
def test_attributes_are_validated(
    make_store: MakeStore, key: str, value: object, message: str
) -> None:
    path = Path(make_store().location)
    rewrite_group(path, lambda d: d["attributes"]["frictionstore"].__setitem__(key, value))
    with pytest.raises(StoreError, match=message):
        fs.open(path)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("S", "shape", [12, 4, 4], "array S has shape .* expected 4 positive numbers"),
        ("S", "shape", [12, 4, -4, 4], "array S has shape"),
        ("S", "data_type", "float64", 'array S has data_type "float64", expected "float32"'),
        ("settle", "fill_value", 0, "array settle has fill_value 0, expected 255"),
        ("friction", "codecs", [], "array friction has chunks or codecs"),
        ("friction", "dimension_names", None, "array friction has dimension_names null"),
        ("label", "shape", [13], "has 12 images in shards of 16, label has 13"),
        ("S", "chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [8, 2, 4, 4]}},
         "which splits images"),
    ],
)  # fmt: skip
def test_arrays_are_validated(
    make_store: MakeStore, name: str, key: str, value: object, message: str
) -> None:
    path = Path(make_store().location)

    def change(document: dict) -> None:
        document["consolidated_metadata"]["metadata"][name][key] = value

    rewrite_group(path, change)
    with pytest.raises(StoreError, match=message):
        fs.open(path)


def test_a_missing_shard_is_an_error_and_not_a_fill_value(make_store: MakeStore) -> None:
    store = make_store(n=12, shard_images=4)
    Path(store.location, "friction/c/1/0/0/0").unlink()
    again = fs.open(store.location)
    np.testing.assert_array_equal(again.friction[:4], store.friction[:4])
    with pytest.raises(StoreError, match="damaged: friction/c/1/0/0/0 is missing"):
        again.friction[4:8]
    with pytest.raises(StoreError, match="friction/c/1/0/0/0 is missing"):
        list(again.iter_chunks("friction"))
    assert sum(r.stop - r.start for r, _ in again.iter_chunks("S")) == 12


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_an_error_that_names_array_images_and_file(
    make_store: MakeStore, where: float
) -> None:
    store = make_store(n=12, shard_images=4)
    file = Path(store.location, "S/c/2/0/0/0")
    data = bytearray(file.read_bytes())
    data[int(len(data) * where)] ^= 4
    file.write_bytes(data)
    with pytest.raises(StoreError, match=r"S of images 8\.\.11 cannot be read from S/c/2/0/0/0"):
        list(fs.open(store.location).iter_chunks("S"))


def test_labels_outside_the_classes_are_refused(make_store: MakeStore) -> None:
    store = make_store()
    rewrite_group(
        Path(store.location),
        lambda d: d["attributes"]["frictionstore"].__setitem__("class_names", ["only"]),
    )
    with pytest.raises(StoreError, match="label of image 1 is 1, expected -1 to 0"):
        _ = fs.open(store.location).labels


@pytest.mark.parametrize(
    "text",
    [
        "", "zarr.json\n", "0" * 64 + " zarr.json\n", "0" * 64 + "  ../secret\n",
        "0" * 64 + "  /etc/passwd\n", "0" * 64 + "  a/../../b\n",
        "0" * 64 + "  zarr.json\n" + "0" * 64 + "  zarr.json\n", "\xff\n",
    ],
)  # fmt: skip
def test_manifests_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(StoreError, match=r"MANIFEST\.sha256"):
        parse_manifest(text.encode("latin-1"), "here")


# ---- the format of version 1 ---------------------------------------------------------------------


def test_a_store_of_format_1_still_reads() -> None:
    """The store was written by tools/make_format_store.py; its arrays lie beside it in an .npz."""
    store = fs.open(DATA / "stores/v1/reference.zarr")
    expected = np.load(DATA / "stores/v1/reference.npz")
    assert set(store.maps) == set(expected.files) - {"label", "image_id"}
    for name in expected.files:
        found = store.image_ids if name == "image_id" else store[name][:]
        np.testing.assert_array_equal(found, expected[name])
    store.header.check_files()
    assert store.class_names == ["cat", "dog"]
    assert store.digest == "635ecb50ebed819fa0683a3b7a482d65465e21bdeb7eeb1af10fa618bbc65c7b"
