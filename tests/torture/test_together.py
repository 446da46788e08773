"""Two writers on one target, and readers while a store is written, replaced or mended."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.errors import StoreError
from tests import making
from tests.torture.processes import Work, Zygote, command, zygote


def test_two_writers_on_one_target(
    tmp_path: Path,
    child: Zygote,
    other_child: Zygote,
    counts: Counter[str],
    full: bool,
    seed: int,
) -> None:
    """One writes, the other is told who does; the store is right."""
    reference, target = tmp_path / "reference.zarr", tmp_path / "x.zarr"
    making.write(reference, making.plan(0, 80))
    expected = making.content(reference)
    rng = np.random.default_rng([seed, 8])
    work = Work("tests.torture.writing:write", [str(target), "0", "80", "0.01"])
    for _ in range(50 if full else 3):
        shutil.rmtree(target, ignore_errors=True)
        child.start(work)
        time.sleep(rng.uniform(0, 0.1))
        other_child.start(work)
        ends = [child.wait(), other_child.wait()]
        assert 0 in [ended.status for ended in ends]
        for ended in ends:
            if ended.status != 0:
                assert "is being written by" in ended.check_sentence()
                counts["two writers: the second is told who writes"] += 1
            else:
                counts["two writers: ended whole"] += 1
        assert making.content(target) == expected
        assert {path.name for path in tmp_path.iterdir()} == {"reference.zarr", "x.zarr"}


def test_two_writers_one_of_which_is_killed(
    tmp_path: Path, child: Zygote, other_child: Zygote, counts: Counter[str], full: bool, seed: int
) -> None:
    """The lock ends with its holder, however that ends."""
    reference, target = tmp_path / "reference.zarr", tmp_path / "x.zarr"
    making.write(reference, making.plan(0, 80))
    rng = np.random.default_rng([seed, 9])
    work = Work("tests.torture.writing:write", [str(target), "0", "80", "0.01"])
    for _ in range(50 if full else 3):
        shutil.rmtree(target, ignore_errors=True)
        child.start(work)
        child.kill_after(rng.uniform(0, 0.1))
        finished = other_child.run(work)
        assert finished.status == 0, finished.errors
        assert making.content(target) == making.content(reference)
        counts["a writer after a killed writer: ended whole"] += 1


@pytest.mark.slow
def test_two_extractions_on_one_target(
    tmp_path: Path, extracting_child: Zygote, counts: Counter[str], full: bool, seed: int
) -> None:
    """The whole command, twice at a time."""
    reference, target = tmp_path / "reference.zarr", tmp_path / "x.zarr"
    rng = np.random.default_rng([seed, 17])

    def work(out: Path) -> Work:
        return command(
            "extract", "--dataset", "noise", "--count", "32", "--seed", "1", "--encoder", "speckle",
            "--shard-images", "8", "--batch-size", "8", "--workers", "0", "--device", "cpu",
            "--quiet", "--out", str(out),
        )  # fmt: skip

    first = extracting_child.run(work(reference))
    assert first.status == 0, first.errors
    with zygote(tmp_path, torch=True) as other:
        for _ in range(30 if full else 2):
            shutil.rmtree(target, ignore_errors=True)
            extracting_child.start(work(target))
            time.sleep(rng.uniform(0, 0.5 * first.seconds))
            ends = [other.run(work(target)), extracting_child.wait()]
            assert making.content(target) == making.content(reference)
            assert 0 in [ended.status for ended in ends]
            for ended in ends:
                if ended.status:
                    assert "is being written by" in ended.check_sentence()
                    counts["two extractions: one is told who writes"] += 1
                else:
                    counts["two extractions: ended whole"] += 1


def test_readers_during_writes(
    tmp_path: Path, child: Zygote, counts: Counter[str], full: bool, seed: int
) -> None:
    """A reader has one store's numbers or an error, never a mixture."""
    target = tmp_path / "x.zarr"
    right = {}
    for which in (0, 1):
        made = making.plan(which, 80)
        right[made.fingerprint] = making.rows(made)
    making.write(target, making.plan(0, 80))
    deadline = time.monotonic() + (30 if full else 2)
    which = 1
    outcomes: Counter[str] = Counter()
    while time.monotonic() < deadline:
        child.start(
            Work("tests.torture.writing:write", [str(target), str(which), "80", "0", "--overwrite"])
        )
        which = 1 - which
        for _ in range(10):
            store = fs.open(target)  # replacing a store never leaves its name without one
            try:
                for rows, arrays in store.iter_chunks(store.maps, batch=16, threads=1):
                    time.sleep(0.001)
                    for name, values in arrays.items():
                        expected = right[store.fingerprint][name][rows]
                        assert np.array_equal(values, expected), "the numbers of another store"
                outcomes["read the store that it opened"] += 1
            except StoreError as error:
                said = str(error)
                outcomes["was told that the store is another one now"] += 1
                assert len(said.splitlines()) == 1
        ended = child.wait()
        assert ended.status == 0, ended.errors
        outcomes["stores replaced meanwhile"] += 1
    for what, count in outcomes.items():
        counts[f"reader during writes: {what}"] += count


def test_a_reader_of_an_unfinished_store_is_told(
    tmp_path: Path, child: Zygote, counts: Counter[str]
) -> None:
    target = tmp_path / "x.zarr"
    child.start(Work("tests.torture.writing:write", [str(target), "0", "80", "0.05"]))
    said = set()
    while True:
        try:
            store = fs.open(target)
        except StoreError as error:
            said.add(str(error).split("(")[0].split(":")[0])
            counts["reader before the store is complete: one sentence"] += 1
            time.sleep(0.005)
            continue
        break
    assert store.n_images == 80
    child.wait()
    assert any("not complete yet" in text for text in said)
    assert all("not complete yet" in text or "does not exist" in text for text in said)
