"""All analyses of a store at once, with as few passes over it as they can share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import click

from frictionstore.analyses.core import options
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.passes import Passes, Plan, run
from frictionstore.analyses.core.results import Result
from frictionstore.analyses.core.source import (
    MapStore,
    WithoutSmallClasses,
    class_labels,
    maps_over_patches,
    require_feature,
)
from frictionstore.analyses.ridge_probe import PERMUTATIONS
from frictionstore.analyses.summary import plans, probe_sets, summary
from frictionstore.text import did_you_mean, listed, printable

FRICTION = "friction"
PERMUTED = {"class-distance", "f-statistic", "spatial-cv"}
"""Analyses that permute labels or patches, other than ridge-probe."""


@dataclass
class _Asked:
    """One analysis of one map: how to ask for it, and its result or why there is none."""

    analysis: str
    feature: str
    make: Callable[[], Plan]
    result: Result | None = None
    reason: str | None = None


def default_feature(store: MapStore) -> str:
    """Return the map that is analysed if none is named: friction, or the first there is."""
    maps = maps_over_patches(store)
    return FRICTION if FRICTION in maps or not maps else maps[0]


def analyze_all(
    store: MapStore,
    *,
    feature: str | Sequence[str] | None = None,
    permutations: int = 1000,
    probe_permutations: int = PERMUTATIONS,
    folds: int = 5,
    seed: int = 0,
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
        None takes friction, or the first map of a store without it.
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
    features = [default_feature(store)] if feature is None else feature
    features = [features] if isinstance(features, str) else list(dict.fromkeys(features))
    if not features:
        raise AnalysisError("no map was named: name one, or leave the names out for friction")
    for name in features:
        require_feature(store, name)
    view = _without_small_classes(store)
    asked = [
        one
        for name in features
        for one in _asked(
            view,
            name,
            permutations=permutations,
            probe_permutations=probe_permutations,
            folds=folds,
            seed=seed,
        )
    ]
    known = list(dict.fromkeys(one.analysis for one in asked))
    if only is not None:
        unknown = [name for name in only if name not in known]
        if unknown or not only:
            wrong = f"no analysis {printable(unknown[0])!r} to do" if unknown else "nothing to do"
            close = did_you_mean(unknown[0], known) if unknown else ""
            raise AnalysisError(f"there is {wrong}: there are {listed(known, 8)}{close}")
        asked = [one for one in asked if one.analysis in only]
    _do(view, asked, show_progress=show_progress)
    if all(one.result is None for one in asked):
        raise AnalysisError(str(asked[0].reason))
    results = []
    for name in features:
        of_map = [one for one in asked if one.feature == name]
        done = [one.result for one in of_map if one.result is not None]
        results += done
        if done:
            results.append(_closing(view, name, done, of_map, seed))
    return results


def _without_small_classes(store: MapStore) -> MapStore:
    """Return the store without its classes of fewer than 2 images, if that leaves 2 classes."""
    if not class_labels(store):
        return store
    view = WithoutSmallClasses(store)
    return view if view.small and len(view.class_names) >= 2 else store


def _asked(
    store: MapStore,
    feature: str,
    *,
    permutations: int,
    probe_permutations: int,
    folds: int,
    seed: int,
) -> list[_Asked]:
    def every() -> dict[str, Plan]:
        return plans(
            feature=feature,
            permutations=permutations,
            probe_permutations=probe_permutations,
            probe_features=probe_sets(store, feature),
            folds=folds,
            seed=seed,
        )

    return [_Asked(name, feature, partial(lambda key: every()[key], name)) for name in every()]


def _do(store: MapStore, asked: Sequence[_Asked], *, show_progress: bool) -> None:
    """Do what can be done, in passes that all share unless the values stop one of them."""
    passes = Passes(store)
    ready: list[tuple[_Asked, Plan]] = []
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
    store: MapStore, feature: str, done: list[Result], asked: Sequence[_Asked], seed: int
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
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="Map to analyse, or log_NAME for its decimal logarithm; may be given several times.  "
    "[default: friction, or the first map of a store without it]",
)
@options.permutations_option(1000, "of labels and of patches")
@click.option(
    "--probe-permutations",
    type=click.IntRange(0, options.MAX_PERMUTATIONS),
    default=PERMUTATIONS,
    show_default=True,
    help="Permutations of ridge-probe, each of which is a refit; 0 for none.",
)
@click.option(
    "--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Folds of the probe."
)
@options.seed_option
@click.option(
    "--only",
    metavar="A,B,...",
    callback=options.split_option,
    help="Only these analyses, such as spatial-cv,mode-variance,image-summary.",
)
def command(
    target: options.Target,
    features: tuple[str, ...],
    permutations: int,
    probe_permutations: int,
    folds: int,
    seed: int,
    only: tuple[str, ...] | None,
) -> None:
    """Do every analysis that the store allows, in as few passes over it as they can share."""
    if only is not None and "ridge-probe" not in only:
        options.refuse_given("without ridge-probe", "folds", "probe_permutations")
    if only is not None and not {*only} & PERMUTED:
        options.refuse_given(f"without {' or '.join(sorted(PERMUTED))}", "permutations")
    target.check_out()
    results = analyze_all(
        target.open(),
        feature=features or None,
        permutations=permutations,
        probe_permutations=probe_permutations,
        folds=folds,
        seed=seed,
        only=only,
        show_progress=not target.as_json,
    )
    target.emit(results, brief=True)
