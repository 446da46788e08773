"""Disk full at random points: one sentence, nothing lost, the right bytes once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.check.verify import verify
from frictionstore.share.pack import pack
from frictionstore.store.writer import partial_path
from tests import making
from tests.torture.processes import Work, Zygote, command


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes at `folder`; skips where it may not be mounted."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_file_size_limit(
    tmp_path: Path, child: Zygote, counts: Counter[str], full: bool, seed: int
) -> None:
    """No file may grow beyond a limit: the error of a quota, without any rights."""
    reference, target = tmp_path / "reference.zarr", tmp_path / "x.zarr"
    making.write(reference, making.plan(0, 80))
    expected = making.content(reference)
    largest = max(len(data) for data in expected.values())
    rng = np.random.default_rng([seed, 5])
    work = Work("tests.torture.writing:write", [str(target), "0", "80", "0"])
    for _ in range(60 if full else 4):
        limit = int(rng.integers(2000, largest))  # the child's own words must fit too
        for ended in (child.run(work, largest_file=limit), child.run(work, largest_file=limit)):
            assert "file-size limit" in ended.check_sentence()
            assert not target.exists()
        counts["file-size limit: refused in one sentence"] += 2
        finished = child.run(work)
        assert finished.status == 0, finished.errors
        assert making.content(target) == expected
        counts["file-size limit: completed to the same bytes afterwards"] += 1
        shutil.rmtree(target)


def test_full_disk(
    tmp_path: Path, child: Zygote, counts: Counter[str], full: bool, seed: int
) -> None:
    """A file system that fills up, at a random point, with an old store on it to be replaced."""
    reference, old = tmp_path / "reference.zarr", tmp_path / "old.zarr"
    making.write(reference, making.plan(0, 80))
    making.write(old, making.plan(7, 48))
    expected, before = making.content(reference), making.content(old)
    rng = np.random.default_rng([seed, 6])
    disk = tmp_path / "disk"
    target = disk / "x.zarr"
    filler = disk / "filler"
    with small_disk(disk, 2 << 20):
        for _ in range(100 if full else 5):
            for path in disk.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            replace = bool(rng.integers(2))
            if replace:
                shutil.copytree(old, target)
            options = ["--overwrite"] if replace else []
            work = Work("tests.torture.writing:write", [str(target), "0", "80", "0", *options])
            free = shutil.disk_usage(disk).free
            # whole pages: from nothing left to nearly what the store needs
            room = 4096 * int(rng.integers(0, 60))
            with open(filler, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(free - room, 4096))
            ended = child.run(work)
            if ended.status == 0:
                counts["full disk: there was room"] += 1
            else:
                assert "no space left" in ended.check_sentence()
                counts["full disk: refused in one sentence"] += 1
                if replace:
                    assert making.content(target) == before, "the old store was lost"
                else:
                    assert not target.exists()
                filler.unlink()
                finished = child.run(work)
                assert finished.status == 0, finished.errors
                counts["full disk: completed to the same bytes afterwards"] += 1
            assert making.content(target) == expected
            assert not partial_path(target).exists()


@pytest.mark.parametrize("what", ["pull", "unpack", "pack"])
def test_copies_to_a_full_disk(
    tmp_path: Path, child: Zygote, counts: Counter[str], full: bool, seed: int, what: str
) -> None:
    source = tmp_path / "source.zarr"
    making.write(source, making.plan(0, 80))
    origin = pack(source).target if what == "unpack" else str(source)
    rng = np.random.default_rng([seed, 7])
    disk = tmp_path / "disk"
    with small_disk(disk, 2 << 20):
        for _ in range(30 if full else 2):
            for path in disk.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            target = disk / ("copy.zip" if what == "pack" else "copy.zarr")
            room = 4096 * int(rng.integers(0, 12))
            with open(disk / "filler", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - room)
            work = Work("tests.torture.writing:command", _copy(what, origin, target))
            ended = child.run(work)
            said = ended.check_sentence()
            assert "no space left" in said or "free" in said
            assert not target.exists()
            (disk / "filler").unlink()
            finished = child.run(work)
            assert finished.status == 0, finished.errors
            assert verify(target).ok
            counts[f"full disk, {what}: refused, then whole"] += 1


def _copy(what: str, origin: str, target: Path) -> list[str]:
    if what == "pull":
        return ["pull", origin, str(target), "--quiet"]
    return [what, origin, "--out", str(target), "--quiet"]


def test_extraction_to_a_full_disk(
    tmp_path: Path, extracting_child: Zygote, counts: Counter[str], full: bool
) -> None:
    """The whole command."""
    disk = tmp_path / "disk"
    with small_disk(disk, 1 << 20):
        filler = disk / "filler"
        for room in (0, 60_000, 200_000) if full else (60_000,):
            with open(filler, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - room)
            work = command(
                "extract", "--dataset", "noise", "--count", "48", "--encoder", "speckle",
                "--shard-images", "8", "--batch-size", "8", "--workers", "0", "--device", "cpu",
                "--quiet", "--out", str(disk / "x.zarr"),
            )  # fmt: skip
            ended = extracting_child.run(work)
            assert "no space left" in ended.check_sentence()
            filler.unlink()
            finished = extracting_child.run(work)
            assert finished.status == 0, finished.errors
            assert verify(disk / "x.zarr").ok
            assert fs.open(disk / "x.zarr").n_images == 48
            shutil.rmtree(disk / "x.zarr")
            counts["full disk, frictionstore extract: refused, then whole"] += 1
