"""Several runs write one store, without a lock."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zarr

from frictionstore.check.repair import what_to_keep
from frictionstore.check.verify import verify
from frictionstore.errors import DeviceError, RequestError, StoreError
from frictionstore.format.plan import StorePlan, document_bytes
from frictionstore.io.once import place_new
from frictionstore.store.part import PartWriter, parse_part
from frictionstore.store.place import partial_path
from frictionstore.store.unit import claim_name, record_name
from frictionstore.store.writer import StoreWriter
from tests import making

UNITS = 5
PLAN = making.plan(0, 16 * UNITS - 3)


def do(writer: StoreWriter, number: int, plan: StorePlan = PLAN, device: str = "cpu") -> None:
    run = {"device": device, "device_name": f"the {device} of this test"}
    writer.write_unit(number, making.unit_arrays(plan, number), run)


def run_part(target: Path, part: tuple[int, int], **options: Any) -> int:
    """One part from its beginning to its end; how many units it recorded."""
    with PartWriter(target, PLAN, part, **options) as writer:
        pending = writer.pending
        for number in pending:
            do(writer, number)
        if writer.recorded_by_all == UNITS:
            writer.finalise({"command": "test"})
    return len(pending)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    target = tmp_path_factory.mktemp("plain") / "x.zarr"
    making.write(target, PLAN)
    return making.content(target)


def test_parts_in_any_order_are_the_plain_store(tmp_path: Path, expected: dict[str, bytes]) -> None:
    for k, order in enumerate(itertools.permutations((1, 2, 3))):
        target = tmp_path / f"{k}.zarr"
        for place, number in enumerate(order):
            assert not target.exists()
            assert run_part(target, (number, 3)) == len(range(number - 1, UNITS, 3))
            assert target.exists() == (place == 2)
        assert making.content(target) == expected
        assert verify(target).ok
        assert run_part(target, (2, 3)) == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"{k}.zarr" for k in range(6)}


def test_more_parts_than_units(tmp_path: Path, expected: dict[str, bytes]) -> None:
    done = [run_part(tmp_path / "x.zarr", (number, 8)) for number in range(8, 0, -1)]
    assert done == [0, 0, 0, 1, 1, 1, 1, 1]
    assert making.content(tmp_path / "x.zarr") == expected


def test_the_plain_run_finishes_what_parts_left(tmp_path: Path, expected: dict[str, bytes]) -> None:
    target = tmp_path / "x.zarr"
    run_part(target, (2, 3))
    assert making.write(target, PLAN) == [0, 2, 3]
    assert making.content(target) == expected


def test_parts_and_plain_runs_at_once(tmp_path: Path, expected: dict[str, bytes]) -> None:
    """Three parts, one of them twice, and the plain run, which does units that others have too."""
    target = tmp_path / "x.zarr"
    arguments = [["--part", part] for part in ("1/3", "2/3", "2/3", "3/3")] + [[]]
    command = [sys.executable, "-m", "tests.torture.writing", str(target), "0", str(PLAN.n_images)]
    runs = [
        subprocess.Popen([*command, "0.02", *more], stderr=subprocess.PIPE, text=True)
        for more in arguments
    ]
    for run in runs:
        errors = run.communicate(timeout=100)[1]
        assert run.returncode == 0, errors
    assert making.content(target) == expected
    assert os.listdir(tmp_path) == ["x.zarr"]


# ---- claims ----------------------------------------------------------------------------------


def claim(target: Path, number: int, host: str, pid: int, age: float = 0.0) -> None:
    path = partial_path(target) / claim_name(number)
    path.write_text(json.dumps({"host": host, "pid": pid, "since": "2026-01-01"}))
    os.utime(path, (time.time() - age,) * 2)


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


@pytest.mark.parametrize(
    ("host", "pid", "age", "taken"),
    [
        ("elsewhere", lambda: 1, 0, False),
        ("elsewhere", lambda: 1, 90, False),
        ("elsewhere", lambda: 1, 110, True),
        (socket.gethostname(), os.getpid, 90, False),
        (socket.gethostname(), ended_process, 0, True),
        ("elsewhere", ended_process, 0, False),
    ],
)
def test_a_claim_is_another_s_until_it_is_over(
    tmp_path: Path, host: str, pid: Callable[[], int], age: float, taken: bool
) -> None:
    target = tmp_path / "x.zarr"
    run_part(target, (2, 3))
    claim(target, 3, host, pid(), age)
    with PartWriter(target, PLAN, (1, 3), claim_timeout=100) as writer:
        assert writer.pending == ([0, 3] if taken else [0])
        assert (3 in writer.held_by_others) == (not taken)
    left = partial_path(target) / claim_name(3)
    assert left.exists() == (not taken), "a claim is given back by who holds it, and by nobody else"


def test_a_claim_lives_while_its_holder_records(tmp_path: Path) -> None:
    """Units that wait for their turn are not taken for left behind."""
    target = tmp_path / "x.zarr"
    with PartWriter(target, PLAN, (1, 1), claim_timeout=100) as writer:
        last = partial_path(target) / claim_name(UNITS - 1)
        os.utime(last, (1, 1))
        do(writer, 0)
        assert time.time() - last.stat().st_mtime < 50
        with PartWriter(target, PLAN, (1, 1), claim_timeout=100) as other:
            assert other.pending == []


def test_a_claim_of_a_recorded_unit_is_no_obstacle(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """A run that was killed between its record and giving its claim back."""
    target = tmp_path / "x.zarr"
    run_part(target, (2, 3))
    claim(target, 1, "elsewhere", 1)
    for number in (1, 2, 3):
        run_part(target, (number, 3))
    assert making.content(target) == expected


def test_another_job_does_not_remove_a_claimed_folder(tmp_path: Path) -> None:
    target, other = tmp_path / "x.zarr", making.plan(1, PLAN.n_images)
    with PartWriter(target, PLAN, (1, 2)) as writer:
        with pytest.raises(StoreError, match="unfinished rest of another run"):
            making.write(target, other)
        with pytest.raises(StoreError, match="unfinished rest of another run"):
            PartWriter(target, other, (2, 2)).__enter__()
        do(writer, 0)
    assert (partial_path(target) / record_name(0)).exists()


# ---- twice -----------------------------------------------------------------------------------


def test_a_unit_that_was_measured_twice(tmp_path: Path) -> None:
    """The same bytes are kept as they are; others are refused, by the names of both devices."""
    target, other = tmp_path / "x.zarr", making.plan(7, PLAN.n_images)
    with PartWriter(target, PLAN, (1, 1)) as writer:
        do(writer, 0)
        record = (partial_path(target) / record_name(0)).read_bytes()
        with StoreWriter(target, PLAN) as second:
            assert second.pending == [1, 2, 3, 4]
            do(second, 0, device="cuda:0")
            assert (partial_path(target) / record_name(0)).read_bytes() == record
            with pytest.raises(StoreError, match=r"images 0\.\.15 .* cpu \(.* cuda:0 \("):
                do(second, 0, plan=other, device="cuda:0")
        for number in range(1, UNITS):
            do(writer, number)
        writer.finalise({})
    assert verify(target).ok


def test_a_shard_that_a_late_run_replaced_is_found(tmp_path: Path) -> None:
    """Renamed over by other bytes between a record and the end: no store is made of it."""
    target = tmp_path / "x.zarr"
    run_part(target, (2, 2))
    key = PLAN.arrays["S"].shard_key(1)
    (partial_path(target) / key).write_bytes(b"other bytes")
    with PartWriter(target, PLAN, (1, 2)) as writer:
        for number in writer.pending:
            do(writer, number)
        with pytest.raises(StoreError, match=r"lacks images 16\.\.31"):
            writer.finalise({})
    assert not target.exists()


def test_a_run_that_is_late_finds_the_store_finished(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    target = tmp_path / "x.zarr"
    with PartWriter(target, PLAN, (1, 1)) as late:
        do(late, 0)
        making.write(target, PLAN)
        with pytest.raises(StoreError):
            do(late, 1)
        assert late.taken_over()
        assert late.pending == []
        assert late.recorded_by_all == UNITS
        late.finalise({})
    assert making.content(target) == expected
    assert os.listdir(tmp_path) == ["x.zarr"], "no folder is made again"


def test_a_repair_that_fails_is_not_taken_for_finished(tmp_path: Path) -> None:
    """The damaged store has the name all the while, and its metadata are whole."""
    target = tmp_path / "x.zarr"
    making.write(target, PLAN)
    key = PLAN.arrays["S"].shard_key(1)
    damaged = bytearray((target / key).read_bytes())
    damaged[10] ^= 1
    (target / key).write_bytes(damaged)
    with StoreWriter(target, PLAN, repair=what_to_keep) as writer:
        assert writer.pending == [1]
        assert not writer.taken_over()
        claim(target, 1, "elsewhere", 1)
        with pytest.raises(StoreError, match=r"lacks images 16\.\.31"):
            writer.finalise({})


def test_metadata_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    """A part that begins while another finishes: the last bytes of zarr.json stay."""
    target = tmp_path / "x.zarr"
    run_part(target, (1, 2))
    group = partial_path(target) / "zarr.json"
    group.write_bytes(b"{}")
    run_part(target, (1, 2))
    assert group.read_bytes() == b"{}"


def test_place_new_places_once(tmp_path: Path) -> None:
    """One of many at once, and each of them finds it whole."""
    path = tmp_path / "claim"
    with ThreadPoolExecutor(8) as pool:
        placed = list(pool.map(lambda k: place_new(path, b"%d" % k * 5000), range(8)))
    assert sum(placed) == 1
    assert path.read_bytes() == b"%d" % placed.index(True) * 5000
    assert os.listdir(tmp_path) == ["claim"]


# ---- devices, options, threads -----------------------------------------------------------------


def test_devices_of_another_kind_are_refused(tmp_path: Path) -> None:
    with PartWriter(tmp_path / "x.zarr", PLAN, (1, 2)) as first:
        first.same_kind({"device": "cpu (A)", "torch": "2.9"})
        with PartWriter(tmp_path / "x.zarr", PLAN, (2, 2)) as second:
            second.same_kind({"device": "cpu (A)", "torch": "2.9"})
            with pytest.raises(DeviceError, match=r"begun with torch 2\.9, and here it is 2\.10"):
                second.same_kind({"device": "cpu (A)", "torch": "2.10"})
            with pytest.raises(DeviceError, match=r"device cpu \(A\), and here it is cuda \(B\)"):
                second.same_kind({"device": "cuda (B)", "torch": "2.9"})


def test_which_run_a_unit_is_of(tmp_path: Path) -> None:
    target = tmp_path / "x.zarr"
    with StoreWriter(target, PLAN) as writer:
        for number in range(UNITS):
            do(writer, number, device="cuda" if number == 3 else "cpu")
        writer.finalise({})
    said = json.loads((target / "provenance.json").read_bytes())
    assert [said["runs"][k]["device"] for k in said["run_of_unit"]] == [
        "cpu", "cpu", "cpu", "cuda", "cpu",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "1", "/", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1/²"])
def test_parts_that_are_none(text: str) -> None:
    with pytest.raises(RequestError, match="I/N"):
        parse_part(text)
    assert parse_part("3/3") == (3, 3)


def test_units_are_written_without_a_setting_of_the_whole_process(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """zarr's own setting is shared by all threads, and its default leaves chunks of zeros out."""

    def shared(*arguments: object, **options: object) -> None:
        raise AssertionError("a setting that other threads see")

    monkeypatch.setattr(zarr.config, "set", shared)
    with StoreWriter(tmp_path / "x.zarr", PLAN) as writer, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: do(writer, number), range(UNITS)))
        writer.finalise({})
    assert making.content(tmp_path / "x.zarr") == expected
    with StoreWriter(tmp_path / "zeros.zarr", making.plan(5)) as writer:
        for number in writer.pending:
            arrays = making.unit_arrays(writer.plan, number)
            writer.write_unit(number, {**arrays, "settle": 0 * arrays["settle"]}, {})
        writer.finalise({})
    assert verify(tmp_path / "zeros.zarr").ok, "every chunk is there, those of zeros as well"


def test_the_plan_is_one_of_the_folder(tmp_path: Path) -> None:
    target = tmp_path / "x.zarr"
    run_part(target, (1, 2))
    assert (partial_path(target) / "plan.json").read_bytes() == document_bytes(PLAN.as_json())
