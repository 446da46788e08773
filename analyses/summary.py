"""summary: the notebook's closing table, with an interval or p beside every number."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyses import options
from analyses.callable_module import make_callable
from analyses.center_edge import CenterEdge
from analyses.class_distance import ClassDistance
from analyses.errors import AnalysisError
from analyses.f_statistic import FStatistic
from analyses.image_summary import ImageSummary
from analyses.mode_variance import ModeVariance
from analyses.passes import Passes, Plan, recorded, run
from analyses.results import Result, provenance, read_saved
from analyses.ridge_probe import DEFAULT_FEATURES, PERMUTATIONS, RidgeProbe
from analyses.source import MapStore
from analyses.spatial_cv import SpatialCV
from analyses.terminal import number, p_text
from frictionstore.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "summary"
QUESTION = "What did the notebook conclude, and how sure is each number?"
SUMMARY_PERMUTATIONS = 100

Facts = Mapping[str, Any]


def plans(
    *,
    feature: str = "friction",
    permutations: int = 1000,
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
            features=DEFAULT_FEATURES, folds=folds, permutations=probe_permutations, seed=seed
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
    list of dicts with the keys line, notebook (the figure it printed), measure, value, low, high
    (95% interval) and p; None where a line has no such number.
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
    ) -> None:
        low, high = interval
        lines.append(
            {"line": text, "notebook": notebook, "measure": measure, "value": value,
             "value_low": low, "value_high": high, "p": p}
        )  # fmt: skip

    if "spatial-cv" in by_name:
        v, old = by_name["spatial-cv"]["values"], by_name["spatial-cv"]["notebook"]
        line(
            "spatial structure within images", old["mean_cv"], "mean CV, varying modes",
            v["mean_cv"], interval=(v["mean_cv_low"], v["mean_cv_high"]),
        )  # fmt: skip
        if v["permutations"]:
            share = v["share_significant_queen"]
            line("", None, "share of maps with Moran's I, q <= 0.05", share, interval=_wilson(v))
    if "class-distance" in by_name:
        v, old = by_name["class-distance"]["values"], by_name["class-distance"]["notebook"]
        line(
            "inter-class pattern distance", old["min_cosine"], "smallest cosine",
            v["min_cosine"], p=v.get("p_min_cosine"),
        )  # fmt: skip
        line("", None, "mean distance", v["mean_distance"], p=v.get("p_mean_distance"))
    if "center-edge" in by_name:
        v = by_name["center-edge"]["values"]
        line(
            "center vs edge asymmetry", v["ratio"], "edge / centre, all images", v["ratio"],
            interval=(v["ratio_low"], v["ratio_high"]), p=v["p"],
        )  # fmt: skip
    if "f-statistic" in by_name:
        v, old = by_name["f-statistic"]["values"], by_name["f-statistic"]["notebook"]
        if "max_f" in v:
            p = v.get("family_wise_p", v["max_f_p"])
            text = "largest F over positions and modes"
            line("per-position F-statistic", old["overall_max_f"], text, v["max_f"], p=p)
    if "ridge-probe" in by_name:
        v, old = by_name["ridge-probe"]["values"], by_name["ridge-probe"]["notebook"]
        names = {
            "friction": "friction map linear probe",
            "settle": "settle map linear probe",
            "S": "eigenvalue map linear probe",
            "S+friction+settle": "combined conduit linear probe",
        }
        for name, text in names.items():
            found = v.get(f"accuracy {name}")
            if found is not None:
                line(
                    text, old[f"{name} test_accuracy"], "cross-validated accuracy",
                    found["accuracy"],
                    interval=(found["accuracy_low"], found["accuracy_high"]), p=found.get("p"),
                )  # fmt: skip
        lift = v.get("difference S+friction+settle - S")
        if lift is not None:
            line(
                "conduit lift over eigenvalues",
                old["combined_lift_over_eigenvalues_pp"] / 100, "paired difference",
                lift["difference"],
                interval=(lift["difference_low"], lift["difference_high"]), p=lift["mcnemar_p"],
            )  # fmt: skip
    if "mode-variance" in by_name:
        v = by_name["mode-variance"]["values"]
        if v:
            line(
                "spatial variance of the mean map", v["largest_variance"],
                f"variance over patches, mode {v['largest_variance_mode']}",
                v["largest_variance"],
                interval=(v["largest_variance_low"], v["largest_variance_high"]),
            )  # fmt: skip
    if "image-summary" in by_name:
        v = by_name["image-summary"]["values"]
        line(
            "single images", None, "mean entropy / largest possible", v["entropy"],
            interval=(v["entropy_low"], v["entropy_high"]),
        )  # fmt: skip
    return lines


def _wilson(values: Facts) -> tuple[float, float]:
    """Return Wilson's interval for the share of significant maps."""
    from analyses.ridge import wilson_interval

    return wilson_interval(values["n_significant_queen"], values["n_tested_queen"])


def summarise(facts: Sequence[Facts], store: MapStore, seed: int) -> Result:
    """Return the summary of results of one store."""
    lines = closing_lines(facts)
    if not lines:
        raise AnalysisError(
            "there is nothing to summarise: none of the results is of an analysis that the "
            "summary has a line for"
        )
    columns: dict[str, list[Any]] = {key: [one[key] for one in lines] for key in lines[0]}
    feature = next((fact["feature"] for fact in facts if fact["feature"]), "")
    permutations = [fact["values"].get("permutations") for fact in facts]
    least = min((p for p in permutations if p), default=0)
    caveats = [
        "the column notebook holds the notebook's figure as it computed it; value is the sounder "
        "one beside it, with its 95% interval or p",
    ]
    if least:
        caveats.append(f"permutation p-values rest on {least} permutations or more")

    def figure() -> Figure:
        from analyses import figures

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
        parameters={"analyses": [fact["analysis"] for fact in facts]},
        seed=seed,
        sentences=[_answer(feature, {fact["analysis"]: fact for fact in facts})],
        caveats=caveats,
        provenance=provenance(store),
        figures={"probes": figure} if has_probes else {},
        shown=("summary",),
    )


def _answer(feature: str, by_name: Mapping[str, Facts]) -> str:
    """Return one sentence with the main answers."""
    parts = []
    if "spatial-cv" in by_name:
        v = by_name["spatial-cv"]["values"]
        if v["permutations"] and v["n_tested_queen"]:
            parts.append(
                f"{v['share_significant_queen']:.0%} of maps have spatial structure at q <= 0.05"
            )
    if "class-distance" in by_name:
        v = by_name["class-distance"]["values"]
        if "p_mean_distance" in v:
            verb = "differ" if v["p_mean_distance"] <= 0.05 else "do not differ"
            parts.append(f"class mean maps {verb} ({p_text(v['p_mean_distance'])})")
    if "ridge-probe" in by_name:
        v = by_name["ridge-probe"]["values"]
        lift = v.get("difference S+friction+settle - S")
        if lift is not None:
            parts.append(
                f"the conduit adds {lift['difference'] * 100:+.1f} percentage points to the "
                f"singular values (95% interval {lift['difference_low'] * 100:+.1f} to "
                f"{lift['difference_high'] * 100:+.1f})"
            )
    if not parts and "mode-variance" in by_name:
        v = by_name["mode-variance"]["values"]
        if v:
            parts.append(f"the mean map varies with CV {number(v['largest_cv'])}")
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
        self.parts = plans(
            feature=feature,
            permutations=permutations,
            probe_permutations=probe_permutations,
            seed=seed,
        )

    def prepare(self, passes: Passes) -> None:
        self.store = passes.store
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
    if isinstance(results, (str, os.PathLike)):
        folder = Path(results)
        selected = getattr(store, "selected_classes", None)
        facts: list[dict[str, Any]] = read_saved(folder, feature=feature, classes=selected)
        digests = {fact["provenance"]["digest"] for fact in facts}
        where = f"the results in {printable(folder)}"
        seeds = [fact["seed"] for fact in facts if fact["seed"] is not None]
    else:
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
    return recorded(summarise(kept, store, seeds[0] if seeds else seed), store)


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
