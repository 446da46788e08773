"""`log_NAME`: any analysis on the decimal logarithm of a stored map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.memory_store import MemoryStore
from frictionstore.cli.main import cli

N, GRID, MODES = 90, 4, 3


def maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Friction-like values over six orders of magnitude, and labels they depend on."""
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % 3
    exponent = rng.normal(1, 1, (N, GRID, GRID, MODES)) + 0.5 * labels[:, None, None, None]
    values = (10**exponent).astype(np.float32)
    values[..., 0] = 5
    return values, labels


def memory(values: np.ndarray, labels: np.ndarray, name: str = "friction") -> MemoryStore:
    return MemoryStore({name: values}, labels=labels, class_names=["a", "b", "c"], batch=17)


@pytest.mark.parametrize(
    "analysis",
    [
        analyses.spatial_cv,
        analyses.class_distance,
        analyses.center_edge,
        analyses.f_statistic,
        analyses.mode_variance,
        analyses.image_summary,
    ],
)
def test_it_is_the_analysis_of_a_map_of_logarithms(analysis) -> None:
    values, labels = maps()
    found = analysis(memory(values, labels), feature="log_friction")
    expected = analysis(memory(np.log10(values), labels, "other"), feature="other")
    assert found.feature == "log_friction"
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        if (found.analysis, name) == ("center-edge", "ratio"):
            continue  # of logarithms it is ten to the power of the difference
        np.testing.assert_array_equal(found.arrays[name], array, name)


def test_the_probe_joins_it_with_others() -> None:
    values, labels = maps()
    found = analyses.ridge_probe(
        memory(values, labels), features=["friction", "friction+log_friction"], permutations=0
    )
    both = MemoryStore(
        {"friction": values, "log": np.log10(values)}, labels=labels, class_names=["a", "b", "c"]
    )
    expected = analyses.ridge_probe(both, features=["friction", "friction+log"], permutations=0)
    np.testing.assert_array_equal(found.table["accuracy"], expected.table["accuracy"])


def test_a_value_of_zero_is_named_by_image() -> None:
    values, labels = maps()
    values[41, 2, 1, 1] = 0
    values[50, 0, 0, 2] = -1
    store = memory(values, labels)
    with pytest.raises(AnalysisError, match=r"'friction' of memory has no logarithm: image '41' \(row 41\).*use friction itself"):  # fmt: skip  # noqa: E501
        analyses.f_statistic(store, feature="log_friction")


def test_what_is_not_finite_is_still_said_of_the_image() -> None:
    values, labels = maps()
    values[7, 0, 0, 1] = np.nan
    with pytest.raises(AnalysisError, match=r"'log_friction' .*NaN or infinite.*'7' \(row 7: 1\)"):
        analyses.f_statistic(memory(values, labels), feature="log_friction")


def test_a_stored_map_of_that_name_comes_first() -> None:
    values, labels = maps()
    store = MemoryStore(
        {"friction": values, "log_friction": -values}, labels=labels, class_names=["a", "b", "c"]
    )
    found = analyses.mode_variance(store, feature="log_friction")
    expected = analyses.mode_variance(memory(-values, labels), feature="friction")
    np.testing.assert_allclose(found.table["map_mean"], expected.table["map_mean"], rtol=1e-12)


@pytest.mark.parametrize("feature", ["log_", "log_nothing", "log_log_nothing", "logfriction"])
def test_logarithms_of_what_is_not_there(feature: str) -> None:
    with pytest.raises(AnalysisError, match=f"no map '{feature}'.*log_NAME is the logarithm"):
        analyses.f_statistic(memory(*maps()), feature=feature)


def test_the_caveats_name_it_and_say_what_it_cannot_do() -> None:
    values, labels = maps()
    values[3, 1, 1, 2] = 1e9
    heavy = analyses.f_statistic(memory(values, labels))
    assert any("log_friction is the map of logarithms" in c for c in heavy.caveats)
    tame = analyses.f_statistic(memory(values, labels), feature="log_friction")
    assert not any("heavy-tailed" in c for c in tame.caveats)
    ratio = analyses.spatial_cv(memory(values, labels), feature="log_friction")
    assert any("no natural zero" in c for c in ratio.caveats)
    negative = analyses.f_statistic(memory(-values, labels))
    assert any("heavy-tailed" in c and "log_" not in c for c in negative.caveats)


def test_from_the_command_line_on_a_store(tmp_path: Path) -> None:
    values, labels = maps()
    path = tmp_path / "a.zarr"
    fs.from_arrays(path, {"friction": values}, label=labels, class_names=["a", "b", "c"])
    arguments = ["analyze", "f-statistic", str(path), "--feature", "log_friction", "--json"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    given = json.loads(done.stdout)
    assert given["feature"] == "log_friction"
    assert given["provenance"]["digest"] == fs.open(path).digest
