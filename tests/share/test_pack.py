"""A zip is the store, byte for byte and in place; what is not such a zip is refused."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import frictionstore as fs
from frictionstore.check.verify import verify
from frictionstore.errors import FrictionstoreError, RequestError, StoreError
from frictionstore.share.pack import pack, unpack
from tests import making


@pytest.fixture(scope="module")
def zipped(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(pack(whole, tmp_path_factory.mktemp("zip") / "x.zarr.zip").target)


def rewritten(source: Path, target: Path, change: object) -> Path:
    """The zip with `change(info, data)` applied to every entry; None leaves it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            made = change(info, old.read(info))  # type: ignore[operator]
            if made is not None:
                new.writestr(*made)
    return target


def test_opens_as_a_store_where_it_lies(whole: Path, zipped: Path) -> None:
    a, b = fs.open(whole), fs.open(zipped)
    assert (b.digest, b.name, b.class_names) == (a.digest, "x", a.class_names)
    assert np.array_equal(a.labels, b.labels)
    assert np.array_equal(a.image_ids, b.image_ids)
    for name in a.maps:
        assert np.array_equal(a[name][:], b[name][:])
        assert np.array_equal(a[name][13:19], b[name][13:19])
    assert verify(zipped).ok
    xr.testing.assert_identical(a.to_xarray().load(), b.to_xarray().load())


def test_opens_with_zarr_and_xarray_alone(whole: Path, zipped: Path) -> None:
    store = zarr.storage.ZipStore(zipped, mode="r")
    try:
        data = xr.open_zarr(store)
        assert np.array_equal(data["friction"].values, fs.open(whole).friction[:])
        assert data["friction"].dims == ("image", "row", "col", "mode")
    finally:
        store.close()


def test_same_bytes_each_time_whatever_the_dates(whole: Path, copy: Path, zipped: Path) -> None:
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
        if path.is_file():
            path.chmod(0o600)
    again = Path(pack(copy, copy.parent / "again.zip").target)
    from_zip = Path(pack(zipped, copy.parent / "third.zip").target)
    assert again.read_bytes() == zipped.read_bytes() == from_zip.read_bytes()


def test_unpack_gives_the_store_back(whole: Path, zipped: Path, tmp_path: Path) -> None:
    outcome = unpack(zipped, tmp_path / "back.zarr")
    assert making.content(tmp_path / "back.zarr") == making.content(whole)
    assert outcome.digest == fs.open(whole).digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.zarr"]
    assert unpack(zipped, tmp_path / "back.zarr").files == 0, "a second time there is nothing to do"


def test_default_names_are_beside_the_source(copy: Path) -> None:
    assert pack(copy).target == str(copy.parent / "x.zarr.zip")
    with pytest.raises(RequestError, match=r"not a \.zip"):
        unpack(copy)
    with pytest.raises(RequestError, match=r"does not end in \.zip"):
        pack(copy, copy.parent / "x.tar")


def test_existing_targets_are_kept(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "y.zarr"
    making.write(other, making.plan(seed=1))
    archive = Path(pack(other, tmp_path / "a.zip").target)
    before = archive.read_bytes()
    with pytest.raises(StoreError, match="is not this store"):
        pack(copy, archive)
    assert archive.read_bytes() == before
    with pytest.raises(StoreError, match="another store"):
        unpack(archive, copy)
    assert fs.open(copy).request["dataset"]["seed"] == 0
    pack(copy, archive, overwrite=True)
    assert fs.open(archive).digest == fs.open(copy).digest
    pack(other, tmp_path / "b.zip")
    unpack(tmp_path / "b.zip", copy, overwrite=True)
    assert fs.open(copy).request["dataset"]["seed"] == 1


def test_a_damaged_store_is_not_packed(copy: Path) -> None:
    path = copy / "friction/c/1/0/0/0"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="friction/c/1/0/0/0"):
        pack(copy)
    assert [p.name for p in copy.parent.iterdir()] == ["x.zarr"]


def test_a_damaged_pack_is_made_again(copy: Path) -> None:
    archive = Path(pack(copy).target)
    sound = archive.read_bytes()
    data = bytearray(sound)
    data[1000] ^= 1
    archive.write_bytes(data)
    assert not verify(archive).ok
    pack(copy, overwrite=True)
    assert archive.read_bytes() == sound


NAMES = ["../evil", "/tmp/evil", "a/../../evil", "c:\\evil", "..\\evil"]


@pytest.mark.parametrize("name", NAMES)
def test_names_outside_the_target_are_refused(zipped: Path, tmp_path: Path, name: str) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(zipped.read_bytes())
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(StoreError, match="outside the store|does not name"):
        unpack(bad, inside / "x.zarr")
    assert list(inside.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.zip", "inside"]


def test_links_are_refused(zipped: Path, tmp_path: Path) -> None:
    def link(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        if info.filename == "S/c/0/0/0/0":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            data = b"/etc/passwd"
        return info, data

    bad = rewritten(zipped, tmp_path / "bad.zip", link)
    with pytest.raises(StoreError, match="no plain file"):
        unpack(bad, tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr").exists()


def test_compressed_entries_are_refused_with_what_works(zipped: Path, tmp_path: Path) -> None:
    def deflate(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        info.compress_type = zipfile.ZIP_DEFLATED
        return info, data

    bad = rewritten(zipped, tmp_path / "bad.zip", deflate)
    with pytest.raises(StoreError, match="frictionstore pack or zip -0"):
        fs.open(bad)


def test_a_bomb_is_not_expanded(zipped: Path, tmp_path: Path) -> None:
    """A gigabyte of zeros in a few kilobytes, in the place of a shard."""

    def bomb(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        if info.filename == "S/c/0/0/0/0":
            info.compress_type = zipfile.ZIP_DEFLATED
            data = bytes(200 << 20)
        return info, data

    bad = rewritten(zipped, tmp_path / "bad.zip", bomb)
    with pytest.raises(StoreError, match="compressed"):
        unpack(bad, tmp_path / "x.zarr")
    assert not list(tmp_path.glob("x.zarr*"))


def test_not_more_is_written_than_the_manifest_names(
    whole: Path, zipped: Path, tmp_path: Path
) -> None:
    def longer(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        if info.filename == "S/c/0/0/0/0":
            data += bytes(50 << 20)
            info.file_size = len(data)
        return info, data

    bad = rewritten(zipped, tmp_path / "bad.zip", longer)
    assert [d.file for d in verify(bad).damage] == ["S/c/0/0/0/0"]
    unpack(bad, tmp_path / "x.zarr")
    assert making.content(tmp_path / "x.zarr") == making.content(whole)


def test_unknown_and_double_entries_are_refused(zipped: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(zipped.read_bytes())
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr("setup.py", b"print('hello')")
    with pytest.raises(StoreError, match=r"setup\.py"):
        unpack(bad, tmp_path / "x.zarr")
    bad.write_bytes(zipped.read_bytes())
    with zipfile.ZipFile(bad, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("zarr.json", b"{}")
    with pytest.raises(StoreError, match="two entries"):
        fs.open(bad)
    assert not list(tmp_path.glob("x.zarr*"))


def test_a_folder_inside_the_zip_is_explained(whole: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as archive:
        for path in whole.rglob("*"):
            archive.write(path, f"x.zarr/{path.relative_to(whole)}")
    with pytest.raises(StoreError, match=r"holds a folder 'x\.zarr'"):
        fs.open(bad)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_changed_zip_reads_right_or_is_refused(
    zipped: Path, whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Bits flipped and the file cut: never wrong numbers, never another exception."""
    original = zipped.read_bytes()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(0, 3))):
        bit = data.draw(st.integers(0, 8 * len(changed) - 1))
        changed[bit // 8] ^= 1 << bit % 8
    if data.draw(st.booleans()):
        changed = changed[: data.draw(st.integers(0, len(changed)))]
    bad = tmp_path / "bad.zip"
    bad.write_bytes(changed)
    right = fs.open(whole)
    try:
        store = fs.open(bad)
        for name in right.maps:
            assert np.array_equal(store.read(name, slice(0, 40)), right.read(name, slice(0, 40)))
        assert np.array_equal(store.labels, right.labels)
    except FrictionstoreError as error:
        assert changed != original
        assert len(str(error).splitlines()) == 1  # noqa: PT017


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=3000))
def test_random_bytes_are_no_zip(tmp_path: Path, data: bytes) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(data)
    with pytest.raises(StoreError):
        fs.open(bad)


def test_pack_does_not_depend_on_python(zipped: Path, whole: Path) -> None:
    """The digest of a zip made from these bytes: a change of layout must be meant."""
    with zipfile.ZipFile(zipped) as archive:
        infos = archive.infolist()
    names = [info.filename for info in infos]
    content = sorted(making.content(whole))
    shards = [name for name in content if "/c/" in name]
    assert names[: len(shards)] == shards
    assert names[-3:] == ["zarr.json", "provenance.json", "MANIFEST.sha256"]
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.flag_bits for info in infos} == {0}
    assert {info.create_system for info in infos} == {3}
    assert {oct(info.external_attr >> 16) for info in infos} == {"0o100644"}
