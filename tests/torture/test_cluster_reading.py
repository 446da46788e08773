"""Workers that are killed while they read for an analysis: the same results all the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("distributed")

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.core import collecting
from frictionstore.analyses.core.cluster import on_cluster
from tests.extract.test_cluster import workers_of


@pytest.mark.slow
def test_workers_that_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: Counter[str], full: bool, seed: int
) -> None:
    """SIGKILL to one of two workers again and again, in the midst of passes over many parts."""
    monkeypatch.setattr(collecting, "PART_IMAGES", 256)
    rng = np.random.default_rng([seed, 18])
    n = 64 * 256
    x = rng.lognormal(2.0, 0.5, (n, 8, 8, 2)).astype(np.float32)
    labels = rng.integers(0, 5, n)
    fs.from_arrays(tmp_path / "x.zarr", {"friction": x}, label=labels, class_names=list("abcde"))
    store = fs.open(tmp_path / "x.zarr")

    def every() -> list[str]:
        asked = {"f_statistic": {"permutations": 200}, "spatial_cv": {"permutations": 99}}
        return [getattr(analyses, name)(store, **of).to_json() for name, of in asked.items()]

    plain = every()
    done, ended = [0], threading.Event()

    def kill() -> None:
        while not ended.wait(rng.uniform(0.5, 2.5)) and done[0] < (20 if full else 3):
            alive = workers_of(os.getpid())
            if alive:
                with suppress(ProcessLookupError):
                    os.kill(int(rng.choice(alive)), signal.SIGKILL)
                    done[0] += 1

    began = time.monotonic()
    with on_cluster("local:2"):
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            while True:
                assert every() == plain
                if done[0] >= 3 or time.monotonic() - began > 300:
                    break
        finally:
            ended.set()
            killer.join()
    assert done[0] >= 3
    counts["workers that read for an analysis: killed"] += done[0]
