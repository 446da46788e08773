"""Results: strict JSON, CSV that reads back, figures, and folders that are whole or not there."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from frictionstore import analyses
from frictionstore.analyses.core import figures, results, saved
from frictionstore.analyses.core.errors import AnalysisError
from tests.analyses.material import ALONE, noise_store

FUNCTIONS = ["spatial_cv", "class_distance", "center_edge", "f_statistic", "mode_variance",
             "image_summary", "ridge_probe", "summary"]  # fmt: skip


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


FLAGS = {"True": "1", "False": "0"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_saved_result_reads_back(tmp_path, name):
    result = getattr(analyses, name)(noise_store())
    folder = result.save(tmp_path / "out")
    saved = json.loads((folder / "result.json").read_text(), parse_constant=refuse_constant)
    assert saved["answer"] == result.sentence
    assert saved["analysis"] == result.analysis == name.replace("_", "-")
    assert saved["provenance"]["digest"] == noise_store().digest
    assert saved["provenance"]["versions"]["numpy"] == np.__version__
    for table, frame in result.tables.items():
        again = pd.read_csv(folder / f"{table}.csv", dtype=str, keep_default_na=False)
        assert list(again) == list(frame)
        for column in frame:
            if pd.api.types.is_numeric_dtype(frame[column]):
                # Python's float: not every version of pandas reads what it wrote to the last bit.
                read = [float(FLAGS.get(text, text or "nan")) for text in again[column]]
                np.testing.assert_array_equal(read, frame[column])
        assert len(saved["tables"][table]) == len(frame)
    if result.arrays:
        with np.load(folder / "arrays.npz") as file:
            for key, array in result.arrays.items():
                np.testing.assert_array_equal(file[key], array)
                assert getattr(result, key) is array
    assert result.figures
    for drawn in result.figures:
        with Image.open(folder / f"{drawn}.png") as image:
            assert image.convert("L").getextrema() != (255, 255)
        svg = (folder / f"{drawn}.svg").read_text()
        ElementTree.fromstring(svg)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_modes_are_named_in_figures(tmp_path):
    folder = analyses.f_statistic(noise_store(), permutations=0).save(tmp_path / "out")
    svg = (folder / "f_map.svg").read_text()
    for text in ("mode 0 (largest)", "mode 2 (smallest)", "patch column", "patch row"):
        assert text in svg


def test_the_same_run_gives_the_same_json():
    first, again = (analyses.class_distance(noise_store(), permutations=30) for _ in range(2))
    assert first.to_json() == again.to_json()


def test_interrupted_writing_leaves_what_was_there(tmp_path, monkeypatch):
    result = analyses.f_statistic(noise_store(), permutations=10)
    folder = result.save(tmp_path / "out", figures=False)
    before = (folder / "result.json").read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "save_figure", fail)
    for target in ("out", "new"):
        with pytest.raises(KeyboardInterrupt):
            analyses.f_statistic(noise_store(), permutations=9).save(tmp_path / target)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (folder / "result.json").read_bytes() == before


def test_saving_again_replaces_a_result_and_nothing_else(tmp_path):
    for feature in ("friction", "S"):
        analyses.mode_variance(noise_store(), feature=feature).save(tmp_path / feature)
    before = (tmp_path / "S" / "result.json").read_bytes()
    with pytest.raises(AnalysisError, match="S holds mode-variance-S and this is mode-variance-fr"):
        analyses.mode_variance(noise_store()).save(tmp_path / "S")
    assert (tmp_path / "S" / "result.json").read_bytes() == before
    (tmp_path / "S" / "remarks.txt").write_text("odd")
    analyses.mode_variance(noise_store(), feature="S").save(tmp_path / "S", figures=False)
    assert not list((tmp_path / "S").glob("*.svg"))
    assert (tmp_path / "S" / "remarks.txt").read_text() == "odd"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(AnalysisError, match="holds files that are not results"):
        analyses.mode_variance(noise_store()).save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(AnalysisError, match="is a file"):
        analyses.mode_variance(noise_store()).save(tmp_path / "mine" / "thesis.tex")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AnalysisError, match="cannot be written"):
        analyses.mode_variance(noise_store()).save(tmp_path / "out")


def test_long_tables_are_named_and_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "INLINE_ROWS", 50)
    monkeypatch.setattr(results, "INLINE_NUMBERS", 50)
    result = analyses.spatial_cv(noise_store(), permutations=10)
    folder = result.save(tmp_path / "out", figures=False)
    saved = json.loads((folder / "result.json").read_text())
    assert saved["tables"]["images"]["file"] == "images.csv"
    assert saved["tables"]["images"]["rows"] == 180
    assert saved["arrays"]["cv"] == {"file": "arrays.npz", "shape": [60, 3]}
    assert len(json.loads(result.to_json())["tables"]["images"]) == 180


def test_an_array_that_is_not_there():
    with pytest.raises(AttributeError, match="no array 'g': its arrays are f, p"):
        _ = analyses.f_statistic(noise_store(), permutations=0).g


def test_summary_of_saved_results_is_the_summary(tmp_path):
    store = noise_store()
    found = analyses.analyze_all(store, permutations=30, probe_permutations=5)
    # Without repeats there is no reliability to measure.
    assert [r.analysis for r in found] == [
        n for n in analyses.REGISTRY if n not in ("reliability", *ALONE)
    ]
    folder = saved.save_all(found, tmp_path / "out", figures=False)
    again = analyses.summary(store, results=folder)
    live = analyses.summary(store, results=found[:-1])
    pd.testing.assert_frame_equal(again.table, found[-1].table, check_dtype=False)
    pd.testing.assert_frame_equal(live.table, found[-1].table)
    table = again.table.set_index("line")
    assert table["value"]["combined conduit linear probe"] == pytest.approx(
        found[-2].table.set_index("features")["accuracy"]["S+friction+settle"]
    )
    # A number without an interval has a p, and the other way round.
    assert (table["value_low"].notna() | table["p"].notna()).all()
    other = noise_store(seed=9)
    with pytest.raises(AnalysisError, match="are of a store with digest"):
        analyses.summary(other, results=folder)
    with pytest.raises(AnalysisError, match="holds no saved results"):
        analyses.summary(store, results=tmp_path)


def test_damaged_results_are_refused(tmp_path):
    found = analyses.analyze_all(noise_store(), only=["mode-variance"])
    folder = saved.save_all(found, tmp_path / "out", figures=False)
    (folder / "mode-variance-friction" / "result.json").write_text("{")
    with pytest.raises(AnalysisError, match="cannot be read"):
        analyses.summary(noise_store(), results=folder)


def test_parquet_where_pyarrow_is(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(results, "_has_pyarrow", lambda: True)
    monkeypatch.setattr(
        pd.DataFrame, "to_parquet", lambda self, path, index: written.append(Path(path).name)
    )
    analyses.mode_variance(noise_store()).save(tmp_path / "out", figures=False)
    assert written == ["modes.parquet"]
