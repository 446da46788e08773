"""Workers that are killed while they read for an analysis: the same results all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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
from tests.support import heed_interrupts


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


@pytest.mark.slow
def test_interrupted_at_any_instant_it_says_so_and_leaves_no_worker(
    tmp_path: Path, counts: Counter[str], full: bool, seed: int
) -> None:
    """Ctrl-C, to it alone or to its workers too, and TERM: starting, reading and ending alike."""
    rng = np.random.default_rng([seed, 19])
    maps = {"friction": rng.lognormal(2.0, 0.5, (4096, 8, 8, 2)).astype(np.float32)}
    fs.from_arrays(tmp_path / "x.zarr", maps)
    words = ["analyze", "spatial-cv", "--permutations", "5000", "--cluster", "local:2"]
    for turn in range(60 if full else 9):
        process = subprocess.Popen(
            [sys.executable, "-m", "frictionstore", *words, str(tmp_path / "x.zarr")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=heed_interrupts,
        )  # fmt: skip
        time.sleep(rng.uniform(1.0, 6.0))
        how = turn % 3
        if how == 1:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM if how else signal.SIGINT)
        said, errors = process.communicate(timeout=60)
        assert process.returncode == (143 if how == 2 else 130), errors
        assert (said, errors.count("\n")) == ("", 1), errors
        assert errors.endswith(": run it again\n"), errors
        with suppress(ProcessLookupError):  # nobody is left of its session
            os.killpg(process.pid, 0)
            time.sleep(2.0)
            os.killpg(process.pid, 0)
            pytest.fail("a worker outlives the command")
        counts["analyses on workers: interrupted"] += 1
