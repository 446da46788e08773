"""The calibration of `tools/calibrate.py` in a small form: in full by the command itself."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from tools import calibrate


@pytest.fixture(scope="module")
def checks() -> list[calibrate.Check]:
    return calibrate.calibrate(stores=40, seed=7)


@pytest.mark.slow
def test_everything_is_calibrated(checks):
    assert len(checks) == 32
    failed = [check for check in checks if not check.passed]
    assert failed == []


def test_an_uncalibrated_analysis_would_be_caught(monkeypatch):
    """p-values that are too small, and intervals that are too narrow, fail their checks."""
    monkeypatch.setattr(
        calibrate, "null_p_values", lambda seed: {"x": np.random.default_rng(seed).uniform() ** 3}
    )
    assert not any(check.passed for check in calibrate.uniform_checks(60, 0))
    monkeypatch.setattr(calibrate, "covered", lambda seed: {"x": seed % 5 > 0})
    assert not calibrate.coverage_checks(200, 0)[0].passed
    monkeypatch.setattr(
        calibrate,
        "planted",
        lambda seed: {"found": 0, "false, family-wise": seed % 5 == 0, "false, share of q": 0.2},
    )
    assert not any(check.passed for check in calibrate.planted_checks(100, 0))
    monkeypatch.setattr(calibrate, "calibrate", lambda *_: [calibrate.Check("x", 0, "1", False)])
    run = CliRunner().invoke(calibrate.main, [])
    assert run.exit_code == 1
    assert "FAIL x" in run.output
