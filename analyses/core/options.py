"""What the commands share: their options, what they check, and where their results go."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from frictionstore.analyses.core.parameters import Parameters, asks
from frictionstore.cli.options import cluster_option
from frictionstore.text import printable, show

if TYPE_CHECKING:
    from frictionstore import Store
    from frictionstore.analyses.core.passes import Plan
    from frictionstore.analyses.core.results import Result
    from frictionstore.analyses.core.source import MapStore


@dataclass(frozen=True)
class Target:
    """A store on the command line, and where the results of its analyses go."""

    store: str
    classes: tuple[str, ...] | None
    out: Path | None
    as_json: bool
    draw: bool
    verify: bool = False
    overwrite: bool = False
    groups: Path | None = None

    @functools.cached_property
    def opened(self) -> MapStore:
        """The store, with images of the asked-for classes only."""
        from frictionstore.analyses.core.source import SelectedClasses

        store: MapStore = opened(self.store, self.verify)
        if self.groups is not None:
            from frictionstore.analyses.core.groups import WithGroups
            from frictionstore.format.groups import read_groups

            store = cast("MapStore", WithGroups(store, read_groups(self.groups)))
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
            from frictionstore.analyses.core.saved import check_folder

            check_folder(self.out, None if self.overwrite else self.opened.digest)

    def emit(self, results: Sequence[Result], *, brief: bool = False) -> None:
        """Print results and save them where that was asked for.

        `brief` prints the answers of all, and tables and notes of summaries only.
        """
        from frictionstore.analyses.core.results import answers, text
        from frictionstore.analyses.core.saved import earlier_results, save_all
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
            folder = save_all(results, self.out, figures=self.draw, overwrite=self.overwrite)
            instead = f" instead of {count} earlier of the same analysis and map" if count else ""
            show(f"saved in {printable(folder)}{instead}", err=self.as_json)


verify_option = click.option(
    "--verify", is_flag=True, help="Check all of the store by SHA-256 first."
)


def opened(store: str, verify: bool) -> Store:
    """Return a store that was named on the command line."""
    import frictionstore

    return frictionstore.open(store, verify="full" if verify else None)


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
        "--groups",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE.csv",
        help="Which images belong together (columns id and group), instead of the store's groups.",
    )
    @click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help="Save tables, arrays and figures in this folder.",
    )
    @click.option("--overwrite", is_flag=True, help="Replace results of another store in --out.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
    @verify_option
    @click.option("--figures/--no-figures", "draw", default=True, help="Draw figures with --out.")
    @cluster_option("read the store")
    @functools.wraps(function)
    def command(
        store: str,
        classes: tuple[str, ...] | None,
        groups: Path | None,
        out: Path | None,
        as_json: bool,
        draw: bool,
        verify: bool,
        overwrite: bool,
        cluster: str | None,
        **kwargs: Any,
    ) -> Any:
        target = Target(store, classes, out, as_json, draw, verify, overwrite, groups)
        if cluster is None:
            return function(target=target, **kwargs)
        from frictionstore.cluster import check_cluster

        check_cluster(cluster)
        from frictionstore.analyses.core.cluster import on_cluster

        with on_cluster(cluster):
            return function(target=target, **kwargs)

    return command


def feature_command(
    name: str, function: Callable[..., Any], parameters: type[Parameters], plan: Callable[..., Plan]
) -> click.Command:
    """Return the command of an analysis of one map: its options, and its help from `function`."""

    @click.command(name, help=(function.__doc__ or "").partition("\n")[0])
    @on_store
    @asks(parameters)
    def command(target: Target, feature: tuple[str, ...], **asked: Any) -> None:
        target.run(plan(parameters(feature=one, **asked)) for one in feature)  # type: ignore[call-arg]

    return command
