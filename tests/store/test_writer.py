"""Writing: units, journal, resume, finalise, refusal of other targets."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.errors import BusyError, StoreError
from frictionstore.format import schema
from frictionstore.format.plan import StorePlan
from frictionstore.io import owned
from frictionstore.io.owned import exclusive
from frictionstore.store.writer import StoreWriter, partial_path, up_to_date

N, SHARD = 11, 4
ROWS = {"S": (2, 3, 4), "friction": (2, 3, 4), "settle": (2, 3, 4)}


def plan(**changes: Any) -> StorePlan:
    request = {"kind": "test", "format": 1, "content": changes.pop("content", "a")}
    return StorePlan(request, N, ROWS, SHARD, ["x", "y"], **changes)


def rows_of(unit: range, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    whole = {
        "S": rng.random((N, 2, 3, 4)).astype(np.float32),
        "friction": rng.random((N, 2, 3, 4)).astype(np.float32),
        "settle": rng.integers(0, 6, (N, 2, 3, 4)).astype(np.uint8),
        "label": (np.arange(N) % 2).astype(np.int32),
        "image_id": np.array([f"img-{i}" for i in range(N)], dtype=object),
    }
    return {name: array[unit.start : unit.stop] for name, array in whole.items()}


def write(target: Path, order: list[int] | None = None, stop_after: int | None = None) -> None:
    the_plan = plan()
    with StoreWriter(target, the_plan) as writer:
        numbers = writer.pending if order is None else [n for n in order if n in writer.pending]
        for done, number in enumerate(numbers):
            if done == stop_after:
                return
            writer.write_unit(number, rows_of(the_plan.units[number]), {"device": "test"})
        writer.finalise({"made_by": "a test"})


def content(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "provenance.json"
    }


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr")
    store = fs.open(tmp_path / "a.zarr")
    expected = rows_of(range(N))
    for name in ROWS:
        np.testing.assert_array_equal(store[name][:], expected[name])
    np.testing.assert_array_equal(store.labels, expected["label"])
    assert store.image_ids.tolist() == expected["image_id"].tolist()
    assert store.provenance["runs"] == [{"device": "test"}]


def test_nothing_of_the_work_is_left(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr"]
    assert sorted(p.name for p in (tmp_path / "a.zarr").iterdir()) == [
        "MANIFEST.sha256", "S", "friction", "image_id", "label", "provenance.json", "settle",
        "zarr.json",
    ]  # fmt: skip


def test_sha256sum_checks_the_manifest(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr")
    command = ["sha256sum", "--strict", "-c", "MANIFEST.sha256"]
    done = subprocess.run(command, cwd=tmp_path / "a.zarr", capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""
    listed = {
        line.split("  ")[1]
        for line in (tmp_path / "a.zarr/MANIFEST.sha256").read_text().splitlines()
    }
    assert listed == set(content(tmp_path / "a.zarr")) - {"MANIFEST.sha256"}


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 2, 0]])
def test_order_of_units_does_not_matter(tmp_path: Path, order: list[int]) -> None:
    write(tmp_path / "a.zarr")
    write(tmp_path / "b.zarr", order)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


def test_interrupted_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr")
    write(tmp_path / "b.zarr", stop_after=1)
    assert not (tmp_path / "b.zarr").exists()
    with pytest.raises(StoreError, match="is not complete yet"):
        fs.open(tmp_path / "b.zarr")
    write(tmp_path / "b.zarr", stop_after=1)
    with StoreWriter(tmp_path / "b.zarr", plan()) as writer:
        assert writer.pending == [2]
    write(tmp_path / "b.zarr")
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


def test_a_damaged_recorded_unit_is_done_again(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", stop_after=2)
    shard = partial_path(tmp_path / "a.zarr") / "friction/c/1/0/0/0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with StoreWriter(tmp_path / "a.zarr", plan()) as writer:
        assert writer.pending == [1, 2]
    write(tmp_path / "a.zarr")
    write(tmp_path / "b.zarr")
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


def test_temporary_files_of_a_killed_run_do_not_get_into_the_store(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", stop_after=1)
    partial = partial_path(tmp_path / "a.zarr")
    (partial / "S/c/1/0/0").mkdir(parents=True)
    (partial / "S/c/1/0/0/0.0123.partial").write_bytes(b"half a shard")
    (partial / ".zarr.json.77.tmp").write_bytes(b"{")
    write(tmp_path / "a.zarr")
    write(tmp_path / "b.zarr")
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


def test_finalise_names_what_is_missing(tmp_path: Path) -> None:
    the_plan = plan()
    with StoreWriter(tmp_path / "a.zarr", the_plan) as writer:
        writer.write_unit(1, rows_of(the_plan.units[1]), {})
        with pytest.raises(StoreError, match=r"lacks images 0\.\.3, 8\.\.10"):
            writer.finalise({})


def test_killed_between_manifest_and_rename(tmp_path: Path) -> None:
    """The last step alone is left: another run does it without writing a unit."""
    write(tmp_path / "a.zarr")
    expected = content(tmp_path / "a.zarr")
    partial = (tmp_path / "a.zarr").rename(partial_path(tmp_path / "a.zarr"))
    owned.mark(partial, tmp_path / "a.zarr", "unfinished store")
    with StoreWriter(tmp_path / "a.zarr", plan()) as writer:
        assert writer.pending == []
        writer.finalise({})
    assert content(tmp_path / "a.zarr") == expected


def test_an_unfinished_other_run_is_not_thrown_away(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", stop_after=1)
    before = content(partial_path(tmp_path / "a.zarr"))
    with pytest.raises(StoreError, match='unfinished rest of another run .*content is "a" there'):
        StoreWriter(tmp_path / "a.zarr", plan(content="b")).__enter__()
    assert content(partial_path(tmp_path / "a.zarr")) == before
    with StoreWriter(tmp_path / "a.zarr", plan(content="b"), overwrite=True) as writer:
        assert writer.pending == [0, 1, 2]


def test_an_other_store_is_replaced_only_when_the_new_one_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.zarr"
    write(target)
    before = content(target)
    other = plan(content="b")
    with pytest.raises(
        StoreError, match='holds another store .*content is "a" there, "b" was asked'
    ):
        StoreWriter(target, other).__enter__()
    with StoreWriter(target, other, overwrite=True) as writer:
        for number in writer.pending:
            writer.write_unit(number, rows_of(other.units[number], seed=1), {})
            assert content(target) == before
        writer.finalise({})
    assert fs.open(target).request["content"] == "b"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr"]


def test_killed_between_the_two_renames_of_a_replacement(tmp_path: Path) -> None:
    target = tmp_path / "a.zarr"
    write(target)
    before = content(target)
    owned.mark(target, target, "replaced")
    target.rename(tmp_path / "a.zarr.replaced")
    with StoreWriter(target, plan()) as writer:
        assert writer.already_complete
    assert content(target) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_something_that_is_not_a_store_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter1.txt").write_text("precious")
    with pytest.raises(StoreError, match="exists and is not a store"):
        StoreWriter(target, plan(), overwrite=overwrite).__enter__()
    assert (target / "chapter1.txt").read_text() == "precious"


def test_something_else_in_the_place_of_the_partial_folder(tmp_path: Path) -> None:
    partial = partial_path(tmp_path / "a.zarr")
    partial.mkdir()
    (partial / "notes.txt").write_text("precious")
    with pytest.raises(StoreError, match="is not what an interrupted run left"):
        StoreWriter(tmp_path / "a.zarr", plan()).__enter__()
    assert (partial / "notes.txt").read_text() == "precious"


def test_up_to_date(tmp_path: Path) -> None:
    target = tmp_path / "a.zarr"
    assert not up_to_date(target, plan().request)
    write(target)
    assert up_to_date(target, plan().request)
    (target / "settle/c/2/0/0/0").unlink()
    with pytest.raises(StoreError, match="is damaged: settle/c/2/0/0/0 is missing"):
        up_to_date(target, plan().request)


def test_the_second_writer_is_told_who_holds_the_target(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "a.zarr", plan()):
        with pytest.raises(
            BusyError, match=r"is being written by process \d+ on \S+ since 20\d\d-"
        ):
            StoreWriter(tmp_path / "a.zarr", plan()).__enter__()
    with StoreWriter(tmp_path / "a.zarr", plan()):
        pass


def test_a_lock_left_by_a_dead_process_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "x.lock").write_text(json.dumps({"pid": 1, "host": "h", "since": "s"}))
    with exclusive(tmp_path / "x"):
        pass
    assert not (tmp_path / "x.lock").exists()


def test_a_read_only_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="while writing"):
        StoreWriter(tmp_path / "file" / "a.zarr", plan()).__enter__()


def test_full_disk_keeps_finished_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    the_plan = plan()
    with StoreWriter(tmp_path / "a.zarr", the_plan) as writer:
        writer.write_unit(0, rows_of(the_plan.units[0]), {})

        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("frictionstore.store.unit._encoded", full)
            with pytest.raises(StoreError, match="no space left .* unit 1 .* run the same command"):
                writer.write_unit(1, rows_of(the_plan.units[1]), {})
    with StoreWriter(tmp_path / "a.zarr", the_plan) as writer:
        assert writer.pending == [1, 2]


def test_every_inner_chunk_is_written_and_guarded(tmp_path: Path) -> None:
    """Chunks equal to the fill value are written too, and each ends in a CRC32C of its bytes."""
    import google_crc32c

    fills = {
        "S": np.full((N, 2, 3, 4), np.nan, np.float32),
        "friction": np.full((N, 2, 3, 4), np.nan, np.float32),
        "settle": np.full((N, 2, 3, 4), 255, np.uint8),
        "label": np.full(N, -(1 << 31), np.int32),
        "image_id": np.array([""] * N, dtype=object),
    }
    the_plan = plan()
    with StoreWriter(tmp_path / "a.zarr", the_plan) as writer:
        for number, unit in enumerate(the_plan.units):
            writer.write_unit(number, {k: v[unit.start : unit.stop] for k, v in fills.items()}, {})
        writer.finalise({})
    for array in the_plan.arrays.values():
        data = (tmp_path / "a.zarr" / array.shard_key(0)).read_bytes()
        chunks = array.shard_images // array.chunk_images
        index = np.frombuffer(data[-16 * chunks - 4 : -4], "<u8").reshape(chunks, 2)
        assert google_crc32c.value(data[-16 * chunks - 4 : -4]) == int.from_bytes(
            data[-4:], "little"
        )
        for offset, length in index:
            chunk = data[int(offset) : int(offset + length)]
            assert google_crc32c.value(chunk[:-4]) == int.from_bytes(chunk[-4:], "little")


def test_a_finished_store_depends_on_nothing_outside_it(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr")
    digest = hashlib.sha256((tmp_path / "a.zarr/MANIFEST.sha256").read_bytes()).hexdigest()
    shutil.move(tmp_path / "a.zarr", tmp_path / "elsewhere")
    store = fs.open(tmp_path / "elsewhere")
    assert store.digest == digest
    assert str(tmp_path) not in "".join(
        data.decode("latin-1") for key, data in content(tmp_path / "elsewhere").items()
    )
    assert store.attributes["complete"] is True
    assert store.header.shard_bytes.keys() == {
        array.shard_key(unit) for array in plan().arrays.values() for unit in range(3)
    }
    assert schema.FORMAT == 1
