"""What the commands share: their options, what they check, and where their results go."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.source import logarithm_of
from frictionstore.text import printable, show

if TYPE_CHECKING:
    from frictionstore.analyses.core.passes import Plan
    from frictionstore.analyses.core.results import Result
    from frictionstore.analyses.core.source import MapStore

MAX_PERMUTATIONS = 100_000
"""More would take gigabytes for p-values that nobody reads that closely."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def check(
    *,
    permutations: int | None = None,
    seed: int | None = None,
    alpha: float | None = None,
) -> None:
    """Raise unless the parameters that many analyses share are in range.

    Raises
    ------
    AnalysisError
        Naming the parameter, its value and what would work.
    """
    if permutations is not None and not 0 <= permutations <= MAX_PERMUTATIONS:
        raise AnalysisError(
            f"permutations is {permutations}: it must be from 0 to {MAX_PERMUTATIONS}"
        )
    if seed is not None and seed < 0:
        raise AnalysisError(f"seed is {seed}: it must be 0 or more")
    if alpha is not None and not 0 < alpha < 1:
        raise AnalysisError(f"alpha is {alpha}: it must lie between 0 and 1")


def constant_caveat(names: Sequence[str]) -> list[str]:
    """Return the sentence that names constant modes, if there are any."""
    if not names:
        return []
    if len(names) == 1:
        return [f"{names[0]} is constant over all images and left out"]
    return [f"{len(names)} modes are constant over all images and left out: {', '.join(names)}"]


def feature_caveats(*features: str, ratios: bool = False) -> list[str]:
    """Return what holds for maps whatever is done with them; with `ratios`, also for quotients."""
    caveats = []
    stored = [logarithm_of(feature) or feature for feature in features]
    if ratios and stored != list(features):
        caveats.append(
            "a logarithm has no natural zero: what is divided by its mean or total (CV, edge / "
            "centre, entropy) depends on the unit of the map, differences do not"
        )
    if "settle" in stored:
        caveats.append(
            "settle is a threshold on a quantity near float32 rounding: a change in the last place "
            "of the input flips it for up to a few percent of the patches"
        )
    return caveats


@dataclass(frozen=True)
class Target:
    """A store on the command line, and where the results of its analyses go."""

    store: str
    classes: tuple[str, ...] | None
    out: Path | None
    as_json: bool
    draw: bool

    @functools.cached_property
    def opened(self) -> MapStore:
        """The store, with images of the asked-for classes only."""
        import frictionstore
        from frictionstore.analyses.core.source import SelectedClasses

        store: MapStore = frictionstore.open(self.store)
        return store if self.classes is None else SelectedClasses(store, self.classes)

    def open(self) -> MapStore:
        """Return the store, with images of the asked-for classes only."""
        return self.opened

    def run(self, plans: Iterable[Plan]) -> None:
        """Do the analyses in as few passes as they share, and give out their results."""
        from frictionstore.analyses.core.passes import run

        self.check_out()
        self.emit(run(self.open(), list(plans), show_progress=not self.as_json))

    def check_out(self) -> None:
        """Raise if the results could not be written: before the work, not after it."""
        if self.out is not None:
            from frictionstore.analyses.core.results import check_folder

            check_folder(self.out, self.opened.digest)

    def emit(self, results: Sequence[Result], *, brief: bool = False) -> None:
        """Print results and save them where that was asked for.

        `brief` prints the answers of all, and tables and notes of summaries only.
        """
        from frictionstore.analyses.core.results import answers, earlier_results, save_all, text
        from frictionstore.cli.options import print_json

        if self.as_json:
            if len(results) == 1:
                print_json(results[0].to_json())
            else:
                print_json("[" + ",\n".join(result.to_json() for result in results) + "]")
        elif brief:
            summaries = [result for result in results if result.analysis == "summary"]
            others = [result for result in results if result.analysis != "summary"]
            show("\n\n".join([answers(others), *(text(result) for result in summaries)]))
        else:
            show("\n\n".join(text(result) for result in results))
        if self.out is not None:
            count = earlier_results(self.out, results)
            folder = save_all(results, self.out, figures=self.draw)
            instead = f" instead of {count} earlier of the same analysis and map" if count else ""
            show(f"saved in {printable(folder)}{instead}", err=self.as_json)


def refuse_given(reason: str, *names: str) -> None:
    """Raise if one of these options of the running command was given: it would have no effect."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name.replace('_', '-')} has no effect {reason}: leave it out"
            )


def split_option(
    _: click.Context, __: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Return an option's comma-separated names; None if the option was not given."""
    return None if value is None else split_names(value)


def split_names(value: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list, each once."""
    return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


def on_store(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the STORE argument and the options for classes and output; pass them as `target`."""

    @click.argument("store", metavar="STORE")
    @click.option(
        "--classes",
        callback=split_option,
        metavar="A,B,...",
        help="Use only images of these classes.",
    )
    @click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help="Save tables, arrays and figures in this folder.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
    @click.option("--figures/--no-figures", "draw", default=True, help="Draw figures with --out.")
    @functools.wraps(function)
    def command(
        store: str,
        classes: tuple[str, ...] | None,
        out: Path | None,
        as_json: bool,
        draw: bool,
        **kwargs: Any,
    ) -> Any:
        return function(target=Target(store, classes, out, as_json, draw), **kwargs)

    return command


def features_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --feature, which may be given several times."""
    return click.option(
        "--feature",
        "features",
        multiple=True,
        default=("friction",),
        show_default="friction",
        help="Map to analyse, or log_NAME for its decimal logarithm; may be given several times.",
    )(function)


def permutations_option(default: int, what: str) -> Decorator:
    """Add --permutations."""
    return click.option(
        "--permutations",
        type=click.IntRange(0, MAX_PERMUTATIONS),
        default=default,
        show_default=True,
        help=f"Permutations {what}; 0 for none.",
    )


def seed_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --seed."""
    return click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Seed of everything random; the same seed gives the same numbers.",
    )(function)


def alpha_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --alpha."""
    return click.option(
        "--alpha",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.05,
        show_default=True,
        help="Level at which results are counted as significant.",
    )(function)
