"""The report's opening, its robust means, and tables that fit; against the results and numpy."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.core.saved import read_saved, save_all
from frictionstore.analyses.report.html import Budget, table
from frictionstore.analyses.report.page import write_report
from frictionstore.analyses.report.pictures import ClassMeans
from frictionstore.analyses.report.repeats import MOST_REPEATS, first_repeats
from frictionstore.analyses.report.robust import log_means
from frictionstore.cli.main import cli
from tests.analyses.report.conftest import Made, maps_with_classes


def section(html: str, key: str) -> str:
    found = re.search(rf'<section id="{key}".*?</section>', html, re.DOTALL)
    assert found
    return " ".join(unescape(found[0]).split())


def report_of(store: fs.Store, folder: Path, **asked: object) -> str:
    options = {"permutations": 19, "probe_permutations": 0, "folds": 2, **asked}
    save_all(analyses.analyze_all(store, **options), folder, figures=False)
    return write_report(store, folder / "index.html", folder).read_text(encoding="utf-8")


def test_it_opens_with_one_picture_and_three_findings(made: Made) -> None:
    first = section(made.html, "findings")
    assert made.html.index('id="findings"') < made.html.index('id="summary"')
    assert first.count('<p class="lead">') == 3
    assert first.count('aria-label="Warnings"') == 3
    assert first.count("images are taken as independent") == 3
    assert first.count("<h3>") == 1
    summary = next(one for one in read_saved(made.results) if one["analysis"] == "summary")
    parts = summary["answer"].partition(": ")[2].rstrip(".").split("); ")
    assert len(parts) == 3
    for part in parts:
        assert part[1:] in first  # but for the first letter, which may begin a sentence


def test_findings_claim_no_more_than_their_p(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    maps = {"friction": rng.lognormal(2, 0.3, (24, 4, 4, 3)).astype(np.float32)}
    store = fs.from_arrays(tmp_path / "n.zarr", maps, label=np.arange(24) % 2)
    first = section(report_of(store, tmp_path / "r"), "findings")
    assert "no evidence of spatial structure" in first
    assert "no evidence of a difference between class mean maps" in first
    # Nothing to tell apart is not painted as differences.
    assert "geometric mean of each class" in first
    assert "over the mean of the classes" not in first
    assert first.count("measurement noise is not known: this store has no repeats") == 3


def test_what_rounding_decides_is_said_of_the_finding(tmp_path: Path) -> None:
    maps = maps_with_classes(np.arange(24) % 2, grid=4)
    noise = np.exp(np.random.default_rng(1).standard_normal((*maps["friction"].shape, 2)))
    maps["friction_repeats"] = (maps["friction"][..., None] * noise).astype(np.float32)
    store = fs.from_arrays(tmp_path / "n.zarr", maps, label=np.arange(24) % 2)
    page = report_of(store, tmp_path / "r", feature="friction")
    first = section(page, "findings")
    assert "not reproducible under rounding" in first
    assert "measured 3 times:" in first
    assert "reliability of the map 0." in first


def test_heavy_tails_are_said_of_the_finding_and_do_not_speckle_the_means(tmp_path: Path) -> None:
    maps = maps_with_classes(np.arange(24) % 2, grid=8)
    maps["friction"][3, 2, 1, 2] = 1e8
    store = fs.from_arrays(tmp_path / "h.zarr", maps, label=np.arange(24) % 2)
    page = report_of(store, tmp_path / "r")
    assert "is heavy-tailed in mode 2" in section(page, "findings")
    distance = section(page, "class-distance-friction")
    assert "geometric mean of each class" in distance
    assert "Plain means, which a few extreme patches may decide" in distance


def test_geometric_means_are_those_of_numpy(make_store) -> None:
    label = np.array([0, 1, -1, 0, 1, 1, 0, -1, 0, 1, 0, 1])
    store = make_store(n=12, shard_images=4, label=label, class_names=["a", "b"])
    found = log_means(store, "friction", label.astype(np.int64), 3)
    friction = np.asarray(store.friction[:]).astype(np.float64)
    for k in (0, 1):
        assert found[k] == pytest.approx(np.log(friction[label == k]).mean(0), rel=1e-12)
    assert np.isnan(found[2]).all()
    assert log_means(store, "settle", label.astype(np.int64), 2) is None


def test_a_map_with_a_zero_has_plain_means(tmp_path: Path) -> None:
    """Also where the zero is in the last chunk, after logarithms of others were summed."""
    maps = maps_with_classes(np.arange(24) % 2, grid=4)
    maps["friction"][23, 0, 0, 1] = 0.0
    store = fs.from_arrays(tmp_path / "z.zarr", maps, label=np.arange(24) % 2, shard_images=8)
    assert log_means(store, "friction", np.zeros(24, np.int64), 1) is None
    # A value that no class needs does not matter.
    classes = np.arange(24) % 2
    classes[23] = -1
    assert log_means(store, "friction", classes, 2) is not None


def test_differences_of_geometric_means_are_ratios() -> None:
    logs = np.log(np.array([2.0, 8.0])).reshape(2, 1, 1, 1)
    means = ClassMeans(np.ones((2, 1, 1, 1)), ["a", "b"], "friction", logs)
    own, apart = means.strips(0)
    assert (own["bar"][0], own["bar"][1]) == pytest.approx((2.0, 8.0), rel=0.02)
    assert apart["bar"][1] == pytest.approx(1.0)  # 8 is twice 4, the geometric mean of both
    assert "log2" in apart["heading"]
    assert "log2" not in means.strips(0, plain=True)[1]["heading"]


def test_a_wide_table_is_cut_to_the_page_and_names_the_rest() -> None:
    rows = [{f"column_{k}": k / 7 for k in range(40)}]
    html = table("wide", rows, b"x", "one/wide.csv", Budget(100))
    heads = re.findall("<button[^>]*>(column \\d+)", html)
    assert 3 < len(heads) < 20
    assert heads == [f"column {k}" for k in range(len(heads))]
    assert f"not shown: column {len(heads)}, " in html
    assert html.count("<td") == len(heads)
    assert "on a wider screen: column" in html
    narrow = table("narrow", [{"a": 1, "b": 2.0}], b"x", "one/narrow.csv", Budget(100))
    assert "not shown" not in narrow
    assert "wide" not in narrow


def test_the_notebook_stands_beside_the_same_quantity_or_nowhere(tmp_path: Path) -> None:
    maps = maps_with_classes(np.arange(24) % 2, grid=4)
    store = fs.from_arrays(tmp_path / "s.zarr", maps, label=np.arange(24) % 2)
    page = report_of(store, tmp_path / "r", feature=["log_friction", "friction"])
    of_log, of_friction = (
        next(
            one for one in read_saved(tmp_path / "r", feature=name) if one["analysis"] == "summary"
        )
        for name in ("log_friction", "friction")
    )
    rows = of_log["tables"]["summary"]
    names = list(rows[0])
    assert names.index("notebook") == names.index("raw") + 1
    raw = {row["line"]: row["value"] for row in of_friction["tables"]["summary"] if row["line"]}
    for row in rows:
        if row["notebook"] is not None and row["line"] == "spatial structure within images":
            assert row["raw"] == raw[row["line"]] == pytest.approx(row["notebook"], rel=1e-5)
        assert row["notebook"] is None or row["raw"] is not None
        # Its ratio counts no degrees of freedom.
        assert row["line"] != "per-position F-statistic" or row["notebook"] is None
    # A verdict on the logarithm does not stand beside the figure of the raw map.
    summaries = section(page, "summary")
    first = summaries[: summaries.index("Summary: friction")]
    assert 'class="chip"' not in first
    assert 'class="chip"' in summaries
    details = section(page, "f-statistic-friction")
    assert "overall max f" not in details


def test_values_near_the_largest_float_print_no_warning(tmp_path: Path) -> None:
    maps = maps_with_classes(np.arange(12) % 2, grid=4)
    maps["friction"][::5, 1, 2, 1:] = 3e38
    fs.from_arrays(tmp_path / "b.zarr", maps, label=np.arange(12) % 2)
    asked = ["analyze", "all", str(tmp_path / "b.zarr"), "--permutations", "19",
             "--probe-permutations", "0", "--folds", "2", "--out", str(tmp_path / "r"),
             "--no-figures"]  # fmt: skip
    run = CliRunner().invoke(cli, asked)
    assert run.exit_code == 0, run.output
    assert run.stderr == ""
    run = CliRunner().invoke(
        cli, ["report", str(tmp_path / "b.zarr"), "--results", str(tmp_path / "r")]
    )
    assert run.exit_code == 0, run.output
    assert run.stderr == ""
    page = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    assert "the notebook's sums in float32 overflow in" in unescape(page)


def of_many_repeats(folder: Path) -> fs.Store:
    """What comes after the first would change every answer: noise that these do not have."""
    maps = maps_with_classes(np.arange(12) % 2, grid=4)
    again = np.repeat(maps["friction"][..., None], MOST_REPEATS + 2, axis=-1)
    again[..., 1:, MOST_REPEATS:] *= np.exp(
        np.random.default_rng(0).standard_normal((*again.shape[:3], 3, 2))
    )
    maps["friction_repeats"] = again
    return fs.from_arrays(folder / "m.zarr", maps, label=np.arange(12) % 2)


def test_the_first_of_many_repeats(tmp_path: Path) -> None:
    store = of_many_repeats(tmp_path)
    few = analyses.reliability(first_repeats(store), samples=9)
    every = analyses.reliability(store, samples=9)
    assert few.values["n_repeats"] == MOST_REPEATS
    assert few.values["least_reliability_raw"] == 1.0
    assert every.values["n_repeats"] == MOST_REPEATS + 2
    assert every.values["least_reliability_raw"] < 0.9
    assert not any("of the measurement the first" in caveat for caveat in every.caveats)


@pytest.mark.slow
def test_a_report_uses_the_first_of_many_repeats_and_says_so(tmp_path: Path) -> None:
    from frictionstore.analyses.report.page import analyse

    store = of_many_repeats(tmp_path)
    analyse(store, tmp_path / "r", ["friction"])
    saved = {one["analysis"]: one for one in read_saved(tmp_path / "r")}
    claim = saved["spatial-cv"]["claims"][0]
    assert len(claim["repeats"]) == MOST_REPEATS
    assert claim["word"] == "reproducible"
    assert saved["reliability"]["values"]["least_reliability_raw"] == 1.0
    said = f"of the {MOST_REPEATS + 2} repeats of the measurement the first {MOST_REPEATS} are used"
    for one in ("spatial-cv", "reliability", "summary"):
        assert any(said in caveat for caveat in saved[one]["caveats"]), one


def test_a_result_of_two_splits_has_a_section_and_leads_nothing(tmp_path: Path) -> None:
    label = np.arange(24) % 2
    maps = maps_with_classes(label, grid=4)
    for name, part in (("a", slice(0, 12)), ("b", slice(12, 24))):
        some = {key: values[part] for key, values in maps.items()}
        fs.from_arrays(tmp_path / name, some, label=label[part])
    store = fs.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both.zarr", names=["a", "b"])
    alone = report_of(store, tmp_path / "r")
    asked = {"features": "S,friction,S+friction", "permutations": 0}
    of_splits = analyses.ridge_probe(store, train="a", test="b", **asked)
    save_all([of_splits], tmp_path / "r", figures=False)
    page = write_report(store, tmp_path / "both.html", tmp_path / "r").read_text(encoding="utf-8")
    assert "(train a, test b)" in page
    assert "trained on split a (12)" in page
    for key in ("findings", "summary"):
        assert section(page, key) == section(alone, key)
