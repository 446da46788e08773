"""The report's first screen: what rounding leaves of the measurement, before any answer."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.core.leading import default_features
from frictionstore.analyses.core.saved import read_saved, save_all
from frictionstore.analyses.report.page import to_analyse, write_report
from tests.analyses.report.conftest import maps_with_classes


def noisy_store(folder: Path, repeats: bool = True) -> fs.Store:
    """Friction of which every value is rounding's, and the same without it."""
    label = np.arange(24) % 2
    maps = maps_with_classes(label, grid=4)
    del maps["image"]
    if repeats:
        rng = np.random.default_rng(1)
        maps["friction_exact"] = maps["friction"].copy()
        noise = np.exp(rng.standard_normal((*maps["friction"].shape, 3)))
        noise[..., 0, :] = 1.0
        measured = maps["friction"][..., None] * noise
        maps["friction"] = np.ascontiguousarray(measured[..., 0], np.float32)
        maps["friction_repeats"] = np.ascontiguousarray(measured[..., 1:], np.float32)
    return fs.from_arrays(folder / "noisy.zarr", maps, label=label)


def first_section(store: fs.Store, results: Path) -> str:
    """Of a report of some analyses, without what HTML escapes."""
    only = ["mode-variance", "reliability"] if "friction_exact" in store.maps else ["mode-variance"]
    save_all(analyses.analyze_all(store, only=only), results, figures=False)
    page = write_report(store, results / "index.html", results).read_text()
    found = re.search(r'<section id="summary".*?</section>', page, re.DOTALL)
    assert found
    return " ".join(unescape(found[0]).split())


def test_reliability_comes_before_every_answer(tmp_path: Path) -> None:
    store, results = noisy_store(tmp_path), tmp_path / "results"
    section = first_section(store, results)
    saved = read_saved(results)
    measured = next(one for one in saved if one["analysis"] == "reliability")
    assert measured["answer"].startswith("rounding decides friction: reliability of friction: raw")
    places = [section.index(sentence) for sentence in measured["sentences"]]
    summaries = [one for one in saved if one["analysis"] == "summary"]
    answers = [section.index(one["answer"]) for one in summaries]
    assert len(answers) == 2
    assert max(places) < min(answers)
    # What leads elsewhere leads here.
    assert default_features(store) == ["log_friction_exact", "friction"]
    assert [one["feature"] for one in summaries] == ["log_friction_exact", "friction"]
    assert answers == sorted(answers)


def test_the_maps_are_those_of_summary(tmp_path: Path) -> None:
    store = noisy_store(tmp_path)
    assert to_analyse(store, tmp_path / "none") == default_features(store)
    plain = fs.from_arrays(tmp_path / "plain.zarr", {"S": np.ones((4, 2, 2, 2), np.float32)})
    assert to_analyse(plain, tmp_path / "none") == ["S"]


def test_nothing_is_said_where_nothing_was_repeated(tmp_path: Path) -> None:
    section = first_section(noisy_store(tmp_path, repeats=False), tmp_path / "results")
    assert "rounding decides" not in section
    assert "reliability of friction" not in section


def test_a_little_noise_does_not_decide() -> None:
    maps = maps_with_classes(np.arange(24) % 2, grid=4)
    again = np.repeat(maps["friction"][..., None], 2, axis=4)
    again[0, 0, 0, 1] *= 9
    found = analyses.reliability(
        analyses.MemoryStore({"friction": maps["friction"], "friction_repeats": again}), samples=9
    )
    assert 0 < found.values["share_changed"] < 0.05
    assert found.sentence.startswith("reliability of friction")
