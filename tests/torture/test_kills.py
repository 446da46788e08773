"""Killed at random instants and resumed: the same bytes, and never anything that looks whole and
is not."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.check.verify import verify
from frictionstore.errors import StoreError
from frictionstore.io.base import TOKEN
from frictionstore.share.pack import pack
from frictionstore.store.place import partial_path, replaced_path
from tests import making
from tests.torture.processes import Work, Zygote, command


def look(target: Path, allowed: set[str]) -> str:
    """What a reader sees at `target`: a whole store that may be there, or one sentence."""
    try:
        store = fs.open(target)
        for _ in store.iter_chunks(store.maps):
            pass
    except StoreError as error:
        said = str(error)
    else:
        assert store.digest in allowed
        return store.digest
    assert "damaged" not in said
    return "none"


def kill_until(
    child: Zygote,
    work: Work,
    target: Path,
    reference: Path,
    rng: np.random.Generator,
    kills: int,
    prepare: Callable[[], set[str]],
    counts: Counter[str],
    label: str,
) -> None:
    """Kill `work` until it was killed so many times; every chain of kills must end whole."""
    expected, digest = making.content(reference), fs.open(reference).digest
    allowed = prepare() | {digest}
    first = child.run(work)
    assert first.status == 0, first.errors
    allowed = prepare() | {digest}
    before = len(allowed) > 1
    done = chain = 0
    while done < kills:
        child.start(work)
        ended = child.kill_after(rng.uniform(0, 1.05 * first.seconds))
        if ended.status == -9:
            done, chain = done + 1, chain + 1
            counts[f"{label}: kills"] += 1
            seen = look(target, allowed)
            assert seen != "none" or not before, "a complete store was lost"
            if partial_path(target).exists():
                counts[f"{label}: kills that left an unfinished folder"] += 1
            # half of the interrupted runs are interrupted again when they are resumed
            if done < kills and rng.random() < 0.5:
                continue
            ended = child.run(work)
        assert ended.status == 0, ended.errors
        assert making.content(target) == expected
        assert not partial_path(target).exists()
        assert not replaced_path(target).exists()
        counts[f"{label}: kills resumed to the same bytes"] += chain
        chain = 0
        allowed = prepare() | {digest}


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_writer(
    tmp_path: Path, child: Zygote, counts: Counter[str], full: bool, seed: int, overwrite: bool
) -> None:
    """The unit writer alone, where the time between two system calls is a large part of it."""
    reference, old, target = (tmp_path / f"{name}.zarr" for name in ("reference", "old", "x"))
    making.write(reference, making.plan(0, 80))
    making.write(old, making.plan(7, 48))
    options = ["--overwrite"] if overwrite else []
    work = Work("tests.torture.writing:write", [str(target), "0", "80", "0.001", *options])

    def prepare() -> set[str]:
        shutil.rmtree(target, ignore_errors=True)
        if not overwrite:
            return set()
        shutil.copytree(old, target)
        return {fs.open(old).digest}

    kill_until(
        child, work, target, reference, np.random.default_rng([seed, overwrite]),
        200 if full else 6, prepare, counts,
        f"writer, {'replacing a store' if overwrite else 'new store'}",
    )  # fmt: skip


def test_repair(tmp_path: Path, child: Zygote, counts: Counter[str], full: bool, seed: int) -> None:
    """A damaged store is mended or stays as it was, never less."""
    reference, damaged, target = (tmp_path / f"{n}.zarr" for n in ("reference", "damaged", "x"))
    making.write(reference, making.plan(0, 80))
    shutil.copytree(reference, damaged)
    broken = ["S/c/1/0/0/0", "friction/c/3/0/0/0"]
    for key in broken:
        data = bytearray((damaged / key).read_bytes())
        data[50] ^= 8
        (damaged / key).write_bytes(data)
    sound = making.content(reference)
    work = Work("tests.torture.writing:write", [str(target), "0", "80", "0.001", "--repair"])
    rng = np.random.default_rng([seed, 2])
    shutil.copytree(damaged, target)
    seconds = child.run(work).seconds
    for _ in range(200 if full else 4):
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(partial_path(target), ignore_errors=True)
        shutil.copytree(damaged, target)
        child.start(work)
        killed = child.kill_after(rng.uniform(0, seconds)).status == -9
        kept = making.content(target)
        kept.pop(TOKEN, None)  # it is there between the mark of what is replaced and the swap
        assert kept.keys() == sound.keys()
        assert [key for key in sorted(kept) if kept[key] != sound[key]] in ([], broken)
        finished = child.run(work)
        assert finished.status == 0, finished.errors
        assert making.content(target) == sound
        counts["repair: kills"] += killed
        counts["repair: kills resumed to the same bytes"] += killed


def test_extraction(
    tmp_path: Path, extracting_child: Zygote, counts: Counter[str], full: bool, seed: int
) -> None:
    """The whole command, from its first line to its last system call."""
    reference, target = tmp_path / "reference.zarr", tmp_path / "x.zarr"

    def work(out: Path) -> Work:
        return command(
            "extract", "--dataset", "noise", "--count", "48", "--seed", "1", "--encoder", "speckle",
            "--shard-images", "8", "--batch-size", "8", "--workers", "0", "--device", "cpu",
            "--quiet", "--out", str(out),
        )  # fmt: skip

    first = extracting_child.run(work(reference))
    assert first.status == 0, first.errors
    assert verify(reference).ok

    def prepare() -> set[str]:
        shutil.rmtree(target, ignore_errors=True)
        return set()

    kill_until(
        extracting_child, work(target), target, reference, np.random.default_rng([seed, 3]),
        200 if full else 3, prepare, counts, "frictionstore extract",
    )  # fmt: skip


@pytest.mark.parametrize("what", ["pull", "unpack", "pack"])
def test_copies(
    tmp_path: Path, child: Zygote, counts: Counter[str], full: bool, seed: int, what: str
) -> None:
    """A copy is whole or not there, whenever it is stopped."""
    source = tmp_path / "source.zarr"
    making.write(source, making.plan(0, 200))
    digest = fs.open(source).digest
    origin = pack(source).target if what == "unpack" else str(source)
    target = tmp_path / ("copy.zip" if what == "pack" else "copy.zarr")
    work = Work("tests.torture.writing:copy", [what, origin, str(target)])
    rng = np.random.default_rng([seed, 4])
    seconds = 0.0
    for _ in range(100 if full else 3):
        if not seconds:
            child.run(work)  # the first one is slow for other reasons
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if not seconds:
            seconds = child.run(work).seconds
            continue
        child.start(work)
        killed = child.kill_after(rng.uniform(0, seconds)).status == -9
        look(target, {digest})
        finished = child.run(work)
        assert finished.status == 0, finished.errors
        report = verify(target)
        assert report.ok
        assert report.digest == digest
        counts[f"{what}: kills"] += killed
        counts[f"{what}: kills resumed to a whole copy"] += killed
