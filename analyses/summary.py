"""summary: the notebook's closing table, with an interval or p beside every number."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from frictionstore.analyses.center_edge import CenterEdge, CenterEdgeParameters
from frictionstore.analyses.class_distance import ClassDistance, ClassDistanceParameters
from frictionstore.analyses.closing_table import (
    ACCURACY,
    Facts,
    Line,
    by_columns,
    closing_lines,
    measured_names,
    sets_of,
)
from frictionstore.analyses.core import options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import NOT_REPRODUCIBLE
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import require_same
from frictionstore.analyses.core.leading import FRICTION, default_features, leading, probe_sets
from frictionstore.analyses.core.passes import Passes, Plan, recorded, run
from frictionstore.analyses.core.results import Result, drawn, provenance
from frictionstore.analyses.core.saved import RELIABILITY, in_folds, is_about, read_saved
from frictionstore.analyses.core.saved_files import reading
from frictionstore.analyses.core.source import (
    NOTEBOOK_IMAGES,
    MapStore,
    measured_map,
)
from frictionstore.analyses.f_statistic import FStatistic, FStatisticParameters
from frictionstore.analyses.findings import LEVEL, findings
from frictionstore.analyses.image_summary import ImageSummary, ImageSummaryParameters
from frictionstore.analyses.mode_variance import ModeVariance, ModeVarianceParameters
from frictionstore.analyses.reliability import (
    Reliability,
    ReliabilityParameters,
    can_be_measured,
)
from frictionstore.analyses.ridge_probe import RidgeProbe, RidgeProbeParameters
from frictionstore.analyses.spatial_cv import SpatialCV, SpatialCVParameters
from frictionstore.analyses.stats import permutation
from frictionstore.text import printable

NAME = "summary"
QUESTION = "What did the notebook conclude, and how sure is each number?"


@dataclass(frozen=True, kw_only=True)
class SummaryParameters(parameters.Parameters):
    """What is asked for: see `summary`, whose command does not permute the probe's labels."""

    feature: str | None = parameters.parameter(
        None,
        "Map to summarise.  [default: friction_exact where the store has it, else friction; the "
        "logarithm of it where raw values are not reliable]",
    )
    permutations: int = parameters.permutations(1000, "of labels and of patches")
    seed: int = parameters.seed()
    probe_permutations: int = 0
    folds: int = RidgeProbeParameters.folds


def plans(asked: SummaryParameters, feature: str, probe_features: Sequence[str]) -> dict[str, Plan]:
    """Return the seven analyses of a map that a summary is made of, by name."""
    seed, permutations = asked.seed, asked.permutations
    permuted: Any = {"permutations": permutations, "seed": seed}
    return {
        "spatial-cv": SpatialCV(SpatialCVParameters(feature=feature, **permuted)),
        "class-distance": ClassDistance(ClassDistanceParameters(feature=feature, **permuted)),
        "center-edge": CenterEdge(CenterEdgeParameters(feature=feature)),
        "f-statistic": FStatistic(FStatisticParameters(feature=feature, **permuted)),
        "mode-variance": ModeVariance(ModeVarianceParameters(feature=feature, seed=seed)),
        "image-summary": ImageSummary(ImageSummaryParameters(feature=feature)),
        "ridge-probe": RidgeProbe(
            RidgeProbeParameters(
                features=tuple(probe_features), folds=asked.folds,
                permutations=asked.probe_permutations, seed=seed,
            )
        ),
    }  # fmt: skip


def facts_of(results: Sequence[Result]) -> list[Facts]:
    """Return what a summary needs of results in memory, as saved ones give it."""
    needed = ("analysis", "feature", "values", "notebook", "parameters")
    return [
        {name: getattr(result, name) for name in needed}
        | {"claims": [claim.as_dict() for claim in result.claims]}
        for result in results
    ]


def summarise(
    facts: Sequence[Facts], store: MapStore, seed: int, feature: str, raw: Sequence[Facts] = ()
) -> Result:
    """Return the summary of results of one store, with those of the map as it was measured."""
    lines = closing_lines(facts, raw)
    if not lines:
        raise AnalysisError(
            "there is nothing to summarise: none of the results is of an analysis that the "
            "summary has a line for"
        )
    said = [text for _, text in findings({fact["analysis"]: fact for fact in facts}, lines)]
    probes = [one for one in lines if one.measure == ACCURACY]

    figure = drawn(
        "intervals",
        *(
            [getattr(p, key) for p in probes]
            for key in ("line", "value", "value_low", "value_high")
        ),
        "linear probes, 95% interval over images",
        "accuracy",
    )
    return Result(
        analysis=NAME,
        feature=feature,
        question=QUESTION,
        columns={"summary": by_columns(lines)},
        arrays={},
        values={one.line or one.measure: one.value for one in lines},
        notebook={
            measured_names(one.line) if raw else one.line: one.notebook
            for one in lines
            if one.notebook is not None
        },
        parameters={
            "analyses": [fact["analysis"] for fact in facts],
            "lines": [list(one.of) for one in lines],
        },
        seed=seed,
        sentences=[f"{feature}: {'; '.join(said) or 'see the table'}."],
        caveats=_caveats(facts, lines, store.n_images, feature, bool(raw)),
        provenance=provenance(store),
        figures={"probes": figure} if probes else {},
        shown=("summary",),
    )


def _caveats(
    facts: Sequence[Facts], lines: Sequence[Line], n_images: int, feature: str, raw: bool
) -> list[str]:
    """Return what is to be said of the table as a whole."""
    beside = measured_map(feature)
    caveats = [
        "the column notebook holds the notebook's figure as it computed it, beside the sounder "
        "figure of the same quantity; where there is none it has no place in this table",
    ]
    if n_images > NOTEBOOK_IMAGES:
        caveats.append(
            f"the notebook kept the maps of its first {NOTEBOOK_IMAGES} images only: its figures "
            f"of single images and of probes are of these, value is of all {n_images}"
        )
    tests = sum(one.p is not None and not math.isnan(one.p) for one in lines)
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

    if raw:
        caveats.append(
            f"value is of {feature}; raw is the same figure of {beside} as it was measured, and "
            "the notebook's, which is of that, stands beside it"
        )
    if any(one.under_rounding or one.raw_under_rounding for one in lines):
        caveats.append(
            "lowest and highest are of a figure over the measurement and its repeats, which change "
            "every matrix by at most one unit in the last place; what is not reproducible under "
            "that is no claim"
        )
    for which, column in ((feature, "under_rounding"), (beside, "raw_under_rounding")):
        shaky = [one.measure for one in lines if getattr(one, column) == NOT_REPRODUCIBLE]
        if shaky:
            some = ", ".join(dict.fromkeys(shaky))
            caveats.append(f"{NOT_REPRODUCIBLE} under rounding, of {which}: {some}")
    return caveats


def _shuffles(fact: Facts) -> int:
    """Return how many permutations the p-values in an analysis' lines rest on; 0 for none."""
    values = fact["values"]
    if fact["analysis"] == "ridge-probe":
        found = any("p" in values[f"accuracy {name}"] for name in sets_of(values))
        return int(fact["parameters"]["permutations"]) if found else 0
    return int(values.get("joint_shuffles", values.get("permutations", 0)))


class Summary:
    """The plan: those of the analyses, in passes that they share."""

    on_repeats = False  # each of them sees to its own

    def __init__(self, asked: SummaryParameters) -> None:
        self._asked = asked

    def prepare(self, passes: Passes) -> None:
        asked, store = self._asked, passes.store
        self._store: MapStore = store
        self._passes = passes
        self._features = [FRICTION] if asked.feature is None else [asked.feature]
        if asked.feature is None and FRICTION in store.maps:
            self._features = default_features(store)
        self._parts: list[Plan] = [
            plan
            for feature in self._features
            for plan in plans(asked, feature, probe_sets(store, feature)).values()
        ]
        measured = measured_map(self._features[0])
        if can_be_measured(store, measured):
            self._parts.append(
                Reliability(ReliabilityParameters(feature=measured, seed=asked.seed))
            )
        for plan in self._parts:
            passes.add(plan)

    def result(self) -> Result:
        facts = facts_of([self._passes.result(plan) for plan in self._parts])
        feature = self._features[0]
        return summarise(
            _about(facts, feature), self._store, self._asked.seed, feature, _raw(facts, feature)
        )


def _about(facts: Sequence[Facts], feature: str) -> list[Facts]:
    """Return what is about a feature, and a probe in any case."""
    found = [fact for fact in facts if is_about(fact, feature)]
    if not any(fact["feature"] == "" for fact in found):
        found += [fact for fact in facts if fact["feature"] == ""]
    return found


def _raw(facts: Sequence[Facts], feature: str) -> list[Facts]:
    """Return what is about the map of which a feature is another form, as it was measured."""
    measured = measured_map(feature)
    there = {fact["feature"] for fact in facts if fact["analysis"] != RELIABILITY}
    if measured == feature or measured not in there:
        return []
    return [fact for fact in facts if is_about(fact, measured)]


def summary(
    store: MapStore,
    *,
    feature: str | None = SummaryParameters.feature,
    permutations: int = SummaryParameters.permutations,
    seed: int = SummaryParameters.seed,
    results: Sequence[Result] | str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> Result:
    """Give the notebook's closing table with an interval or p beside every number.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        The map that most lines are about; None takes friction_exact where the store has it, else
        friction, and the logarithm of it where repeats say that raw values are not reliable.
        Figures of friction as it was measured stand beside those of another form of it.
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
        asked = SummaryParameters(feature=feature, permutations=permutations, seed=seed)
        return run(store, [Summary(asked)], show_progress=show_progress)[0]
    folder = Path(results) if isinstance(results, (str, os.PathLike)) else None
    if folder is not None:
        selected = getattr(store, "selected_classes", None)
        facts: list[dict[str, Any]] = read_saved(folder)
        facts = [
            fact
            for fact in facts
            if fact["parameters"].get("classes") == selected and in_folds(fact)
        ]
        if feature is None:
            feature = leading(facts)
        facts = read_saved(folder, feature=feature, classes=selected) + [
            fact
            for fact in facts
            if is_about(fact, measured_map(feature)) and not is_about(fact, feature)
        ]
        digests = {fact["provenance"]["digest"] for fact in facts}
        where = f"the results in {printable(folder)}"
        seeds = [fact["seed"] for fact in facts if fact["seed"] is not None]
    else:
        assert not isinstance(results, (str, os.PathLike))
        facts = [dict(fact) for fact in facts_of(results)]
        digests = {result.provenance["digest"] for result in results}
        where = "the results given"
        seeds = [result.seed for result in results if result.seed is not None]
    if digests - {store.digest}:
        raise AnalysisError(
            f"{where} are of a store with digest {sorted(digests - {store.digest})[0][:12]} and "
            f"{printable(store.name)} has {store.digest[:12]}: analyse this store first"
        )
    require_same(store, (fact["parameters"].get("image_groups") for fact in facts), where)
    # Figures that a changed file lacks, or that are none; those of results in memory are there.
    with reading(folder) if folder else nullcontext():
        if feature is None:
            feature = leading(facts)
        raw = _raw(facts, feature)
        made = summarise(_about(facts, feature), store, seeds[0] if seeds else seed, feature, raw)
    return recorded(made, store)


@click.command(NAME)
@options.on_store
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Summarise the results that 'analyze all' saved in this folder.",
)
@parameters.asks(SummaryParameters)
def command(target: options.Target, results: Path | None, **asked: Any) -> None:
    """Give the notebook's closing table with an interval or p beside every number."""
    if results is None:
        target.run([Summary(SummaryParameters(**asked))])
    else:
        options.refuse_given("on results that are made already", "permutations", "seed")
        target.check_out()
        found = summary(target.open(), feature=asked["feature"], results=results)
        target.emit([found])


make_callable(__name__)
