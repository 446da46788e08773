"""`verify` finds every kind of damage and names it; repair writes again only what broke."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import frictionstore as fs
from frictionstore.check.repair import what_to_keep
from frictionstore.check.verify import verify
from frictionstore.errors import StoreError
from frictionstore.format import header
from frictionstore.store.writer import StoreWriter, partial_path
from tests import making


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def reseal(store: Path) -> None:
    """Make manifest and attributes fit the files, as if the damage had been written so."""
    from frictionstore.format.shards import checksums

    path = store / "zarr.json"
    document = json.loads(path.read_bytes())
    own = document["attributes"]["frictionstore"]
    for key in own["shard_bytes"]:
        data = (store / key).read_bytes()
        own["shard_bytes"][key] = len(data)
        plan = header.read_header(store).arrays[key.split("/")[0]]
        own["shard_crc32c"][key] = checksums(
            lambda start, count, data=data: data[start : start + count],
            len(data), plan.shard_chunks, plan.unit_chunks(int(key.split("/")[2])),
        )  # fmt: skip
    path.write_text(json.dumps(document))
    lines = []
    for line in (store / "MANIFEST.sha256").read_text().splitlines():
        key = line.split("  ")[1]
        lines.append(f"{hashlib.sha256((store / key).read_bytes()).hexdigest()}  {key}\n")
    (store / "MANIFEST.sha256").write_text("".join(lines))


def test_sound_store_and_its_counts(whole: Path) -> None:
    report = verify(whole)
    assert report.ok
    assert report.units == []
    assert report.strays_checked
    files = [path for path in whole.rglob("*") if path.is_file()]
    assert report.files == len(files) - 2  # the manifest and the provenance are not in it
    sizes = {p.relative_to(whole).as_posix(): p.stat().st_size for p in files}
    apart = sizes["MANIFEST.sha256"] + sizes["provenance.json"]
    assert report.bytes == sum(sizes.values()) - apart
    assert report.digest == hashlib.sha256((whole / "MANIFEST.sha256").read_bytes()).hexdigest()


def test_manifest_is_what_sha256sum_reads(whole: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "MANIFEST.sha256"], cwd=whole, capture_output=True
    )
    assert done.returncode == 0, done.stderr


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flipped_bit_is_found(whole: Path, data: st.DataObject) -> None:
    keys = sorted(making.content(whole))
    key = data.draw(st.sampled_from(keys))
    bit = data.draw(st.integers(0, 8 * (whole / key).stat().st_size - 1))
    before = (whole / key).read_bytes()
    try:
        flip(whole / key, bit)
        if key == "MANIFEST.sha256":
            try:
                damaged = bool(verify(whole).damage)
            except StoreError:
                damaged = True
            assert damaged
        else:
            assert key in {d.file for d in verify(whole).damage}
    finally:
        (whole / key).write_bytes(before)


def test_damage_is_named_by_file_and_images(copy: Path) -> None:
    (copy / "friction/c/1/0/0/0").unlink()
    (copy / "S/c/2/0/0/0").write_bytes(b"")
    shutil.copy(copy / "label/c/0", copy / "label/c/1")
    (copy / "notes.txt").write_text("mine")
    report = verify(copy)
    found = {d.file: (d.first, d.last) for d in report.damage}
    assert found == {
        "friction/c/1/0/0/0": (16, 31),
        "S/c/2/0/0/0": (32, 39),
        "label/c/1": (16, 31),
        "notes.txt": (None, None),
    }
    assert report.units == [1, 2]
    assert verify(copy).units == [1, 2]


def test_quick_finds_missing_and_cut_files_only(copy: Path) -> None:
    flip(copy / "S/c/0/0/0/0", 99)
    (copy / "S/c/1/0/0/0").write_bytes((copy / "S/c/1/0/0/0").read_bytes()[:-1])
    (copy / "settle/c/2/0/0/0").unlink()
    quick = verify(copy, quick=True)
    assert [d.file for d in quick.damage] == ["S/c/1/0/0/0", "settle/c/2/0/0/0"]
    assert quick.chunks == 0
    assert "S/c/0/0/0/0" in {d.file for d in verify(copy).damage}


def test_a_file_of_another_shard_is_found_although_sound_in_itself(copy: Path) -> None:
    a, b = copy / "S/c/0/0/0/0", copy / "S/c/1/0/0/0"
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    assert {d.file for d in verify(copy).damage} == {"S/c/0/0/0/0", "S/c/1/0/0/0"}
    with pytest.raises(StoreError, match="S/c/0/0/0/0"):
        fs.open(copy).read("S", slice(0, 4))


@pytest.mark.parametrize(
    ("name", "value", "said", "images"),
    [
        ("friction", np.nan, "not finite", (17, 17)),
        ("S", np.inf, "not finite", (17, 17)),
        ("settle", 255, "never written", (17, 17)),
        ("label", 3, "label 3", (17, 17)),
        ("label", -2, "label -2", (17, 17)),
        ("image_id", "", "empty", (17, 17)),
        ("image_id", "0/00003.png", "of image 3", (17, 17)),
    ],
)
def test_values_no_store_may_hold(
    copy: Path, name: str, value: object, said: str, images: tuple[int, int]
) -> None:
    zarr.open_array(str(copy / name), mode="r+")[17] = value
    reseal(copy)
    report = verify(copy)
    (damage,) = report.damage
    assert said in damage.what
    assert (damage.first, damage.last) == images
    assert report.units == [1]


def test_a_chunk_that_was_never_written_is_found(tmp_path: Path) -> None:
    """zarr would read fill values there."""
    target = tmp_path / "x.zarr"
    making.write(target, making.plan())
    array = zarr.open_array(str(target / "friction"), mode="r+")
    plan = header.read_header(target).arrays["friction"]
    assert plan.unit_chunks(0) == 1
    with zarr.config.set({"array.write_empty_chunks": False}):
        array[0:16] = np.nan
    with pytest.raises(StoreError):
        fs.open(target).read("friction", slice(0, 1))
    assert 0 in verify(target).units


def test_metadata_that_differs_from_the_consolidated(copy: Path) -> None:
    path = copy / "friction/zarr.json"
    document = json.loads(path.read_bytes())
    document["shape"][0] += 1
    path.write_text(json.dumps(document))
    reseal(copy)
    (damage,) = verify(copy).damage
    assert damage.file == "friction/zarr.json"
    assert "differs" in damage.what


def test_damaged_group_metadata_still_tells_which_files_are_sound(copy: Path) -> None:
    flip(copy / "zarr.json", 4000)
    flip(copy / "S/c/1/0/0/0", 500)
    report = verify(copy)
    assert {d.file for d in report.damage} == {"zarr.json", "S/c/1/0/0/0"}


# ---- repair ----------------------------------------------------------------------------------


def break_nothing(store: Path) -> None:
    pass


def break_bit(store: Path) -> None:
    flip(store / "S/c/1/0/0/0", 500)


def break_missing(store: Path) -> None:
    (store / "label/c/1").unlink()


def break_group(store: Path) -> None:
    flip(store / "zarr.json", 4000)


def lose_group(store: Path) -> None:
    (store / "zarr.json").unlink()


def lose_manifest(store: Path) -> None:
    (store / "MANIFEST.sha256").unlink()


def break_manifest(store: Path) -> None:
    (store / "MANIFEST.sha256").write_bytes(os.urandom(300))


def break_array_metadata(store: Path) -> None:
    (store / "settle/zarr.json").write_text("{}")


def add_stray(store: Path) -> None:
    (store / "S/stray").write_text("x")


def lose_group_and_a_shard(store: Path) -> None:
    lose_group(store)
    break_missing(store)


@pytest.mark.parametrize(
    ("damage", "written"),
    [
        (break_nothing, []),
        (break_bit, [1]),
        (break_missing, [1]),
        (break_group, []),
        (lose_group, []),
        (lose_manifest, []),
        (break_manifest, []),
        (break_array_metadata, []),
        (add_stray, []),
        # nothing proves any more that the files are this request's, so none is kept
        (lose_group_and_a_shard, [0, 1, 2]),
    ],
)
def test_repair_writes_what_broke_and_gives_the_same_bytes(
    whole: Path, copy: Path, damage: object, written: list[int]
) -> None:
    damage(copy)  # type: ignore[operator]
    assert making.write(copy, making.plan(), repair=True) == written
    found = making.content(copy)
    left = ["S/stray"] if damage is add_stray else []  # not ours to remove
    for name in left:
        assert found.pop(name) == b"x"
    assert found == making.content(whole)
    assert [one.file for one in verify(copy).damage] == left
    assert [path.name for path in copy.parent.iterdir()] == ["x.zarr"]


def test_repair_interrupted_at_any_unit_loses_nothing(whole: Path, copy: Path) -> None:
    for key in ("S/c/0/0/0/0", "S/c/2/0/0/0"):
        flip(copy / key, 77)
    before = making.content(copy)
    plan = making.plan()
    with StoreWriter(copy, plan, repair=what_to_keep) as writer:
        assert writer.pending == [0, 2]
        writer.write_unit(0, making.unit_arrays(plan, 0), {})
    assert making.content(copy) == before, "the damaged store stays until the new one is whole"
    assert partial_path(copy).is_dir()
    assert making.write(copy, plan, repair=True) == [2]
    assert making.content(copy) == making.content(whole)


def test_repair_refuses_another_store_and_what_is_no_store(copy: Path, tmp_path: Path) -> None:
    before = making.content(copy)
    with pytest.raises(StoreError, match=r"dataset\.seed is 0 there, 1 was asked for"):
        making.write(copy, making.plan(seed=1), repair=True)
    assert making.content(copy) == before
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.png").write_bytes(b"mine")
    with pytest.raises(StoreError, match="not a store that can be repaired"):
        making.write(other, making.plan(), repair=True)
    assert (other / "a.png").read_bytes() == b"mine"
    assert not partial_path(other).exists()
