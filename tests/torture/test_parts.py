"""Parts of one store at once, killed at random instants: whoever comes last ends it, whole."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

import frictionstore as fs
from tests import making
from tests.torture.processes import Work, Zygote


def test_parts_that_are_killed(
    tmp_path: Path, child: Zygote, other_child: Zygote, counts: Counter[str], full: bool, seed: int
) -> None:
    """Two at a time, of which one or both are killed; then each part again, and the plain run."""
    reference, target = tmp_path / "reference.zarr", tmp_path / "x.zarr"
    plan = making.plan(0, 80)
    making.write(reference, plan)
    expected = making.content(reference)
    rng = np.random.default_rng([seed, 17])
    arguments = [str(target), "0", "80", "0.01"]

    def part(number: int) -> Work:
        return Work("tests.torture.writing:write", [*arguments, "--part", f"{number}/3"])

    for _ in range(100 if full else 4):
        shutil.rmtree(target, ignore_errors=True)
        for _ in range(3):
            first, second = rng.integers(1, 4, 2)
            child.start(part(first))
            other_child.start(part(second))
            ends = [each.kill_after(rng.uniform(0, 0.15)) for each in (child, other_child)]
            for ended in ends:
                assert ended.status in (0, -9), ended.errors
                counts["parts: killed" if ended.status else "parts: ended"] += 1
            if target.exists():
                assert fs.verify(target).ok
        if rng.random() < 0.5:
            works = [Work("tests.torture.writing:write", arguments)]
        else:
            works = [part(number) for number in rng.permutation([1, 2, 3])]
        for work in works:
            ended = child.run(work)
            assert ended.status == 0, ended.errors
        assert making.content(target) == expected
        assert sorted(os.listdir(tmp_path)) == ["reference.zarr", "x.zarr"]
        counts["parts after killed parts: ended whole"] += 1
