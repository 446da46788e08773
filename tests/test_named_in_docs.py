"""What the pages name is there: files by their paths, modules, commands."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from frictionstore.cli.main import cli
from tests.support import DATA

ROOT = DATA.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOPS = "frictionstore|analyses|tests|benchmarks|tools|explorer|docs"
FILE = re.compile(rf"(?<![\w/.:-])(?:\.\./)?((?:{TOPS})/[\w/.-]*\w)(?![\w*{{<])")
MODULE = re.compile(r"`(frictionstore(?:\.\w+)+)`|^(?:from|import) (frictionstore(?:\.\w+)+)", re.M)
COMMAND = re.compile(r"(?:^|`|\$ )frictionstore ([a-z][a-z-]+)", re.M)
MADE = ("explorer/node_modules", "frictionstore/explorer_page", "benchmarks/results")


def missing(text: str) -> list[str]:
    """Names in a page that mean nothing here."""
    odd = [
        name
        for name in FILE.findall(text)
        if not name.startswith(MADE) and not (ROOT / name).exists() and "." in Path(name).name
    ]
    for pair in MODULE.findall(text):
        name = pair[0] or pair[1]
        parts = name.split(".")
        found = None
        for count in range(len(parts), 0, -1):
            try:
                found = import_module(".".join(parts[:count]))
            except ImportError:
                continue
            for part in parts[count:]:
                found = getattr(found, part, None)
            break
        odd += [] if found is not None else [name]
    odd += [f"frictionstore {name}" for name in COMMAND.findall(text) if name not in commands()]
    return odd


def commands() -> list[str]:
    import click

    assert isinstance(cli, click.Group)
    return cli.list_commands(click.Context(cli))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    assert missing(page.read_text(encoding="utf-8")) == []


def test_rot_is_seen() -> None:
    assert missing("see `frictionstore/share/nosuch.py` and benchmarks/bench_nosuch.py")
    assert missing("`frictionstore.format.nosuch`")
    assert missing("`frictionstore nosuch a.zarr`")
