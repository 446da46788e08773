"""Options and arguments that several commands take, and how they speak."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable
from typing import Any

import click

from frictionstore.text import show

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output."
)
quiet_option: Decorator = click.option("--quiet", is_flag=True, help="No progress, no remarks.")
store_argument: Decorator = click.argument("store", metavar="STORE")


def say(text: str, quiet: bool = False) -> None:
    """A remark for a person, on standard error."""
    if not quiet:
        show(text, err=True)


def print_json(value: object) -> None:
    """A value as JSON on standard output; a text is JSON already."""
    if not isinstance(value, str):
        value = jsonlib.dumps(value, indent=2, ensure_ascii=True, allow_nan=False)
    show(value.replace("\x7f", "\\u007f"))  # the one control character that JSON leaves as it is
