"""The command line: options and wiring. Each command's body is one library call.

Imports go inside the commands, so that ``frictionstore --help`` needs click and nothing else.
"""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from frictionstore import __version__
from frictionstore.errors import FrictionstoreError
from frictionstore.text import did_you_mean, printable

# Groups that live elsewhere and are imported when they are used: name -> (module:attribute, help).
LAZY: dict[str, tuple[str, str]] = {
    "report": ("frictionstore.cli_view:report", "Write a store's analyses as one HTML file."),
    "view": ("frictionstore.cli_view:view", "Look at a store's maps in the browser."),
    "verify": ("frictionstore.cli_share:verify", "Compare a store with its manifest."),
    "pack": ("frictionstore.cli_share:pack", "Write a store into one .zip."),
    "unpack": ("frictionstore.cli_share:unpack", "Write the store in a .zip as a folder."),
    "push": ("frictionstore.cli_share:push", "Send a store to S3, the Hub or a folder."),
    "diff": ("frictionstore.cli_share:diff", "Compare two stores, value by value."),
    "merge": ("frictionstore.cli_share:merge", "Put stores of one kind into one."),
    "subset": ("frictionstore.cli_share:subset", "Copy some images of a store into a new one."),
    "pull": ("frictionstore.cli_share:pull", "Fetch a store from an address."),
    "analyze": (
        "frictionstore.analyses.cli:analyze",
        "Answer questions from a store: eight analyses, or all.",
    ),
}


class _UserError(click.ClickException):
    """A `FrictionstoreError` on its way to the terminal: one sentence, exit status 2."""

    exit_code = 2


class _Interrupted(click.ClickException):
    """Ctrl-C, in words."""

    exit_code = 130


class Suggesting(click.Group):
    """A group that names the command that was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not (ctx.resilient_parsing or name.startswith("-")) and not self.get_command(ctx, name):
            meant = did_you_mean(name, self.list_commands(ctx))
            ctx.fail(f"No such command {printable(name)!r}{meant}")
        return super().resolve_command(ctx, args)


class Choice(click.Choice[str]):
    """A choice that names the value that was meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        message = super().get_invalid_choice_message(value, ctx)
        return message.rstrip(".") + did_you_mean(value, self.choices)


class Group(Suggesting):
    """A group that imports the commands named in `LAZY` on use, and explains our own errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *LAZY})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in LAZY:
            module, attribute = LAZY[cmd_name][0].split(":")
            command = getattr(import_module(module), attribute)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in LAZY:
                rows.append((name, LAZY[name][1]))
            else:
                command = super().get_command(ctx, name)
                assert command is not None
                rows.append((name, command.get_short_help_str(80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FrictionstoreError as error:
            raise _UserError(error.on_command_line()) from error
        except RecursionError as error:
            raise _UserError("a file is nested too deeply to be read") from error
        except MemoryError as error:
            raise _UserError(
                "there is not enough memory for this: ask for less at a time"
            ) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            what = printable(error.filename) if error.filename is not None else "the system"
            raise _UserError(f"{what}: {error.strerror or error}") from error
        except KeyboardInterrupt as error:
            raise _Interrupted(
                "interrupted: what is complete is kept, run it again to go on"
            ) from error


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output."
)
quiet_option: Decorator = click.option("--quiet", is_flag=True, help="No progress, no remarks.")
store_argument: Decorator = click.argument("store", metavar="STORE")


def say(text: str, quiet: bool = False) -> None:
    """A remark for a person, on standard error."""
    if not quiet:
        click.echo(text, err=True)


def print_json(value: object) -> None:
    click.echo(jsonlib.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))


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
    "--encoder",
    help="speckle (bundled), a .pt or .safetensors file, a published version's name[@revision], or "
    "hf://OWNER/REPO/FILE[@revision].",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    help="Shorter side is resized to this, then cropped.",
)
@click.option("--maps", help="Comma-separated maps.  [default: S,friction,settle]")
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
@json_option
@quiet_option
def extract(as_json: bool, quiet: bool, overwrite: bool, repair: bool, **options: Any) -> None:
    """Run an encoder over a data set and write its maps to a store."""
    from frictionstore.jobs import Job, run_job

    job = Job.from_options(options)
    outcome = run_job(
        job,
        overwrite=overwrite,
        repair=repair,
        report=lambda text: say(text, quiet or as_json),
        show_progress=not quiet and not as_json and sys.stderr.isatty(),
    )
    if as_json:
        print_json(outcome)


@cli.command()
@store_argument
@json_option
def info(store: str, as_json: bool) -> None:
    """Say what a store holds and where it comes from."""
    from frictionstore.describe import describe
    from frictionstore.store import open_store

    opened = open_store(store)
    if as_json:
        print_json(opened.summary())
    else:
        click.echo(describe(opened))


@cli.command()
@json_option
def recipes(as_json: bool) -> None:
    """List the named extraction jobs."""
    from frictionstore.jobs import recipe_table

    table = recipe_table()
    if as_json:
        print_json(table)
    else:
        for name, recipe in table.items():
            click.echo(f"{name:<20} {recipe.get('description', '')}")


def main() -> NoReturn:
    """Entry point of the ``frictionstore`` command."""
    cli.main(prog_name="frictionstore")
    raise AssertionError("click exits by itself")


if __name__ == "__main__":
    main()
