"""Loading processes: order, errors, and that one that is killed keeps nobody waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from frictionstore.errors import DatasetError
from frictionstore.extract.data.base import Dataset, DatasetOptions
from frictionstore.extract.data.bundled import Noise
from frictionstore.extract.loading import BatchLoader, loaded


class Endless(Noise):
    """A set whose image 5 is never done."""

    def load(self, index: int, size: int, grey: bool = False) -> np.ndarray:
        if index == 5:
            time.sleep(3600)
        return super().load(index, size, grey)


class Broken(Noise):
    def load(self, index: int, size: int, grey: bool = False) -> np.ndarray:
        if index == 5:
            raise ZeroDivisionError("five")
        return super().load(index, size, grey)


def loader(kind: type[Noise] = Noise) -> BatchLoader:
    dataset: Dataset = kind(DatasetOptions(count=12))
    return BatchLoader(dataset, [range(i, i + 1) for i in range(12)], 16)


def processes() -> list[int]:
    pid = os.getpid()
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_batches_come_in_order_whoever_loads_them(workers: int) -> None:
    whole = loader()
    made = list(loaded(whole, workers))
    assert [batch.rows for batch in made] == whole.batches
    for number, batch in enumerate(made):
        np.testing.assert_array_equal(batch.images, whole[number].images)


def test_what_a_loading_process_meets_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError, match="five"):
        list(loaded(loader(Broken), 2))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_loading_process_that_is_killed_is_noticed() -> None:
    before = set(processes())
    source = loaded(loader(Endless), 1)
    for _ in range(3):
        next(source)
    (worker,) = set(processes()) - before
    os.kill(worker, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(DatasetError, match=r"was ended by SIGKILL, as by .* out of memory"):
        list(source)
    assert time.monotonic() - started < 5


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_loading_processes_end_with_their_parent() -> None:
    """Also one that is in the middle of an image."""
    code = (
        "from tests.extract.test_loading import *\n"
        "before = set(processes())\n"
        "source = loaded(loader(Endless), 2)\n"
        "for _ in range(5): next(source)\n"
        "print(*(set(processes()) - before), flush=True)\n"
        "time.sleep(3600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(text) for text in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers):
        if all("Z" in Path(f"/proc/{w}/stat").read_text().split()[2:3] for w in workers
               if Path(f"/proc/{w}/stat").exists()):  # fmt: skip
            break
        assert time.monotonic() < until
        time.sleep(0.05)


def test_leaving_early_ends_them() -> None:
    source = loaded(loader(Endless), 2)
    next(source)
    started = time.monotonic()
    source.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5


def test_they_need_no_torch() -> None:
    code = "import sys, frictionstore.extract.loading; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
