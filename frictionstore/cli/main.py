"""The commands that measure and describe; each body is one library call."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import click

from frictionstore.cli.group import Group
from frictionstore.cli.options import (
    cluster_option,
    json_option,
    print_json,
    quiet_option,
    say,
    store_argument,
)
from frictionstore.progress import watched
from frictionstore.text import did_you_mean, show
from frictionstore.version import __version__


class Choice(click.Choice[str]):
    """A choice that names the value that was meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        message = super().get_invalid_choice_message(value, ctx)
        return message.rstrip(".") + did_you_mean(value, self.choices)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="frictionstore")
def cli() -> None:
    """Measure a frozen patch encoder once, keep the maps in a Zarr store, analyse it anywhere."""


@cli.command()
@click.option(
    "--recipe", help="A named job, or the path of a .toml file; other options override it."
)
@click.option(
    "--dataset",
    help="digits, photos, noise, folder:PATH, or a torchvision set by name (cifar10, ...).",
)
@click.option("--split", help="Split of a torchvision set, e.g. train or test.")
@click.option("--count", type=click.IntRange(min=1), help="Number of images of the noise set.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the noise set.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first images of the set.")
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where torchvision sets are or are downloaded to.  [default: data/torchvision]",
)
@click.option("--download/--no-download", default=None, help="Let torchvision download a set.")
@click.option(
    "--skip-unreadable",
    is_flag=True,
    default=None,
    help="Leave images out that cannot be read, and list them in the store.",
)
@click.option(
    "--groups",
    help="Which images belong together: stem (name up to its last -), folder, or a CSV file with "
    "the columns id and group.",
)
@click.option(
    "--encoder",
    help="speckle (bundled), a .pt or .safetensors file, a published version's name[@revision], or "
    "hf://OWNER/REPO/FILE[@revision].",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    help="Shorter side is resized to this, then cropped.",
)
@click.option(
    "--maps",
    help="Comma-separated maps.  [default: S,friction,settle,friction_exact,settle_exact]",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=0, max=255),
    help="Measurements of every matrix moved by its last bits, stored beside friction and "
    "settle; 0 for none.  [default: 2]",
)
@click.option("--out", type=click.Path(path_type=Path), help="The store to make.")
@click.option("--engine", type=Choice(["native", "geolip"]), help="Who computes.")
@click.option("--device", help="auto, cpu, cuda or cuda:K.  [default: auto]")
@click.option(
    "--precision",
    type=Choice(["float32", "tf32", "bfloat16"]),
    help="Of the encoder's matrix products.  [default: float32]",
)
@click.option(
    "--gram",
    type=click.Choice(["coordinated", "original"]),
    help="Matrix that the conduit measures: after cross-attention, or M'M.  [default: coordinated]",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Images per step.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that read images.  [default: as needed]",
)
@click.option(
    "--shard-images", type=click.IntRange(min=1), help="Images per shard, a power of two."
)
@click.option("--overwrite", is_flag=True, help="Replace another store at the target.")
@click.option("--repair", is_flag=True, help="Measure the damaged parts of the store again.")
@cluster_option("measure")
@click.option("--part", help="I/N: do every N-th unit, beside other runs that do the rest.")
@click.option(
    "--claim-timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds after which a part that records nothing is taken for dead.  [default: 3600]",
)
@click.option(
    "--allow-mixed-devices", is_flag=True, help="Let devices of several kinds write one store."
)
@json_option
@quiet_option
def extract(
    as_json: bool,
    quiet: bool,
    overwrite: bool,
    repair: bool,
    part: str | None,
    claim_timeout: float | None,
    allow_mixed_devices: bool,
    cluster: str | None,
    **options: Any,
) -> None:
    """Run an encoder over a data set and write its maps to a store."""
    from frictionstore.extract.job import run_job
    from frictionstore.extract.request import Job
    from frictionstore.extract.sharing import Sharing

    job = Job.from_options(options)
    outcome = run_job(
        job,
        overwrite=overwrite,
        repair=repair,
        sharing=Sharing(part, claim_timeout, allow_mixed_devices, cluster),
        report=lambda text: say(text, quiet or as_json),
        show_progress=not quiet and not as_json and watched(),
    )
    if as_json:
        print_json(outcome)


@cli.command()
@store_argument
@json_option
def info(store: str, as_json: bool) -> None:
    """Say what a store holds and where it comes from."""
    from frictionstore.show.describe import describe
    from frictionstore.store.reader import open_store

    opened = open_store(store)
    if as_json:
        print_json(opened.summary())
    else:
        show(describe(opened))


@cli.command()
@json_option
def recipes(as_json: bool) -> None:
    """List the named extraction jobs."""
    from frictionstore.extract.recipe import recipe_table

    table = recipe_table()
    if as_json:
        print_json(table)
    else:
        for name, recipe in table.items():
            show(f"{name:<20} {recipe.get('description', '')}")


def open_closed_streams() -> None:
    """Give standard streams that were closed a place, or the first files opened get theirs.

    What is said on standard error goes nowhere; writing to standard output fails when it is done.
    """
    for number, flag in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flag)  # the lowest number that is free
            os.set_inheritable(opened, True)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning of a library, which may quote a stranger's text."""
    show(f"{category.__name__}: {message}", err=True)


def main() -> NoReturn:
    """Entry point of the ``frictionstore`` command."""
    open_closed_streams()
    warnings.showwarning = warn
    cli.main(prog_name="frictionstore")
    raise AssertionError("click exits by itself")


if __name__ == "__main__":
    main()
