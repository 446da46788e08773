"""Every command has help and is documented; help is instant; nothing needs torch."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from frictionstore.cli.main import cli
from tests.support import DATA

ROOT = DATA.parent.parent


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        path = f"{prefix}{name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} ")
        else:
            yield path, command


ALL = dict(commands(cli))


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_command_has_help_and_described_options(path: str) -> None:
    result = CliRunner().invoke(cli, [*path.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert ALL[path].help
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts} has no help"


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_command_is_documented(path: str) -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text() for page in pages)
    name = path.removeprefix("analyze ")
    has_section = name != path and re.search(rf"^#+ .*{re.escape(name)}", text, re.MULTILINE)
    assert f"frictionstore {path}" in text or has_section


def test_help_imports_click_and_little_else() -> None:
    code = (
        "import sys\n"
        "from frictionstore.cli.main import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'zarr', 'torch', 'pandas', 'scipy', 'matplotlib', 'xarray', 'numba'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert time.monotonic() - started < 3
    assert done.stderr.strip() == "[]"
    for name in ("extract", "info", "analyze"):
        assert name in done.stdout


@pytest.mark.parametrize("module", ["frictionstore", "frictionstore.analyses"])
def test_imports_without_torch(module: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import {module}; print(dir({module}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_command_is_status_2() -> None:
    result = CliRunner().invoke(cli, ["nosuch"])
    assert result.exit_code == 2
    assert "No such command" in result.output


@pytest.mark.parametrize("path", sorted(ALL))
def test_an_interruption_promises_what_the_command_keeps(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(context: click.Context) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ALL[path], "invoke", interrupted)
    monkeypatch.setattr(ALL[path], "params", [])
    result = CliRunner().invoke(cli, path.split())
    goes_on = path in ("extract", "merge", "subset", "push", "pull")
    kept = "what is complete is kept, run it again to go on" if goes_on else "run it again"
    assert result.exit_code == 130
    assert result.output == f"Error: interrupted: {kept}\n"
