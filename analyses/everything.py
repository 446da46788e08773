"""All analyses of a store at once, with as few passes over it as they can share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from frictionstore.analyses.core import options, parameters
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.leading import default_features, probe_sets
from frictionstore.analyses.core.passes import Passes, Plan, run
from frictionstore.analyses.core.results import Result
from frictionstore.analyses.core.saved import RELIABILITY
from frictionstore.analyses.core.source import (
    MapStore,
    WithoutSmallClasses,
    class_labels,
    measured_map,
    require_feature,
)
from frictionstore.analyses.reliability import (
    Reliability,
    ReliabilityParameters,
    can_be_measured,
)
from frictionstore.analyses.ridge_probe import RidgeProbeParameters
from frictionstore.analyses.summary import (
    SummaryParameters,
    plans,
    summary,
)
from frictionstore.text import did_you_mean, listed, printable

PERMUTED = {"class-distance", "f-statistic", "spatial-cv"}
"""Analyses that permute labels or patches, other than ridge-probe."""


@dataclass(frozen=True, kw_only=True)
class EverythingParameters(parameters.Parameters):
    """What is asked for: see `analyze_all`."""

    feature: str | Sequence[str] | None = parameters.parameter(
        None,
        "Map to analyse, or log_NAME for its decimal logarithm; may be given several times.  "
        "[default: friction, and before it the form of it that is sound, as in summary; or the "
        "first map]",
        several=True,
    )
    permutations: int = parameters.permutations(
        SummaryParameters.permutations, "of labels and of patches"
    )
    probe_permutations: int = parameters.permutations(
        RidgeProbeParameters.permutations, "of ridge-probe, each of which is a refit"
    )
    folds: int = parameters.folds("Folds of the probe.")
    seed: int = parameters.seed()


@dataclass
class _Attempt:
    """One analysis of one map: how to ask for it, and its result or why there is none."""

    analysis: str
    feature: str
    make: Callable[[], Plan]
    result: Result | None = None
    reason: str | None = None


def analyze_all(
    store: MapStore,
    *,
    feature: str | Sequence[str] | None = EverythingParameters.feature,
    permutations: int = EverythingParameters.permutations,
    probe_permutations: int = EverythingParameters.probe_permutations,
    folds: int = EverythingParameters.folds,
    seed: int = EverythingParameters.seed,
    only: Sequence[str] | None = None,
    show_progress: bool = False,
) -> list[Result]:
    """Do every analysis of a store that it allows and return the results.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        The map or maps that all but ridge-probe are about, which compares them with the others;
        None takes what `summary` leads with and friction as it was measured, or the first map of a
        store without friction.
    permutations
        Permutations of labels and of patches.
    probe_permutations
        Permutations for ridge-probe's baseline, each of which is a refit.
    folds
        Folds of ridge-probe.
    seed
        Seed of everything random.
    only
        Names of analyses to do; None does all.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    list of Result
        For each map its analyses, then its summary. What could not be done is in the summary's
        caveats with the reason, and as `left_out` in its parameters.

    Raises
    ------
    AnalysisError
        If a map is not there, a name in `only` is not an analysis, or none could be done.
    """
    features = default_features(store) if feature is None else feature
    features = [features] if isinstance(features, str) else list(dict.fromkeys(features))
    if not features:
        raise AnalysisError("no map was named: name one, or leave the names out for friction")
    for name in features:
        require_feature(store, name)
    asked = EverythingParameters(
        feature=feature, permutations=permutations, probe_permutations=probe_permutations,
        folds=folds, seed=seed,
    )  # fmt: skip
    view = _without_small_classes(store)
    attempts = [one for name in features for one in _attempts(view, name, asked)]
    attempts = _chosen(attempts + _reliability(view, features, seed), only)
    _do(view, attempts, show_progress=show_progress)
    if all(one.result is None for one in attempts):
        raise AnalysisError(str(attempts[0].reason))
    results = []
    for name in features:
        of_map = [one for one in attempts if one.feature == name]
        done = [one.result for one in of_map if one.result is not None]
        results += done
        if done:
            results.append(_closing(view, name, done + _beside(attempts, name), of_map, seed))
    return results


def _chosen(attempts: list[_Attempt], only: Sequence[str] | None) -> list[_Attempt]:
    """Return those of the named analyses, all if none are named."""
    if only is None:
        return attempts
    known = list(dict.fromkeys(one.analysis for one in attempts))
    unknown = [name for name in only if name not in known]
    if unknown or not only:
        wrong = f"no analysis {printable(unknown[0])!r} to do" if unknown else "nothing to do"
        close = did_you_mean(unknown[0], known) if unknown else ""
        raise AnalysisError(f"there is {wrong}: there are {listed(known, 8)}{close}")
    return [one for one in attempts if one.analysis in only]


def _without_small_classes(store: MapStore) -> MapStore:
    """Return the store without its classes of fewer than 2 images, if that leaves 2 classes."""
    if not class_labels(store):
        return store
    view = WithoutSmallClasses(store)
    return view if view.small and len(view.class_names) >= 2 else store


def _attempts(store: MapStore, feature: str, asked: EverythingParameters) -> list[_Attempt]:
    of_map = SummaryParameters(
        feature=feature, permutations=asked.permutations, seed=asked.seed,
        probe_permutations=asked.probe_permutations, folds=asked.folds,
    )  # fmt: skip

    def every() -> dict[str, Plan]:
        return plans(of_map, feature, probe_sets(store, feature))

    return [_Attempt(name, feature, partial(lambda key: every()[key], name)) for name in every()]


def _reliability(store: MapStore, features: Sequence[str], seed: int) -> list[_Attempt]:
    """Return an attempt for each map that can be measured, however many forms of it are asked for.

    It belongs to the map itself where that is asked for, else to the first form of it.
    """
    attempts = {}
    for feature in features:
        name = measured_map(feature)
        if can_be_measured(store, name) and (name not in attempts or feature == name):
            asked = ReliabilityParameters(feature=name, seed=seed)
            attempts[name] = _Attempt(RELIABILITY, feature, partial(Reliability, asked))
    return list(attempts.values())


def _beside(attempts: Sequence[_Attempt], feature: str) -> list[Result]:
    """Return what stands beside a map's results: those of it as measured, and its reliability."""
    name = measured_map(feature)
    return [
        one.result
        for one in attempts
        if one.result is not None
        and one.feature != feature
        and (one.feature == name or (one.analysis == RELIABILITY and one.result.feature == name))
    ]


def _do(store: MapStore, asked: Sequence[_Attempt], *, show_progress: bool) -> None:
    """Do what can be done, in passes that all share unless the values stop one of them."""
    passes = Passes(store)
    ready: list[tuple[_Attempt, Plan]] = []
    for one in asked:
        plan = one.make()
        error = passes.attempt(plan)
        if error is None:
            ready.append((one, plan))
        else:
            one.reason = str(error)
    try:
        passes.run(show_progress=show_progress)
        alone = False
    except AnalysisError:
        alone = True  # which analysis met it is not known: each again, by itself
    for one, plan in ready:
        try:
            one.result = (
                run(store, [one.make()], show_progress=show_progress)[0]
                if alone
                else passes.result(plan)
            )
        except AnalysisError as error:
            one.reason = str(error)


def _closing(
    store: MapStore, feature: str, done: list[Result], asked: Sequence[_Attempt], seed: int
) -> Result:
    """Return the summary of one map's results, with what could not be done."""
    closing = summary(store, feature=feature, results=done, seed=seed)
    left_out = [one for one in asked if one.reason is not None]
    closing.parameters["left_out"] = [
        {"analysis": one.analysis, "feature": feature, "reason": one.reason} for one in left_out
    ]
    for one in left_out:
        named = str(one.reason).startswith(one.analysis)
        closing.caveats.append(f"not done: {'' if named else one.analysis + ': '}{one.reason}")
    return closing


@click.command("all")
@options.on_store
@parameters.asks(EverythingParameters)
@click.option(
    "--only",
    metavar="A,B,...",
    callback=options.split_option,
    help="Only these analyses, such as spatial-cv,mode-variance,image-summary.",
)
def command(target: options.Target, only: tuple[str, ...] | None, **asked: Any) -> None:
    """Do every analysis that the store allows, in as few passes over it as they can share."""
    if only is not None and "ridge-probe" not in only:
        options.refuse_given("without ridge-probe", "folds", "probe_permutations")
    if only is not None and not {*only} & PERMUTED:
        options.refuse_given(f"without {' or '.join(sorted(PERMUTED))}", "permutations")
    target.check_out()
    asked["feature"] = asked["feature"] or None
    shown = not target.as_json
    target.emit(analyze_all(target.open(), only=only, show_progress=shown, **asked), brief=True)
