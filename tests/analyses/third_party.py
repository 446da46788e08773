"""An analysis that another package might bring."""

from __future__ import annotations

import click


@click.command()
def command() -> None:
    """Read the future."""
    click.echo("a tall dark stranger")
