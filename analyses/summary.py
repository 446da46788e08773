"""summary: the notebook's closing table, with an interval or p beside every number."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from frictionstore.analyses.center_edge import CenterEdge
from frictionstore.analyses.class_distance import ClassDistance
from frictionstore.analyses.core import options
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.passes import Passes, Plan, recorded, run
from frictionstore.analyses.core.results import Result, provenance, read_saved
from frictionstore.analyses.core.saved_files import reading
from frictionstore.analyses.core.source import NOTEBOOK_IMAGES, MapStore, logarithm_of
from frictionstore.analyses.core.terminal import interval_text, number, p_text
from frictionstore.analyses.f_statistic import FStatistic
from frictionstore.analyses.image_summary import ImageSummary
from frictionstore.analyses.mode_variance import ModeVariance
from frictionstore.analyses.ridge_probe import DEFAULT_FEATURES, PERMUTATIONS, RidgeProbe
from frictionstore.analyses.spatial_cv import SpatialCV
from frictionstore.analyses.stats import permutation
from frictionstore.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "summary"
QUESTION = "What did the notebook conclude, and how sure is each number?"
SUMMARY_PERMUTATIONS = 1000
LEVEL = 0.05
"""Level of the summary's claims, after Holm's procedure over all its p-values."""

Facts = Mapping[str, Any]


def probe_sets(store: MapStore, feature: str) -> tuple[str, ...]:
    """Return the feature sets that the probe compares in a summary of a feature.

    S, friction and settle as far as the store has them, the feature if it is none of these, and
    all joined. Where the feature is the logarithm of one of them it takes that one's place.
    """
    base = logarithm_of(feature) if feature not in store.maps else None
    names = [
        feature if name == base else name
        for name in ("S", "friction", "settle")
        if name in store.maps
    ]
    if feature not in names:
        names.append(feature)
    return (*names, "+".join(names)) if len(names) > 1 else tuple(names)


def plans(
    *,
    feature: str = "friction",
    permutations: int = 1000,
    probe_features: Sequence[str] = DEFAULT_FEATURES,
    probe_permutations: int = PERMUTATIONS,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Plan]:
    """Return the seven analyses that a summary is made of, by name."""
    return {
        "spatial-cv": SpatialCV(feature=feature, permutations=permutations, seed=seed),
        "class-distance": ClassDistance(feature=feature, permutations=permutations, seed=seed),
        "center-edge": CenterEdge(feature=feature),
        "f-statistic": FStatistic(feature=feature, permutations=permutations, seed=seed),
        "mode-variance": ModeVariance(feature=feature, seed=seed),
        "image-summary": ImageSummary(feature=feature),
        "ridge-probe": RidgeProbe(
            features=probe_features, folds=folds, permutations=probe_permutations, seed=seed
        ),
    }


def _facts(results: Sequence[Result]) -> list[Facts]:
    """Return what a summary needs of results in memory, as saved ones give it."""
    return [
        {
            "analysis": result.analysis,
            "feature": result.feature,
            "values": result.values,
            "notebook": result.notebook,
            "parameters": result.parameters,
        }
        for result in results
    ]


def closing_lines(facts: Sequence[Facts]) -> list[dict[str, Any]]:
    """Return the closing table's lines, as far as the results are there.

    Parameters
    ----------
    facts
        `values` and `notebook` of results, as `Result.as_dict` gives them.

    Returns
    -------
    list of dicts with the keys line, notebook (the figure it printed), measure, value, value_low,
    value_high (95% interval), p, and p_holm, which is p adjusted over all lines; None where a line
    has no such number. `of` names the analysis and the notebook's verdict that belong to a line.
    """
    by_name = {fact["analysis"]: fact for fact in facts}
    lines: list[dict[str, Any]] = []

    def line(
        text: str,
        notebook: float | None,
        measure: str,
        value: float | None,
        *,
        interval: tuple[float | None, float | None] = (None, None),
        p: float | None = None,
        of: tuple[str, str] = ("", ""),
    ) -> None:
        low, high = interval
        lines.append(
            {"line": text, "notebook": notebook, "measure": measure, "value": value,
             "value_low": low, "value_high": high, "p": p, "of": of}
        )  # fmt: skip

    if "spatial-cv" in by_name:
        v, old = by_name["spatial-cv"]["values"], by_name["spatial-cv"]["notebook"]
        line(
            "spatial structure within images", old["mean_cv"], "mean CV over images and modes",
            v["mean_cv"], interval=(v["mean_cv_low"], v["mean_cv_high"]),
            of=("spatial-cv", "verdict"),
        )  # fmt: skip
        if _finite(v.get("p_mean_moran_queen")) is not None:
            expected = f"mean Moran's I (by chance {number(v['moran_expectation'])})"
            line("", None, expected, v["mean_moran_queen"], p=v["p_mean_moran_queen"])
            share = v["share_significant_queen"]
            line("", None, "share of maps with Moran's I, q <= 0.05", share, interval=_wilson(v))
    if "class-distance" in by_name:
        v, old = by_name["class-distance"]["values"], by_name["class-distance"]["notebook"]
        line(
            "inter-class pattern distance", old["min_cosine"], "smallest cosine",
            v["min_cosine"], p=v.get("p_min_cosine"), of=("class-distance", "verdict"),
        )  # fmt: skip
        line("", None, "mean distance", v["mean_distance"], p=v.get("p_mean_distance"))
    if "center-edge" in by_name:
        v = by_name["center-edge"]["values"]
        # The notebook printed it by class only.
        line(
            "center vs edge asymmetry", None, "edge / centre, all images", v["ratio"],
            interval=(v["ratio_low"], v["ratio_high"]), p=v["p"], of=("center-edge", ""),
        )  # fmt: skip
        # Of one mode it would be the same test again.
        if v.get("modes_tested", 0) > 1 and _finite(v.get("p_modes")) is not None:
            text = f"number of modes, of {v['modes_tested']}, whose edge and centre differ"
            line("", None, text, v["modes_different"], p=v["p_modes"])
    if "f-statistic" in by_name:
        v, old = by_name["f-statistic"]["values"], by_name["f-statistic"]["notebook"]
        if "max_f" in v:
            # Without permutations Bonferroni's: the p of the largest of many is no p of one.
            p = v.get("family_wise_p", min(1.0, v["max_f_p"] * v["n_tests"]))
            text = "largest F over positions and modes"
            line(
                "per-position F-statistic", old["overall_max_f"], text, v["max_f"], p=p,
                of=("f-statistic", "verdict"),
            )  # fmt: skip
    if "ridge-probe" in by_name:
        v, old = by_name["ridge-probe"]["values"], by_name["ridge-probe"]["notebook"]
        for name in _sets(v):
            found = v[f"accuracy {name}"]
            line(
                _probe_line(name), _finite(old.get(f"{name} test_accuracy")),
                "cross-validated accuracy", found["accuracy"],
                interval=(found["accuracy_low"], found["accuracy_high"]), p=found.get("p"),
                of=("ridge-probe", f"{name} verdict"),
            )  # fmt: skip
        lift = _lift(v)
        if lift is not None:
            joined, alone = (
                _finite(old.get(f"{name} test_accuracy")) for name in (_joined(v), "S")
            )
            line(
                "conduit lift over eigenvalues",
                None if joined is None or alone is None else joined - alone,
                "paired difference", lift["difference"],
                interval=(lift["difference_low"], lift["difference_high"]), p=lift["mcnemar_p"],
                of=("ridge-probe", ""),
            )  # fmt: skip
    if "mode-variance" in by_name:
        v = by_name["mode-variance"]["values"]
        if v:
            line(
                "spatial variance of the mean map", v["largest_variance"],
                f"variance over patches, mode {v['largest_variance_mode']}",
                v["largest_variance"],
                interval=(v["largest_variance_low"], v["largest_variance_high"]),
                of=("mode-variance", ""),
            )  # fmt: skip
    if "image-summary" in by_name:
        v = by_name["image-summary"]["values"]
        line(
            "single images", None, "mean entropy / largest possible", v["entropy"],
            interval=(v["entropy_low"], v["entropy_high"]), of=("image-summary", ""),
        )  # fmt: skip
    for one in lines:
        numbers = {
            name: value for name, value in one.items() if name not in ("line", "measure", "of")
        }
        if not all(isinstance(value, int | float | None) for value in numbers.values()):
            raise TypeError(f"{one['measure']} is no number")
    adjusted = permutation.holm([math.nan if one["p"] is None else one["p"] for one in lines])
    for one, p in zip(lines, adjusted, strict=True):
        one["p_holm"] = _finite(float(p))
    return lines


def _finite(value: float | None) -> float | None:
    """Return a number, None for one that is not defined."""
    return value if value is not None and math.isfinite(value) else None


def _sets(values: Facts) -> list[str]:
    """Return the probe's feature sets, joined ones last."""
    names = [key.removeprefix("accuracy ") for key in values if key.startswith("accuracy ")]
    order = {"friction": 0, "settle": 1, "S": 2}
    return sorted(
        names, key=lambda name: (name.count("+"), order.get(logarithm_of(name) or name, 3))
    )


def _probe_line(name: str) -> str:
    """Return the notebook's name of a probe's line."""
    if "+" in name:
        return "combined conduit linear probe"
    return f"{'eigenvalue' if name == 'S' else name} map linear probe"


def _joined(values: Facts) -> str:
    """Return the probe's feature set that joins most maps."""
    return max(_sets(values), key=lambda name: name.count("+"))


def _lift(values: Facts) -> Facts | None:
    """Return the paired difference between all maps joined and S, None if there is none."""
    lift: Facts | None = values.get(f"difference {_joined(values)} - S")
    return lift if "+" in _joined(values) else None


def _wilson(values: Facts) -> tuple[float, float]:
    """Return Wilson's interval for the share of significant maps."""
    from frictionstore.analyses.stats.intervals import wilson_interval

    return wilson_interval(values["n_significant_queen"], values["n_tested_queen"])


def summarise(facts: Sequence[Facts], store: MapStore, seed: int) -> Result:
    """Return the summary of results of one store."""
    lines = closing_lines(facts)
    if not lines:
        raise AnalysisError(
            "there is nothing to summarise: none of the results is of an analysis that the "
            "summary has a line for"
        )
    ids = [list(one.pop("of")) for one in lines]
    columns: dict[str, list[Any]] = {key: [one[key] for one in lines] for key in lines[0]}
    feature = next((fact["feature"] for fact in facts if fact["feature"]), "")
    caveats = [
        "the column notebook holds the notebook's figure as it computed it; value is the sounder "
        "one beside it, with its 95% interval or p",
    ]
    if store.n_images > NOTEBOOK_IMAGES:
        caveats.append(
            f"the notebook kept the maps of its first {NOTEBOOK_IMAGES} images only: its figures "
            f"of single images and of probes are of these, value is of all {store.n_images}"
        )
    tests = sum(one["p"] is not None and not math.isnan(one["p"]) for one in lines)
    if tests:
        caveats.append(
            f"p holm is Holm's p over the {tests} p-values of this table: of all claims made at "
            f"p holm <= {LEVEL:g}, the chance that any is false is {LEVEL:.0%} at most"
        )
    shuffled = {fact["analysis"]: _shuffles(fact) for fact in facts if _shuffles(fact)}
    if shuffled:
        each = ", ".join(f"{name} {count}" for name, count in shuffled.items())
        least = min(shuffled.values())
        caveats.append(
            f"permutation p-values rest on {least} permutations or more ({each}), so that none is "
            f"below {permutation.smallest_p(least):.2g} where they are {least}"
        )

    def figure() -> Figure:
        from frictionstore.analyses.core import figures

        probes = [one for one in lines if one["measure"] == "cross-validated accuracy"]
        return figures.intervals(
            [one["line"] for one in probes],
            [one["value"] for one in probes],
            [one["value_low"] for one in probes],
            [one["value_high"] for one in probes],
            "linear probes, 95% interval over images",
            "accuracy",
        )

    has_probes = any(one["measure"] == "cross-validated accuracy" for one in lines)
    return Result(
        analysis=NAME,
        feature=feature,
        question=QUESTION,
        columns={"summary": columns},
        arrays={},
        values={one["line"] or one["measure"]: one["value"] for one in lines},
        notebook={one["line"]: one["notebook"] for one in lines if one["notebook"] is not None},
        parameters={"analyses": [fact["analysis"] for fact in facts], "lines": ids},
        seed=seed,
        sentences=[_answer(feature, {fact["analysis"]: fact for fact in facts}, lines)],
        caveats=caveats,
        provenance=provenance(store),
        figures={"probes": figure} if has_probes else {},
        shown=("summary",),
    )


def _shuffles(fact: Facts) -> int:
    """Return how many permutations the p-values in an analysis' lines rest on; 0 for none."""
    values = fact["values"]
    if fact["analysis"] == "ridge-probe":
        found = any("p" in values[f"accuracy {name}"] for name in _sets(values))
        return int(fact["parameters"]["permutations"]) if found else 0
    return int(values.get("joint_shuffles", values.get("permutations", 0)))


def _answer(feature: str, by_name: Mapping[str, Facts], lines: Sequence[Mapping[str, Any]]) -> str:
    """Return one sentence with the main answers; what it claims, it claims by p holm."""

    def p_holm(measure: str) -> float:
        found = next(one["p_holm"] for one in lines if one["measure"].startswith(measure))
        return math.nan if found is None else float(found)

    parts = []
    if "spatial-cv" in by_name:
        v = by_name["spatial-cv"]["values"]
        if _finite(v.get("p_mean_moran_queen")) is not None:
            p = p_holm("mean Moran's I")
            parts.append(
                f"{'' if p <= LEVEL else 'no evidence of '}spatial structure within images (mean "
                f"Moran's I {number(v['mean_moran_queen'])}, Holm {p_text(p)}; one by one, "
                f"{v['share_significant_queen']:.1%} of maps at q <= 0.05)"
            )
    if "class-distance" in by_name:
        v = by_name["class-distance"]["values"]
        if "p_mean_distance" in v:
            p = p_holm("mean distance")
            there = "a difference" if p <= LEVEL else "no evidence of a difference"
            parts.append(
                f"{there} between class mean maps (mean distance {number(v['mean_distance'])}, "
                f"Holm {p_text(p)})"
            )
    if "ridge-probe" in by_name:
        v = by_name["ridge-probe"]["values"]
        lift = _lift(v)
        if lift is not None:
            p = p_holm("paired difference")
            low, high = lift["difference_low"] * 100, lift["difference_high"] * 100
            there = "a difference" if p <= LEVEL else "no evidence of a difference"
            parts.append(
                f"{there} in accuracy between {_joined(v)} and S "
                f"({lift['difference'] * 100:+.1f} percentage points, 95% interval {low:+.1f} to "
                f"{high:+.1f}, Holm {p_text(p)})"
            )
    if not parts and "mode-variance" in by_name:
        v = by_name["mode-variance"]["values"]
        if v:
            interval = interval_text(v["largest_cv_low"], v["largest_cv_high"])
            parts.append(
                f"the mean map varies with CV {number(v['largest_cv'])} (95% interval {interval})"
            )
    return f"{feature}: " + ("; ".join(parts) if parts else "see the table") + "."


class Summary:
    """The analysis, asked for: see `summary` for the parameters."""

    def __init__(
        self,
        *,
        feature: str = "friction",
        permutations: int = SUMMARY_PERMUTATIONS,
        probe_permutations: int = 0,
        seed: int = 0,
    ) -> None:
        self.seed = seed
        self.feature = feature
        self.asked = {
            "permutations": permutations, "probe_permutations": probe_permutations, "seed": seed
        }  # fmt: skip

    def prepare(self, passes: Passes) -> None:
        self.store: MapStore = passes.store
        sets = probe_sets(self.store, self.feature)
        self.parts = plans(feature=self.feature, probe_features=sets, **self.asked)
        for plan in self.parts.values():
            plan.prepare(passes)

    def result(self) -> Result:
        results = [plan.result() for plan in self.parts.values()]
        return summarise(_facts(results), self.store, self.seed)


def summary(
    store: MapStore,
    *,
    feature: str = "friction",
    permutations: int = SUMMARY_PERMUTATIONS,
    seed: int = 0,
    results: Sequence[Result] | str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> Result:
    """Give the notebook's closing table with an interval or p beside every number.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        The map that most lines are about.
    permutations
        Permutations of labels and of patches, if the analyses are done here.
    seed
        Seed, if the analyses are done here.
    results
        Results of this store to summarise: a sequence of them, or a folder that
        `frictionstore analyze all` saved. None does the analyses.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Table `summary`, one row per line.

    Raises
    ------
    AnalysisError
        As the analyses; or if the results are of another store.
    """
    if results is None:
        plan = Summary(feature=feature, permutations=permutations, seed=seed)
        return run(store, [plan], show_progress=show_progress)[0]
    folder = Path(results) if isinstance(results, (str, os.PathLike)) else None
    if folder is not None:
        selected = getattr(store, "selected_classes", None)
        facts: list[dict[str, Any]] = read_saved(folder, feature=feature, classes=selected)
        digests = {fact["provenance"]["digest"] for fact in facts}
        where = f"the results in {printable(folder)}"
        seeds = [fact["seed"] for fact in facts if fact["seed"] is not None]
    else:
        assert not isinstance(results, (str, os.PathLike))
        facts = [dict(fact) for fact in _facts(results)]
        digests = {result.provenance["digest"] for result in results}
        where = "the results given"
        seeds = [result.seed for result in results if result.seed is not None]
    if digests - {store.digest}:
        raise AnalysisError(
            f"{where} are of a store with digest {sorted(digests - {store.digest})[0][:12]} and "
            f"{printable(store.name)} has {store.digest[:12]}: analyse this store first"
        )
    kept = [fact for fact in facts if fact["feature"] in (feature, "")]
    # Figures that a changed file lacks, or that are none; those of results in memory are there.
    with reading(folder) if folder else nullcontext():
        made = summarise(kept, store, seeds[0] if seeds else seed)
    return recorded(made, store)


@click.command(NAME)
@options.on_store
@click.option("--feature", default="friction", show_default=True, help="Map to summarise.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Summarise the results that 'analyze all' saved in this folder.",
)
@options.permutations_option(SUMMARY_PERMUTATIONS, "of labels and of patches")
@options.seed_option
def command(
    target: options.Target, feature: str, results: Path | None, permutations: int, seed: int
) -> None:
    """Give the notebook's closing table with an interval or p beside every number."""
    if results is None:
        target.run([Summary(feature=feature, permutations=permutations, seed=seed)])
    else:
        options.refuse_given("on results that are made already", "permutations", "seed")
        target.check_out()
        target.emit([summary(target.open(), feature=feature, results=results, seed=seed)])


make_callable(__name__)
