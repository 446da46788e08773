"""Options and arguments that several commands take, and how they speak."""

from __future__ import annotations

import json as jsonlib
import logging
from collections.abc import Callable
from typing import Any

import click

from frictionstore.text import show

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output."
)


def _tell(context: click.Context, parameter: click.Parameter, verbose: bool) -> None:
    if verbose:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        for name in ("frictionstore", "huggingface_hub"):
            logger = logging.getLogger(name)
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            context.call_on_close(lambda logger=logger: logger.removeHandler(handler))


verbose_option: Decorator = click.option(
    "--verbose", is_flag=True, callback=_tell, expose_value=False,
    help="Say what was asked again, taken up or left out, and why.",
)  # fmt: skip


def quiet_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """How much a command says: ``--quiet`` and ``--verbose``."""
    quiet = click.option("--quiet", is_flag=True, help="No progress, no remarks.")
    return quiet(verbose_option(command))


store_argument: Decorator = click.argument("store", metavar="STORE")


def cluster_option(does: str) -> Decorator:
    """Which cluster's workers do what the command ``does``."""
    return click.option(
        "--cluster",
        metavar="CLUSTER",
        help=f"Let the workers of a Dask cluster {does}: local, local:N, tcp://HOST:PORT or a "
        "scheduler file.",
    )


def say(text: str, quiet: bool = False) -> None:
    """A remark for a person, on standard error."""
    if not quiet:
        show(text, err=True)


def print_json(value: object) -> None:
    """A value as JSON on standard output; a text is JSON already."""
    if not isinstance(value, str):
        value = jsonlib.dumps(value, indent=2, ensure_ascii=True, allow_nan=False)
    show(value.replace("\x7f", "\\u007f"))  # the one control character that JSON leaves as it is
