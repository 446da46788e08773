"""What the analyses say and refuse where images belong together, and how often they are wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import binom

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.source import SelectedClasses
from frictionstore.check.agreement import Agreement
from tests.analyses.material import noise_store
from tools import designs

INDEPENDENT = "images are taken as independent"


def of_one_photograph_each(**options):
    return noise_store(groups=np.asarray(noise_store().labels), **options)


@pytest.mark.parametrize(
    ("analysis", "options"),
    [("f_statistic", {}), ("class_distance", {}), ("ridge_probe", {"features": ["S"]})],
)
def test_a_class_of_one_group_is_refused(analysis, options):
    with pytest.raises(
        AnalysisError, match=r"class 'class0' of memory belong to one group"
    ) as told:
        getattr(analyses, analysis)(of_one_photograph_each(), **options)
    assert "give images of two groups or more in every class" in str(told.value)
    assert "--classes" not in str(told.value), "no two classes have two groups"


def test_classes_that_can_be_compared_are_named_and_compared():
    store = noise_store()
    groups = np.where(store.labels == 0, 0, np.arange(60))
    store = noise_store(groups=groups)
    with pytest.raises(AnalysisError, match="name the classes that have them with --classes"):
        analyses.f_statistic(store)
    kept = SelectedClasses(store, ["class1", "class2"])
    found = analyses.f_statistic(kept, permutations=19)
    assert found.parameters["image_groups"] == {"count": 40, "from": "store"}


def test_questions_within_images_are_answered_of_one_group_a_class():
    found = analyses.center_edge(of_one_photograph_each())
    assert np.isnan(found.tables["classes"]["ratio_low"]).all()
    assert np.isfinite(found.tables["modes"]["p"]).all(), "three groups together"
    assert not any("few images" in text for text in found.caveats)
    assert any("all images of class0, class1, class2 belong to one group" in c
               for c in found.caveats)  # fmt: skip
    heavy = np.exp(np.random.default_rng(0).normal(size=(60, 4, 5, 3)) * 6)
    labels, groups = np.arange(60) % 3, np.where(np.arange(60) % 3 == 1, 0, np.arange(60))
    some = analyses.center_edge(noise_store(labels=labels, groups=groups, maps={"friction": heavy}))
    assert any("all images of class1 belong to one group" in text for text in some.caveats)
    decided = next(text for text in some.caveats if text.startswith("few images decide"))
    assert "class1" not in decided
    alone = analyses.center_edge(noise_store(groups=np.zeros(60)))
    assert "cannot be tested: all images belong to one group" in alone.sentences[0]
    one = noise_store(groups=np.zeros(60))
    assert np.isnan(analyses.image_summary(one).values["mean_low"])
    assert np.isfinite(analyses.image_summary(one).values["mean"])
    with pytest.raises(AnalysisError, match="all images belong to one"):
        analyses.mode_variance(one)


def test_folds_and_permutations_that_groups_do_not_allow():
    groups = np.asarray(noise_store().labels) + 3 * (np.arange(60) % 4)
    with pytest.raises(AnalysisError, match=r"has images of 4 groups .*use --folds 4"):
        analyses.ridge_probe(noise_store(groups=groups), features=["S"])
    assert (
        analyses.ridge_probe(noise_store(groups=groups), features=["S"], folds=4).table is not None
    )
    with pytest.raises(AnalysisError, match="by permutations, and 0 were asked for"):
        analyses.f_statistic(noise_store(groups=groups), permutations=0)


def test_few_arrangements_are_said():
    groups = np.asarray(noise_store(classes=2).labels) + 2 * (np.arange(60) // 30)
    found = analyses.f_statistic(noise_store(classes=2, groups=groups), permutations=50)
    assert any("allow 6 arrangements of the labels" in text for text in found.caveats)
    assert found.values["family_wise_p"] > 0.1


def test_every_result_says_once_what_is_taken_as_independent():
    plain = analyses.analyze_all(noise_store(), permutations=19, probe_permutations=3)
    groups = np.arange(60) // 2
    store = noise_store(labels=(groups % 3), groups=groups)
    grouped = analyses.analyze_all(store, permutations=19, probe_permutations=3)
    assert {one.analysis for one in plain} == {one.analysis for one in grouped}
    for one in plain:
        assert sum(INDEPENDENT in text for text in one.caveats) == 1, one.analysis
        assert "image_groups" not in one.parameters
    for one in grouped:
        assert not any(INDEPENDENT in text for text in one.caveats)
        assert sum("60 images in 30 groups" in text for text in one.caveats) == 1, one.analysis
        assert one.parameters["image_groups"] == {"count": 30, "from": "store"}


def test_all_goes_on_where_classes_cannot_be_compared():
    results = analyses.analyze_all(of_one_photograph_each(), permutations=19, probe_permutations=3)
    done = {one.analysis for one in results}
    assert {"center-edge", "image-summary", "spatial-cv", "summary"} <= done
    left = {one["analysis"] for one in results[-1].parameters["left_out"]}
    assert left == {"f-statistic", "class-distance", "ridge-probe"}


@pytest.fixture
def stored(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    maps = {"friction": rng.lognormal(2, 1, (24, 4, 4, 2)).astype(np.float32)}
    names = [f"i{k}" for k in range(24)]
    path = tmp_path / "a.zarr"
    return fs.from_arrays(
        path, maps, label=np.arange(24) % 2, image_id=names, group=np.arange(24)
    ).location


def test_a_file_overrides_the_stores_groups_and_is_recorded(stored: str, tmp_path: Path) -> None:
    file = tmp_path / "g.csv"
    file.write_text("id,group\nelsewhere,x\n" + "".join(f"i{k},p{k % 8}\n" for k in range(24)))
    run = CliRunner().invoke(
        analyze, ["f-statistic", stored, "--groups", str(file), "--permutations", "19", "--json"]
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["parameters"]["image_groups"] == {
        "count": 8, "from": "file", "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }  # fmt: skip
    own = CliRunner().invoke(analyze, ["f-statistic", stored, "--permutations", "19", "--json"])
    found = json.loads(own.stdout)
    assert found["parameters"]["image_groups"] == {"count": 24, "from": "store"}


def test_results_of_other_groups_are_not_summed_up(stored: str, tmp_path: Path) -> None:
    file, folder = tmp_path / "g.csv", str(tmp_path / "results")
    file.write_text("id,group\n" + "".join(f"i{k},p{k % 8}\n" for k in range(24)))
    of = ["--groups", str(file)]
    asked = ["image-summary", stored, "--out", folder, "--no-figures"]
    assert CliRunner().invoke(analyze, [*asked, *of]).exit_code == 0
    again = ["summary", stored, "--results", folder]
    assert CliRunner().invoke(analyze, [*again, *of]).exit_code == 0
    other = CliRunner().invoke(analyze, again)
    assert other.exit_code == 2
    said = " ".join(other.output.split())
    assert "were made with 8 groups of images and a is read with 24 groups of images" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,group\ni0,p\n", "gives no group for 23 of 24 images of a (i1, i2, i3 and 20 more)"),
        ("id;group\n", "its first line must name id and group"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(stored, tmp_path, text, message):
    file = tmp_path / "g.csv"
    file.write_text(text)
    run = CliRunner().invoke(analyze, ["image-summary", stored, "--groups", str(file)])
    assert run.exit_code == 2, run.output
    assert message in " ".join(run.output.split())
    assert "Traceback" not in run.output


def test_reliability_draws_whole_groups():
    """Copies of an image are one image: the bootstrap's interval is that of the images alone."""
    rng = np.random.default_rng(1)
    first = rng.normal(size=(40, 2, 2, 1))
    again = first + 0.5 * rng.normal(size=first.shape) * (np.arange(40) % 2)[:, None, None, None]

    def interval(copies, groups):
        one = Agreement(["x", "x@1"], samples=2000, groups=groups)
        arrays = {"x": np.repeat(first, copies, axis=0), "x@1": np.repeat(again, copies, axis=0)}
        one.update(slice(0, 40 * copies), arrays)
        one.end_pass()
        return one.high[0] - one.low[0]

    alone = interval(1, None)
    assert interval(5, np.repeat(np.arange(40), 5)) == pytest.approx(alone, rel=0.15)
    assert interval(5, None) < 0.6 * alone
    assert np.isnan(interval(1, np.zeros(40)))


def test_an_effect_of_the_class_is_found_between_groups():
    """Whole groups are no excuse: what differs between classes of 6 photographs each is seen."""
    found = designs.tests_of_photographs(0, 6, 20, effect=1.5)
    assert len(found) == 10
    assert [name for name, differs in found.items() if not differs] == ["PERMDISP"]


def counted(stores: int, *design, **options) -> dict[str, int]:
    """Return in how many null stores each test says p <= 0.05."""
    rows = [designs.tests_of_photographs(100 + k, *design, **options) for k in range(stores)]
    return {name: sum(row[name] for row in rows) for name in rows[0]}


def not_too_many(found: dict[str, int], stores: int) -> None:
    """Check Welch's F, TFCE, cluster mass and all other tests against 5%, tails of 1 in 2,000."""
    most = binom.ppf(0.9995, stores, 0.05)
    above = found.pop("mean crossnobis distance above 0")
    assert above <= binom.ppf(0.9995, stores, 0.5)
    assert {name: count for name, count in found.items() if count > most} == {}


@pytest.fixture
def few_permutations(monkeypatch):
    monkeypatch.setattr(designs, "PERMUTATIONS", 39)


@pytest.mark.slow
def test_p_of_groups_is_right_where_that_of_images_is_not(few_permutations):
    """A slice of `tools/calibrate.py --designs`, whose counts are in docs/calibration.md."""
    said = counted(20, 6, 20)
    assert {"family-wise, Welch's F", "family-wise, TFCE", "family-wise, cluster mass",
            "PERMANOVA, Welch's", "ridge-probe"} <= set(said)  # fmt: skip
    not_too_many(said, 20)
    for name, count in counted(6, 6, 20, groups=False).items():
        # PERMDISP is of spread, which photographs hardly change.
        assert count >= 4 or name == "PERMDISP", f"{name}: this is what groups are for"
    assert counted(2, 1, 60) == {"refused": 2}


@pytest.mark.slow
@pytest.mark.parametrize("crops", [20, None])
def test_p_of_groups_is_right_of_many_stores(crops):
    not_too_many(counted(200, 6, crops), 200)
