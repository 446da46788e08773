"""The table of what two repeats announce: whose reliability is in which column."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("click")

from frictionstore import analyses
from frictionstore.analyses import MemoryStore
from tools.repeats_announce import ANNOUNCING, OTHERS, rows_of


def test_the_columns_are_of_the_first_two_and_of_the_others() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(2, 0.5, (30, 3, 3, 2)).astype(np.float32)
    noise = np.exp(0.3 * rng.standard_normal((*values.shape, ANNOUNCING + OTHERS)))
    noise[..., ANNOUNCING:] **= 3  # another noise than was announced
    noise[..., 0, :] = 1
    values[..., 0] = 5
    repeats = (values[..., None] * noise).astype(np.float32)
    rows = rows_of("friction", values, repeats)
    assert [row[1:3] for row in rows] == [[s, "1"] for s in ("raw", "logarithm", "rank")]
    for part, column in ((slice(0, ANNOUNCING), 3), (slice(ANNOUNCING, None), 5)):
        store = MemoryStore({"friction": values, "friction_repeats": repeats[..., part].copy()})
        found = analyses.reliability(store, samples=2)
        for row in rows:
            assert float(row[column]) == pytest.approx(
                found.arrays[f"reliability_{row[1]}"][1], abs=1e-6
            )
    assert {row[6] for row in rows} == {"no"}
    alike = rows_of("friction", values, np.repeat(values[..., None], ANNOUNCING + OTHERS, axis=4))
    assert {row[6] for row in alike} == {"yes"}
