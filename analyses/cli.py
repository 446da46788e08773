"""The command group `analyze`: one lazy command per analysis, and `all`."""

from __future__ import annotations

import click

from frictionstore.analyses import REGISTRY
from frictionstore.cli.group import ExplainingGroup

ALL_HELP = "Every analysis in as few passes over the store as they can share."


class _Analyses(ExplainingGroup):
    """A group that imports an analysis when it is named, and not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*REGISTRY, "all"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "all":
            from frictionstore.analyses.everything import command

            return command
        if cmd_name not in REGISTRY:
            return None
        loaded = REGISTRY[cmd_name].load()
        if not isinstance(loaded, click.Command):
            raise click.ClickException(
                f"the analysis {cmd_name!r} is not a click command: {REGISTRY[cmd_name].target}"
            )
        return loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, entry.help) for name, entry in REGISTRY.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*rows, ("all", ALL_HELP)])


@click.group(cls=_Analyses, context_settings={"help_option_names": ["-h", "--help"]})
def analyze() -> None:
    """Answer questions about the maps of a store, with error bars.

    Each analysis prints a sentence and a table; --json prints JSON instead, --out FOLDER saves
    tables, arrays and figures.
    """
