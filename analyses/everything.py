"""All analyses of a store at once, with as few passes over it as they can share."""

from __future__ import annotations

from collections.abc import Sequence

import click

from analyses import options
from analyses.errors import AnalysisError
from analyses.passes import run
from analyses.results import Result
from analyses.ridge_probe import PERMUTATIONS
from analyses.source import MapStore
from analyses.summary import plans, summary
from frictionstore.text import did_you_mean, listed, printable


def analyze_all(
    store: MapStore,
    *,
    feature: str = "friction",
    permutations: int = 1000,
    probe_permutations: int = PERMUTATIONS,
    folds: int = 5,
    seed: int = 0,
    only: Sequence[str] | None = None,
    show_progress: bool = False,
) -> list[Result]:
    """Do every analysis of a store and return the results, the summary last.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        The map that all but ridge-probe are about.
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

    Raises
    ------
    AnalysisError
        As the analyses; or if a name in `only` is not one of theirs.
    """
    asked = plans(
        feature=feature,
        permutations=permutations,
        probe_permutations=probe_permutations,
        folds=folds,
        seed=seed,
    )
    if only is not None:
        unknown = [name for name in only if name not in asked]
        if unknown:
            raise AnalysisError(
                f"there is no analysis {printable(unknown[0])!r} to do: there are "
                f"{listed(list(asked), 8)}{did_you_mean(unknown[0], asked)}"
            )
        asked = {name: plan for name, plan in asked.items() if name in only}
    results = run(store, list(asked.values()), show_progress=show_progress)
    return [*results, summary(store, feature=feature, results=results, seed=seed)]


@click.command("all")
@options.on_store
@click.option("--feature", default="friction", show_default=True, help="Map to analyse.")
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
    feature: str,
    permutations: int,
    probe_permutations: int,
    folds: int,
    seed: int,
    only: tuple[str, ...] | None,
) -> None:
    """Do every analysis in as few passes over the store as they can share."""
    target.check_out()
    results = analyze_all(
        target.open(),
        feature=feature,
        permutations=permutations,
        probe_permutations=probe_permutations,
        folds=folds,
        seed=seed,
        only=only,
        show_progress=not target.as_json,
    )
    target.emit(results, brief=True)
