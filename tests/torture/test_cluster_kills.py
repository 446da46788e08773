"""Workers of a cluster that are killed, again and again, in one run that goes on by itself."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("distributed")

from tests.extract.test_cluster import (
    extract,
    manifest,
    recorded,
    start,
    wait_for_record,
    workers_of,
)


@pytest.mark.slow
def test_workers_that_are_killed(
    tmp_path: Path, counts: Counter[str], full: bool, seed: int
) -> None:
    """SIGKILL to one of two workers again and again; the run goes on by itself."""
    rng = np.random.default_rng([seed, 17])
    kills, units = (50, 150) if full else (4, 24)
    plain, out = tmp_path / "plain.zarr", tmp_path / "x.zarr"
    extract(plain, units=units)
    process = start(out, "--cluster", "local:2", "--json", units=units)
    done = 0
    while done < kills and process.poll() is None:
        before = recorded(out)
        wait_for_record(out, process, min(before + 1, units - 2))
        alive = workers_of(process.pid)
        time.sleep(rng.uniform(0, 0.3))
        if alive and recorded(out) < units - 2:
            with suppress(ProcessLookupError):
                os.kill(int(rng.choice(alive)), signal.SIGKILL)
                done += 1
        else:
            break
    said, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert done >= kills // 2, done
    assert json.loads(said)["retries"] >= 1
    assert manifest(out) == manifest(plain)
    counts["workers of a cluster: killed"] += done
    assert sorted(os.listdir(tmp_path)) == ["plain.zarr", "x.zarr"]
